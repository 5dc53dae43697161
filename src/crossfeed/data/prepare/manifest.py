"""The manifest of a dataset: counts, reasons, rules and hashes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ibis.expr.types as ir
import numpy as np

import crossfeed
from crossfeed.config import DataConfig
from crossfeed.data.dataset import FORMAT_VERSION, ROW_ORDER, Part
from crossfeed.data.dataset.counts import count_events
from crossfeed.data.dataset.hashing import combined_hash, content_hashes
from crossfeed.data.engines.engine import Engine
from crossfeed.data.logs import Log, LogRows
from crossfeed.data.prepare.split import Split
from crossfeed.data.prepare.tables import Coded, Tables

__all__ = ["make_manifest"]

_RULES = (
    "An item is the pair (domain, item_id): an id seen in two domains is two items.",
    "A row for which data.positive yields neither true nor false is not a click.",
    "Times without an offset are UTC.",
)
_TIMED_RULE = (
    "A user's events are in the order of time; equal times in the order of the first 12 digits of "
    "md5('user_id|domain|item_id') in hexadecimal, whatever the order of the log's rows."
)
_UNTIMED_RULE = "The log has no times: the order of its files and rows stands for time."
_SPLIT_RULES = {
    "temporal": (
        "One cut in time for all domains; events with the time of a cut come after it.",
        "Every readable click counts. The filters choose, from the training part alone, the items "
        "with a vector of their own; demand alone scores the others.",
        "An event on an item that nobody clicked before counts as a miss.",
    ),
    "last-out": (
        "Not for product claims: it trains on events later than other users' tests.",
        "Of each (user, domain) with at least 3 clicks the last is test, the one before it "
        "validation; filters see all events.",
    ),
    "new-in-domain": (
        "Of {test:.3g}% of the (user, domain) pairs, drawn by a hash of data.split_seed, user and "
        "domain, every event is held out and the first is the test event; another "
        "{validation:.3g}% likewise for validation; filters see all events.",
        "The pair of each user with the largest hash is never held out.",
    ),
}


def make_manifest(
    engine: Engine,
    *,
    folder: Path,
    log: Log,
    rows: LogRows,
    coded: Coded,
    split: Split,
    tables: Tables,
    not_clicked: int,
    config: DataConfig,
    source: str | None,
) -> dict[str, Any]:  # Any: JSON
    """Return the manifest of the dataset whose tables have been written into `folder`."""
    hashes = content_hashes(folder)
    domains = _domains(engine, tables, folder)
    return {
        "format_version": FORMAT_VERSION,
        "crossfeed": crossfeed.__version__,
        "config": config.model_dump(mode="json"),
        "source": source,
        "inputs": [{"name": input_.name, "size": input_.size} for input_ in log.inputs],
        "log": {
            "rows": rows.total,
            "positive": log.positive,
            "time_unit": rows.time_unit,
            "user_ids": rows.user_ids,
            "item_ids": rows.item_ids,
            "quarantined": rows.quarantined,
        },
        "split": {"name": config.split, "cuts": split.cuts},
        "counts": {
            "events": sum(sum(domain["events"].values()) for domain in domains),
            "users": engine.count(tables.users),
            "items": engine.count(tables.items),
            "domains": len(domains),
            "parts": _total_parts(domains),
            "items_in_several_domains": _shared_items(engine, coded.items),
        },
        "dropped": {"not a click": not_clicked, **split.dropped},
        "untrained": split.untrained,
        "domains": domains,
        "rules": [*_RULES, _order_rule(rows), *_split_rules(config)],
        "hashes": hashes,
        "content_hash": combined_hash(hashes),
    }


def _split_rules(config: DataConfig) -> list[str]:
    shares = {"test": 100 * config.test_share, "validation": 100 * config.validation_share}
    return [rule.format(**shares) for rule in _SPLIT_RULES[config.split]]


def _order_rule(rows: LogRows) -> str:
    return _UNTIMED_RULE if rows.time_unit == ROW_ORDER else _TIMED_RULE


def _domains(engine: Engine, tables: Tables, folder: Path) -> list[dict[str, Any]]:  # Any: JSON
    rows = engine.records(tables.domains)
    trained = np.concatenate([np.arange(row["items"]) < row["trained"] for row in rows])
    counts = count_events(folder, domains=len(rows), trained=trained)
    domains = []
    for number, row in enumerate(rows):
        parts = {part.name.lower(): int(counts.events[number, part]) for part in Part}
        evaluated = parts["validation"] + parts["test"]
        missing = int(counts.untrained[number])
        domains.append(
            {
                "domain": row["domain"],
                "events": {name: events for name, events in parts.items() if events},
                "users": int(counts.users[number]),
                "items": row["items"],
                "trained_items": row["trained"],
                "untrained_share": round(missing / evaluated, 6) if evaluated else 0.0,
            }
        )
    return domains


def _total_parts(domains: list[dict[str, Any]]) -> dict[str, int]:  # Any: JSON
    names = [part.name.lower() for part in Part]
    return {name: sum(domain["events"].get(name, 0) for domain in domains) for name in names}


def _shared_items(engine: Engine, items: ir.Table) -> int:
    per_id = items.group_by("item_id").agg(domains=lambda table: table.count())
    return engine.count(per_id.filter(per_id["domains"] > 1))
