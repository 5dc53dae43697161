"""The benchmark of training measures what it says: ports, bounds, exponents and peers' scores."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toy import WholeNumbers

from crossfeed.config import load_config
from crossfeed.data.dataset import Dataset, Part
from crossfeed.evaluation.evaluate import evaluate

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
CONFIG = load_config(
    overrides=[
        *("model.width=8", "model.heads=2", "model.dropout=0", "model.generator=attention"),
        *("train.batch_size=64", "train.candidates=20", "train.warmup_epochs=0"),
    ]
)

Module = Any  # Any: the benchmarks are scripts, not a package with types of its own


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the benchmarks import each other, as they do when they are run."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield
    for name in [n for n in sys.modules if (BENCHMARKS / f"{n}.py").exists()]:
        del sys.modules[name]


@pytest.mark.usefixtures("benchmarks")
def test_both_ports_pool_alike(last_out: Dataset) -> None:
    import padded_port

    plain, competent = padded_port.Plain(last_out, CONFIG), padded_port.Competent(last_out, CONFIG)
    player = plain.players[0]
    batch = next(padded_port.rows(last_out, CONFIG))
    cube = plain._cube(batch)
    by_domain = player.encoder.pool_cube(player.vectors(cube), cube > 0)  # (B, D, E)
    items, recency, members, domains, known, _ = competent._pad(batch)
    by_slot = player.encoder.pool_rows(player.vectors(items), recency, members)  # (B, M, E)
    rows, slots = known.nonzero(as_tuple=True)
    expected = by_domain[rows, domains[rows, slots]]
    torch.testing.assert_close(by_slot[rows, slots], expected)
    assert expected.abs().sum() > 0


@pytest.mark.usefixtures("benchmarks")
@pytest.mark.parametrize("name", ["plain", "competent"])
def test_a_port_learns_both_players(last_out: Dataset, name: str) -> None:
    import padded_port

    torch.manual_seed(0)
    port = padded_port.PORTS[name](last_out, CONFIG)
    batch = next(padded_port.rows(last_out, CONFIG))
    before = [player.vectors.weight.detach().clone() for player in port.players]
    anchors = []
    for _ in range(8):
        anchors.append(_anchor(port, batch))
        port.step(batch)
    assert anchors[-1] < anchors[0] - 0.1
    for player, weights in zip(port.players, before, strict=True):
        assert not torch.equal(player.vectors.weight, weights)


def _anchor(port: Module, batch: Module) -> float:
    """Return mean -log softmax over the catalogue of the clicks, by the generator."""
    player, lines = port.players[0], batch.timelines
    with torch.no_grad():
        if hasattr(port, "_cube"):
            scores = port._scores(player, batch, port._cube(batch))
        else:
            users = port._users(player, port._pad(batch))
            scores = users @ player.vectors.weight[1:].T + player.biases.weight[1:, 0]
        assert scores.shape[0] == lines.rows
        return -float(scores.log_softmax(1).gather(1, batch.clicks.unsqueeze(1)).mean())


@pytest.mark.usefixtures("benchmarks")
@pytest.mark.parametrize("contestant", ["crossfeed", "competent"])
def test_a_contestant_stops_after_its_steps(contestant: str) -> None:
    import training_contestants

    settings = ["model.width=8", "train.batch_size=64", "train.candidates=5"]
    measured = training_contestants.measure(contestant, "items=90,domains=3,known=2", 2, settings)
    assert measured["events_per_processor_second"] > 0
    drawn = training_contestants.load("items=90,domains=3,known=2")
    bounds = drawn.user_offsets[:101].tolist()
    users = [slice(*pair) for pair in pairwise(bounds)]
    assert max(len(np.unique(drawn.event_domain[user])) for user in users) == 2
    assert all(len(np.unique(drawn.event_item[u])) == u.stop - u.start for u in users)
    assert drawn.event_item.max() < 90


@pytest.mark.usefixtures("benchmarks")
def test_bounds_of_operators_worked_out_by_hand() -> None:
    import training_roofline

    rate = {"operations": 1.0, "copied bytes": 10.0, "gathered bytes": 2.0}
    bounds = training_roofline.Bounds(rate)
    a, b = torch.ones(2, 3), torch.ones(3, 4)
    with bounds:
        torch.mm(a, b)
        torch.t(a)  # a view moves nothing
        torch.add(a, a)
        torch.index_select(b, 0, torch.tensor([0, 2]))
    assert bounds.compute["mm"] == 2 * 2 * 3 * 4
    assert "t" not in bounds.memory
    assert bounds.memory["add"] == pytest.approx((24 + 24 + 24) / 10)
    assert bounds.memory["index_select"] == pytest.approx(2 * (2 * 4 * 4) / 2)
    assert bounds.bound["mm"] == max(bounds.compute["mm"], bounds.memory["mm"])


@pytest.mark.usefixtures("benchmarks")
def test_the_page_holds_the_tables_of_the_committed_results() -> None:
    import training

    printed = training.table()
    assert "| competent port | ciao |" in printed
    hint = "run: python benchmarks/training.py table --write"
    assert printed.strip() in training.PAGE.read_text("utf-8"), hint


@pytest.mark.usefixtures("benchmarks")
def test_exponent_of_a_power() -> None:
    import training

    sizes = [10, 100, 1000]
    assert training.exponent(sizes, [3 * size**0.5 for size in sizes]) == pytest.approx(0.5)
    assert training.exponent(sizes, [7, 7, 7]) == 0


@pytest.mark.usefixtures("benchmarks")
@pytest.mark.parametrize("part", ["validation", "test"])
def test_scores_of_a_peer_are_judged_as_if_they_were_ours(
    last_out: Dataset, tmp_path: Path, part: str
) -> None:
    import peer_files
    import peers

    peers.export(last_out, tmp_path)
    split, scorer = peer_files.Split(tmp_path), WholeNumbers(last_out.catalogue)
    which = Part[part.upper()]
    histories, end = last_out.histories(last_out.events(which), which), last_out.end(which)

    def score(rows: Any, pool: Any, domain: int) -> Any:
        asked = [histories.rows_between(row, row + 1) for row in rows.tolist()]
        found = np.concatenate([scorer.score(one, domain, end) for one in asked])
        assert found.shape[1] >= len(pool)
        return found[:, : len(pool)]

    scores = split.pool_scores(part, score)
    recorded = peers.Recorded("peer", scores, last_out, part=which)
    found = evaluate(recorded, last_out, part=which)
    expected = evaluate(scorer, last_out, part=which)
    assert found.micro == pytest.approx(expected.micro)


@pytest.mark.usefixtures("benchmarks")
def test_a_peers_own_validation_is_ours(last_out: Dataset, tmp_path: Path) -> None:
    import peer_files
    import peers

    peers.export(last_out, tmp_path)
    split = peer_files.Split(tmp_path)
    draws = np.random.default_rng(0)
    scores = split.pool_scores(
        "validation", lambda rows, pool, domain: draws.random((len(rows), len(pool)))
    )
    recorded = peers.Recorded("peer", scores, last_out, part=Part.VALIDATION)
    expected = evaluate(recorded, last_out, part=Part.VALIDATION).micro["ndcg@10"]
    assert split.validation_ndcg(scores) == pytest.approx(expected)


@pytest.mark.usefixtures("benchmarks")
def test_a_course_stops_when_the_time_is_up(tmp_path: Path, last_out: Dataset) -> None:
    import peer_files
    import peers

    peers.export(last_out, tmp_path)
    split = peer_files.Split(tmp_path)
    course = peer_files.Course(split, "peer", minutes=0)
    epoch = course.timed(lambda: sum(range(10**6)), lambda: np.zeros(3))
    assert epoch() == sum(range(10**6))
    with pytest.raises(peer_files.TimeIsUp):
        epoch()
    again = peer_files.Course(split, "peer", minutes=1, done=1)
    assert again.epochs == course.epochs and again.wall == course.epochs[0]["seconds"]


@pytest.mark.usefixtures("benchmarks")
def test_scores_of_another_split_are_refused(last_out: Dataset) -> None:
    import peers

    with pytest.raises(SystemExit, match="peer: 5 scores, not"):
        peers.Recorded("peer", np.zeros(5, np.float32), last_out)
