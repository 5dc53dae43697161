"""What goes wrong around a training: folders, disks, files, settings and data that do not fit."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from planted import planted_log, small_dataset, tiny_config
from typer.testing import CliRunner

from crossfeed.cli import app
from crossfeed.config import Config
from crossfeed.data.dataset import Dataset, Part
from crossfeed.errors import ConfigError, OutputError, RunError, TrainingError
from crossfeed.run import CheckpointName, Run
from crossfeed.scorer import Ints
from crossfeed.training.loop import trainer as fitting
from crossfeed.training.loop.trainer import Fit, train

CONFIG = tiny_config(adversary=False, batch_size=128)
"""A training of two epochs with two steps each."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return small_dataset(planted_log(users=24), tmp_path_factory.mktemp("data") / "dataset")


@pytest.fixture(scope="module")
def finished(data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(data, out=tmp_path_factory.mktemp("finished") / "run", config=CONFIG)


@pytest.fixture(scope="module")
def broken_off(data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run that ended after its first epoch."""

    def stop(epoch: int, value: float) -> None:
        raise InterruptedError

    out = tmp_path_factory.mktemp("broken-off") / "run"
    with pytest.raises(InterruptedError):
        train(data, out=out, config=CONFIG, after_epoch=stop)
    return out


@pytest.fixture
def begun(broken_off: Path, tmp_path: Path) -> Run:
    """Return a run of one's own that was broken off after its first epoch."""
    shutil.copytree(broken_off, tmp_path / "begun")
    return Run.open(tmp_path / "begun")


@contextlib.contextmanager
def no_larger_files(size: int) -> Iterator[None]:
    """Let the system refuse to write files beyond a size, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextlib.contextmanager
def unprivileged() -> Iterator[None]:
    """Act as a user to whom permissions apply, where the tests are run by root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def readable() -> Iterator[Path]:
    """Return a folder that every user can look into; pytest's own are for one user."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def test_a_run_cannot_be_made_where_nothing_can_be_written(data: Dataset, readable: Path) -> None:
    readable.chmod(0o555)
    with (
        unprivileged(),
        pytest.raises(OutputError, match=r"cannot write '.*run.*': Permission denied\nhint: free"),
    ):
        train(data, out=readable / "run", config=CONFIG)
    readable.chmod(0o755)
    (readable / "file").touch()
    with pytest.raises(OutputError, match=r"cannot write '.*run': Not a directory"):
        train(data, out=readable / "file" / "run", config=CONFIG)


def test_a_run_that_cannot_be_replaced_stays_as_it_is(
    data: Dataset, begun: Run, readable: Path
) -> None:
    run = readable / "run"
    shutil.copytree(begun.path, run)
    (run / "checkpoints").chmod(0o555)
    with unprivileged(), pytest.raises(OutputError, match=r"cannot write '.*run': Permission"):
        train(data, out=run, config=CONFIG, overwrite=True)
    assert Run.open(run).metrics() == begun.metrics()


@pytest.mark.parametrize("again", ["resume", "overwrite"])
@pytest.mark.parametrize("former", [True, False], ids=["in place of a run", "in a new folder"])
def test_a_beginning_that_failed_can_be_tried_again(
    former: bool, again: str, data: Dataset, begun: Run, tmp_path: Path
) -> None:
    out = begun.path if former else tmp_path / "run"
    with no_larger_files(0), pytest.raises(OutputError, match=r"config\.json': File too large"):
        train(data, out=out, config=CONFIG, overwrite=former)
    (out / ".config.json.0a1b2c3d.tmp").touch()  # what a process leaves that is killed there
    config = tiny_config(epochs=1)
    run = train(
        data, out=out, config=config, resume=again == "resume", overwrite=again == "overwrite"
    )
    assert len(run.metrics()) == 1


def test_a_run_that_is_replaced_is_one_until_all_else_is_gone(
    data: Dataset, begun: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    unlink = Path.unlink

    def killed(file: Path, *, missing_ok: bool = False) -> None:
        if file.name == "profile-trace.json":
            raise KeyboardInterrupt
        unlink(file, missing_ok=missing_ok)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "unlink", killed)
        train(data, out=begun.path, config=CONFIG, overwrite=True)
    assert len(train(data, out=begun.path, resume=True).metrics()) == 2


def test_a_resume_begins_no_run_in_another_folder(data: Dataset, tmp_path: Path) -> None:
    dataset = tmp_path / "dataset"
    shutil.copytree(data.path, dataset)
    (tmp_path / "other" / "checkpoints").mkdir(parents=True)
    (tmp_path / "other" / "checkpoints" / "best.pt").touch()
    for folder in (dataset, tmp_path / "other"):
        before = sorted(folder.rglob("*"))
        with pytest.raises(
            RunError, match=r"is not a run: it has no config\.json.*\nhint: make one"
        ):
            train(data, out=folder, config=CONFIG, resume=True)
        assert sorted(folder.rglob("*")) == before


def test_a_run_that_cannot_be_written_is_refused_before_the_work(
    data: Dataset, begun: Run, readable: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = readable / "run"
    shutil.copytree(begun.path, run)
    run.chmod(0o777)
    (run / "checkpoints").chmod(0o555)
    monkeypatch.setattr(Fit, "_step", lambda self, batch: pytest.fail("it worked for nothing"))
    with (
        unprivileged(),
        pytest.raises(OutputError, match=r"cannot write '.*checkpoints': Permission denied"),
    ):
        train(data, out=run, resume=True)


def test_a_full_disk_leaves_the_checkpoint_before_and_the_run_goes_on(
    data: Dataset, begun: Run, finished: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = begun.path / "checkpoints" / "last.pt"
    before = file.read_bytes()
    with (
        no_larger_files(len(before) // 2),
        pytest.raises(OutputError, match=r"cannot write '.*\.pt': File too large\nhint: free some"),
    ):
        train(data, out=begun.path, resume=True)
    assert file.read_bytes() == before
    assert {one.name for one in file.parent.iterdir()} <= {"last.pt", "best.pt"}
    resumed = train(data, out=begun.path, resume=True)
    for name in ("best", "last"):
        assert_same_players(resumed, finished, name)


def assert_same_players(one: Run, other: Run, name: CheckpointName) -> None:
    first, second = (run.read_checkpoint(name)["players"] for run in (one, other))
    assert first.keys() == second.keys()
    assert all(torch.equal(value, second[key]) for key, value in first.items())


def test_a_disk_that_is_really_full(begun: Run) -> None:
    """A small file system of its own, where the system lets us mount one."""
    with tempfile.TemporaryDirectory() as folder:
        mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder]
        if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
            pytest.skip("mounting a small file system needs root")
        try:
            run = replace(begun, path=Path(folder))
            run.write_checkpoint("last", {"progress": {"epoch": 1}})
            full = r"cannot write '.*last\.pt': No space left on device"
            with pytest.raises(OutputError, match=full):
                run.write_checkpoint("last", {"players": torch.zeros(100_000)})
            assert run.read_checkpoint("last") == {"progress": {"epoch": 1}}
        finally:
            subprocess.run(["umount", folder], check=True)


def test_what_a_killed_writer_left_is_removed(data: Dataset, begun: Run) -> None:
    left = begun.path / "checkpoints" / ".last.pt.0a1b2c3d.tmp"
    left.write_bytes(b"half")
    train(data, out=begun.path, resume=True)
    assert not left.exists()


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.999], ids=lambda share: f"{share:.1%} left")
def test_a_truncated_checkpoint_is_named(share: float, data: Dataset, begun: Run) -> None:
    file = begun.path / "checkpoints" / "last.pt"
    whole = file.read_bytes()
    file.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(RunError, match=r"last\.pt' is damaged: .+\nhint: .*--overwrite"):
        train(data, out=begun.path, resume=True)


def test_one_changed_bit_of_a_weight_is_noticed(begun: Run) -> None:
    file = begun.path / "checkpoints" / "best.pt"
    weights = max(begun.read_checkpoint("best")["players"].values(), key=torch.numel)
    content = bytearray(file.read_bytes())
    content[content.index(weights.numpy().tobytes())] ^= 1
    file.write_bytes(content)
    damaged = r"best\.pt' is damaged: the checksum of its part '.+' differs"
    with pytest.raises(RunError, match=damaged):
        begun.read_checkpoint("best")


@pytest.mark.parametrize("content", [[1, 2], "text", {}], ids=["list", "text", "nothing in it"])
def test_a_file_that_holds_no_checkpoint_is_named(content: object, begun: Run) -> None:
    torch.save(content, begun.path / "checkpoints" / "best.pt")
    with pytest.raises(RunError, match=r"best\.pt' is damaged: .+\nhint: .*--overwrite"):
        begun.read_checkpoint("best")


def test_a_checkpoint_of_another_format_version_is_refused(data: Dataset, begun: Run) -> None:
    file = begun.path / "checkpoints" / "last.pt"
    checkpoint = torch.load(file, weights_only=True)
    torch.save({**checkpoint, "format_version": 99}, file)
    with pytest.raises(RunError, match="has format version 99; this crossfeed reads 3"):
        train(data, out=begun.path, resume=True)


def test_a_checkpoint_of_another_configuration_says_which_settings_differ(
    data: Dataset, begun: Run, tmp_path: Path
) -> None:
    other = train(
        data, out=tmp_path / "other", config=tiny_config(batch_size=128, seed=3, epochs=1)
    )
    shutil.copy(other.path / "checkpoints" / "last.pt", begun.path / "checkpoints" / "last.pt")
    with pytest.raises(RunError) as caught:
        train(data, out=begun.path, resume=True)
    told = caught.value.message
    assert "last.pt' was made by other settings than the run's: " in told
    assert 'model.fuse = "sum", config.json has "none"' in told
    assert "train.seed = 3, config.json has 0" in told
    assert "batch_size" not in told


def test_a_checkpoint_with_settings_of_a_later_version_is_refused(begun: Run) -> None:
    file = begun.path / "checkpoints" / "last.pt"
    checkpoint = torch.load(file, weights_only=True)
    checkpoint["settings"]["train"]["novelty"] = 1
    torch.save(checkpoint, file)
    unknown = r"settings that this crossfeed does not know: .*\n *train.novelty is unknown"
    with pytest.raises(RunError, match=unknown):
        begun.read_checkpoint("last")


def test_a_resume_with_other_settings_names_them(data: Dataset, begun: Run) -> None:
    given = Config.model_validate({"model": {"width": 16}, "train": {"epochs": 9, "seed": 1}})
    with pytest.raises(RunError) as caught:
        train(data, out=begun.path, config=given, resume=True)
    assert caught.value.message.endswith(
        "continues with its own settings; these differ: "
        "train.seed = 1, the run has 0; train.epochs = 9, the run has 2"
    )
    assert len(begun.metrics()) == 1


def test_a_resume_may_say_where_it_runs(data: Dataset, begun: Run) -> None:
    given = Config.model_validate({"train": {"device": "cpu", "checkpoint_minutes": 3, "seed": 0}})
    run = train(data, out=begun.path, config=given, resume=True)
    assert (run.config.train.device, run.config.train.checkpoint_minutes) == ("cpu", 3.0)
    assert run.config.train.epochs == begun.config.train.epochs
    assert len(run.metrics()) == 2


def test_a_dataset_that_changed_since_the_run_began(data: Dataset, begun: Run) -> None:
    changed = replace(data, manifest={**data.manifest, "content_hash": "0" * 64})
    with pytest.raises(RunError, match="its content hash is 000000000000, the run's is"):
        train(changed, out=begun.path, resume=True)


def test_settings_that_do_not_fit_leave_no_run_behind(data: Dataset, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown domain 'films'"):
        train(data, out=tmp_path / "run", config=tiny_config(expand_domains=("films",)))
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def one_item(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Return the planted log and a domain with one item, which half of the users clicked."""
    users = [f"u{user:03}" for user in range(12)]
    times = 1_600_000_000 + np.arange(12) * 1300
    zone = pd.DataFrame({"user_id": users, "item_id": "z", "domain": "zone", "timestamp": times})
    log = pd.concat([planted_log(users=24), zone], ignore_index=True)
    return small_dataset(log, tmp_path_factory.mktemp("one-item") / "dataset")


@pytest.mark.parametrize(
    "settings",
    [
        {"gap": "mmd"},
        {"gap": "kl"},
        {"gap": "euclidean"},
        {"objective": "full-softmax"},
        {"objective": "binary", "static_proposal": "uniform"},
    ],
    ids=lambda settings: " ".join(settings.values()),
)
def test_a_domain_with_one_item_is_trained_and_judged(
    settings: dict[str, object], one_item: Dataset, tmp_path: Path
) -> None:
    run = train(
        one_item, out=tmp_path / "run", config=tiny_config(epochs=1, batch_size=256, **settings)
    )
    assert np.isfinite(run.scorer().item_vectors).all()
    assert run.health()[0]["entropy"]["zone"] == 1.0
    validated = run.metrics()[0]["validation"]["micro"]
    assert all(np.isfinite(value) for value in validated.values())


def test_a_batch_larger_than_the_data_is_one_step(data: Dataset, tmp_path: Path) -> None:
    run = train(data, out=tmp_path / "run", config=tiny_config(batch_size=10**6))
    progress = run.read_checkpoint("last")["progress"]
    assert progress["metrics"][0]["losses"]["discriminator"] > 0
    assert Fit(run, data, stage="train", epochs=2, selects=True).steps == 1


def without(dataset: Dataset, part: Part, *, domain: int | None = None) -> Dataset:
    """Return the dataset with a part's clicks, or those of one domain, moved into test."""
    parts = np.array(dataset.event_part)
    chosen = parts == part
    if domain is not None:
        chosen &= dataset.event_domain == domain
    parts[chosen] = Part.TEST
    return replace(dataset, event_part=parts)


def test_a_domain_without_validation_is_trained(last_out: Dataset, tmp_path: Path) -> None:
    dataset = without(last_out, Part.VALIDATION, domain=0)
    run = train(dataset, out=tmp_path / "run", config=tiny_config(epochs=1))
    validated = run.metrics()[0]["validation"]
    assert 0 < validated["macro"]["ndcg@10"] <= 1
    alone = np.isfinite(run.scorer().item_vectors[dataset.catalogue.pool(0)])
    assert alone.all()


@pytest.mark.parametrize(
    ("part", "sentence"),
    [
        (Part.VALIDATION, "the validation part of '.*' has no click, and the best epoch is chosen"),
        (Part.TRAIN, "the training part of '.*' has no click"),
    ],
    ids=lambda value: value.name.lower() if isinstance(value, Part) else "",
)
def test_an_empty_part_is_refused_before_the_run_is_made(
    part: Part, sentence: str, data: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(TrainingError, match=rf"{sentence}.*\nhint: .*data\.split"):
        train(without(data, part), out=tmp_path / "run", config=tiny_config())
    assert not (tmp_path / "run").exists()


def on_new_items(dataset: Dataset, events: Ints) -> Dataset:
    """Return the dataset with clicks on items of the last domain that nobody else clicked."""
    catalogue, count = dataset.catalogue, len(events)
    items, domains = dataset.event_item.copy(), dataset.event_domain.copy()
    items[events] = catalogue.items + np.arange(count)
    domains[events] = len(catalogue.domains) - 1
    offsets = catalogue.offsets.copy()
    offsets[-1] += count
    return replace(
        dataset,
        catalogue=replace(catalogue, offsets=offsets),
        item_clicks=np.append(dataset.item_clicks, np.zeros(count, np.int64)),
        event_item=items,
        event_domain=domains,
    )


def test_validation_on_new_items_alone_chooses_no_epoch(last_out: Dataset, tmp_path: Path) -> None:
    events = last_out.events(Part.VALIDATION)
    with pytest.raises(
        TrainingError, match=r"all validation clicks .* that nobody clicked before(.|\n)*hint: "
    ):
        train(on_new_items(last_out, events), out=tmp_path / "run", config=tiny_config())
    assert not (tmp_path / "run").exists()
    train(on_new_items(last_out, events[1:]), out=tmp_path / "run", config=tiny_config(epochs=1))


def test_training_on_new_items_alone_is_refused(last_out: Dataset, tmp_path: Path) -> None:
    events = last_out.events(Part.TRAIN)
    with pytest.raises(TrainingError, match=r"all training clicks .* that nobody clicked before"):
        train(on_new_items(last_out, events), out=tmp_path / "run", config=tiny_config())
    assert not (tmp_path / "run").exists()


def test_a_resumed_fit_does_not_learn_demand_again(
    data: Dataset, begun: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("demand was learned again")

    monkeypatch.setattr(fitting, "LearnedDemand", never)
    run = train(data, out=begun.path, resume=True)
    assert run.read_checkpoint("last")["progress"]["finished"]


def test_the_command_names_settings_that_a_resume_would_change(data: Dataset, begun: Run) -> None:
    words = ["train", str(data.path), "--out", str(begun.path), "--resume"]
    result = CliRunner().invoke(app, [*words, "--set", "train.epochs=5"])
    assert result.exit_code == 1
    assert "train.epochs = 5, the run has 2" in result.stderr
    assert "hint: leave these settings out" in result.stderr
    assert json.loads((begun.path / "config.json").read_text())["config"]["train"]["epochs"] == 2
