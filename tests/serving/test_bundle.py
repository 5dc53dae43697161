"""A bundle gives back what went in, and refuses whatever was done to it since."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from planted import tiny_config
from safetensors import safe_open

from crossfeed.bundle import Bundle
from crossfeed.data.dataset import Dataset, Part
from crossfeed.errors import BundleError, OutputError, RunError
from crossfeed.export import export
from crossfeed.model.users.timelines import build_timelines
from crossfeed.run import Run
from crossfeed.serving.recommend.recommender import Recommender
from crossfeed.training.loop.trainer import train


def test_the_loaded_bundle_scores_as_the_run(run: Run, bundle: Bundle, last_out: Dataset) -> None:
    histories = last_out.histories(last_out.events(Part.TEST), Part.TEST)
    for domain in range(len(last_out.catalogue.domains)):
        moment = last_out.end(Part.TEST)
        expected = run.scorer().score(histories, domain, moment)
        found = bundle.scorer.score(histories, domain, moment)
        np.testing.assert_allclose(found, expected, atol=1e-5)
        pool = bundle.catalogue.pool(domain)
        users = bundle.scorer.user_vectors(histories, np.full(len(histories), domain))
        served = users @ bundle.item_vectors[pool].T + bundle.item_biases[pool]
        np.testing.assert_allclose(served, expected, atol=1e-5)


def test_a_generator_that_is_not_served_is_left_out(last_out: Dataset, tmp_path: Path) -> None:
    scorers, sizes = {}, {}
    for fuse in ("none", "sum"):
        config = tiny_config(epochs=1)
        model = config.model.model_copy(update={"fuse": fuse})
        run = train(
            last_out, out=tmp_path / fuse, config=config.model_copy(update={"model": model})
        )
        path = export(run, out=tmp_path / f"{fuse}-bundle", histories=False, onnx=False)
        with safe_open(path / "weights.safetensors", framework="numpy") as weights:
            names = {name.split(".")[0] for name in weights.keys()}
        assert ("generator" in names) == ("confidence_biases" in names) == (fuse == "sum")
        scorers[fuse], sizes[fuse] = Bundle.load(path).scorer, (path / "item_vectors.npy").stat()
        histories = last_out.histories(last_out.events(Part.TEST), Part.TEST)
        moment = last_out.end(Part.TEST)
        expected = run.scorer().score(histories, 1, moment)
        np.testing.assert_allclose(scorers[fuse].score(histories, 1, moment), expected, atol=1e-5)
    assert sizes["none"].st_size < sizes["sum"].st_size


def test_confidences_are_those_of_the_generator_s_output(
    run: Run, bundle: Bundle, last_out: Dataset
) -> None:
    histories = last_out.histories(last_out.events(Part.TEST)[:1], Part.TEST)
    scorer, domain = bundle.scorer, np.array([1])
    timelines = build_timelines(histories, domain, catalogue=scorer.catalogue, config=scorer.config)
    items = np.arange(last_out.catalogue.items)[last_out.catalogue.pool(1)]
    players = run.scorer().players
    with torch.no_grad():
        vectors = players.generator.layer.item_vectors()
        output = players.generator.users(timelines) @ vectors[items].T  # every item is trained
        demand = torch.from_numpy(last_out.end(Part.TEST).demand(1)).float()
        expected = output[0] + players.confidence_biases(1, demand)
    user = scorer.user_vectors(histories, domain)[0]
    found = bundle.confidence_logits(user, items)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)


def test_ids_and_clicks_come_back(bundle: Bundle, last_out: Dataset) -> None:
    assert bundle.item_ids.to_pylist() == last_out.item_ids.to_pylist()
    assert bundle.clicks.tolist() == last_out.item_clicks.tolist()
    assert bundle.catalogue.domains == last_out.catalogue.domains
    for index in (0, 7, last_out.catalogue.items - 1):
        domain = int(last_out.catalogue.domain_of(np.array([index]))[0])
        item_id = bundle.item_ids[index].as_py()
        assert bundle.ids.index(item_id, bundle.catalogue.domains[domain]) == index
        assert bundle.item_indices(pa.array([item_id, "none"]), domain).tolist() == [index, -1]
    assert bundle.ids.index("none", "articles") == -1
    assert bundle.ids.index("a00", "films") == -1


def test_histories_are_all_that_users_did(bundle: Bundle, last_out: Dataset) -> None:
    events = pa.Table.from_batches(bundle.histories())
    assert events.num_rows == len(last_out.event_item)  # held-out parts too
    users = last_out.users_of(np.arange(len(last_out.event_item)))
    assert events["user_id"].to_pylist() == last_out.user_ids.take(pa.array(users)).to_pylist()
    assert events["timestamp"].to_pylist() == last_out.event_time.tolist()


def test_histories_can_be_left_out(run: Run, tmp_path: Path) -> None:
    bundle = Bundle.load(export(run, out=tmp_path / "bundle", histories=False, onnx=False))
    assert not bundle.has_histories
    assert list(bundle.histories()) == []
    assert not (tmp_path / "bundle" / "histories.parquet").exists()


def test_the_same_run_gives_the_same_version(run: Run, bundle: Bundle, tmp_path: Path) -> None:
    again = Bundle.load(export(run, out=tmp_path / "bundle"))
    assert again.version == bundle.version


def test_a_refitted_run_exports_the_refit(
    run: Run, last_out: Dataset, bundle: Bundle, tmp_path: Path
) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run.path, copy)
    refitted = train(last_out, out=copy, resume=True, refit=True)
    exported = Bundle.load(export(refitted, out=tmp_path / "bundle", onnx=False))
    assert exported.version != bundle.version
    assert exported.card["refitted"] is True
    assert exported.clicks.sum() == len(last_out.event_item)
    expected = refitted.scorer(refitted=True).item_vectors
    np.testing.assert_array_equal(exported.scorer.item_vectors, expected)


def test_a_run_without_weights_is_not_exported(run: Run, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run.path, copy)
    (copy / "checkpoints" / "best.pt").unlink()
    with pytest.raises(RunError, match="no best checkpoint yet"):
        export(Run.open(copy), out=tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_an_existing_bundle_is_refused_or_replaced(run: Run, tmp_path: Path) -> None:
    export(run, out=tmp_path / "bundle", onnx=False)
    with pytest.raises(OutputError, match="exists already"):
        export(run, out=tmp_path / "bundle")
    export(run, out=tmp_path / "bundle", onnx=False, overwrite=True)


def test_what_the_gate_holds_back_is_served_by_popularity(run: Run, tmp_path: Path) -> None:
    shutil.copytree(run.path, tmp_path / "run")
    gated = Run.open(tmp_path / "run")
    gated.write_gate({"videos": "worse than popularity"})
    bundle = Bundle.load(export(gated, out=tmp_path / "bundle", onnx=False))
    assert bundle.held_back == ("videos",)
    recommender = Recommender(bundle)
    history = [{"item_id": "a03", "domain": "articles", "timestamp": 1}]
    held, served = (
        recommender.recommend(history=history, domain=name) for name in ("videos", "shopping")
    )
    assert held.fallback == "popular" and served.fallback is None
    popular = recommender.recommend(history=[], domain="videos")
    assert held.items == popular.items
    # ... unless the user of the software says otherwise.
    every = export(gated, out=tmp_path / "all", all_domains=True, onnx=False)
    assert Bundle.load(every).held_back == ()


def test_a_gate_that_cannot_be_read_stops_the_export(run: Run, tmp_path: Path) -> None:
    shutil.copytree(run.path, tmp_path / "run")
    (tmp_path / "run" / "gate.json").write_text("{}", "utf-8")
    with pytest.raises(RunError, match=r"gate\.json' cannot be read"):
        export(Run.open(tmp_path / "run"), out=tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


@pytest.fixture
def copied(bundle_path: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle_path, tmp_path / "bundle"))


def test_a_folder_without_bundle_json_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"is not a bundle: .*\nhint: .*crossfeed export"):
        Bundle.load(tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "weights.safetensors",
        "items.arrow",
        "item_vectors.npy",
        "domains.parquet",
        "histories.parquet",
    ],
)
def test_a_missing_truncated_or_changed_file_is_named(name: str, copied: Path) -> None:
    file = copied / name
    data = file.read_bytes()
    file.write_bytes(data[:-1])
    with pytest.raises(BundleError, match=f"{name} has {len(data) - 1} bytes instead of"):
        Bundle.load(copied)
    middle = len(data) // 2
    file.write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
    with pytest.raises(BundleError, match=f"{name} was changed after it was written"):
        Bundle.load(copied)
    file.unlink()
    with pytest.raises(BundleError, match=f"{name} is missing"):
        Bundle.load(copied)


def test_a_file_that_cannot_be_read_is_named(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(file: Path) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("crossfeed.bundle.reading.file_hash", refused)
    with pytest.raises(BundleError, match=r"is damaged: .* cannot be read: Permission denied"):
        Bundle.load(copied)


def test_an_edited_bundle_json_is_refused(copied: Path) -> None:
    file = copied / "bundle.json"
    about = json.loads(file.read_text())
    file.write_text(json.dumps({**about, "user_id_type": "int64"}))
    with pytest.raises(BundleError, match=r"bundle\.json was changed after it was written"):
        Bundle.load(copied)
    file.write_text(json.dumps({**about, "format_version": 9}))
    with pytest.raises(BundleError, match="format version 9; this crossfeed reads 6"):
        Bundle.load(copied)
    file.write_text("{")
    with pytest.raises(BundleError, match=r"bundle\.json cannot be read"):
        Bundle.load(copied)


def test_a_file_outside_the_folder_is_never_read(copied: Path) -> None:
    from crossfeed.bundle.format import version_of

    file = copied / "bundle.json"
    about = json.loads(file.read_text())
    about["files"]["../secret"] = {"bytes": 0, "sha256": ""}
    about["version"] = version_of({key: about[key] for key in about if key != "version"})
    file.write_text(json.dumps(about))
    with pytest.raises(BundleError, match=r"\.\./secret is missing"):
        Bundle.load(copied)
