"""What the adversarial training costs: beside padded ports and peers, by operator, and as it grows.

    python benchmarks/training.py run --work WORK [--only speed.ciao] [--repeats 3]
    python benchmarks/training.py table --write

Parts, each with a result file in benchmarks/results/training; a part that has one is left out, so
an interrupted benchmark goes on where it stopped:

    speed.ciao, speed.simulated   events/s beside the ports of the published layout (padded_port.py)
    course                        time to the validation that each peer reached (peers.py course)
    roofline                      what bounds each operator (training_roofline.py)
    growth                        a step's time and memory by items, domains and known domains

Everything measured runs in a process of its own with one thread. What is compared is measured in
turn, and medians of the ratios within a repetition are kept. Time is that of the processor, because
other work shares it. The simulated log is that of benchmarks/prepare.py: 20 million events of a
million users on a million items in 8 domains.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from cells import dataset_of
from prepare import write_log

from crossfeed.config import load_config
from crossfeed.data.dataset import Dataset
from crossfeed.data.prepare.pipeline import prepare
from crossfeed.files import write_json
from crossfeed.run import Run
from crossfeed.training.loop.trainer import Fit

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "training"
PAGE = HERE.parent / "docs" / "benchmarks.md"
MARKS = ("<!-- training -->", "<!-- /training -->")

EQUAL = ["model.generator=attention"]
"""The ports' generator reads histories as their discriminator does."""
CONTESTANTS: Mapping[str, tuple[str, int, list[str]]] = {
    "crossfeed": ("crossfeed", 12, []),
    "crossfeed, equal networks": ("crossfeed", 12, EQUAL),
    "competent port": ("competent", 4, EQUAL),
    "plain port": ("plain", 1, EQUAL),
}
"""Name -> program, steps, settings."""
ITEMS = (10_000, 100_000, 1_000_000)
MOST_ITEMS = (1_000_000, 10_000_000)
DOMAINS = (4, 16, 64)
KNOWN = (4, 16)
SIMULATED_EVENTS = 20_000_000

Json = dict[str, Any]  # Any: JSON
Size = tuple[int, int, int, int]
"""Items, domains, domains that a user knows, width."""


def run_apart(script: str, *arguments: str) -> Json:
    """Run a script in a process of its own, one thread; return the JSON that it prints."""
    command = [sys.executable, str(HERE / script), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, stdout=subprocess.PIPE, env=environment, text=True)
    if done.returncode:
        sys.exit(f"failed: {' '.join(command[1:])}")
    found: Json = json.loads(done.stdout.splitlines()[-1])
    return found


def contestant(program: str, data: str, steps: int, settings: Sequence[str] = ()) -> Json:
    """Measure one contestant once."""
    options = [word for setting in settings for word in ("--set", setting)]
    return run_apart("training_contestants.py", program, data, str(steps), *options)


def speed(work: Path, repeats: int, *, data: str) -> Json:
    """Measure all contestants of a data set in turn; the plain port only where it fits."""
    path, names = _data(work, data), list(CONTESTANTS)
    if data == "simulated":
        names.remove("plain port")  # a (B, I) matrix has 4 GB there
    runs: list[Json] = []
    for _ in range(repeats):
        measured = {}
        for name in names:
            program, steps, settings = CONTESTANTS[name]
            measured[name] = contestant(program, str(path), steps, settings)
            print(name, measured[name], flush=True)
        runs.append(measured)
    return {
        "medians": {
            name: {key: statistics.median(one[name][key] for one in runs) for key in runs[0][name]}
            for name in names
        },
        "ratios": {
            f"{ours} / {port}": _median_ratio(runs, ours, port)
            for port in names[2:]
            for ours in names[:2]
        },
        "runs": runs,
    }


def _median_ratio(runs: Sequence[Json], one: str, other: str) -> float:
    key = "events_per_processor_second"
    ratios = [float(run[one][key]) / float(run[other][key]) for run in runs]
    return round(statistics.median(ratios), 2)


def _data(work: Path, data: str) -> Path:
    """Return a prepared dataset."""
    if data == "ciao":
        return dataset_of(work, "ciao", "last-out").path
    out = work / f"{SIMULATED_EVENTS}.dataset"
    if not out.exists():
        log = work / f"log-{SIMULATED_EVENTS}.parquet"
        if not log.exists():
            write_log(log, SIMULATED_EVENTS)
        whole = ["data.min_item_events=1", "data.min_domain_events=1"]
        prepare(log, out=out, config=load_config(overrides=whole).data)
    return out


class TimedFit(Fit):
    """A fit that notes the processor's time of each epoch, validation apart."""

    processor = 0.0

    def _run_epoch(self, *given: Any) -> None:  # Any: what the fit hands on
        began = time.process_time()
        super()._run_epoch(*given)
        self.processor += time.process_time() - began


def course(work: Path, repeats: int) -> Json:
    """Train the default until it is as good as every peer's best, and note each epoch."""
    dataset: Dataset = dataset_of(work, "ciao", "last-out")
    goal = max((_best(peer)["micro ndcg@10"] for peer in _peers()), default=1.0)
    run = Run.create(
        work / "training.course", dataset=dataset, config=load_config(), overwrite=True
    )
    fit = TimedFit(run, dataset, stage="train", epochs=run.config.train.epochs, selects=True)
    epochs: list[Json] = []

    def after_epoch(epoch: int, value: float) -> None:
        seconds = sum(float(one["seconds"]) for one in run.metrics())
        epochs.append(
            {
                "seconds": round(seconds, 1),
                "processor_seconds": round(fit.processor, 1),
                "micro ndcg@10": value,
            }
        )
        print(epoch + 1, epochs[-1], flush=True)
        if value >= goal:
            raise _Reached

    fit.after_epoch = after_epoch
    try:
        fit.go_on()
    except _Reached:
        pass
    return {"dataset_hash": dataset.manifest["content_hash"], "epochs": epochs}


class _Reached(Exception):
    """The training is as good as all peers were."""


def _peers() -> list[Json]:
    """Return the courses of the peers on Ciao."""
    files = sorted(RESULTS.glob("course.ciao.last-out.*.json"))
    return [json.loads(file.read_text("utf-8")) for file in files]


def _best(one: Json) -> Json:
    best: Json = max(one["epochs"], key=lambda epoch: float(epoch["micro ndcg@10"]))
    return best


def roofline(work: Path, repeats: int) -> Json:
    """Measure the bounds of a step's operators; of some tries the one with the middle share."""
    path = str(_data(work, "ciao"))
    tries = [run_apart("training_roofline.py", path, "12") for _ in range(repeats)]
    middle = sorted(tries, key=lambda one: float(one["share"]))[len(tries) // 2]
    return {**middle, "shares": [one["share"] for one in tries]}


def growth(work: Path, repeats: int) -> Json:
    """Measure a step at every size in turn, and the exponents of its time and memory."""
    series = {
        "items": (0, [(items, 8, 4, 64) for items in ITEMS]),
        "items, width 16": (0, [(items, 8, 4, 16) for items in MOST_ITEMS]),
        "domains": (1, [(100_000, domains, 4, 64) for domains in DOMAINS]),
        "known domains": (2, [(100_000, 64, known, 64) for known in KNOWN]),
    }
    sizes = sorted({size for _, some in series.values() for size in some})
    runs: dict[Size, list[Json]] = {size: [] for size in sizes}
    for _ in range(repeats):
        for size in sizes:
            name = "items={},domains={},known={}".format(*size)
            runs[size].append(contestant("crossfeed", name, 8, [f"model.width={size[3]}"]))
            print(size, runs[size][-1], flush=True)

    def median(size: Size, key: str) -> float:
        return statistics.median(float(one[key]) for one in runs[size])

    found: Json = {}
    for name, (place, some) in series.items():
        values = [size[place] for size in some]
        measured = {
            key: [median(size, key) for size in some] for key in ("step_seconds", "peak_mib")
        }
        found[name] = {
            "values": values,
            **measured,
            "exponents": {key: exponent(values, taken) for key, taken in measured.items()},
        }
    return {"series": found, "runs": [{"size": size, "runs": runs[size]} for size in sizes]}


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Return the slope of log value over log size: 0 is flat, 1 is in proportion."""
    return round(float(np.polyfit(np.log(sizes), np.log(values), 1)[0]), 3)


PARTS: Mapping[str, Callable[[Path, int], Json]] = {
    "speed.ciao": lambda work, repeats: speed(work, repeats, data="ciao"),
    "speed.simulated": lambda work, repeats: speed(work, repeats, data="simulated"),
    "course": course,
    "roofline": roofline,
    "growth": growth,
}


def table() -> str:
    """Return the committed results as Markdown."""
    shown = {"speed": _speed_lines, "course": _course_lines}
    shown |= {"roofline": _roofline_lines, "growth": _growth_lines}
    return "\n".join(line for lines in shown.values() for line in lines())


def _read(part: str) -> Json | None:
    file = RESULTS / f"{part}.json"
    found: Json | None = json.loads(file.read_text("utf-8")) if file.exists() else None
    return found


def _speed_lines() -> Iterator[str]:
    yield "| beside the | log | crossfeed's events/s | with equal networks |"
    yield "|---|---|--:|--:|"
    for data in ("ciao", "simulated"):
        ratios = (_read(f"speed.{data}") or {"ratios": {}})["ratios"]
        for port in ("plain port", "competent port"):
            ours = [ratios.get(f"{name} / {port}") for name in list(CONTESTANTS)[:2]]
            if None not in ours:
                yield f"| {port} | {data} | {ours[0]:.1f} x | {ours[1]:.1f} x |"
    yield ""


def _course_lines() -> Iterator[str]:
    ours = _read("course")
    if ours is None:
        return
    yield "| peer | its best validation ndcg@10 | after | processor s | crossfeed's | share |"
    yield "|---|--:|--:|--:|--:|--:|"
    for peer in _peers():
        best = _best(peer)
        reached = [e for e in ours["epochs"] if e["micro ndcg@10"] >= best["micro ndcg@10"]]
        mine = float(reached[0]["processor_seconds"]) if reached else None
        theirs = float(best["processor_seconds"])
        cells = ("not reached", "") if mine is None else (f"{mine:,.0f}", f"{mine / theirs:.2f}")
        epoch = peer["epochs"].index(best) + 1
        yield (
            f"| {peer['peer']} | {best['micro ndcg@10']:.4f} | epoch {epoch} of "
            f"{len(peer['epochs'])} | {theirs:,.0f} | {' | '.join(cells)} |"
        )
    yield ""


def _roofline_lines() -> Iterator[str]:
    found = _read("roofline")
    if found is None:
        return
    whole = 1e3 * found["operators_seconds"]
    clocked = found["operators_seconds"] / found["step_seconds"]
    yield (
        f"The bounds of all operators together are {found['share']:.0%} of a step on Ciao. "
        f"One by one, each under a clock, the operators took {clocked:.0%} of a step."
    )
    yield ""
    yield "| operator | of the operators' time | its bound | bound by |"
    yield "|---|--:|--:|---|"
    for one in found["operators"]:
        taken, bound = one["milliseconds"] / whole, one["bound"] / whole
        yield f"| {one['operator']} | {taken:.1%} | {bound:.1%} | {one['by']} |"
    yield ""


def _growth_lines() -> Iterator[str]:
    found = _read("growth")
    if found is None:
        return
    yield "| by | from | to | step's time | exponent | memory | exponent |"
    yield "|---|--:|--:|--:|--:|--:|--:|"
    for name, one in found["series"].items():
        times, memory, exponents = one["step_seconds"], one["peak_mib"], one["exponents"]
        yield (
            f"| {name} | {one['values'][0]:,} | {one['values'][-1]:,} "
            f"| {times[-1] / times[0]:.2f} x | {exponents['step_seconds']:.2f} "
            f"| {memory[-1] / memory[0]:.2f} x | {exponents['peak_mib']:.2f} |"
        )
    yield ""


def write_page() -> None:
    """Put the tables into docs/benchmarks.md."""
    before, rest = PAGE.read_text("utf-8").split(MARKS[0])
    after = rest.split(MARKS[1])[1]
    PAGE.write_text(f"{before}{MARKS[0]}\n\n{table()}\n{MARKS[1]}{after}", "utf-8")


def main() -> None:
    """Read the command line and do what it says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run", help="measure the parts that have no result yet")
    running.add_argument("--work", type=Path, required=True, help="folder for data and runs")
    running.add_argument("--only", choices=PARTS, help="one part, measured again if it was before")
    running.add_argument("--repeats", type=int, default=3)
    shown = commands.add_parser("table", help="print the results")
    shown.add_argument("--write", action="store_true", help="put them into docs/benchmarks.md")
    given = parser.parse_args()
    if given.command == "table":
        write_page() if given.write else print(table())
        return
    given.work.mkdir(parents=True, exist_ok=True)
    for part, measured in PARTS.items():
        if given.only in (None, part) and (given.only or _read(part) is None):
            write_json(RESULTS / f"{part}.json", measured(given.work, given.repeats))


if __name__ == "__main__":
    main()
