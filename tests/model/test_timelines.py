"""Grouping and trimming of histories."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from crossfeed.config import ModelConfig
from crossfeed.model.users.grouping import trimmed
from crossfeed.model.users.timelines import Timelines, build_timelines
from crossfeed.scorer import Catalogue, Histories

CATALOGUE = Catalogue(
    domains=("a", "b", "c"), offsets=np.array([0, 10, 20, 30]), trained=np.array([10, 10, 10])
)


def build(rows: list[list[int]], domains: list[int], **config: int) -> Timelines:
    return build_timelines(
        Histories.of(rows),
        np.array(domains),
        catalogue=CATALOGUE,
        config=ModelConfig.model_validate(config),
    )


def groups_of(timelines: Timelines) -> list[tuple[int, int, list[int]]]:
    """Return (row, domain, items) of each group."""
    return [
        (
            int(timelines.group_rows[group]),
            int(timelines.group_domains[group]),
            timelines.item_rows[timelines.groups == group].tolist(),
        )
        for group in range(len(timelines.group_rows))
    ]


def test_items_are_grouped_by_row_and_domain_in_time_order() -> None:
    timelines = build([[15, 3, 11, 4], []], [0, 2])
    assert groups_of(timelines) == [(0, 0, [3, 4]), (0, 1, [15, 11]), (1, 2, [])]
    assert timelines.recency.tolist() == [1, 0, 1, 0]
    assert timelines.group_slots.tolist() == [0, 1, 0]


def test_a_target_domain_without_history_still_has_its_group() -> None:
    timelines = build([[3, 15]], [2])
    assert timelines.group_domains[timelines.target_groups].tolist() == [2]
    assert groups_of(timelines)[2] == (0, 2, [])


def test_newest_items_stay_per_domain_and_in_total() -> None:
    history = [1, 2, 3, 11, 12, 4]
    per_domain = build([history], [0], history_per_domain=2)
    assert groups_of(per_domain) == [(0, 0, [3, 4]), (0, 1, [11, 12])]
    total = build([history], [0], history_per_domain=2, history_total=3)
    assert groups_of(total) == [(0, 0, [4]), (0, 1, [11, 12])]


@given(st.lists(st.lists(st.integers(0, 29), max_size=12), min_size=1, max_size=5), st.data())
def test_a_row_does_not_depend_on_the_batch(rows: list[list[int]], data: st.DataObject) -> None:
    domains = data.draw(st.lists(st.integers(0, 2), min_size=len(rows), max_size=len(rows)))
    limits = {"history_per_domain": 3, "history_total": 5}
    together = groups_of(build(rows, domains, **limits))
    for row, (history, domain) in enumerate(zip(rows, domains, strict=True)):
        alone = groups_of(build([history], [domain], **limits))
        assert [group[1:] for group in together if group[0] == row] == [g[1:] for g in alone]


@given(st.lists(st.lists(st.integers(0, 29), max_size=12), min_size=1, max_size=5))
def test_what_is_trimmed_stays_in_its_order_and_stays_when_trimmed_again(
    rows: list[list[int]],
) -> None:
    config = ModelConfig.model_validate({"history_per_domain": 2, "history_total": 4})
    once = trimmed(Histories.of(rows), catalogue=CATALOGUE, config=config)
    for row, history in enumerate(rows):
        newest: list[int] = []
        for item in reversed(history):  # as the rule says it
            of_domain = [other for other in newest if other // 10 == item // 10]
            if len(of_domain) < 2 and len(newest) < 4:
                newest.append(item)
        assert once.row(row).tolist() == newest[::-1]
    again = trimmed(once, catalogue=CATALOGUE, config=config)
    assert again.items.tolist() == once.items.tolist()
    assert again.offsets.tolist() == once.offsets.tolist()


def test_every_row_has_one_target_group() -> None:
    timelines = build([[1], [11, 21], []], [1, 1, 0])
    assert timelines.group_rows[timelines.target_groups].tolist() == [0, 1, 2]
    assert torch.equal(timelines.group_domains[timelines.target_groups], torch.tensor([1, 1, 0]))
