"""A bundle proves itself before it answers anybody."""

from __future__ import annotations

import math
from pathlib import Path

from crossfeed.bundle import Bundle
from crossfeed.errors import BundleError, CrossfeedError
from crossfeed.serving.engine.versions import Versions, first_loadable, pinned_versions
from crossfeed.serving.histories.history import Event, HistoryStore
from crossfeed.serving.histories.pins import Pin
from crossfeed.serving.recommend.fallback import Fallbacks
from crossfeed.serving.recommend.recommender import Recommender

__all__ = ["check_answers", "load_checked", "pin_checked", "require_same_ids"]


def load_checked(path: Path, *, fallbacks: Fallbacks | None) -> Bundle:
    """Load a bundle and ask it for recommendations.

    Raises:
        BundleError: it is missing or damaged, fails its check, or its folder was replaced
            meanwhile.
    """
    try:
        bundle = Bundle.load(path)
        check_answers(bundle, fallbacks=fallbacks)
        moved = Bundle.stated_version(path) != bundle.version
    except CrossfeedError:
        raise
    except Exception as error:  # whatever a bundle breaks, the caller must go on
        raise _unsound(path, f"{type(error).__name__} while it was loaded") from error
    if moved:
        raise BundleError(
            f"the bundle '{path}' was replaced while it was loaded", hint="load it once more"
        )
    return bundle


def pin_checked(versions: Versions, wanted: str, *, store: HistoryStore) -> Pin:
    """Load a version, ask it for recommendations and pin it; return the pin in force.

    Args:
        versions: the bundles.
        wanted: the version, or the name of its folder.
        store: the history store of the services that are to serve it.

    Raises:
        UnknownVersionError: it is not there.
        BundleError: it is damaged, fails its check or has ids of other types than the one before.
        HistoryStoreError: the pin cannot be stored.
    """
    bundle = load_checked(versions.folder_of(wanted), fallbacks=None)
    if before := pinned_versions(store):
        try:
            served = first_loadable(versions, before, others=False, load=Bundle.load)
        except BundleError:  # none of them is here any more
            served = bundle
        require_same_ids(bundle, served)
    return store.pin(bundle.version)


def check_answers(bundle: Bundle, *, fallbacks: Fallbacks | None) -> None:
    """Ask for recommendations in every domain, for a new user and for one with one event.

    Only the model and its fallbacks answer, whatever is available at the moment; the check also
    loads the whole model.

    Raises:
        BundleError: an answer is missing, not finite or of another domain.
    """
    bundle.open_files()
    recommender = Recommender(bundle, fallbacks=fallbacks)
    for name in bundle.catalogue.domains:
        _check_domain(recommender, name, [])
        _check_domain(recommender, name, [_first_event(bundle, name)])


def require_same_ids(fresh: Bundle, before: Bundle) -> None:
    """Refuse a bundle that would not find the users and items of the history store.

    Raises:
        BundleError: its ids are of another type.
    """
    for name in ("user_id_type", "item_id_type"):
        new, old = getattr(fresh, name), getattr(before, name)
        if new != old:
            raise BundleError(
                f"the bundle '{fresh.path}' has {name} {new}, the histories in service have {old}",
                hint="serve it on its own, with a history store of its own",
            )


def _check_domain(recommender: Recommender, domain: str, history: list[Event]) -> None:
    bundle = recommender.bundle
    try:
        found = recommender.recommend(domain=domain, history=history, k=1, exclude_seen=False)
    except (CrossfeedError, ValueError, RuntimeError, ArithmeticError) as error:
        raise _unsound(bundle.path, f"'{domain}' cannot be answered") from error
    good = [one for one in found.items if one.domain == domain and math.isfinite(one.score)]
    if len(good) != 1 and found.fallback != "listed":  # a list may be empty
        raise _unsound(bundle.path, f"'{domain}' has no item with a finite score")


def _first_event(bundle: Bundle, domain: str) -> Event:
    first = int(bundle.catalogue.offsets[bundle.catalogue.domain_index(domain)])
    return Event(bundle.item_ids[first].as_py(), domain, 0)


def _unsound(folder: Path, what: str) -> BundleError:
    return BundleError(
        f"the bundle '{folder}' failed its check: {what}", hint="export it again from its run"
    )
