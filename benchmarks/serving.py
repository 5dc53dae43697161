"""What an answer over HTTP costs beside its floor, by the size of the catalogue.

    python benchmarks/serving.py run --work WORK [--items 10000 100000 1000000] [--repeats 5]
    python benchmarks/serving.py table --write

The service, as `crossfeed serve` starts it with a SQLite store and users of 50 events each, and the
floor (serving_floor.py), a process of its own, are measured in turn; the load comes from a third
process (serving_load.py) over loopback. Only ratios of one repetition are compared, and their
medians kept. Results go to benchmarks/results/serving, one file per size.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from serving_load import DOMAIN, USERS

from crossfeed.bundle import Bundle, BundleContents, write_bundle
from crossfeed.bundle.format import version_of
from crossfeed.bundle.item_index import build_index
from crossfeed.config import ModelConfig
from crossfeed.data.demand import FEATURES
from crossfeed.export import INDEX_ABOVE
from crossfeed.files import write_json
from crossfeed.model.network_scorer import NetworkScorer
from crossfeed.model.onnx.graph import export_encoder
from crossfeed.model.players import Players
from crossfeed.scorer import Bools, Catalogue, Doubles, Histories

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "serving"
PAGE = HERE.parent / "docs" / "benchmarks.md"
MARKS = ("<!-- serving -->", "<!-- /serving -->")

_HISTORY = 50
_OTHERS = {"news": 1_000, "videos": 1_000, "music": 1_000}
_SATURATING = 16
_WORKERS = (1, 2, 4)

Json = dict[str, Any]


def write_test_bundle(out: Path, items: int) -> Path:
    """Write a bundle of the default network, untrained, with items in clusters."""
    sizes = np.array([items, *_OTHERS.values()])
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    catalogue = Catalogue((DOMAIN, *_OTHERS), offsets, sizes)
    config = ModelConfig()
    torch.manual_seed(0)
    players = Players(catalogue, config)
    clusters = torch.randint(1_000, (catalogue.items,))  # what an item is like, for both players
    for layer in (players.discriminator.scoring_layer, players.generator.output_layer):
        near = torch.randn(1_000, config.width)[clusters] * config.width**-0.5
        layer.vectors.weight.data = near + 0.3 * torch.randn_like(near) * config.width**-0.5
    scorer = NetworkScorer(catalogue, players)
    draws = np.random.default_rng(0)
    clicked = draws.integers(catalogue.items, size=(USERS, _HISTORY))
    indexes = {}
    if items > INDEX_ABOVE:
        users = scorer.user_vectors(Histories.of(list(clicked[:200])), np.zeros(200, np.int64))
        indexes[DOMAIN] = build_index(
            scorer.item_vectors[:items], scorer.item_biases(0, Quiet(catalogue)), users
        )
    contents = BundleContents(
        scorer=scorer,
        item_ids=pa.chunked_array([pa.array(range(catalogue.items), pa.int64())]),
        user_id_type=pa.string(),
        clicks=draws.integers(1, 100, size=catalogue.items),
        recent_clicks=draws.integers(0, 10, size=catalogue.items),
        moment=Quiet(catalogue),
        histories=_histories(catalogue, clicked),
        card={},
        encoder=export_encoder(scorer),
        indexes=indexes,
    )
    return write_bundle(out, contents)


@dataclass(frozen=True)
class Quiet:
    """A moment in which every item exists, with the same demand."""

    catalogue: Catalogue
    time: int = 0

    def demand(self, domain: int) -> Doubles:
        """Return (N, F) the same features for every item."""
        return np.zeros((len(self.exists(domain)), FEATURES))

    def exists(self, domain: int) -> Bools:
        """Return (N,) true."""
        pool = self.catalogue.pool(domain)
        return np.ones(pool.stop - pool.start, np.bool_)


def _histories(catalogue: Catalogue, clicked: Any) -> list[pa.RecordBatch]:  # Any: numpy's own
    names = np.array(catalogue.domains, dtype=object)
    columns = {
        "user_id": np.repeat([f"u{user}" for user in range(USERS)], _HISTORY),
        "item_id": clicked.ravel(),
        "domain": names[catalogue.domain_of(clicked.ravel())],
        "timestamp": 1_700_000_000_000 + np.arange(clicked.size),
    }
    return list(pa.table(columns).to_batches())


@dataclass(frozen=True)
class Running:
    """A service that answers."""

    url: str
    process: int
    start_seconds: float
    """From the start of its process, with an empty store to fill, to its first answer."""

    def pss_megabytes(self) -> float:
        """Return the memory of all its processes; what several map counts once."""
        processes = [self.process, *_children(self.process)]
        return sum(map(_pss_kilobytes, processes)) / 1024


@contextlib.contextmanager
def serving(bundle: Path, work: Path, *, workers: int = 1) -> Iterator[Running]:
    """Run the service as a process."""
    log, store = work / "service.log", work / "store.sqlite"
    for file in work.glob("store.sqlite*"):
        file.unlink()
    command = ["serve", str(bundle), "--port", "0", "--history-store", f"sqlite://{store}"]
    command += ["--workers", str(workers)]
    began = time.perf_counter()
    with log.open("w") as stderr:
        process = subprocess.Popen([sys.executable, "-m", "crossfeed", *command], stderr=stderr)
    try:
        while "serving on " not in (said := log.read_text()):
            if process.poll() is not None:
                sys.exit(said)
            time.sleep(0.01)
        url = said.split("serving on ")[1].split(",")[0]
        yield Running(url, process.pid, time.perf_counter() - began)
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def bare(*bundle: str) -> Iterator[Running]:
    """Run the floor as a process; without a bundle the echo alone."""
    command = [sys.executable, str(HERE / "serving_floor.py"), *bundle]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield Running(process.stdout.readline().strip(), process.pid, 0.0)
        finally:
            process.terminate()


def load(url: str, *more: str, seconds: float) -> Json:
    """Ask from another process; return what it measured."""
    command = [sys.executable, str(HERE / "serving_load.py"), url, "--seconds", str(seconds), *more]
    found: Json = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    if found["failures"]:
        sys.exit(f"{found['failures']} requests were not answered: {command}")
    return found


def _children(process: int) -> list[int]:
    listed = Path(f"/proc/{process}/task/{process}/children").read_text()
    return [int(child) for child in listed.split()]


def _pss_kilobytes(process: int) -> int:
    rollup = Path(f"/proc/{process}/smaps_rollup").read_text()
    return int(rollup.split("\nPss:")[1].split()[0])


def switch_seconds(bundle: Path, work: Path) -> float:
    """Return how long a pin takes: of the same files under another version."""
    folder, other = work / "versions", work / f"{bundle.name}-again"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.rmtree(other, ignore_errors=True)
    shutil.copytree(bundle, other, copy_function=os.link)
    about = json.loads((bundle / "bundle.json").read_text("utf-8"))
    about["card"] = {"again": True}
    del about["version"]
    (other / "bundle.json").unlink()
    write_json(other / "bundle.json", {**about, "version": version_of(about)})
    folder.mkdir()
    (folder / "first").symlink_to(bundle)
    with serving(folder, work) as service:
        (folder / "second").symlink_to(other)
        asked = urllib.request.Request(
            f"{service.url}/v1/model/pin",
            data=json.dumps({"version": "second"}).encode(),
            headers={"content-type": "application/json"},
        )
        began = time.perf_counter()
        answer = json.loads(urllib.request.urlopen(asked).read())
        seconds = time.perf_counter() - began
    if answer["model_version"] != Bundle.stated_version(other):
        sys.exit(f"the pin changed nothing: {answer}")
    return seconds


def footprint(bundle: Path, work: Path) -> Json:
    """Measure start, memory by the number of workers (after they answered), and a switch."""
    starts, memory = {}, {}
    for workers in _WORKERS:
        with serving(bundle, work, workers=workers) as service:
            starts[workers] = round(service.start_seconds, 2)
            load(service.url, "--connections", str(8 * workers), seconds=2)
            memory[workers] = round(service.pss_megabytes(), 1)
    files = sum(file.stat().st_size for file in bundle.iterdir()) / 2**20
    return {
        "start_seconds": starts,
        "pss_megabytes": memory,
        "bundle_megabytes": round(files, 1),
        "switch_seconds": round(switch_seconds(bundle, work), 2),
    }


def worked(url: str, process: int, *, seconds: float) -> Json:
    """Ask over one connection; return what was measured, and the server's CPU time per request."""
    before = _cpu_seconds(process)
    found = load(url, seconds=seconds)
    used = _cpu_seconds(process) - before
    return {**found, "cpu_ms": round(1000 * used / (found["per_second"] * seconds), 4)}


def _cpu_seconds(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(service: Running, echo: Running, floor: Running, seconds: float) -> Json:
    """Measure the floor and the service once, in turn."""
    url = service.url
    echoed, least, alone = (
        worked(one.url, one.process, seconds=seconds) for one in (echo, floor, service)
    )
    writing = load(url, "--writes", seconds=seconds)
    saturated = load(url, "--connections", str(_SATURATING), seconds=seconds)
    half = str(saturated["per_second"] / 2)
    at_half = load(url, "--rate", half, seconds=seconds)
    at_half_writing = load(url, "--rate", half, "--writes", seconds=seconds)
    return {
        "echo": echoed,
        "floor": least,
        "alone": alone,
        "alone, writing": writing,
        "saturated": saturated,
        "half": at_half,
        "half, writing": at_half_writing,
        "ratios": {
            "p50 to floor": alone["p50_ms"] / least["p50_ms"],
            "p50 to floor, writing": writing["p50_ms"] / least["p50_ms"],
            "CPU to floor": alone["cpu_ms"] / least["cpu_ms"],
            "p99 to p50 at half": at_half["p99_ms"] / at_half["p50_ms"],
            "p99 to p50 at half, writing": at_half_writing["p99_ms"] / at_half_writing["p50_ms"],
            "requests/s to floor": saturated["per_second"] / least["per_second"],
            "share of echo in the floor": echoed["p50_ms"] / least["p50_ms"],
        },
    }


def run(work: Path, items: int, *, repeats: int, seconds: float) -> None:
    """Measure one size and keep the result."""
    work.mkdir(parents=True, exist_ok=True)
    path = work / f"bundle-{items}"
    if not path.exists():
        write_test_bundle(path, items)
    bundle = Bundle.load(path)
    with serving(path, work) as service, bare() as echo, bare(str(path)) as floor:
        for warm in (service, echo, floor):
            load(warm.url, seconds=1)
        runs = []
        for _ in range(repeats):
            runs.append(measure(service, echo, floor, seconds))
            print(items, runs[-1]["ratios"], flush=True)
    medians = {
        name: round(statistics.median(one["ratios"][name] for one in runs), 2)
        for name in runs[0]["ratios"]
    }
    facts = {
        "items": items,
        "seconds": seconds,
        "indexes": bundle.about["indexes"],
        "footprint": footprint(path, work),
    }
    write_json(RESULTS / f"{items}.json", {**facts, "medians": medians, "runs": runs})


def table() -> str:
    """Return the committed results as two tables: latency, then memory and start."""
    files = sorted(RESULTS.glob("*.json"), key=lambda file: int(file.stem))
    results = [json.loads(file.read_text("utf-8")) for file in files]
    heads = list(results[0]["medians"])
    lines = [f"| items | {' | '.join(heads)} |", "|--:" * (len(heads) + 1) + "|"]
    for one in results:
        cells = [f"{value:.2f}" for value in one["medians"].values()]
        lines.append(f"| {one['items']:,} | {' | '.join(cells)} |")
    heads = ["bundle", "one worker", "each further one", "start", "switch"]
    lines += ["", f"| items | {' | '.join(heads)} |", "|--:" * (len(heads) + 1) + "|"]
    for one in results:
        found = one["footprint"]
        memory = {int(workers): size for workers, size in found["pss_megabytes"].items()}
        further = (memory[4] - memory[2]) / 2
        cells = [f"{size:,.0f} MiB" for size in (found["bundle_megabytes"], memory[1], further)]
        cells += [f"{found['start_seconds']['1']:.1f} s", f"{found['switch_seconds']:.2f} s"]
        lines.append(f"| {one['items']:,} | {' | '.join(cells)} |")
    return "\n".join(lines)


def write_page() -> None:
    """Put the table into docs/benchmarks.md."""
    before, rest = PAGE.read_text("utf-8").split(MARKS[0])
    after = rest.split(MARKS[1])[1]
    PAGE.write_text(f"{before}{MARKS[0]}\n\n{table()}\n\n{MARKS[1]}{after}", "utf-8")


def main() -> None:
    """Read the command line and do what it says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run", help="measure and keep the results")
    running.add_argument("--work", type=Path, required=True)
    running.add_argument("--items", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    running.add_argument("--repeats", type=int, default=5)
    running.add_argument("--seconds", type=float, default=3.0)
    shown = commands.add_parser("table", help="print the results")
    shown.add_argument("--write", action="store_true", help="put them into docs/benchmarks.md")
    given = parser.parse_args()
    if given.command == "run":
        for items in given.items:
            run(given.work, items, repeats=given.repeats, seconds=given.seconds)
    elif given.write:
        write_page()
    else:
        print(table())


if __name__ == "__main__":
    main()
