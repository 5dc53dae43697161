"""The benchmarks page shows what the committed results say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_page_holds_the_table_of_the_committed_results() -> None:
    command = [sys.executable, "benchmarks/quality.py", "table"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "### ciao, last-out" in printed and "| crossfeed |" in printed
    page = (ROOT / "docs" / "benchmarks.md").read_text("utf-8")
    assert printed.strip() in page, "run: python benchmarks/quality.py table --write"
