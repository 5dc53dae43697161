"""What holds of every history store: durable, idempotent, in the order of time, able to forget."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stores import click, count, items

from crossfeed.errors import HistoryStoreError, RequestError
from crossfeed.serving.histories.history import Event
from crossfeed.serving.histories.history import HistoryStore as Store
from crossfeed.serving.histories.url import open_store
from crossfeed.serving.ids import Id, restore_id


def test_what_was_appended_is_read(store: Store) -> None:
    assert store.append([click("e1"), click("e2", user="bob")]) == (2, 0)
    assert store.read_many(["ann"])[0] == [Event("b1", "books", 1_000)]
    assert store.read_many(["nobody"])[0] == []


def test_late_events_take_their_place_and_ties_keep_the_order_of_arrival(store: Store) -> None:
    store.append([click("e1", item="b1", time=300), click("e2", item="b2", time=100)])
    store.append([click("e3", item="b3", time=200), click("e4", item="b4", time=100)])
    assert items(store) == ["b2", "b4", "b3", "b1"]


def test_the_newest_events_of_many_users_are_read_at_once(store: Store) -> None:
    store.append([click(f"a{n}", item=f"b{n}", time=n) for n in (3, 1, 4, 2)])
    store.append([click("c1", user="bob", item="b9"), click("c2", user=7, item="b8")])
    store.append([click("t1", user="tie", item="first"), click("t2", user="tie", item="second")])
    asked: list[Id] = ["bob", "nobody", "ann", 7, "7", "ann", "tie"]
    assert [[event.item_id for event in events] for events in store.read_many(asked, limit=2)] == [
        ["b9"],
        [],
        ["b3", "b4"],
        ["b8"],
        [],
        ["b3", "b4"],
        ["first", "second"],
    ]
    assert store.read_many(["tie"], limit=1) == [[Event("second", "books", 1_000)]]
    assert [len(events) for events in store.read_many(["ann", "bob"])] == [4, 1]
    assert store.read_many([]) == []


def test_thousands_of_users_are_read_at_once(store: Store) -> None:
    store.append([click(f"e{n}", user=n, item=n) for n in range(2_500)])
    found = store.read_many([*range(2_499, -1, -1)], limit=10)
    assert [event.item_id for [event] in found] == [*range(2_499, -1, -1)]


def test_an_event_id_counts_once_and_its_first_delivery_stays(store: Store) -> None:
    assert store.append([click("e1"), click("e1", item="b2"), click("e2", item="b3")]) == (2, 1)
    assert store.append([click("e1", user="bob")]) == (0, 1)
    assert items(store) == ["b1", "b3"]
    assert items(store, "bob") == []


def test_ids_keep_their_type(store: Store) -> None:
    texts = ["007", "7", "7.0", "1e3", "O'Neil; --", "ユーザー", "a\0b"]
    ids: list[Id] = [*texts, 7, -(2**63), 2**63 - 1]
    store.append([click(f"e{place}", user=id_, item=id_) for place, id_ in enumerate(ids)])
    for id_ in ids:
        (item,) = items(store, id_)
        assert item == id_
        assert type(item) is type(id_)


@pytest.mark.parametrize("bad", [2**63, 1.5, None, b"x"])
def test_what_cannot_be_an_id_is_refused(store: Store, bad: Id) -> None:
    with pytest.raises(HistoryStoreError, match="cannot write the history store"):
        store.append([click("e1"), click("e2", item=bad)])
    assert count(store) == 0


def test_forget_removes_one_user(store: Store) -> None:
    store.append([click("e1"), click("e2"), click("e3", user="bob")])
    assert store.forget("ann") == 2
    assert store.forget("ann") == 0
    assert store.read_many(["ann"])[0] == []
    assert items(store, "bob") == ["b1"]


def test_100_writers_of_one_user_lose_and_double_nothing(store: Store) -> None:
    """Each event is sent by two of the writers; late ones are among them."""

    def write(writer: int) -> int:
        events = [click(f"{writer // 2}-{n}", item=f"b{n}", time=1_000 - n) for n in range(5)]
        accepted = sum(store.append([event])[0] for event in events)
        assert len(store.read_many(["ann"])[0]) >= 5
        return accepted

    with ThreadPoolExecutor(100) as pool:
        accepted = sum(pool.map(write, range(100)))
    times = [event.timestamp for event in store.read_many(["ann"])[0]]
    assert accepted == len(times) == count(store) == 50 * 5
    assert times == sorted(times)


def test_a_closed_store_says_so(store: Store) -> None:
    store.close()
    store.close()
    with pytest.raises(HistoryStoreError, match="is closed"):
        store.append([click("e1")])
    with pytest.raises(HistoryStoreError, match="is closed"):
        store.read_many(["ann"])[0]
    with pytest.raises(HistoryStoreError, match="is closed"):
        store.ping()


def test_it_is_there_after_closing_and_opening(store: Store, store_url: str) -> None:
    store.append([click("e1")])
    store.close()
    again = open_store(store_url)
    if not again.durability().kept:
        assert again.bulk.is_new()  # in memory
    else:
        assert items(again) == ["b1"]
        assert again.append([click("e1")]) == (0, 1)
    again.close()


def test_two_workers_see_each_others_events_at_once(store: Store, store_url: str) -> None:
    if not store.durability().kept:
        pytest.skip("a store in memory belongs to one process")
    other = open_store(store_url)
    store.append([click("1")])
    assert len(other.read_many(["ann"])[0]) == 1
    other.append([click("2")])
    assert len(store.read_many(["ann"])[0]) == 2
    assert other.forget("ann") == 2
    assert store.read_many(["ann"])[0] == []
    other.close()


def test_what_is_promised_of_acknowledged_events_is_told(store: Store, store_url: str) -> None:
    told = store.durability()
    assert told.kept == (store_url != "sqlite://")
    assert ("on disk before it is acknowledged" in told.sentence) == told.kept
    store.ping()


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(st.text(min_size=1).filter(str.isprintable), st.integers(-(2**63), 2**63 - 1)))
def test_any_id_makes_the_round_trip(store: Store, name: str | int) -> None:
    store.append([click(f"{type(name)}{name}", user=name, item=name)])
    assert items(store, name) == [name]


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("redis://me:secret@host:port/0", "in Redis cannot be read"),
        ("redis://localhost:6379/secret", "cannot be read\nhint: .*DATABASE is a number"),
        ("redis://localhost:6379/0?timeout=secret", "in Redis cannot be read"),
        ("redis://localhost:6379/0?timeout=3", "cannot be read\nhint: .*such as .socket_timeout=3"),
        ("redis://localhost:6379/0?secret=3", "in Redis cannot be read"),
        ("redis://", "hint: name a file"),
        ("redis:/me:secret@host:6379/0", "the given text is not the URL of a history store"),
        ("postgresql://me:secret@host/db", "'postgresql' is not the URL of a history store"),
        ("histories.sqlite", r"\nhint: name a file, sqlite://histories"),
        ("sqlite:///", "hint: name a file"),
        ("", "hint: name a file"),
    ],
)
def test_other_stores_are_refused(url: str, message: str) -> None:
    with pytest.raises(HistoryStoreError, match=message) as caught:
        open_store(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "type_", "expected"),
    [
        ("7", pa.int64(), 7),
        (-7, pa.int64(), -7),
        ("007", pa.string(), "007"),
        (7, pa.string(), "7"),
        (np.int64(7), pa.int64(), 7),
        (np.int32(7), pa.string(), "7"),
        (np.str_("u7"), pa.string(), "u7"),
    ],
)
def test_ids_are_restored_to_the_logs_type(
    value: object, type_: pa.DataType, expected: object
) -> None:
    restored = restore_id(value, type_, field="user_id")
    assert (restored, type(restored)) == (expected, type(expected))


@pytest.mark.parametrize("value", ["x", "007", "7.0", "", str(2**63), True, None, 1.5, [1]])
def test_an_id_that_is_no_integer_is_refused_where_ids_are_integers(value: object) -> None:
    with pytest.raises(RequestError, match="user_id must be an integer"):
        restore_id(value, pa.int64(), field="user_id")


def test_a_retry_does_not_restore_a_forgotten_users_event(store: Store) -> None:
    now = int(time.time() * 1000)
    store.append([click("e1", time=now - 5_000), click("ahead", time=now + 3_600_000)])
    assert store.forget("ann") == 2
    again = [click("e1", time=now - 5_000), click("ahead", time=now + 3_600_000)]
    assert store.append(again) == (0, 2)
    assert store.read_many(["ann"]) == [[]]
    assert store.append([click("e1", user="bob", time=now - 5_000)]) == (1, 0)
    assert store.append([click("later", time=now + 7_200_000)]) == (1, 0)
    assert store.forget("ann") == 1


def test_a_model_is_pinned_and_the_history_of_pins_is_kept(store: Store) -> None:
    assert store.pins(limit=10) == []
    first = store.pin("one", only_first=True)
    assert (first.sequence, first.version) == (1, "one")
    assert abs(first.timestamp / 1000 - time.time()) < 3_600
    assert store.pin("two", only_first=True) == first
    assert store.pin("one") == first
    assert store.pin("two").sequence == 2
    store.pin("one")
    assert [pin.version for pin in store.pins(limit=10)] == ["one", "two", "one"]
    assert [pin.sequence for pin in store.pins(limit=2)] == [3, 2]


def test_workers_that_start_together_pin_one_model(store: Store, store_url: str) -> None:
    with ThreadPoolExecutor(8) as pool:
        pinned = list(pool.map(lambda n: store.pin(f"v{n}", only_first=True), range(8)))
    assert len(set(pinned)) == len(store.pins(limit=10)) == 1
