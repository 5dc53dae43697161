"""Why a split leaves a part without clicks, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from crossfeed.config import DataConfig
from crossfeed.data.dataset import Part
from crossfeed.data.engines.engine import Engine
from crossfeed.data.logs.values.times import iso_time
from crossfeed.data.prepare.split import Split, SplitInput
from crossfeed.errors import LogError

__all__ = ["require_parts"]

_NEEDED = {Part.TRAIN: "training", Part.VALIDATION: "validation", Part.TEST: "test"}
_Cause = tuple[str, str]
"""The cause, and what to do."""


def require_parts(
    engine: Engine,
    given: SplitInput,
    split: Split,
    *,
    rows: int,
    dropped: Mapping[str, int],
    config: DataConfig,
) -> None:
    """Refuse a split that leaves a part without clicks, or filters that leave no item to train.

    Args:
        engine: holds the clicks.
        given: the clicks before the split.
        split: the split.
        rows: how many rows the log has.
        dropped: reason -> how many of them were dropped for it.
        config: the settings of the preparation.

    Raises:
        LogError: naming the cause, and the setting to change.
    """
    empty = [name for part, name in _NEEDED.items() if not split.parts.get(part.name)]
    if split.untrained and sum(split.untrained.values()) == split.parts.get(Part.TRAIN.name):
        empty = ["training"]
    if not empty:
        return
    dropped = {**dropped, **split.untrained}
    reasons = ", ".join(f"{reason}: {count:,}" for reason, count in dropped.items() if count)
    cause, hint = _cause(engine, given, split, dropped, config)
    raise LogError(
        f"no click is left for {_listed(empty)}: {cause}; of {rows:,} rows were dropped: "
        f"{reasons or 'none'}",
        hint=hint,
    )


def _listed(names: Sequence[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def _cause(
    engine: Engine,
    given: SplitInput,
    split: Split,
    dropped: Mapping[str, int],
    config: DataConfig,
) -> _Cause:
    """Return a cause in the split itself; else the filter that dropped most."""
    found = None
    if given.total:
        causes = {"temporal": _time_cause, "new-in-domain": _domain_cause}
        if config.split in causes:
            found = causes[config.split](engine, given, split, config)
    return found or _filter_cause(dropped, config)


def _time_cause(
    engine: Engine, given: SplitInput, split: Split, config: DataConfig
) -> _Cause | None:
    clicks = given.clicks
    [seen] = engine.records(
        clicks.agg(
            times=clicks["time"].nunique(), first=clicks["time"].min(), last=clicks["time"].max()
        )
    )
    first, last = iso_time(seen["first"]), iso_time(seen["last"])
    validation, test = split.cuts["validation"], split.cuts["test"]
    if seen["times"] < len(_NEEDED):
        what = f"all clicks have the time {first}"
        if seen["times"] == 2:
            what = f"the clicks have only two different times, {first} and {last}"
        return what, 'set data.split to "last-out", or map a finer data.columns.timestamp'
    if seen["first"] < validation < test <= seen["last"]:
        return None
    if config.split_times is not None:
        return (
            f"the clicks are from {first} to {last}, the cuts at {iso_time(validation)} and "
            f"{iso_time(test)}",
            "choose data.split_times between these times",
        )
    return (
        f"too many of the clicks have the same time: both cuts fall to {iso_time(validation)} and "
        f"{iso_time(test)}, between {first} and {last}",
        "set data.split_times, or data.split to 'last-out'",
    )


def _domain_cause(
    engine: Engine, given: SplitInput, split: Split, config: DataConfig
) -> _Cause | None:
    hint = 'set data.split to "temporal" or "last-out"'
    domains = engine.count(given.domains)
    if domains < 2:
        return "the log has one domain, and new-in-domain holds out users' second domains", hint
    pairs = given.clicks.join(given.items, "item").select("user", "domain").distinct()
    per_user = pairs.group_by("user").agg(domains=lambda table: table.count())
    several = engine.count(per_user.filter(per_user["domains"] > 1))
    if not several:
        return "no user has clicks in two domains, and new-in-domain holds out such pairs", hint
    return None


def _filter_cause(dropped: Mapping[str, int], config: DataConfig) -> _Cause:
    known = {
        "cannot be read": ("most rows cannot be read", "see what is wrong with crossfeed validate"),
        "not a click": ("most rows are not clicks", f"look at data.positive ({config.positive})"),
    }
    if max(config.min_user_events, config.min_item_events) > 1:
        known["k-core"] = (
            "most clicks are of users or on items with too few",
            f"lower data.min_user_events ({config.min_user_events}) or data.min_item_events "
            f"({config.min_item_events})",
        )
    if config.min_domain_events > 1:
        small = (
            "most clicks are in domains with too few",
            f"lower data.min_domain_events ({config.min_domain_events})",
        )
        known["small domain"] = small
    reasons = [reason for reason in known if dropped.get(reason)]
    if reasons:
        return known[max(reasons, key=lambda reason: dropped[reason])]
    return (
        f"the log is too small for data.split = {config.split!r}",
        "prepare a longer log, or set data.split to another split",
    )
