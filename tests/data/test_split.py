"""Each split cuts hand-made logs where its rule says."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from crossfeed.config import parse_config
from crossfeed.data.dataset import Dataset, Part
from crossfeed.errors import ConfigError, LogError

START = 1_600_000_000

Event = tuple[str, str, str, int]
"""User, domain, item, minutes after START."""


def log_of(*events: Event) -> pd.DataFrame:
    log = pd.DataFrame(events, columns=["user_id", "domain", "item_id", "timestamp"])
    log["timestamp"] = START + 60 * log["timestamp"]
    return log


def parts(dataset: Dataset) -> dict[tuple[object, ...], str]:
    """Return the part of each (user, domain, item)."""
    users, items = dataset.user_ids.to_pylist(), dataset.item_ids.to_pylist()
    owners = dataset.users_of(np.arange(len(dataset.event_item)))
    return {
        (users[user], dataset.catalogue.domains[domain], items[item]): Part(part).name
        for user, domain, item, part in zip(
            owners, dataset.event_domain, dataset.event_item, dataset.event_part, strict=True
        )
    }


# last-out


def test_last_out_takes_the_last_two_of_each_user_and_domain(
    prepared: Callable[..., Dataset],
) -> None:
    log = log_of(
        *[("anna", "books", f"b{n}", n) for n in range(4)],
        *[("anna", "films", f"f{n}", 10 - n) for n in range(3)],  # newest first in the log
        *[("ben", "books", f"b{n}", n) for n in range(2)],  # too few to hold any out
    )
    assert parts(prepared(log, split="last-out")) == {
        ("anna", "books", "b0"): "TRAIN",
        ("anna", "books", "b1"): "TRAIN",
        ("anna", "books", "b2"): "VALIDATION",
        ("anna", "books", "b3"): "TEST",
        ("anna", "films", "f2"): "TRAIN",
        ("anna", "films", "f1"): "VALIDATION",
        ("anna", "films", "f0"): "TEST",
        ("ben", "books", "b0"): "TRAIN",
        ("ben", "books", "b1"): "TRAIN",
    }


def test_without_times_the_order_of_rows_is_time(prepared: Callable[..., Dataset]) -> None:
    log = log_of(*[("anna", "books", item, 0) for item in "dacb"]).drop(columns="timestamp")
    dataset = prepared(log, split="last-out")
    assert parts(dataset) == {
        ("anna", "books", "d"): "TRAIN",
        ("anna", "books", "a"): "TRAIN",
        ("anna", "books", "c"): "VALIDATION",
        ("anna", "books", "b"): "TEST",
    }
    assert dataset.manifest["log"]["time_unit"] == "row order"
    assert any("order of its files and rows" in rule for rule in dataset.manifest["rules"])


# temporal


def test_temporal_cuts_once_for_all_domains_at_80_and_90_percent(
    prepared: Callable[..., Dataset],
) -> None:
    log = log_of(
        *[(f"u{n % 3}", ("books", "films")[n % 2], f"i{n}", n) for n in range(100)]
    ).sample(frac=1, random_state=0)
    dataset = prepared(log, split="temporal")
    found = Counter(Part(part).name for part in dataset.event_part)
    assert found == {"TRAIN": 80, "VALIDATION": 10, "TEST": 10}
    times = (dataset.event_time // 1000 - START) // 60
    assert sorted(times[dataset.event_part == Part.TRAIN]) == list(range(80))
    assert sorted(times[dataset.event_part == Part.TEST]) == list(range(90, 100))


def test_temporal_events_of_one_time_are_in_one_part(prepared: Callable[..., Dataset]) -> None:
    times = [*range(75), *[75] * 10, *range(85, 100)]  # the cut would fall among equals
    log = log_of(*[(f"u{n % 3}", "books", f"i{n}", time) for n, time in enumerate(times)])
    dataset = prepared(log, split="temporal")
    cut = dataset.manifest["split"]["cuts"]["validation"]
    assert cut == (START + 60 * 75) * 1000
    assert set(dataset.event_part[dataset.event_time == cut]) == {Part.VALIDATION}


def test_temporal_filters_choose_in_training_who_is_trained_not_who_exists(
    prepared: Callable[..., Dataset],
) -> None:
    old = [(f"u{n % 10}", "books", f"i{n % 4}", n) for n in range(80)]
    new = [(f"u{n % 10}", "books", "late", n) for n in range(80, 98)]
    rare = [("u0", "books", "rare", 98), ("newcomer", "books", "i0", 99)]
    small = [("u1", "films", f"f{n}", n) for n in range(3)]  # a domain of 3 clicks
    begun = [("u1", "games", "g", 97)]  # a domain that begins after the cut
    dataset = prepared(
        log_of(*old, *new, *rare, *small, *begun),
        **{"repeats": "keep", "min_item_events": 5, "min_domain_events": 10, "split": "temporal"},
    )
    catalogue, items = dataset.catalogue, dataset.item_ids.to_pylist()
    assert catalogue.domains == ("books", "films", "games")
    # "late" has no training click, but enough for a later refit; "rare" has one click in all.
    assert sorted(items[:4]) == ["i0", "i1", "i2", "i3"]
    assert items[4:6] == ["late", "rare"]
    assert catalogue.trained.tolist() == [4, 0, 0]
    assert dataset.trained_on_all.tolist() == [5, 0, 0]
    assert dataset.refitted().catalogue.trained.tolist() == [5, 0, 0]
    found = parts(dataset)
    assert found["u0", "books", "rare"] == "TEST"
    assert found["newcomer", "books", "i0"] == "TEST"  # a user whom training does not know
    assert found["u1", "games", "g"] == "TEST"
    assert dataset.item_clicks[4] == 0
    books, films, games = dataset.manifest["domains"]
    assert books["untrained_share"] > 0.5
    assert (films["events"], games["events"]) == ({"train": 3}, {"test": 1})
    assert dataset.manifest["untrained"] == {"k-core": 3, "small domain": 0}


def test_filters_that_train_nothing_are_refused(prepared: Callable[..., Dataset]) -> None:
    log = log_of(*[(f"u{n % 10}", "books", f"i{n}", n) for n in range(80)])
    with pytest.raises(
        LogError, match=r"no click is left for training: .*\n.*data.min_user_events"
    ):
        prepared(log, split="temporal", min_item_events=5, min_domain_events=1)


def test_a_click_at_the_same_time_is_not_before(prepared: Callable[..., Dataset]) -> None:
    log = log_of(*[("anna", "books", f"i{n}", n // 3) for n in range(30)])
    dataset = prepared(log, split="temporal")
    histories = dataset.histories(np.arange(30), Part.TEST)
    assert np.diff(histories.offsets).tolist() == [n // 3 * 3 for n in range(30)]


def test_demand_does_not_show_what_comes_later(prepared: Callable[..., Dataset]) -> None:
    """Of an item's clicks after a time, and so of what the filters make of them, nothing shows."""
    rng = np.random.default_rng(0)
    rows = [(f"u{n % 20}", "books", f"i{rng.integers(12)}", n) for n in range(300)]
    rows += [(f"v{n}", "books", "hit", 100 + n) for n in range(100)]
    kept = [row for row in rows if row[2] != "hit" or row[3] < 102]
    whole = prepared(log_of(*rows), name="whole", split="temporal", min_item_events=5)
    without = prepared(log_of(*kept), name="without", split="temporal", min_item_events=5)
    time, found = (START + 60 * 102) * 1000, []
    for dataset in (whole, without):
        place = dataset.item_ids.to_pylist().index("hit")
        moment = dataset.moment(time, Part.TRAIN)
        found.append((moment.demand(0)[place], moment.exists(0)[place]))
    assert whole.catalogue.rows == without.catalogue.rows + 1  # it is trained in one of them
    assert found[0][1] and found[1][1]
    np.testing.assert_array_equal(found[0][0], found[1][0])


def test_temporal_later_repeats_never_take_a_click_from_training(
    prepared: Callable[..., Dataset],
) -> None:
    log = log_of(
        *[("anna", "books", f"i{n}", n) for n in range(100)],
        *[("anna", "books", f"i{n}", 100 + n) for n in range(10)],  # clicked again, later
        *[("anna", "books", f"i{n}", n) for n in range(110, 130)],
    )
    for repeats in ("first", "last"):
        dataset = prepared(log, name=repeats, repeats=repeats, split="temporal")
        found = parts(dataset)
        assert all(found["anna", "books", f"i{n}"] == "TRAIN" for n in range(10)), repeats
        assert len(dataset.event_item) == 120


# new-in-domain


def planted(*, users: int = 200, domains: int = 4) -> pd.DataFrame:
    return log_of(
        *[
            (f"u{user:03}", f"d{domain}", f"i{click}", 10 * domain + click)
            for user in range(users)
            for domain in range(domains)
            for click in range(3)
        ]
    )


def test_new_in_domain_holds_out_all_of_a_pair_and_tests_its_first(
    prepared: Callable[..., Dataset],
) -> None:
    dataset = prepared(planted(), split="new-in-domain")
    by_pair: dict[tuple[object, object], dict[object, str]] = {}
    for (user, domain, item), part in parts(dataset).items():
        by_pair.setdefault((user, domain), {})[item] = part
    kinds = Counter()
    for found in by_pair.values():
        kinds[found["i0"]] += 1
        later = {"TRAIN": "TRAIN", "TEST": "TEST_REST", "VALIDATION": "VALIDATION_REST"}
        assert found == {"i0": found["i0"], "i1": later[found["i0"]], "i2": later[found["i0"]]}
    assert 0.06 < kinds["TEST"] / 800 < 0.14
    assert 0.06 < kinds["VALIDATION"] / 800 < 0.14
    trained = {user for (user, _), found in by_pair.items() if found["i0"] == "TRAIN"}
    assert len(trained) == 200  # every user keeps a domain


def test_new_in_domain_pairs_depend_on_the_seed_alone(prepared: Callable[..., Dataset]) -> None:
    shuffled = planted().sample(frac=1, random_state=1)
    first = prepared(planted(), split="new-in-domain")
    other = prepared(shuffled, name="shuffled", split="new-in-domain")
    assert other.manifest["content_hash"] == first.manifest["content_hash"]
    seeded = prepared(planted(), name="seeded", split="new-in-domain", split_seed=1)
    assert parts(seeded) != parts(first)
    fewer = parts(prepared(planted(users=100), name="fewer", split="new-in-domain"))
    assert fewer == {key: part for key, part in parts(first).items() if str(key[0]) < "u100"}


def test_a_user_of_one_domain_is_never_held_out(prepared: Callable[..., Dataset]) -> None:
    with pytest.raises(LogError, match="no click is left for validation and test"):
        prepared(planted(domains=1), split="new-in-domain")


@pytest.mark.parametrize("split", ["temporal", "last-out", "new-in-domain"])
def test_held_out_events_never_appear_in_a_training_history(
    split: str, prepared: Callable[..., Dataset]
) -> None:
    rng = np.random.default_rng(0)
    log = log_of(
        *[
            (f"u{rng.integers(30)}", f"d{rng.integers(3)}", f"i{rng.integers(40)}", int(minute))
            for minute in rng.integers(200, size=1500)
        ]
    )
    dataset = prepared(log, split=split)
    for part in (Part.TRAIN, Part.VALIDATION, Part.TEST):
        events = dataset.events(part)
        assert len(events)
        histories = dataset.histories(events, part)
        for row, event in enumerate(events):
            user = dataset.users_of(np.array([event]))[0]
            before = range(dataset.user_offsets[user], event)
            hidden = {
                Part.TRAIN: {Part.VALIDATION, Part.TEST, Part.VALIDATION_REST, Part.TEST_REST},
                Part.VALIDATION: {Part.TEST, Part.TEST_REST},
                Part.TEST: set(),
            }[part]
            expected = [
                int(dataset.event_item[earlier])
                for earlier in before
                if dataset.event_part[earlier] not in hidden
                and dataset.event_time[earlier] < dataset.event_time[event]
            ]
            assert histories.row(row).tolist() == expected


# The cuts can be chosen, and what leaves a part empty is named


def days(*each: int, domains: int = 2, users: int = 6) -> pd.DataFrame:
    """Return clicks of every user on each day, in every domain, on different items."""
    return log_of(
        *[
            (f"u{user}", f"d{domain}", f"i{day}", 24 * 60 * day + user)
            for day in each
            for user in range(users)
            for domain in range(domains)
        ]
    )


def times_of(dataset: Dataset, part: Part) -> list[int]:
    """Return the days on which the clicks of a part were made."""
    times = dataset.event_time[dataset.event_part == part]
    return sorted({(int(time) // 1000 - START) // 86400 for time in times})


def test_shares_say_where_time_is_cut(prepared: Callable[..., Dataset]) -> None:
    dataset = prepared(days(*range(10)), validation_share=0.2, test_share=0.3)
    assert times_of(dataset, Part.TRAIN) == [0, 1, 2, 3, 4]
    assert times_of(dataset, Part.VALIDATION) == [5, 6]
    assert times_of(dataset, Part.TEST) == [7, 8, 9]


def test_dates_say_where_time_is_cut(prepared: Callable[..., Dataset]) -> None:
    midnights = [pd.Timestamp(START + 86400 * day, unit="s").isoformat() for day in (3, 9)]
    dataset = prepared(days(*range(10)), split_times=midnights)
    assert times_of(dataset, Part.TRAIN) == [0, 1, 2]
    assert times_of(dataset, Part.VALIDATION) == [3, 4, 5, 6, 7, 8]
    assert times_of(dataset, Part.TEST) == [9]
    assert dataset.manifest["split"]["cuts"] == {
        "validation": 1000 * (START + 3 * 86400),
        "test": 1000 * (START + 9 * 86400),
    }


def test_shares_say_how_many_pairs_are_held_out(prepared: Callable[..., Dataset]) -> None:
    log = days(0, 1, domains=6, users=200)
    few = prepared(log, split="new-in-domain")
    many = prepared(log, split="new-in-domain", test_share=0.3, name="many")
    held = [len(dataset.events(Part.TEST)) / 1200 for dataset in (few, many)]
    assert held == pytest.approx([0.1, 0.3], abs=0.03)
    assert "Of 30% of the (user, domain) pairs" in str(many.manifest["rules"])


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"validation_share": 0.5, "test_share": 0.5}, "leave nothing for training"),
        (
            {"split_times": ["2024-02-01", "2024-01-01"]},
            "data.split_times=['2024-02-01', '2024-01-01']: the first is not before the second",
        ),
        ({"split_times": ["May", "June"]}, "'May' is not an ISO 8601 time"),
        (
            {"split": "last-out", "split_times": ["2024-01-01", "2024-02-01"]},
            "does not go with data.split='last-out'",
        ),
        ({"split": "last-out", "test_share": 0.2}, "have no effect with data.split='last-out'"),
    ],
)
def test_cuts_that_cannot_be_are_refused(settings: dict[str, object], sentence: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(sentence)):
        parse_config({"data": settings})


@pytest.mark.parametrize(
    ("log", "settings", "cause", "hint"),
    [
        (days(0, users=1, domains=1), {}, "all clicks have the time 2020-09-13", "last-out"),
        (days(0, 0, 5, users=1), {}, "only two different times, 2020-09-13", "last-out"),
        (
            pd.concat([days(*[0] * 50, users=1), days(1, users=8)]).sample(frac=1, random_state=0),
            {"repeats": "keep"},
            "too many of the clicks have the same time",
            "data.split_times",
        ),
        (
            days(*range(10)),
            {"split_times": ["2030-01-01", "2031-01-01"]},
            "the clicks are from 2020-09-13T12:26:40",
            "between these times",
        ),
        (
            days(*range(10), domains=1),
            {"split": "new-in-domain"},
            "the log has one domain",
            'data.split to "temporal" or "last-out"',
        ),
        (
            pd.concat([days(1, 2, domains=1), days(1, 2)[1::2].assign(user_id="x")]),
            {"split": "new-in-domain"},
            "no user has clicks in two domains",
            'data.split to "temporal" or "last-out"',
        ),
    ],
    ids=["one time", "two times", "equal times", "dates outside", "one domain", "own domains"],
)
def test_what_leaves_a_part_empty_is_named(
    log: pd.DataFrame,
    settings: dict[str, object],
    cause: str,
    hint: str,
    prepared: Callable[..., Dataset],
) -> None:
    with pytest.raises(LogError, match=re.escape(cause)) as caught:
        prepared(log, **settings)
    assert hint in str(caught.value.hint)
    assert "min_domain_events" not in str(caught.value.hint)
