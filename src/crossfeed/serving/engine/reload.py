"""The model in service, and how another one takes its place while requests are answered."""

from __future__ import annotations

import json
import math
import threading
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from crossfeed.bundle import Bundle
from crossfeed.errors import BundleError, CrossfeedError
from crossfeed.serving.histories.availability import Availability
from crossfeed.serving.histories.history import Event, HistoryReader
from crossfeed.serving.recommend.fallback import Fallbacks
from crossfeed.serving.recommend.recommender import Recommender

__all__ = ["ModelInService", "Reloaded", "check_answers"]


@dataclass(frozen=True)
class Reloaded:
    """What a reload came to."""

    version: str
    """The model that is in service now."""
    changed: bool
    """Whether it is another one than before."""


class ModelInService:
    """Holds the recommender that answers; a request that took it keeps it to its end.

    A new one is loaded and checked beside the old one, which takes the memory of both for that
    time, and then put in its place by one assignment: no answer is lost, and none is made by two.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        histories: HistoryReader,
        availability: Availability | None = None,
        fallbacks: Fallbacks | None = None,
    ) -> None:
        """Put a bundle into service; its folder is where `reload` looks for the next one.

        Args:
            bundle: the first model.
            histories: who knows what users did; shared by all models.
            availability: who knows which items are not available; shared by all models.
            fallbacks: what domains fall back on; shared by all models.
        """
        self._make = partial(
            Recommender, histories=histories, availability=availability, fallbacks=fallbacks
        )
        self._fallbacks = fallbacks
        self.recommender = self._make(bundle)
        self._folder = bundle.path
        self._gate = threading.Lock()
        self._prepared: Recommender | None = None

    @property
    def bundle(self) -> Bundle:
        """Return the bundle in service."""
        return self.recommender.bundle

    def reload(self) -> Reloaded:
        """Load what lies in the bundle's folder now, and put it into service if it is sound.

        Raises:
            BundleError: it is damaged, does not fit the histories, fails its check or was replaced
                meanwhile; the model in service stays.
        """
        with self._gate:
            self.prepare()
            return self.commit()

    def prepare(self) -> str:
        """Do the work of `reload` up to the switch; return the version that waits for it.

        Raises:
            BundleError: as `reload`; nothing waits then.
        """
        self._prepared = None
        try:
            self._prepared = self._load(self.bundle)
        except CrossfeedError:
            raise
        except Exception as error:  # whatever a new bundle breaks, the model in service stays
            raise _unsound(self._folder, f"{type(error).__name__} while it was loaded") from error
        return self._prepared.bundle.version

    def commit(self) -> Reloaded:
        """Put what was prepared into service."""
        assert self._prepared is not None
        before, self.recommender, self._prepared = self.recommender, self._prepared, None
        version = self.bundle.version
        return Reloaded(version, changed=version != before.bundle.version)

    def drop(self) -> None:
        """Let go of what was prepared."""
        self._prepared = None

    def _load(self, before: Bundle) -> Recommender:
        """Return what answers by the bundle in the folder, checked; the present one if it is it."""
        fresh = Bundle.load(self._folder)
        if fresh.version == before.version:
            return self.recommender
        _require_same_ids(fresh, before)
        recommender = self._make(fresh)
        check_answers(fresh, fallbacks=self._fallbacks)
        _require_unmoved(fresh)
        return recommender


def check_answers(bundle: Bundle, *, fallbacks: Fallbacks | None) -> None:
    """Ask for recommendations in every domain, for nobody and for who knows its first item.

    Asked are the model and its fallbacks alone, whatever is available at the moment; the model is
    then loaded whole, too.

    Raises:
        BundleError: an answer is missing, not finite or of another domain.
    """
    bundle.open_files()
    recommender = Recommender(bundle, fallbacks=fallbacks)
    for name, known in zip(bundle.catalogue.domains, bundle.catalogue.known, strict=True):
        if known:
            _check_domain(recommender, name, [])
            _check_domain(recommender, name, [_first_event(bundle, name)])


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


def _require_same_ids(fresh: Bundle, before: Bundle) -> None:
    """Refuse a bundle that would not find the users and items of the history store."""
    for name in ("user_id_type", "item_id_type"):
        new, old = getattr(fresh, name), getattr(before, name)
        if new != old:
            raise BundleError(
                f"the bundle '{fresh.path}' has {name} {new}, the histories in service have {old}",
                hint="serve it on its own, with a history store of its own",
            )


def _require_unmoved(bundle: Bundle) -> None:
    """Refuse a bundle whose folder was replaced while its files were read one after the other."""
    try:
        version = json.loads((bundle.path / "bundle.json").read_text("utf-8"))["version"]
    except (OSError, ValueError, KeyError, TypeError):
        version = None
    if version != bundle.version:
        raise BundleError(
            f"the bundle '{bundle.path}' was replaced while it was loaded", hint="reload once more"
        )


def _unsound(folder: Path, what: str) -> BundleError:
    return BundleError(
        f"the bundle '{folder}' failed its check: {what}", hint="export it again from its run"
    )
