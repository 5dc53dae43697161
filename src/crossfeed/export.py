"""From a run to a bundle."""

from __future__ import annotations

import importlib.util
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from crossfeed.bundle import BundleContents, write_bundle
from crossfeed.bundle.item_index import BuiltIndex, build_index
from crossfeed.data.dataset import Dataset, Part
from crossfeed.errors import MissingExtraError, require_type
from crossfeed.model.network_scorer import NetworkScorer
from crossfeed.model.onnx.probes import probes
from crossfeed.outputs import BUNDLE, require_folder
from crossfeed.run import Run
from crossfeed.scorer import Ints

__all__ = ["INDEX_ABOVE", "export", "recent_clicks"]

_log = logging.getLogger(__name__)

INDEX_ABOVE = 100_000

_EVENTS_AT_ONCE = 100_000
_USERS_MEASURED = 200


def export(
    run: Run,
    *,
    out: Path | str,
    histories: bool = True,
    onnx: bool = True,
    index_above: int = INDEX_ABOVE,
    all_domains: bool = False,
    overwrite: bool = False,
) -> Path:
    """Write everything that serving needs into one folder.

    The weights come from the refit on all data if the run holds one, else from the best epoch. The
    histories are complete, with held-out parts, so that seen items stay known.

    Args:
        run: a run with at least one finished epoch.
        out: the bundle's folder.
        histories: whether to include the users' histories; without them the service starts empty.
        onnx: whether to include the user encoder as ONNX, which serves faster; it takes some
            seconds and the extra `serve`, and is left out if its vectors differ from torch's.
        index_above: domains with more items get an approximate index, if its measured recall allows
            it; building it needs the extra `serve`.
        all_domains: also let the model serve the domains that the run's gate holds back; else
            popularity serves those.
        overwrite: replace an existing bundle.

    Raises:
        RunError: nothing has been trained yet, or the dataset changed.
        OutputError: `out` exists and may not be replaced, or cannot be written.
    """
    require_type(run, Run, "run", hint="Run.open(path)")
    inputs = [run.path, run.facts["dataset"]]
    require_folder(Path(out), BUNDLE, inputs=inputs, overwrite=overwrite)  # before the work
    dataset = run.dataset()
    if run.refitted:
        dataset = dataset.refitted()
    held_back = () if all_domains else run.held_back()
    scorer = run.scorer(refitted=run.refitted)
    contents = BundleContents(
        scorer=scorer,
        encoder=_encoder(scorer) if onnx else None,
        indexes=_indexes(scorer, dataset, index_above),
        item_ids=dataset.item_ids,
        user_id_type=dataset.user_ids.type,
        clicks=dataset.item_clicks,
        recent_clicks=recent_clicks(dataset),
        moment=dataset.end(Part.TEST),
        histories=_histories(dataset) if histories else None,
        card=_card(run, dataset),
        held_back=held_back,
    )
    return write_bundle(Path(out), contents, overwrite=overwrite)


def _encoder(scorer: NetworkScorer) -> bytes | None:
    """Return the user encoder as ONNX, or None if it cannot be made or its vectors differ."""
    from crossfeed.model.onnx.graph import export_encoder
    from crossfeed.model.onnx.runtime import TOLERANCE, OnnxEncoder, largest_difference

    try:
        graph = export_encoder(scorer)
    except MissingExtraError as error:
        _log.warning("the bundle has no ONNX encoder, so torch serves it: %s", error.message)
        return None
    encoder = OnnxEncoder(
        graph,
        catalogue=scorer.catalogue,
        config=scorer.config,
        item_vectors=scorer.catalogue.of_all_items(scorer.item_vectors),
    )
    expected = scorer.user_vectors(*probes(scorer.catalogue))
    difference = largest_difference(encoder, expected)
    if not difference <= TOLERANCE:
        _log.warning("the bundle has no ONNX encoder: it would be off by %g", difference)
        return None
    return graph


def _indexes(scorer: NetworkScorer, dataset: Dataset, above: int) -> dict[str, BuiltIndex]:
    """Return an index of each large domain, measured with users of the dataset."""
    large = np.flatnonzero(np.diff(dataset.catalogue.offsets) > above).tolist()
    if not large:
        return {}
    if importlib.util.find_spec("faiss") is None:
        _log.warning("large domains get no index and are searched exactly: faiss is not installed")
        return {}
    chosen = np.linspace(0, dataset.users - 1, min(_USERS_MEASURED, dataset.users)).astype(np.int64)
    histories = dataset.timelines(np.unique(chosen), Part.TEST)
    vectors = dataset.catalogue.of_all_items(scorer.item_vectors)
    built = {}
    for domain in large:
        pool, name = dataset.catalogue.pool(domain), dataset.catalogue.domains[domain]
        users = scorer.user_vectors(histories, np.full(len(histories), domain, np.int64))
        biases = scorer.item_biases(domain, dataset.end(Part.TEST))
        index = build_index(vectors[pool], biases, users)
        used = "used" if index.data is not None else "too low, so the domain is searched exactly"
        _log.info("the index of '%s' finds %.4f of the best items: %s", name, index.recall, used)
        built[name] = index
    return built


def recent_clicks(dataset: Dataset) -> Ints:
    """Return (I,) each item's clicks among the newest tenth of its domain's, at least one.

    A share instead of a number of days fits a week of news and years of ratings.
    """
    events = dataset.events(Part.TRAIN)
    domains = dataset.event_domain[events]
    events = events[np.lexsort((dataset.event_time[events], domains))]
    counts = np.bincount(domains, minlength=len(dataset.catalogue.domains))
    ends = np.repeat(np.cumsum(counts), counts)
    newest = ends - np.arange(len(events)) <= np.repeat(np.ceil(counts / 10), counts)
    items = dataset.event_item[events[newest]]
    return np.bincount(items, minlength=dataset.catalogue.items).astype(np.int64)


def _histories(dataset: Dataset) -> Iterator[pa.RecordBatch]:
    """Yield all events."""
    names = pa.array(dataset.catalogue.domains, pa.string())
    for first in range(0, len(dataset.event_item), _EVENTS_AT_ONCE):
        events = np.arange(first, min(first + _EVENTS_AT_ONCE, len(dataset.event_item)))
        columns = {
            "user_id": dataset.user_ids.take(pa.array(dataset.users_of(events))),
            "item_id": dataset.item_ids.take(pa.array(dataset.event_item[events])),
            "domain": names.take(pa.array(dataset.event_domain[events])),
            "timestamp": pa.array(dataset.event_time[events]),
        }
        yield from pa.table(columns).to_batches()


def _card(run: Run, dataset: Dataset) -> dict[str, object]:
    results = run.path / "results.json"
    return {
        "dataset_hash": run.facts["dataset_hash"],
        "split": run.config.data.split,
        "refitted": run.refitted,
        "clicks": int(dataset.item_clicks.sum()),
        "train": run.config.train.model_dump(mode="json"),
        "epochs": run.metrics(),
        "results": json.loads(results.read_text("utf-8")) if results.exists() else None,
    }
