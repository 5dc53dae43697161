"""`python -m crossfeed`, and the command `crossfeed`."""

from crossfeed.cli import main

__all__ = ["main"]

if __name__ == "__main__":
    main()
