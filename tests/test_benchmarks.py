"""The benchmarks page shows what the committed results say; the ablation's rows can be trained."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from crossfeed.config import Config, load_config
from crossfeed.data.dataset import Dataset

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


def test_the_page_on_the_method_holds_the_figures_of_the_ablation() -> None:
    """Difference and p of each control, which more rows of a table change."""

    def figure(value: float, form: str) -> str:
        return format(value, form).replace("0.", ".", 1)

    page = (ROOT / "docs" / "method.md").read_text("utf-8")
    head, *rows = re.findall(r"^\| (?:control|`[a-z-]+`:) .*$", page, re.MULTILINE)
    assert len(rows) == 3
    for row in rows:
        control = row.split("`")[1]
        for column, shown in zip(head.split(" | ")[1:], row.split(" | ")[1:], strict=True):
            data, split = column.strip(" |").lower().split(", ")
            path = BENCHMARKS / "results" / "ablation" / f"{data}.{split}.standing.json"
            behind = json.loads(path.read_text("utf-8"))["scorers"][control]["behind"]
            [micro] = [one for one in behind if one["scope"] == "micro"]
            difference, p = figure(micro["difference"], "+.4f"), figure(micro["p_holm"], ".2g")
            assert shown.strip(" |") == f"{difference} (p {p})", (control, column)


def test_rows_of_the_quality_table_are_what_they_are_called(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import quality

    def config(scorer: str) -> Config:
        return quality._config(quality.Cell("ciao", "last-out", scorer, 2))

    assert config("crossfeed") == load_config(overrides=["train.seed=2"])
    shared, published = config("ple"), config("ple-no-demand")
    for each in (shared, published):
        assert each.model.discriminator == "ple" and not each.has_generator
    assert (shared.model.demand, published.model.demand) == (True, False)
    assert published.train == shared.train
    names = {cell.scorer for cell in quality.cells()}
    assert {"star", "star-no-demand", "crossfeed", "alone", "ease"} <= names
    assert "translation-no-demand" not in names


def test_the_benchmark_of_a_gpu_says_that_it_needs_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu

    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert gpu.main([str(tmp_path)]) == 2
    assert "this benchmark needs CUDA" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("operator", "shapes", "values"),
    [
        ("aten::embedding", [[1000, 64], [30], [], []], 30 * 64),
        ("aten::embedding_dense_backward", [[30, 64], [30], [], [], []], 30 * 64),
        ("aten::gather", [[8, 1000], [], [8, 101], []], 8 * 101),
        ("aten::index_select", [[50, 4, 16], [], [30]], 30 * 4 * 16),
        ("aten::index_add", [[50, 64], [], [30], [30, 64], []], 30 * 64),
        ("aten::index_copy", [[50], [], [30], [30]], 30),
    ],
)
def test_look_ups_read_and_write_each_value_once(
    operator: str, shapes: list[list[int]], values: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu

    assert operator in gpu.LOOK_UPS
    assert gpu.looked_up_bytes(operator, shapes) == 2 * 4 * values


@pytest.mark.slow
def test_the_benchmark_of_a_gpu_runs(
    last_out: Dataset,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu

    out = tmp_path / "gpu.json"
    words = ["--device=cpu", "--batch-sizes=64,128", "--steps=2", "--set=model.width=16"]
    assert gpu.main([str(last_out.path), *words, f"--out={out}"]) == 0
    rows = json.loads(out.read_text("utf-8"))["rows"]
    asked = [("float32", 64), ("float32", 128), ("bfloat16", 64), ("bfloat16", 128)]
    assert [(row["precision"], row["batch_size"]) for row in rows] == asked
    for row in rows:
        assert row["clicks_per_second"] > 0 and row["events_per_second"] > 0
        assert 0 < row["look_up_share"] and 0 < row["product_share"]
    assert capsys.readouterr().out.count("waiting ") == 4


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
