"""Several processes as one training: what they share, and what happens when one is lost."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from planted import planted_log, tiny_config
from torch.distributed import TCPStore
from typer.testing import CliRunner

from crossfeed.cli import app
from crossfeed.config import Config, DataConfig
from crossfeed.data.dataset import Dataset
from crossfeed.data.prepare.pipeline import prepare
from crossfeed.errors import ConfigError, MissingExtraError
from crossfeed.evaluation.evaluate import evaluate
from crossfeed.evaluation.results import Results
from crossfeed.run import Run
from crossfeed.training.loop.trainer import train
from crossfeed.training.parallel import distributed, roll_call, sharded_table
from crossfeed.training.parallel.distributed import ALONE, Follower, Workers, own_state
from crossfeed.training.parallel.process_group import joined
from crossfeed.training.step.batches import batches

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
LIMIT = 120
"""Seconds after which processes that hang are killed, and the test fails."""


class Torchrun:
    """A script in several processes; whatever happens, none of them is left behind."""

    def __init__(
        self, processes: int, script: Path, *arguments: object, hold: tuple[int, int] = (0, 0)
    ) -> None:
        """Start them.

        Args:
            processes: how many.
            script: what they run.
            arguments: of the script.
            hold: a process, and the step after which it waits for a signal (`HELD`).
        """
        self.process = subprocess.Popen(
            [*TORCHRUN, f"--nproc-per-node={processes}", str(script), *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "HOLD": f"{hold[0]} {hold[1]}"},
        )

    def __enter__(self) -> Torchrun:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.terminate()  # torchrun then ends the others
        self.process.communicate()

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def end(self) -> tuple[int, str]:
        """Return exit code and stderr."""
        _, error = self.process.communicate(timeout=LIMIT)
        return self.process.returncode, error


def script(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "script.py"
    file.write_text(text, "utf-8")
    return file


# What two processes do together.

TOGETHER = """
import json, sys
from pathlib import Path
import torch
from crossfeed.cli import app
from crossfeed.config import Config, DataConfig, TrainConfig
from crossfeed.data.dataset import Dataset, Part
from crossfeed.data.prepare.pipeline import prepare
from crossfeed.errors import TrainingError
from crossfeed.model.candidates import Proposals, Scores
from crossfeed.model.losses import target_loss
from crossfeed.training.step.steps import expanded_weight
from crossfeed.evaluation.evaluate import evaluate
from crossfeed.run import Run
from crossfeed.training.parallel.process_group import joined
from crossfeed.training.loop.trainer import train

dataset, alone, out = Dataset.load(sys.argv[1]), Run.open(sys.argv[2]), Path(sys.argv[3])

def gradients(workers):
    dense, rare, never = (torch.nn.Parameter(torch.zeros(2)) for _ in range(3))
    large = torch.nn.Parameter(torch.zeros(300, 300))
    table = torch.nn.Embedding(6, 2, sparse=True)
    biases = torch.nn.Parameter(torch.zeros(6))
    player = torch.nn.ParameterList([dense, rare, never, large, table.weight, biases])
    dense.grad = torch.tensor([1.0, 2.0]) * (1 + workers.rank)
    large.grad = torch.full((300, 300), 4.0 * workers.rank)
    if workers.rank:
        rare.grad = torch.tensor([8.0, 8.0])
    looked_up = torch.tensor([1, 3, 3] if workers.rank else [3])
    table(looked_up).sum().backward()
    if workers.rank:
        torch.gather(biases, 0, looked_up, sparse_grad=True).sum().backward()
    workers.average_gradients(player, rows=3 if workers.rank else 1)
    return {
        "dense": dense.grad.tolist(), "rare": rare.grad.tolist(), "never": never.grad,
        "large": large.grad.unique().tolist(), "is sparse": table.weight.grad.is_sparse,
        "table": table.weight.grad.to_dense()[:, 0].tolist(),
        "biases": biases.grad.to_dense().tolist(), "rows": table.weight.grad._nnz(),
    }

def expanded(workers):
    # L1 and L3 of three rows here and one there; two and none of them are expanded.
    rows = 1 if workers.rank else 3
    nothing, none = torch.zeros(rows), torch.zeros(rows, 2)
    confidence = torch.full((rows, 2), 0.0, requires_grad=True)
    kept = torch.zeros(1, dtype=torch.bool) if workers.rank else torch.tensor([True, False, True])
    proposals = Proposals((), none.long(), confidence, nothing, none, nothing, kept)
    scores = Scores(torch.arange(2.0 * rows).reshape(rows, 2), nothing, None)
    gaps = None if workers.rank else torch.tensor([1.0])
    weight = expanded_weight(rows, proposals, workers)
    settings = Config(train=TrainConfig(reward_weight=1.0, gap_weight=1.0))
    losses = target_loss(proposals, scores, gaps, settings, expanded_weight=weight)
    share = rows / workers.totals(rows)[0]
    terms = (float(one.detach()) for one in (losses.generator, losses.gap))
    return [share * term for term in terms]

def apart(workers):
    layer = torch.nn.Linear(2, 2)
    workers.spread_weights(layer)
    workers.require_equal_weights(layer)
    if workers.rank:
        layer.weight.data[0, 0] += 1e-6
    try:
        workers.require_equal_weights(layer)
    except TrainingError as error:
        return str(error)

with joined() as workers:
    run = train(dataset, out=out, config=alone.config)
    found = {
        "gathered": workers.gather(workers.rank),
        "most": workers.most(15 if workers.rank else 0, workers.rank == 0),
        "means": workers.means({"loss": 2.0 + workers.rank}),
        "added": workers.added({"both": 1.0, f"only {workers.rank}": 2.0}),
        "gradients": gradients(workers),
        "apart": apart(workers),
        "expanded": expanded(workers),
        "union": workers.union(torch.tensor([3, 5 + workers.rank])).tolist(),
        "evaluated": evaluate(alone, dataset, workers=workers).to_json(),
    }
tasks = Path("/proc/self/task")
found["threads"] = [file.read_text() for file in tasks.glob("*/comm")] if tasks.exists() else []
out.with_suffix(f".{workers.rank}.json").write_text(json.dumps(found))
"""


@pytest.fixture(scope="module")
def new_in_domain(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Return the planted log of enough users that two trainings can be compared."""
    out = tmp_path_factory.mktemp("new-in-domain") / "dataset"
    config = DataConfig(split="new-in-domain", min_domain_events=10)
    return prepare(planted_log(users=500), out=out, config=config)


@pytest.fixture(scope="module")
def trained_alone(new_in_domain: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Run:
    config = tiny_config(epochs=8, patience=8)
    return train(new_in_domain, out=tmp_path_factory.mktemp("alone") / "run", config=config)


@pytest.fixture(scope="module")
def together(
    trained_alone: Run, new_in_domain: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Run, list[dict[str, Any]]]:
    """Return the run of two processes, and what each found."""
    folder = tmp_path_factory.mktemp("together")
    out = folder / "run"
    file = script(folder, TOGETHER)
    with Torchrun(2, file, new_in_domain.path, trained_alone.path, out) as both:
        code, error = both.end()
    assert code == 0, error
    assert error.count("train epoch   1/8") == 1  # the leader alone shows progress
    return Run.open(out), [
        json.loads(out.with_suffix(f".{rank}.json").read_text("utf-8")) for rank in (0, 1)
    ]


def test_gradients_are_means_over_the_clicks_of_both(
    together: tuple[Run, list[dict[str, Any]]],
) -> None:
    """One click in process 0, three in process 1: they count a quarter and three quarters."""
    for found in together[1]:
        gradients = found["gradients"]
        assert gradients["dense"] == [0.25 * 1 + 0.75 * 2, 0.25 * 2 + 0.75 * 4]
        assert gradients["rare"] == [6.0, 6.0]
        assert gradients["never"] is None
        assert gradients["large"] == [3.0]
        assert gradients["is sparse"]
        assert gradients["table"] == [0.0, 0.75, 0.0, 0.25 + 1.5, 0.0, 0.0]
        assert gradients["biases"] == [0.0, 0.75, 0.0, 1.5, 0.0, 0.0]
        assert gradients["rows"] == 2


def test_processes_tell_each_other(together: tuple[Run, list[dict[str, Any]]]) -> None:
    for found in together[1]:
        assert found["gathered"] == [0, 1]
        assert found["most"] == [15, 1]
        assert found["means"] == {"loss": 2.5}
        assert found["added"] == {"both": 2.0, "only 0": 2.0, "only 1": 2.0}


def test_no_thread_of_the_exchange_outlives_it(
    together: tuple[Run, list[dict[str, Any]]],
) -> None:
    """One that asks for the interpreter when it is ending aborts the process."""
    for found in together[1]:
        if not found["threads"]:
            pytest.skip("this system has no /proc, which names threads")
        assert [name for name in found["threads"] if "gloo" in name] == []


def test_weights_that_differ_stop_the_training(
    together: tuple[Run, list[dict[str, Any]]],
) -> None:
    for found in together[1]:
        assert re.match(
            "the weights of process 1 differ from the weights of process 0\nhint: .*--resume",
            found["apart"],
        )


def assert_close(found: object, expected: object, name: str = "") -> None:
    if isinstance(expected, dict):
        assert isinstance(found, dict) and found.keys() == expected.keys(), name
        for key, value in expected.items():
            assert_close(found[key], value, f"{name}/{key}")
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, abs=1e-6), name
    else:
        assert found == expected, name


def test_two_processes_evaluate_the_same_weights_alike(
    together: tuple[Run, list[dict[str, Any]]], trained_alone: Run, new_in_domain: Dataset
) -> None:
    expected = evaluate(trained_alone, new_in_domain).to_json()
    for found in together[1]:
        assert_close(found["evaluated"], expected)


def test_two_processes_train_as_good_a_model(
    together: tuple[Run, list[dict[str, Any]]], trained_alone: Run, new_in_domain: Dataset
) -> None:
    def judge(run: Run) -> Results:
        return evaluate(run, new_in_domain, baselines=("popularity",))

    two, one = judge(together[0]), judge(trained_alone)
    popularity = two.baselines["popularity"].micro["ndcg@10"]
    assert two.micro["ndcg@10"] > 1.3 * popularity
    # Over seeds, one process gives 0.384 with a deviation of 0.015, and two give the same.
    gained = one.micro["ndcg@10"] - popularity
    assert abs(two.micro["ndcg@10"] - one.micro["ndcg@10"]) < 0.4 * gained


def test_terms_of_expanded_rows_are_means_over_those_of_both(
    together: tuple[Run, list[dict[str, Any]]],
) -> None:
    """Two of three rows are expanded here, none of one there: those two are the whole mean."""
    terms = [found["expanded"] for found in together[1]]
    generator, gap = (sum(each) for each in zip(*terms, strict=True))
    assert generator == pytest.approx(-(0 + 1 + 4 + 5) / 4)
    assert gap == pytest.approx(math.exp(-1))


def test_both_know_what_either_looks_up(together: tuple[Run, list[dict[str, Any]]]) -> None:
    assert [found["union"] for found in together[1]] == [[3, 5, 6]] * 2


def test_the_run_of_two_processes_is_an_ordinary_one(
    together: tuple[Run, list[dict[str, Any]]], trained_alone: Run
) -> None:
    run = together[0]
    assert [line["epoch"] for line in run.metrics()] == list(range(1, 9))
    assert run.metrics()[-1].keys() == trained_alone.metrics()[-1].keys()
    assert run.health()[-1]["entropy"].keys() == trained_alone.health()[-1]["entropy"].keys()
    first, other = run.metrics()[-1]["losses"], trained_alone.metrics()[-1]["losses"]
    assert first["discriminator"] == pytest.approx(other["discriminator"], rel=0.2)


# What each has.


def test_shares_are_all_clicks_in_as_many_steps(last_out: Dataset) -> None:
    config = tiny_config(batch_size=100)
    shares = [Workers(rank=rank, count=3).share(last_out, config) for rank in range(3)]
    clicks = last_out.learned_events
    assert np.array_equal(np.concatenate([own for own, _ in shares]), clicks)
    steps = -(-len(clicks) // 100)
    epochs = [
        list(batches(last_out, config, clicks=own, epoch=0, share=share)) for own, share in shares
    ]
    assert [len(one) for one in epochs] == [steps] * 3
    # A few clicks are on items that are new in their window.
    assert 0.95 * len(clicks) < sum(batch.rows for one in epochs for batch in one) <= len(clicks)
    assert all(16 <= batch.rows <= 48 for one in epochs for batch in one)


def test_alone_there_is_no_share(last_out: Dataset) -> None:
    clicks, share = ALONE.share(last_out, tiny_config())
    assert share is None
    assert np.array_equal(clicks, last_out.learned_events)


def test_more_processes_than_clicks_are_refused(last_out: Dataset) -> None:
    with pytest.raises(ConfigError, match=r"3 processes are too many: .*\nhint: .*batch_size"):
        Workers(rank=0, count=3).share(last_out, tiny_config(batch_size=2))


def test_random_numbers_differ_by_process_and_follow_from_the_seed() -> None:
    seeds = [Workers(rank=rank, count=2).seed(7, 1) for rank in (0, 1, 1)]
    assert seeds[0] != seeds[1] == seeds[2]
    assert Workers(rank=1, count=2).seed(7, 2) != seeds[1]


def test_another_number_of_processes_takes_the_sums_and_draws_anew() -> None:
    owns = [
        {"random_state": rank, "losses": {"gap": 1.0 + rank}, "counts": {f"{rank}": 1}}
        for rank in range(2)
    ]
    assert own_state(owns, Workers(rank=1, count=2)) is owns[1]
    leader = own_state(owns, ALONE)
    assert leader["losses"] == {"gap": 3.0} and leader["counts"] == {"0": 1, "1": 1}
    assert leader["random_state"] is None
    assert own_state(owns, Workers(rank=2, count=3))["losses"] == {}


def test_followers_write_nothing(trained_alone: Run) -> None:
    before = {file: file.stat().st_mtime_ns for file in trained_alone.path.rglob("*")}
    follower = Follower.of(trained_alone)
    follower.prepare_to_write()
    follower.write_checkpoint("last", {})
    follower.write_metrics([])
    follower.write_health([])
    assert {file: file.stat().st_mtime_ns for file in trained_alone.path.rglob("*")} == before
    assert follower.read_checkpoint("last").keys() > {"players", "progress"}


def test_a_process_without_a_gpu_of_its_own_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert Workers(rank=5, count=8, local_rank=1).device("auto") == torch.device("cuda", 1)
    with pytest.raises(
        ConfigError, match=r"process 2 of this machine has no GPU of its own: it has 2\n.*node 2"
    ):
        Workers(rank=2, count=8, local_rank=2).device("cuda")
    assert Workers(rank=2, count=8, local_rank=2).device("cpu") == torch.device("cpu")


def test_an_environment_that_is_not_complete_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with (
        pytest.raises(
            ConfigError, match=r"WORLD_SIZE=2 .* MASTER_ADDR, MASTER_PORT is not set\n.*torchrun"
        ),
        joined(),
    ):
        pass


def test_one_process_is_a_training_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "1")
    with joined() as workers:
        assert workers is distributed.ALONE


# What happens when one is lost, or all are asked to stop.


def test_a_process_that_does_not_answer_is_lost_and_an_end_is_told_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(store.port))
    monkeypatch.setattr(roll_call, "_ANSWER_SECONDS", 0)
    one, other, _ = (roll_call.RollCall(rank=rank, count=3) for rank in range(3))
    other.find_lost()
    lost = one.find_lost()
    assert lost is not None
    assert re.match(rf"lost process 2 \(host .*, pid {os.getpid()}\); the run", lost.message)
    assert one.speaks() and not other.speaks()


def test_if_all_answer_none_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(store.port))
    monkeypatch.setattr(roll_call, "_ANSWER_SECONDS", 0)
    one, other = (roll_call.RollCall(rank=rank, count=2) for rank in range(2))
    other.find_lost()
    assert one.find_lost() is None


HELD = """
import os, sys, time
from crossfeed.cli import main
from crossfeed.training.loop.trainer import Fit
from crossfeed.training.loop.interrupt import Interruptible

rank, last = map(int, os.environ["HOLD"].split())
steps, signals = [], []
step, ask = Fit._step, Interruptible._ask

def held_step(self, batch):
    step(self, batch)
    steps.append(batch.step)
    if self.workers.rank == rank and len(steps) == last:
        os.write(1, f"{os.getpid()}\\n".encode())
        while not signals:  # until it is killed, or asked to stop
            time.sleep(0.01)

def told(self, number, frame):
    signals.append(number)
    ask(self, number, frame)

Fit._step, Interruptible._ask = held_step, told
sys.argv = ["crossfeed", "train", sys.argv[1], "--out", *sys.argv[2:]]
main()
"""


@pytest.fixture(scope="module")
def several_epochs() -> Config:
    return tiny_config(epochs=4, batch_size=128, patience=4)


def settings(config: Config) -> list[str]:
    """Return the options of a command line that stand for a configuration."""
    options = []
    for section in ("model", "train"):
        for name, value in getattr(config, section):
            if value is not None:
                options += ["--set", f"{section}.{name}={json.dumps(value)}"]
    return options


def held(those: Torchrun) -> int:
    """Wait until a process has made the steps after which it waits, and return its id."""
    line = those.line()
    assert line, those.end()[1]
    return int(line)


def test_a_lost_process_is_named_and_another_number_goes_on(
    last_out: Dataset, several_epochs: Config, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    file, options = script(tmp_path, HELD), settings(several_epochs)
    with Torchrun(2, file, last_out.path, out, *options, hold=(1, 15)) as both:
        lost = held(both)
        os.kill(lost, signal.SIGKILL)
        code, error = both.end()
    assert code != 0
    assert re.search(
        rf"^error: lost process 1 \(host .*, pid {lost}\); the run is in the state of its "
        rf"last checkpoint\nhint: continue with the same command and --resume",
        error,
        re.MULTILINE,
    )
    assert Run.open(out).read_checkpoint("last")["progress"]["epoch"] == 1
    resumed = train(last_out, out=out, resume=True)
    assert [line["epoch"] for line in resumed.metrics()] == [1, 2, 3, 4]


@pytest.fixture(scope="module")
def uninterrupted(
    last_out: Dataset, several_epochs: Config, tmp_path_factory: pytest.TempPathFactory
) -> Run:
    folder = tmp_path_factory.mktemp("uninterrupted")
    out, file = folder / "run", script(folder, HELD)
    with Torchrun(2, file, last_out.path, out, *settings(several_epochs)) as both:
        code, error = both.end()
    assert code == 0, error
    return Run.open(out)


def assert_same_run(one: Run, other: Run) -> None:
    for name in ("best", "last"):
        first = one.read_checkpoint(name)["players"]  # type: ignore[arg-type]
        second = other.read_checkpoint(name)["players"]  # type: ignore[arg-type]
        assert all(torch.equal(value, second[key]) for key, value in first.items())
    assert one.health() == other.health()
    losses = [[line["losses"] for line in run.metrics()] for run in (one, other)]
    assert losses[0] == losses[1]


def resume(processes: int, file: Path, dataset: Dataset, out: Path) -> Run:
    with Torchrun(processes, file, dataset.path, out, "--resume") as those:
        code, error = those.end()
    assert code == 0, error
    return Run.open(out)


@pytest.mark.slow
def test_killed_and_resumed_by_as_many_is_uninterrupted(
    last_out: Dataset, several_epochs: Config, uninterrupted: Run, tmp_path: Path
) -> None:
    out, file = tmp_path / "run", script(tmp_path, HELD)
    options = settings(several_epochs)
    with Torchrun(2, file, last_out.path, out, *options, hold=(0, 17)) as both:
        os.kill(held(both), signal.SIGKILL)
        code, error = both.end()
    assert code != 0
    assert "error: lost process 0" in error
    assert_same_run(resume(2, file, last_out, out), uninterrupted)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["sigterm", "ctrl-c"])
def test_a_signal_saves_the_step_of_both(
    number: signal.Signals,
    last_out: Dataset,
    several_epochs: Config,
    uninterrupted: Run,
    tmp_path: Path,
) -> None:
    out, file = tmp_path / "run", script(tmp_path, HELD)
    options = settings(several_epochs)
    with Torchrun(2, file, last_out.path, out, *options, hold=(1, 16)) as both:
        held(both)
        both.process.send_signal(number)
        code, error = both.end()
    assert code != 0
    command = "torchrun --nproc-per-node 2 -m crossfeed train"
    told = f"stopped and saved; continue with: {command} {last_out.path} --out {out} --resume"
    assert error.count(told) == 1
    progress = Run.open(out).read_checkpoint("last")["progress"]
    assert progress["epoch"] == 1 and progress["step"] > 0
    assert_same_run(resume(2, file, last_out, out), uninterrupted)


@pytest.mark.slow
def test_three_go_on_where_two_were(
    last_out: Dataset, several_epochs: Config, tmp_path: Path
) -> None:
    out, file = tmp_path / "run", script(tmp_path, HELD)
    options = settings(several_epochs)
    with Torchrun(2, file, last_out.path, out, *options, hold=(0, 16)) as both:
        held(both)
        both.process.terminate()
        both.end()
    resumed = resume(3, file, last_out, out)
    assert [line["epoch"] for line in resumed.metrics()] == [1, 2, 3, 4]
    assert len(resumed.read_checkpoint("last")["others"]) == 2


@pytest.mark.slow
def test_an_error_of_all_is_said_once(
    last_out: Dataset, several_epochs: Config, uninterrupted: Run, tmp_path: Path
) -> None:
    file = script(tmp_path, HELD)
    with Torchrun(2, file, last_out.path, uninterrupted.path) as both:
        code, error = both.end()
    assert code != 0
    assert error.count("exists already") == 1
    with Torchrun(2, file, tmp_path / "nothing", tmp_path / "run") as both:
        code, error = both.end()
    assert code != 0
    assert error.count("is not a dataset") == 1


@pytest.mark.slow
def test_refit_in_two_processes(last_out: Dataset, tmp_path: Path) -> None:
    out, file = tmp_path / "run", script(tmp_path, HELD)
    options = settings(tiny_config(epochs=2, batch_size=256))
    with Torchrun(2, file, last_out.path, out, *options, "--refit") as both:
        code, error = both.end()
    assert code == 0, error
    assert Run.open(out).scorer(refitted=True).item_vectors.shape[0] == last_out.catalogue.items


def test_only_train_is_the_work_of_several(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    asked = CliRunner().invoke(app, ["evaluate", str(tmp_path)], prog_name="crossfeed")
    assert asked.exit_code == 1
    assert "error: 'evaluate' is the work of one process, and there are 2" in asked.stderr
    assert "hint: call it without torchrun" in asked.stderr


# Rows of a table that are divided among the processes.


def test_one_process_divides_nothing(last_out: Dataset, tmp_path: Path) -> None:
    config = tiny_config(table_sharding="row")
    with pytest.raises(ConfigError, match=r"among several processes; there is one\n.*torchrun"):
        train(last_out, out=tmp_path / "run", config=config)


def test_divided_rows_need_torchrec(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharded_table, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"'torchrec'.*\n.*\[distributed\]"):
        sharded_table.require_row_sharding(2)


DIVIDED = """
import copy, json, sys
from pathlib import Path
import torch
from torch.nn import Embedding
from crossfeed.config import Config
from crossfeed.data.dataset import Dataset
from crossfeed.training.parallel.process_group import joined
from crossfeed.training.parallel.sharded_table import ShardedTable
from crossfeed.training.loop import state
from crossfeed.training.loop.trainer import train

dataset, out = Dataset.load(sys.argv[1]), Path(sys.argv[2])
config = Config.model_validate_json(sys.argv[3])

def moved(workers):
    # Three steps of a divided table beside a whole one, whose gradients are averaged by hand.
    whole = Embedding(101, 4)
    whole.weight.data.copy_(torch.linspace(-1, 1, 404).view(101, 4))
    divided = ShardedTable(whole, learning_rate=0.1)
    optimiser, sums = divided.optimiser(), torch.zeros(101)
    ids = torch.randint(101, (9, 5), generator=torch.Generator().manual_seed(workers.rank))
    differences = []
    for step in range(3):
        whole.weight.grad = None
        looked_up = divided(ids)
        differences.append((looked_up - whole(ids)).abs().max().item())
        looked_up.pow(2).sum().backward()
        whole(ids).pow(2).sum().backward()
        workers.average_gradients(whole, rows=1)
        sums += whole.weight.grad.square().mean(dim=1)
        whole.weight.data -= 0.1 * whole.weight.grad / (sums.sqrt() + 1e-8).unsqueeze(1)
    summed = (optimiser.state_dict()["accumulators"] - sums).abs().max().item()
    copied = copy.deepcopy(divided)
    optimiser.set_learning_rate(0.0)
    divided(ids).sum().backward()
    return {
        "differences": differences, "rows": len(divided.rows),
        "whole": (divided.state_dict()["weight"] - whole.weight).abs().max().item(),
        "sums": summed,
        "still": torch.equal(copied.rows, divided.rows),
    }

def changed(name, settings):
    given = config.train.model_copy(update=settings)
    return train(dataset, out=out / name, config=config.model_copy(update={"train": given}))

with joined() as workers:
    found = moved(workers)
    changed("divided", {})
    state.TABLE_LEARNING_RATE = 1e-30
    changed("divided-still", {"learning_rate": 1e-30, "epochs": 2})
    changed("whole-still", {"learning_rate": 1e-30, "table_sharding": "none", "epochs": 2})
(out / f"{workers.rank}.json").write_text(json.dumps(found))
"""


@pytest.fixture(scope="module")
def divided(
    new_in_domain: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[dict[str, Any]]]:
    pytest.importorskip("torchrec", reason="the extra 'distributed' is not installed")
    folder = tmp_path_factory.mktemp("divided")
    config = tiny_config(epochs=8, patience=8, table_sharding="row")
    file = script(folder, DIVIDED)
    with Torchrun(2, file, new_in_domain.path, folder, config.model_dump_json()) as both:
        code, error = both.end()
    assert code == 0, error
    return folder, [json.loads((folder / f"{rank}.json").read_text("utf-8")) for rank in (0, 1)]


@pytest.mark.slow
def test_divided_rows_are_looked_up_and_moved_as_whole_ones(
    divided: tuple[Path, list[dict[str, Any]]],
) -> None:
    assert [found["rows"] for found in divided[1]] == [51, 50]
    for found in divided[1]:
        assert max(found["differences"]) < 1e-6
        assert found["whole"] < 1e-6
        assert found["sums"] < 1e-5
        assert found["still"]


@pytest.mark.slow
def test_a_training_with_divided_rows_loses_what_one_with_whole_rows_does(
    divided: tuple[Path, list[dict[str, Any]]],
) -> None:
    """Where nothing moves, all that is drawn, scored and ranked is the same."""
    runs = [Run.open(divided[0] / name) for name in ("divided-still", "whole-still")]
    for one, other in zip(*(run.metrics() for run in runs), strict=True):
        assert one["losses"] == pytest.approx(other["losses"], abs=1e-5)
        assert_close(one["validation"], other["validation"])


@pytest.mark.slow
def test_a_model_of_divided_rows_is_an_ordinary_one(
    divided: tuple[Path, list[dict[str, Any]]], new_in_domain: Dataset
) -> None:
    run = Run.open(divided[0] / "divided")
    results = evaluate(run, new_in_domain, baselines=("popularity",))
    popularity = results.baselines["popularity"]
    assert results.micro["ndcg@10"] > 1.3 * popularity.micro["ndcg@10"]
    assert run.scorer().item_vectors.shape[0] == new_in_domain.catalogue.items
