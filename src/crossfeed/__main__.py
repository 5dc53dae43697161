"""`python -m crossfeed`, and the command `crossfeed`."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line of this process and exit; Ctrl-C is told from the first import on."""
    try:
        from crossfeed import cli
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)
    cli.main()


if __name__ == "__main__":
    main()
