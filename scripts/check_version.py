"""Check that the version is the same wherever it is written."""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def main() -> int:
    """Compare the package's version with the newest one of the changelog."""
    source = (ROOT / "src/crossfeed/__init__.py").read_text("utf-8")
    version = re.search(r'^__version__ = "(.+)"$', source, re.MULTILINE)
    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")
    headings = re.findall(r"^## \[(.+?)\]", changelog, re.MULTILINE)
    released = [heading for heading in headings if heading != "Unreleased"]
    if version is None or not headings:
        print("no version in crossfeed/__init__.py, or no heading in CHANGELOG.md", file=sys.stderr)
        return 1
    if released and released[0] != version[1]:
        print(f"version {version[1]}, but CHANGELOG.md begins with {released[0]}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
