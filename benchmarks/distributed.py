"""What a second process brings: clicks a second of two processes of one core beside one.

    python benchmarks/distributed.py --work WORK [--events 400000] [--repeats 5]

One and two processes, one thread each, train the same simulated log in turn, as whole commands;
each pair gives ratios, and the medians over the pairs are what counts: of the seconds of all steps,
of the whole commands, and of the processors' seconds, which say what the ratio would be if nobody
waited (twice those of one process, by those of both together). Results go to
benchmarks/results/distributed, one file per size of the log.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from crossfeed.data.dataset import Dataset, Part
from crossfeed.files import write_json

RESULTS = Path(__file__).parent / "results" / "distributed"
EPOCHS = 2
"""The first is warm-up, the second moves both players by each other."""
_EVENTS_PER_USER = 20
_EVENTS_PER_ITEM = 40
_DOMAINS = 8


def prepare_dataset(work: Path, events: int) -> Path:
    """Simulate and prepare a log, unless that has been done."""
    log, dataset = work / f"log-{events}.parquet", work / f"dataset-{events}"
    if not (dataset / "manifest.json").exists():
        sizes = {
            "--events": events,
            "--users": events // _EVENTS_PER_USER,
            "--items": events // _EVENTS_PER_ITEM,
            "--domains": _DOMAINS,
        }
        options = [str(word) for pair in sizes.items() for word in pair]
        crossfeed = [sys.executable, "-m", "crossfeed"]
        subprocess.run([*crossfeed, "simulate", str(log), *options, "--overwrite"], check=True)
        subprocess.run(
            [*crossfeed, "prepare", str(log), "--out", str(dataset), "--overwrite"], check=True
        )
    return dataset


def measure(dataset: Path, out: Path, *, processes: int, settings: list[str]) -> dict[str, float]:
    """Train in so many processes; return seconds of the whole command, of its steps, of CPUs."""
    start = [sys.executable]
    if processes > 1:
        start += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    own = [f"train.epochs={EPOCHS}", f"train.patience={EPOCHS}", "train.device=cpu", *settings]
    options = [word for setting in own for word in ("--set", setting)]
    command = [*start, "-m", "crossfeed", "train", str(dataset), "--out", str(out), "--overwrite"]
    began = time.perf_counter()
    process = subprocess.Popen(
        [*command, *options],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"failed with code {process.returncode}: {' '.join(command)}")
    whole = time.perf_counter() - began
    lines = (out / "metrics.jsonl").read_text("utf-8").splitlines()
    steps = sum(json.loads(line)["seconds"] for line in lines)
    return {
        "whole_seconds": round(whole, 2),
        "step_seconds": round(steps, 2),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 2),
    }


def main() -> None:
    """Read the command line, measure in pairs, keep the medians."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--events", type=int, default=400_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="K=V")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    dataset = prepare_dataset(given.work, given.events)
    clicks = len(Dataset.load(dataset).events(Part.TRAIN))
    pairs, ratios = [], []
    for _ in range(given.repeats):
        one, two = (
            measure(dataset, given.work / "run", processes=count, settings=given.settings)
            for count in (1, 2)
        )
        ratios.append(
            {
                "steps_ratio": round(one["step_seconds"] / two["step_seconds"], 3),
                "whole_ratio": round(one["whole_seconds"] / two["whole_seconds"], 3),
                "cpu_ratio": round(2 * one["cpu_seconds"] / two["cpu_seconds"], 3),
            }
        )
        load = round(os.getloadavg()[0], 1)
        pairs.append({"one": one, "two": two, **ratios[-1], "load_average": load})
        print(json.dumps(pairs[-1]), file=sys.stderr)
    result = {
        "train_clicks": clicks,
        "epochs": EPOCHS,
        "cores": os.cpu_count(),
        "settings": given.settings,
        **{name: statistics.median(pair[name] for pair in ratios) for name in ratios[0]},
        "pairs": pairs,
    }
    name = "-".join([f"events-{given.events}", *given.settings]) + ".json"
    write_json(RESULTS / name, result)
    print(json.dumps({key: value for key, value in result.items() if key != "pairs"}, indent=2))


if __name__ == "__main__":
    main()
