"""What people read of an evaluation."""

from __future__ import annotations

import io

from rich.console import Console
from toy import NEW, Constant, toy_dataset

from crossfeed.cli import tables
from crossfeed.data.dataset import Part
from crossfeed.evaluation.evaluate import evaluate
from crossfeed.evaluation.results import Results


def printed(results: Results) -> dict[str, list[str]]:
    """Return the label of each printed row -> its figures."""
    console = Console(width=160, record=True, file=io.StringIO())
    tables.print_results(console, results)
    lines = [line.rstrip() for line in console.export_text().splitlines()]
    rows = [line.rsplit("  ", line.count("  ")) for line in lines if line]
    return {row[0].strip(): [cell.strip() for cell in row[1:] if cell.strip()] for row in rows}


def results(*, k: int) -> Results:
    dataset = toy_dataset(
        {"books": [8, 1], "films": [1, 1, 1]},
        [(0, "books", 1, Part.TEST), (1, "films", 0, Part.TEST), (1, "films", NEW, Part.TEST)],
        crowd=True,
    )
    scorer = Constant({0: [1.0, 0.0], 1: [2.0, 1.0, 0.0, 3.0]})
    return evaluate(scorer, dataset, baselines=["popularity"], k=k)


def test_rows_for_the_worst_domain_and_the_slices() -> None:
    rows = printed(results(k=1))
    assert rows["all clicks (micro)"][0] == "3"
    # ndcg@1, recall@1 and auc, of the scorer and of popularity, to which all films are equal
    assert rows["worst domain"] == ["0.0000", "0.0000", "0.0000", "0.0000", "0.0000", "0.0000"]
    assert rows["films"][1:3] == ["0.5000", "0.1667"]
    assert rows["users new in the domain"][0] == "2"
    assert rows["users known in the domain"][0] == "1"
    assert rows["head items"][0] == "1"
    assert rows["tail items"][0] == "2"
    assert rows["items new since training"][0] == "1"


def test_a_slice_without_events_has_no_figures() -> None:
    dataset = toy_dataset({"books": [1, 1]}, [(0, "books", 1, Part.TEST)], crowd=True)
    rows = printed(evaluate(Constant({0: [1.0, 0.0]}), dataset))
    assert rows["users known in the domain"] == ["0", "-", "-", "-"]


def test_a_row_of_list_figures_for_each_scorer() -> None:
    found = results(k=1)
    rows = printed(found)
    assert rows["scorer"] == ["coverage@1", "gini@1", "novelty@1"]
    for scorer in (found, found.baselines["popularity"]):
        assert rows[scorer.scorer] == [f"{value:.4f}" for value in scorer.lists.micro.values()]
