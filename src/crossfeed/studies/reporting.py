"""From a run's folder to its report: measurements are read, not repeated."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from crossfeed.data.dataset import Dataset, Part
from crossfeed.errors import MissingExtraError, RunError
from crossfeed.evaluation.metrics import SELECTED_BY
from crossfeed.evaluation.outcomes import Outcomes, read_outcomes
from crossfeed.evaluation.report.contents import (
    DomainFacts,
    Epoch,
    Example,
    Fact,
    Missing,
    Quality,
    Report,
    Table,
    TransferFacts,
)
from crossfeed.evaluation.statistics.comparisons import Comparison, estimates
from crossfeed.files import atomic_path
from crossfeed.outputs import REPORT, require_file
from crossfeed.run import Run
from crossfeed.studies.examples import draw_examples
from crossfeed.studies.repeating import changed_settings, commands
from crossfeed.training.watch.alarms import ADVICE

__all__ = ["make_report", "write_report"]

_METRIC = "ndcg@10"
_PLAYERS = ("discriminator", "generator")

Json = Mapping[str, Any]  # Any: JSON


def write_report(
    run: Run, *, out: Path | None = None, examples: int, overwrite: bool = False
) -> Path:
    """Write the report of a run as one HTML file, and return it.

    Args:
        run: a run with at least one epoch.
        out: the file; None is the run's own report.html, which is replaced.
        examples: how many users are shown, by name, with their recommendations.
        overwrite: replace another report.

    Raises:
        RunError: nothing has been trained, or a file of the run cannot be read.
        DatasetError: its dataset has moved or is missing.
        OutputError: the file may not be replaced, or cannot be written.
        MissingExtraError: the extra `report` is not installed.
    """
    try:
        from crossfeed.evaluation.report.page import render
    except ModuleNotFoundError as error:
        raise MissingExtraError(package=str(error.name), extra="report") from None
    own = run.path / "report.html"
    file = out or own
    if file.resolve() != own.resolve():
        inputs = [run.path, run.facts["dataset"]]
        require_file(file, REPORT, inputs=inputs, overwrite=overwrite)
    page = render(make_report(run, examples=examples))
    with atomic_path(file) as temporary:
        temporary.write_text(page, "utf-8")
    return file


def make_report(run: Run, *, examples: int) -> Report:
    """Gather the content of the run's files.

    Raises:
        RunError: nothing has been trained, or a file of the run cannot be read.
        DatasetError: its dataset has moved or is missing.
    """
    dataset = run.dataset()
    epochs = _epochs(run)
    if not epochs:
        words = ["train", str(dataset.path), "--out", str(run.path), "--resume"]
        raise RunError(
            f"'{run.path}' has no finished epoch to report",
            hint=f"crossfeed {shlex.join(words)}",
        )
    results, transfer = _read(run, "results.json"), _read(run, "transfer.json")
    gate = _read(run, "gate.json")
    best = max(epochs, key=lambda epoch: float("-inf") if epoch.micro is None else epoch.micro)
    return Report(
        title=f"Report of {run.path.resolve().name}",
        facts=_facts(run, dataset, epochs),
        rules=tuple(dataset.manifest["rules"]),
        domains=_domains(dataset),
        settings=changed_settings(run.config),
        epochs=epochs,
        validation_metric=SELECTED_BY,
        best_epoch=best.number,
        quality=_quality(run, results) if results else None,
        slices=_slices(results) if results else None,
        worst=_worst(results) if results else None,
        lists=_lists(results) if results else None,
        transfer=_transfer(transfer) if transfer else None,
        held_back=gate["held_back"] if gate else None,
        health=_health(run),
        alarms=_alarms(run),
        examples=_examples(run, dataset, results, examples),
        missing=_missing(run, results=results, transfer=transfer),
        commands=commands(
            run, manifest=dataset.manifest, results=results, transfer=transfer is not None
        ),
    )


def _read(run: Run, name: str) -> Json | None:
    """Return the content of one of the run's JSON files; None if it is missing."""
    try:
        return dict(json.loads((run.path / name).read_text("utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError):
        raise RunError(
            f"'{run.path / name}' cannot be read",
            hint=f"crossfeed evaluate {shlex.quote(str(run.path))}",
        ) from None


def _epochs(run: Run) -> tuple[Epoch, ...]:
    return tuple(
        Epoch(
            number=line["epoch"],
            seconds=line["seconds"],
            losses=line["losses"],
            micro=line.get("validation", {}).get("micro", {}).get(SELECTED_BY),
            macro=line.get("validation", {}).get("macro", {}).get(SELECTED_BY),
        )
        for line in run.metrics()
    )


def _facts(run: Run, dataset: Dataset, epochs: Sequence[Epoch]) -> tuple[Fact, ...]:
    counts, seconds = dataset.manifest["counts"], sum(epoch.seconds for epoch in epochs)
    seen = (
        f"{counts['events']:,} clicks of {counts['users']:,} users on {counts['items']:,} items "
        f"in {counts['domains']} domains"
    )
    facts = {
        "run": str(run.path.resolve()),
        "dataset": str(run.facts["dataset"]),
        "its content": f"{seen}; hash {run.facts['dataset_hash'][:12]}",
        "split": dataset.config.split,
        "discriminator": run.config.model.discriminator,
        "generator": "yes" if run.config.has_generator else "none",
        "seed": str(run.config.train.seed),
        "epochs": f"{len(epochs)}, in {seconds / 60:.1f} minutes",
        "made with": f"crossfeed {run.facts['crossfeed']}, torch {run.facts['torch']}, "
        f"Python {run.facts['python']}",
    }
    return tuple(Fact(name, value) for name, value in facts.items())


def _domains(dataset: Dataset) -> tuple[DomainFacts, ...]:
    return tuple(
        DomainFacts(
            name=one["domain"],
            users=one["users"],
            items=one["items"],
            train=one["events"].get("train", 0),
            validation=one["events"].get("validation", 0),
            test=one["events"].get("test", 0),
            unknown_share=one["untrained_share"],
        )
        for one in dataset.manifest["domains"]
    )


def _quality(run: Run, results: Json) -> Quality:
    outcomes = read_outcomes(run.path / "outcomes.parquet")
    return Quality(
        part=results["part"],
        metric=_metric(outcomes[0]),
        scorers={one.scorer: tuple(estimates(one, _metric(one))) for one in outcomes},
    )


def _metric(outcomes: Outcomes) -> str:
    """Return ndcg@10, or ndcg at the length of lists that was evaluated."""
    names = [name for name in outcomes.values if name.startswith("ndcg@")]
    return _METRIC if _METRIC in names else names[0]


def _by_scorer(results: Json) -> dict[str, Json]:
    return {results["scorer"]: results, **results["baselines"]}


def _slices(results: Json) -> Table:
    """Return ndcg of every scorer by slice, and how many clicks each has."""
    scorers = _by_scorer(results)
    metric = next(name for name in results["micro"] if name.startswith("ndcg@"))
    return Table(
        columns=("clicks", *(f"{name} {metric}" for name in scorers)),
        rows=tuple(
            (
                name,
                (
                    own["events"],
                    *(_figure(one, "slices", name, metric) for one in scorers.values()),
                ),
            )
            for name, own in results["slices"].items()
            if own["events"]
        ),
    )


def _worst(results: Json) -> Table:
    return Table(
        columns=(results["scorer"],),
        rows=tuple(
            (f"{metric}: {one['domain']}", (one["value"],))
            for metric, one in results["worst"].items()
        ),
    )


def _lists(results: Json) -> Table:
    scorers = _by_scorer(results)
    return Table(
        columns=tuple(scorers),
        rows=tuple(
            (name, tuple(_figure(one, "lists", "micro", name) for one in scorers.values()))
            for name in results["lists"]["micro"]
        ),
    )


def _figure(tree: Any, *path: str) -> float | None:  # Any: JSON
    """Return the figure at the end of a path; None if there is none."""
    for key in path:
        tree = tree.get(key) if tree else None
    return None if tree is None else float(tree)


def _health(run: Run) -> Table | None:
    """Return both players' losses by epoch; None for an older run, which did not keep them."""
    rows = tuple((str(line["epoch"]), tuple(_vitals(line).values())) for line in run.health())
    return Table(columns=tuple(_vitals(run.health()[0])), rows=rows) if rows else None


def _vitals(line: Json) -> dict[str, float | None]:
    entropies = line["entropy"].values()
    norms = line["gradient_norms"]
    return {
        "separation": line["separation"],
        "entropy": sum(entropies) / len(entropies) if entropies else None,
        "least entropy": min(entropies) if entropies else None,
        "distinct candidates": line["distinct_share"],
        "reward": line["reward_mean"],
        "variance of reward": line["reward_variance"],
        "gap": line["gap"],
        **{f"gradient of {player}": norms.get(player) for player in _PLAYERS},
    }


def _alarms(run: Run) -> tuple[Fact, ...]:
    return tuple(
        Fact(
            f"epoch {line['epoch']}, {alarm['name']}",
            f"{alarm['cause']}; to do: {ADVICE[alarm['name']]}",
        )
        for line in run.health()
        for alarm in line["alarms"]
    )


def _transfer(transfer: Json) -> TransferFacts:
    names = transfer["domains"]
    rows = [
        ("nothing (popularity)", transfer["popularity"]),
        *((f"{name} alone", row) for name, row in zip(names, transfer["matrix"], strict=True)),
        *((f"all but {name}", row) for name, row in zip(names, transfer["without"], strict=True)),
        ("all domains", transfer["joint"]),
    ]
    return TransferFacts(
        metric=transfer["metric"],
        part=transfer["part"],
        matrix=Table(
            columns=tuple(names), rows=tuple((name, tuple(values)) for name, values in rows)
        ),
        against_alone=tuple(Comparison(**one) for one in transfer["against_alone"]),
    )


def _examples(run: Run, dataset: Dataset, results: Json | None, count: int) -> tuple[Example, ...]:
    part = Part[results["part"].upper()] if results else Part.VALIDATION
    return draw_examples(run.scorer(), dataset, part=part, count=count) if count else ()


def _missing(run: Run, *, results: Json | None, transfer: Json | None) -> tuple[Missing, ...]:
    evaluate = f"crossfeed evaluate {shlex.quote(str(run.path))}"
    missing = []
    if results is None:
        missing.append(Missing("How good it is", "the run has not been evaluated", evaluate))
    if transfer is None:
        missing.append(
            Missing(
                "How much the domains gain from each other",
                "not measured yet",
                f"{evaluate} --transfer",
            )
        )
    return tuple(missing)
