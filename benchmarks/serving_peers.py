"""What an answer over HTTP costs beside other libraries' ways to serve, on the same catalogue.

    python benchmarks/serving_peers.py run --work WORK --cornac PYTHON --rechub PYTHON
    python benchmarks/serving_peers.py table --write

Each peer runs in an environment of its own, whose interpreter is named; what they serve, and how,
is in peer_serving_cornac.py and peer_serving_rechub.py. All serve 1,000 users with 50 events each
and leave out what a user has seen; k = 10, one process each, the same load (serving_load.py), in
turn.
Only ratios of one repetition are compared, and their medians kept.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from serving import PAGE, RESULTS, Json, load, serving, write_test_bundle

from crossfeed.files import write_json

HERE = Path(__file__).parent
FILE = RESULTS / "peers" / "10000.json"
MARKS = ("<!-- serving-peers -->", "<!-- /serving-peers -->")

_ITEMS = 10_000
_SATURATING = 16


@contextlib.contextmanager
def cornac(python: str, work: Path) -> Iterator[list[str]]:
    """Run cornac's Flask app as its documentation does; yield what the load is told."""
    script = str(HERE / "peer_serving_cornac.py")
    command = [python, script, str(work / "cornac"), "--items", str(_ITEMS)]
    told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    model = told.strip().splitlines()[-1]
    port = _free_port()
    environment = {
        **os.environ,
        "FLASK_APP": "cornac.serving.app",
        "MODEL_PATH": str(Path(model).resolve()),
        "MODEL_CLASS": "cornac.models.BPR",
    }
    flask = [python, "-m", "flask", "run", "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(
        flask, env=environment, cwd=work, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        _wait_for(port, process)
        path = "/recommend?uid=uUSER&k=10&remove_seen=true"
        yield [f"http://127.0.0.1:{port}", "--get", path, "--items", "recommendations"]
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def rechub(python: str) -> Iterator[list[str]]:
    """Run torch-rechub's user tower and index behind an app; yield what the load is told."""
    command = [python, str(HERE / "peer_serving_rechub.py"), "--items", str(_ITEMS)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert process.stdout is not None
        url = next((line.strip() for line in process.stdout if line.startswith("http://")), None)
        if url is None:
            sys.exit(f"{python} does not serve torch-rechub; run {command[1]} to see why")
        yield [url, "--get", "/recommend?user=USER&k=10"]
    finally:
        process.terminate()
        process.wait()


def run(work: Path, peers: dict[str, str], *, repeats: int, seconds: float) -> None:
    """Measure all in turn and keep the result."""
    work.mkdir(parents=True, exist_ok=True)
    bundle = work / f"bundle-{_ITEMS}"
    if not bundle.exists():
        write_test_bundle(bundle, _ITEMS)
    with contextlib.ExitStack() as stack:
        asked = {"crossfeed": [stack.enter_context(serving(bundle, work)).url]}
        if "cornac" in peers:
            asked["cornac"] = stack.enter_context(cornac(peers["cornac"], work))
        if "torch-rechub" in peers:
            asked["torch-rechub"] = stack.enter_context(rechub(peers["torch-rechub"]))
        for told in asked.values():
            load(*told, seconds=1)
        runs = []
        for _ in range(repeats):
            runs.append({name: _measure(told, seconds) for name, told in asked.items()})
            print({name: one["alone"]["p50_ms"] for name, one in runs[-1].items()}, flush=True)
    versions = {name: _version(python, name) for name, python in peers.items()}
    facts = {"items": _ITEMS, "seconds": seconds, "versions": versions}
    write_json(FILE, {**facts, "medians": _medians(runs), "runs": runs})


def _measure(told: list[str], seconds: float) -> Json:
    alone = load(*told, seconds=seconds)
    return {
        "alone": alone,
        "saturated": load(*told, "--connections", str(_SATURATING), seconds=seconds),
    }


def _medians(runs: list[Json]) -> Json:
    """Return by peer its latencies in those of crossfeed, and crossfeed's requests/s in its own."""
    found: Json = {}
    for name in runs[0]:
        if name != "crossfeed":
            pairs = [(one[name], one["crossfeed"]) for one in runs]
            ratios = {
                "p50": [his["alone"]["p50_ms"] / own["alone"]["p50_ms"] for his, own in pairs],
                "p99": [his["alone"]["p99_ms"] / own["alone"]["p99_ms"] for his, own in pairs],
                "requests/s": [
                    own["saturated"]["per_second"] / his["saturated"]["per_second"]
                    for his, own in pairs
                ],
            }
            found[name] = {what: round(statistics.median(of), 2) for what, of in ratios.items()}
    return found


def _version(python: str, name: str) -> str:
    asked = f"import importlib.metadata as m; print(m.version('{name}'))"
    return subprocess.run(
        [python, "-c", asked], check=True, stdout=subprocess.PIPE, text=True
    ).stdout.strip()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        if process.poll() is not None:
            sys.exit(f"the server ended with code {process.returncode}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.1)
    sys.exit("the server does not listen")


def table() -> str:
    """Return the committed result as a table."""
    result = json.loads(FILE.read_text("utf-8"))
    lines = ["| beside crossfeed | p50 | p99 | requests/s |", "|---|--:|--:|--:|"]
    for name, one in result["medians"].items():
        version = result["versions"][name]
        cells = [f"{one['p50']:.1f} x as long", f"{one['p99']:.1f} x as long"]
        cells.append(f"1 / {one['requests/s']:.1f}")
        lines.append(f"| {name} {version} | {' | '.join(cells)} |")
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
    running = commands.add_parser("run", help="measure and keep the result")
    running.add_argument("--work", type=Path, required=True)
    running.add_argument("--cornac", help="the Python of an environment with cornac and Flask")
    running.add_argument("--rechub", help="the Python of one with torch-rechub and what it needs")
    running.add_argument("--repeats", type=int, default=5)
    running.add_argument("--seconds", type=float, default=2.0)
    shown = commands.add_parser("table", help="print the result")
    shown.add_argument("--write", action="store_true", help="put it into docs/benchmarks.md")
    given = parser.parse_args()
    if given.command == "run":
        peers = {"cornac": given.cornac, "torch-rechub": given.rechub}
        named = {name: python for name, python in peers.items() if python}
        run(given.work, named, repeats=given.repeats, seconds=given.seconds)
    elif given.write:
        write_page()
    else:
        print(table())


if __name__ == "__main__":
    main()
