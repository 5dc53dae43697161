"""Three users of the demonstration: their histories, and recommendations in other domains.

Dims: U users, D domains.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from crossfeed.cli.output import make_table, title
from crossfeed.data.dataset import Dataset
from crossfeed.data.simulate.truth import START_SECONDS, YEAR_SECONDS, Truth
from crossfeed.scorer import Ints
from crossfeed.serving.recommend.recommender import Recommender

__all__ = ["Visitor", "choose_visitors", "print_users"]

_LEAST_CLICKS = 15
_SHOWN = 5


@dataclass(frozen=True)
class Visitor:
    """A user and a domain without a click of theirs."""

    user: int
    domain: int


def print_users(console: Console, recommender: Recommender, dataset: Dataset, truth: Truth) -> None:
    """Print three users' histories and their recommendations in a domain new to them."""
    for visitor in choose_visitors(dataset, count=3):
        user_id = dataset.user_ids[visitor.user].as_py()
        domain = dataset.catalogue.domains[visitor.domain]
        console.print(title(f"{user_id} so far"), _history_table(dataset, visitor.user), sep="\n")
        found = recommender.recommend(user_id=user_id, domain=domain, k=_SHOWN)
        item_ids = [str(item.item_id) for item in found.items]
        places = _true_places(truth, user_id, domain, item_ids)
        offer = title(f"{user_id} in {domain}, for the first time")
        console.print(offer, _offer_table(item_ids, places), sep="\n")


def choose_visitors(dataset: Dataset, *, count: int) -> list[Visitor]:
    """Return users with a history that lack a domain: one for each of the largest domains.

    Raises:
        IndexError: never for a simulated log, in which users are missing from every domain.
    """
    clicks = _clicks_by_domain(dataset)  # (U, D)
    knows_enough = clicks.sum(axis=1) >= _LEAST_CLICKS
    largest = np.argsort(-clicks.sum(axis=0), kind="stable")
    chosen: list[Visitor] = []
    for domain in largest.tolist():
        taken = [visitor.user for visitor in chosen]
        free = np.flatnonzero(knows_enough & (clicks[:, domain] == 0))
        free = free[~np.isin(free, taken)]
        if len(free) and len(chosen) < count:
            chosen.append(Visitor(int(free[0]), domain))
    return chosen


def _clicks_by_domain(dataset: Dataset) -> Ints:
    domains = len(dataset.catalogue.domains)
    users = np.repeat(np.arange(dataset.users), np.diff(dataset.user_offsets))
    cells = users * domains + np.asarray(dataset.event_domain)
    return np.bincount(cells, minlength=dataset.users * domains).reshape(-1, domains)


def _history_table(dataset: Dataset, user: int) -> Table:
    events = slice(dataset.user_offsets[user], dataset.user_offsets[user + 1])
    items, domains = dataset.event_item[events], dataset.event_domain[events]
    table = make_table("domain", "clicks", "newest")
    table.columns[2].justify = "left"
    for domain in np.unique(domains).tolist():
        own = items[domains == domain]
        known = own[own >= 0][::-1][:_SHOWN]
        newest = [str(dataset.item_ids[item].as_py()) for item in known.tolist()]
        table.add_row(dataset.catalogue.domains[domain], str(len(own)), ", ".join(newest))
    return table


def _true_places(truth: Truth, user_id: str, domain: str, item_ids: list[str]) -> list[str]:
    """Return each item's rank in the planted truth for the user at the end of the log."""
    end = START_SECONDS + YEAR_SECONDS - 1
    (probabilities,) = truth.probabilities([user_id], domain, timestamps=[end])
    names = truth.domain_items(domain)
    order = np.argsort(-probabilities, kind="stable").tolist()
    places = {names[item]: place for place, item in enumerate(order, start=1)}
    return [f"{places[item_id]} of {len(names)}" for item_id in item_ids]


def _offer_table(item_ids: list[str], places: list[str]) -> Table:
    table = make_table("recommended", "place in the truth")
    for item_id, place in zip(item_ids, places, strict=True):
        table.add_row(Text(item_id, "green"), place)
    return table
