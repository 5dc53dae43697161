"""What preparation costs: rows a second and peak memory, beside its floor.

    python benchmarks/prepare.py --work WORK [--events 20000000] [--memory-limit 1GiB] [--repeats 3]
    python benchmarks/prepare.py --work WORK --events 1000000 --recbole PYTHON --rechub PYTHON

The floor is the bare engine that writes the same log as Parquet sorted by user and time, on the
same machine in turn with `prepare`, each in a process of its own. With the interpreter of an
environment that has RecBole or torch-rechub, their own preparation of the same log, as text, is
measured in turn too: RecBole's 5-core and numbering; torch-rechub's numbering and its sequences by
user. Neither knows domains. Results go to benchmarks/results/prepare, one file per size and limit;
seconds of the processor too, which other work on the machine disturbs less.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from crossfeed.files import atomic_path, write_json

RESULTS = Path(__file__).parent / "results" / "prepare"
DOMAINS = 8
_CHUNK = 1_000_000
_YEAR_SECONDS = 365 * 86_400
_EVENTS_PER_USER = 20
_EVENTS_PER_ITEM = 20

_FLOOR = """
import duckdb, sys
log, out, threads, limit = sys.argv[1:]
connection = duckdb.connect()
connection.execute(f"SET threads = {threads}")
if limit:
    connection.execute(f"SET memory_limit = '{limit}'")
connection.execute(f"COPY (FROM '{log}' ORDER BY user_id, timestamp) TO '{out}' (FORMAT parquet)")
"""

_RECBOLE = """
import sys
from recbole.config import Config
from recbole.data import create_dataset
config = Config(model="BPR", dataset="log", config_dict={
    "data_path": sys.argv[1], "USER_ID_FIELD": "user_id", "ITEM_ID_FIELD": "item_id",
    "TIME_FIELD": "timestamp", "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
    "user_inter_num_interval": "[5,inf)", "item_inter_num_interval": "[5,inf)",
})
create_dataset(config).build()
"""

_RECHUB = """
import sys
import pandas as pd
from sklearn.preprocessing import LabelEncoder
from torch_rechub.utils.match import generate_seq_feature_match
data = pd.read_csv(sys.argv[1] + "/log/log.inter", sep="\\t")
data.columns = [name.partition(":")[0] for name in data.columns]
for column in ("user_id", "item_id"):
    data[column] = LabelEncoder().fit_transform(data[column]) + 1
generate_seq_feature_match(data, "user_id", "item_id", "timestamp", item_attribute_cols=[])
"""


def write_log(file: Path, events: int) -> None:
    """Write a log with users and items of power-law activity, in no order."""
    rng = np.random.default_rng(0)
    users, items = max(1, events // _EVENTS_PER_USER), max(DOMAINS, events // _EVENTS_PER_ITEM)
    density = np.geomspace(1, 1 / 50, DOMAINS)
    with atomic_path(file) as temporary:
        writer = None
        for first in range(0, events, _CHUNK):
            rows = min(_CHUNK, events - first)
            domain = rng.choice(DOMAINS, rows, p=density / density.sum())
            user = (users * rng.random(rows) ** 2).astype(np.int64)
            item = (items // DOMAINS * rng.random(rows) ** 3).astype(np.int64)
            table = pa.table(
                {
                    "user_id": pa.array(np.char.add("user-", user.astype(str))),
                    "item_id": pa.array(np.char.add("item-", item.astype(str))),
                    "domain": pa.array(np.char.add("domain-", domain.astype(str))),
                    "timestamp": 1_700_000_000 + rng.integers(_YEAR_SECONDS, size=rows),
                }
            )
            writer = writer or pq.ParquetWriter(temporary, table.schema)
            writer.write_table(table)
        assert writer is not None
        writer.close()


def measure(command: list[str], *, threads: int) -> dict[str, float]:
    """Run a command; return its seconds and peak memory."""
    began = time.perf_counter()
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"failed with code {process.returncode}: {' '.join(command[:4])} ...")
    return {
        "seconds": round(time.perf_counter() - began, 2),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 2),
        "peak_mib": usage.ru_maxrss // 1024,
    }


def recbole_files(log: Path, folder: Path) -> None:
    """Write the log as RecBole's atomic file."""
    (folder / "log").mkdir(parents=True, exist_ok=True)
    import pyarrow.csv as pacsv

    table = pq.read_table(log, columns=["user_id", "item_id", "timestamp"])
    head = "user_id:token\titem_id:token\ttimestamp:float\n"
    with atomic_path(folder / "log" / "log.inter") as temporary, temporary.open("wb") as file:
        file.write(head.encode())
        options = pacsv.WriteOptions(include_header=False, delimiter="\t", quoting_style="none")
        pacsv.write_csv(table, file, options)


def main() -> None:
    """Read the command line, measure in turn, keep the medians."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--events", type=int, default=20_000_000)
    parser.add_argument("--memory-limit", default="")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--recbole", metavar="PYTHON", help="an environment with RecBole 1.2.1")
    parser.add_argument("--rechub", metavar="PYTHON", help="an environment with torch-rechub")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    log = given.work / f"log-{given.events}.parquet"
    if not log.exists():
        write_log(log, given.events)
    limit = ["--memory-limit", given.memory_limit] if given.memory_limit else []
    dataset, sorted_log = given.work / "dataset", given.work / "sorted.parquet"
    prepare = [sys.executable, "-m", "crossfeed", "prepare", str(log), "--out", str(dataset)]
    floor = [sys.executable, "-c", _FLOOR, str(log), str(sorted_log), str(given.threads)]
    commands: dict[str, list[str]] = {
        "floor": [*floor, given.memory_limit],
        "prepare": [*prepare, "--overwrite", *limit],
    }
    peers = {"recbole": (given.recbole, _RECBOLE), "torch-rechub": (given.rechub, _RECHUB)}
    for name, (python, script) in peers.items():
        if python:
            recbole_files(log, given.work / "recbole")
            commands[name] = [python, "-c", script, str(given.work / "recbole")]
    taken: dict[str, list[dict[str, float]]] = {name: [] for name in commands}
    for _ in range(given.repeats):
        for name, command in commands.items():
            taken[name].append(measure(command, threads=given.threads))
            print(name, taken[name][-1], flush=True)
    report(taken, events=given.events, limit=given.memory_limit)


def report(taken: dict[str, list[dict[str, float]]], *, events: int, limit: str) -> None:
    """Keep and print the medians, and their ratios to the floor."""

    def median(name: str, key: str) -> float:
        return statistics.median(one[key] for one in taken[name])

    floor, floor_cpu = median("floor", "seconds"), median("floor", "cpu_seconds")
    found = {
        name: {
            "seconds": median(name, "seconds"),
            "rows_per_second": round(events / median(name, "seconds")),
            "peak_mib": median(name, "peak_mib"),
            "times_floor": round(median(name, "seconds") / floor, 2),
            "times_floor_in_cpu": round(median(name, "cpu_seconds") / floor_cpu, 2),
        }
        for name in taken
    }
    name = f"{events}{f'.{limit}' if limit else ''}"
    write_json(
        RESULTS / f"{name}.json",
        {"events": events, "memory_limit": limit or None, "runs": taken, "medians": found},
    )
    for scorer, figures in found.items():
        print(scorer, figures)


if __name__ == "__main__":
    main()
