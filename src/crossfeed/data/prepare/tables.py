"""The index tables and events of a dataset: as expressions, then as files."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import ibis
import ibis.expr.types as ir
import numpy as np
import pyarrow.parquet as pq

from crossfeed.data.engines.engine import Engine
from crossfeed.data.prepare.filters import ORDER
from crossfeed.data.prepare.split import Split

__all__ = ["Coded", "Tables", "encode", "index", "write_parquet", "write_tables"]

_TIE_DIGITS = 12
"""Hexadecimal digits of the hash that orders clicks of one time: 48 bits, which DuckDB sorts in
place; if two are equal, the item decides."""
_EVENT_TYPES: Mapping[str, type[np.generic]] = {
    "item": np.int32,
    "domain": np.int32,
    "time": np.int64,
    "part": np.uint8,
}


@dataclass(frozen=True)
class Coded:
    """A log's clicks as numbers, so that filters and splits need no text."""

    clicks: ir.Table
    """user, item, time, tie"""
    users: ir.Table
    """user, user_id"""
    items: ir.Table
    """item, item_id, domain; a domain's items have consecutive codes"""
    domains: ir.Table
    """domain, domain_name"""


@dataclass(frozen=True)
class Tables:
    """The contents of a dataset's folder, as stored tables and one ordered expression."""

    users: ir.Table
    """user_id, events in the order of the index"""
    items: ir.Table
    """item (the index), item_id, domain, clicks, clicks_all"""
    domains: ir.Table
    """domain (the index), domain_name, items, trained, trained_on_all, clicks"""
    events: ir.Table
    """item, domain, time, part in the dataset's order"""


def encode(engine: Engine, clicks: ir.Table, *, keep: bool) -> Coded:
    """Number users, domains and (domain, item) pairs in the order of their ids.

    Args:
        engine: keeps the tables.
        clicks: user_id, item_id, domain, time.
        keep: whether to store the numbered clicks; not needed if they are read only once.
    """
    users = engine.keep(_numbered(clicks.select("user_id").distinct(), "user", ["user_id"]))
    names = clicks.select(domain_name="domain").distinct()
    domains = engine.keep(_numbered(names, "domain", ["domain_name"]))
    pairs = clicks.select("item_id", domain_name="domain").distinct()
    items = engine.keep(
        _numbered(pairs.join(domains, "domain_name"), "item", ["domain", "item_id"])
    )
    coded = (
        clicks.rename(domain_name="domain")
        .join(users, "user_id")
        .join(items, ["domain_name", "item_id"])
        .select("user", "item", "time", tie=_tie)
    )
    return Coded(engine.keep(coded) if keep else coded, users, items.drop("domain_name"), domains)


def index(engine: Engine, coded: Coded, split: Split, *, min_item_events: int) -> Tables:
    """Give users, items and domains of the dataset their contiguous indices.

    The trained items of a domain come first, then those with enough clicks over all parts, which a
    later refit on everything trains, then all others.
    """
    users = engine.keep(split.users.join(coded.users, "user"))
    named = split.items.join(coded.items, "item")
    domains = _numbered(named.select("domain").distinct(), "index", ["domain"])
    domains = engine.keep(domains.join(coded.domains, "domain"))
    items = engine.keep(_index_items(named, min_item_events))
    places = engine.keep(
        named.select("item", "domain")
        .join(domains.select("domain", domain_index="index"), "domain")
        .join(items.select("item", item_index="index"), "item")
        .select("item", "domain_index", "item_index")
    )
    # If repeats are kept, the part decides between equal rows.
    ordered = split.events.join(places, "item").order_by("user", *ORDER, "part")
    return Tables(
        users=users.order_by("user").select("user_id", "events"),
        items=_named_items(items, domains),
        domains=_counted_domains(items, domains),
        events=ordered.select(
            item=ordered["item_index"],
            domain=ordered["domain_index"],
            time=ordered["time"],
            part=ordered["part"],
        ),
    )


def write_tables(engine: Engine, tables: Tables, folder: Path) -> None:
    """Write index tables and event arrays; streamed, so that memory does not grow with the log."""
    write_parquet(engine, tables.users.drop("events"), folder / "users.parquet")
    write_parquet(engine, tables.items, folder / "items.parquet")
    write_parquet(engine, tables.domains, folder / "domains.parquet")
    events = folder / "events"
    events.mkdir()
    total = _write_offsets(engine, tables.users, events / "user_offsets.npy")
    _write_events(engine, tables.events, events, total)


def write_parquet(engine: Engine, table: ir.Table, path: Path) -> None:
    """Stream a table into a Parquet file."""
    with pq.ParquetWriter(path, table.schema().to_pyarrow()) as writer:
        for batch in engine.batches(table):
            writer.write_batch(batch)


def _named_items(items: ir.Table, domains: ir.Table) -> ir.Table:
    named = items.join(domains.select("domain", "domain_name"), "domain")
    return named.order_by("index").select("item_id", "clicks", "clicks_all", domain="domain_name")


def _counted_domains(items: ir.Table, domains: ir.Table) -> ir.Table:
    counts = items.group_by("domain").agg(
        items=lambda table: table.count(),
        trained=lambda table: table["trained"].cast("int64").sum(),
        trained_on_all=lambda table: table["trained_on_all"].cast("int64").sum(),
        clicks=lambda table: table["clicks"].sum(),
    )
    counted = domains.join(counts, "domain")
    return counted.order_by("index").select(
        domain="domain_name",
        items=counted["items"],
        trained=counted["trained"],
        trained_on_all=counted["trained_on_all"],
        clicks=counted["clicks"],
    )


def _index_items(named: ir.Table, min_item_events: int) -> ir.Table:
    on_all = named["trained"] | (named["clicks_all"] >= min_item_events)
    named = named.mutate(trained_on_all=on_all)
    # Codes are in the order of ids, within a domain.
    order = [
        named["domain"],
        named["trained"].desc(),
        named["trained_on_all"].desc(),
        named["clicks"].desc(),
        named["item"],
    ]
    return named.mutate(index=ibis.row_number().over(order_by=order).cast("int32"))


def _numbered(table: ir.Table, name: str, order: list[str]) -> ir.Table:
    # 32 bits, like the dataset's own indices: half as much to join and sort.
    return table.mutate(ibis.row_number().over(order_by=order).cast("int32").name(name))


def _tie(clicks: ir.Table) -> ir.Value:
    """Return the key that orders a user's clicks at the same time.

    It is a hash of user, domain and item. The order of rows would make the dataset depend on how
    the log was written. One order of items for all users would put some items last in their day
    more often than others, and so leak the test part.
    """
    text = clicks["user_id"].cast("string") + "|" + clicks["domain_name"] + "|"
    return (text + clicks["item_id"].cast("string")).hexdigest("md5").left(_TIE_DIGITS)


def _write_offsets(engine: Engine, users: ir.Table, path: Path) -> int:
    total = np.zeros(1, np.int64)
    with _array_file(path, np.int64, engine.count(users) + 1) as file:
        file.write(total.tobytes())
        for batch in engine.batches(users.select("events")):
            offsets = total[-1] + np.cumsum(batch["events"].to_numpy(), dtype=np.int64)
            file.write(offsets.tobytes())
            total = offsets
    return int(total[-1])


def _write_events(engine: Engine, events: ir.Table, folder: Path, total: int) -> None:
    with contextlib.ExitStack() as stack:
        files = {
            name: stack.enter_context(_array_file(folder / f"{name}.npy", dtype, total))
            for name, dtype in _EVENT_TYPES.items()
        }
        for batch in engine.batches(events.select(*_EVENT_TYPES)):
            for name, dtype in _EVENT_TYPES.items():
                files[name].write(batch[name].to_numpy().astype(dtype, copy=False).data)


@contextlib.contextmanager
def _array_file(path: Path, dtype: type[np.generic], length: int) -> Iterator[BinaryIO]:
    """Yield a .npy file after its header; unlike a memory map it survives a full disk."""
    with path.open("wb") as file:
        descr = np.lib.format.dtype_to_descr(np.dtype(dtype))
        header = {"descr": descr, "fortran_order": False, "shape": (length,)}
        np.lib.format.write_array_header_1_0(file, header)
        yield file
