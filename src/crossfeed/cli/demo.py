"""The demonstration: the whole line on a simulated log, small enough to be watched."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.text import Text

from crossfeed import __version__
from crossfeed.cli import output, tables
from crossfeed.cli.demo_users import print_users
from crossfeed.config import Config, DataConfig, TrainConfig
from crossfeed.data.dataset import Dataset
from crossfeed.data.prepare.pipeline import prepare
from crossfeed.data.simulate.clicks import simulate
from crossfeed.data.simulate.truth import Truth
from crossfeed.evaluation.evaluate import evaluate
from crossfeed.export import export
from crossfeed.files import write_json
from crossfeed.outputs import DEMO, require_folder
from crossfeed.run import Run
from crossfeed.serving.process.server import serve as serve_bundle
from crossfeed.serving.recommend.recommender import Recommender
from crossfeed.training.loop.trainer import train

__all__ = ["run_demo"]

_USERS, _ITEMS, _DOMAINS, _EVENTS = 2_000, 1_200, 6, 60_000
_EPOCHS = 8
"""Log and training take two cores about two minutes."""


@dataclass(frozen=True)
class _Demo:
    """The folder that a demonstration works in, and where it prints."""

    folder: Path
    console: Console

    @property
    def log(self) -> Path:
        return self.folder / "clicks.parquet"

    def step(self, number: int, title: str, why: str, command: str) -> None:
        """Announce a step: what, why, and the command that does the same."""
        self.console.print()
        self.console.print(Text.assemble((f"{number}  {title}", "bold cyan"), f"  {why}"))
        self.console.print(Text(f"   $ crossfeed {command}\n", "dim"))


def run_demo(folder: Path, *, serve: bool, port: int) -> None:
    """Simulate a log, run the whole line on it and show recommendations.

    Args:
        folder: of the outputs; a new or empty one, or one of an earlier demonstration, whose
            outputs are replaced.
        serve: then serve the bundle on the loopback interface until Ctrl-C.
        port: port of the service.

    Raises:
        OutputError: `folder` holds anything else.
    """
    require_folder(folder, DEMO, overwrite=True)
    write_json(folder / "demo.json", {"format_version": 1, "crossfeed": __version__, "demo": True})
    demo = _Demo(folder, output.stdout())
    simulation = _simulate(demo)
    dataset = _prepare(demo)
    run = _train(demo, dataset)
    _evaluate(demo, run, dataset)
    bundle = _export(demo, run)
    _recommend(demo, dataset, bundle, truth=simulation)
    if serve:
        _serve(demo, bundle, port)


def _simulate(demo: _Demo) -> Truth:
    demo.step(
        1,
        "Simulate a log",
        f"{_DOMAINS} domains that share users, and a taste that acts in all of them",
        f"simulate {demo.log} --users {_USERS} --items {_ITEMS} --domains {_DOMAINS} "
        f"--events {_EVENTS}",
    )
    written = simulate(
        demo.log, users=_USERS, items=_ITEMS, domains=_DOMAINS, events=_EVENTS, overwrite=True
    )
    demo.console.print(f"   {written.events:,} events in {written.log}")
    return Truth.load(written.truth)


def _prepare(demo: _Demo) -> Dataset:
    out = demo.folder / "dataset"
    demo.step(
        2,
        "Prepare a dataset",
        "one timeline per user; the last fifth of the events is held out",
        f"prepare {demo.log} --out {out}",
    )
    dataset = prepare(demo.log, out=out, config=DataConfig(), overwrite=True)
    demo.console.print(*tables.dataset_summary(dataset.manifest), sep="\n")
    return dataset


def _train(demo: _Demo, dataset: Dataset) -> Run:
    out = demo.folder / "run"
    demo.step(
        3,
        "Train both players in turn",
        "the generator proposes, the discriminator tells proposals from clicks",
        f"train {dataset.path} --out {out} --set train.epochs={_EPOCHS}",
    )
    config = Config(train=TrainConfig(epochs=_EPOCHS))
    return train(dataset, out=out, config=config, overwrite=True)


def _evaluate(demo: _Demo, run: Run, dataset: Dataset) -> None:
    demo.step(
        4,
        "Evaluate on the last tenth of the time",
        "each click is ranked among all items of its domain; higher is better",
        f"evaluate {run.path}",
    )
    results = evaluate(
        run, dataset, baselines=["popularity", "item-knn", "live-popularity", "demand"]
    )
    run.write_results(results)
    tables.print_results(demo.console, results)


def _export(demo: _Demo, run: Run) -> Path:
    out = demo.folder / "bundle"
    demo.step(
        5,
        "Export a bundle",
        "one folder with everything that serving needs, each file hashed",
        f"export {run.path} --out {out}",
    )
    bundle = export(run, out=out, overwrite=True)
    for file in sorted(bundle.iterdir()):
        demo.console.print(f"   {file.stat().st_size / 1e6:7.2f} MB  {file.name}")
    return bundle


def _recommend(demo: _Demo, dataset: Dataset, bundle: Path, *, truth: Truth) -> None:
    demo.step(
        6,
        "Recommend in domains new to the user",
        "learned from other domains; beside each item, its rank in the planted truth",
        f"recommend {bundle} --domain DOMAIN --user USER",
    )
    print_users(demo.console, Recommender.load(bundle), dataset, truth)


def _serve(demo: _Demo, bundle: Path, port: int) -> None:
    demo.step(
        7,
        "Serve over HTTP",
        "try the commands below in another terminal; Ctrl-C ends",
        f"serve {bundle} --port {port}",
    )

    def announce(url: str) -> None:
        demo.console.print(Text(_CURL.format(url=url)))

    # The store of an earlier demonstration knows users of another log.
    store = demo.folder / "histories.sqlite"
    for file in demo.folder.glob(f"{store.name}*"):
        file.unlink()
    serve_bundle(bundle, port=port, history_store=f"sqlite://{store}", announce=announce)


_CURL = """\
   curl -s '{url}/v1/users/user-0000/recommendations?domain=music&k=3'
   curl -s {url}/v1/events -H 'content-type: application/json' -d '{{"events": [
     {{"event_id": "e1", "user_id": "user-0000", "item_id": "music-010", "domain": "music",
      "timestamp": 1767225600}}]}}'
   curl -s '{url}/v1/users/user-0000/history'
   curl -s -X DELETE '{url}/v1/users/user-0000'
   {url}/docs in a browser shows the rest
"""
