"""The benchmarks page shows what the committed results say; the ablation's rows can be trained."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from crossfeed.config import Config, load_config

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"


@pytest.mark.parametrize(
    ("script", "row"), [("quality", "| crossfeed |"), ("ablation", "| default |")]
)
def test_the_page_holds_the_table_of_the_committed_results(script: str, row: str) -> None:
    command = [sys.executable, f"benchmarks/{script}.py", "table"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "### ciao, last-out" in printed and row in printed
    page = (ROOT / "docs" / "benchmarks.md").read_text("utf-8")
    assert printed.strip() in page, f"run: python benchmarks/{script}.py table --write"


def test_every_row_of_the_ablation_is_another_configuration(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import ablation

    configs = {name: load_config(overrides=row) for name, row in ablation.ROWS.items()}
    assert configs["default"] == Config()
    alike = [
        {one, other}
        for one, first in configs.items()
        for other, second in configs.items()
        if one < other and first == second
    ]
    # Rows of two networks are told apart by their number, not by their settings.
    assert alike == [{"static-popularity", "two-discriminators"}]
