"""The model in service: the one that the history store has pinned, as soon as it is loaded."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from functools import partial

from crossfeed.bundle import Bundle
from crossfeed.errors import BundleError, HistoryStoreError, UnknownVersionError
from crossfeed.serving.engine.checking import load_checked, require_same_ids
from crossfeed.serving.engine.versions import Versions
from crossfeed.serving.histories.availability import Availability
from crossfeed.serving.histories.guarded_store import GuardedStore
from crossfeed.serving.histories.pins import Pin
from crossfeed.serving.recommend.fallback import Fallbacks
from crossfeed.serving.recommend.recommender import Recommender

__all__ = ["Following", "ModelInService"]

_log = logging.getLogger(__name__)

_POLL_SECONDS = 1.0
_LONGEST_PAUSE_SECONDS = 60.0


class ModelInService:
    """Holds the recommender that answers; a batch that took it keeps it to its end.

    Another one is loaded and checked beside it, which takes the memory of both for that time, and
    then takes its place by one assignment: no answer is lost, and none is made by two models.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        store: GuardedStore,
        versions: Versions | None = None,
        fallbacks: Fallbacks | None = None,
        changed: Callable[[str], None] = lambda version: None,
        failed: Callable[[str, BundleError], None] = lambda version, error: None,
        settled: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Put a bundle into service.

        Args:
            bundle: the first model; it was checked.
            store: knows what users did, which items are available, and which model is pinned.
            versions: where the other models lie; by default there are none.
            fallbacks: what domains fall back on; shared by all models.
            changed: is told the version that another one gave way to.
            failed: is told the pinned version that cannot be put into service, and why.
            settled: is told when the model in service is the pinned one again.
            clock: seconds; it never goes back.
        """
        self._make = partial(
            Recommender, histories=store, availability=Availability(store), fallbacks=fallbacks
        )
        self._store, self._fallbacks = store, fallbacks
        self.versions = versions or Versions(bundle.path)
        self._changed, self._failed, self._settled = changed, failed, settled
        self._clock = clock
        self.recommender = self._make(bundle)
        self.pinned: str | None = None
        """The version that should be in service, as last heard."""
        self.problem: str | None = None
        """Why it is not."""
        self._gate = threading.Lock()
        self._filled = False
        self._attempts, self._next_attempt = 0, 0.0

    @property
    def bundle(self) -> Bundle:
        """Return the bundle in service."""
        return self.recommender.bundle

    def pin(self, wanted: str) -> Pin:
        """Load a version, pin it for all who share the store, and put it into service here.

        Args:
            wanted: the version, or the name of its folder.

        Raises:
            UnknownVersionError: it is not there.
            BundleError: it is damaged, fails its check or has ids of other types.
            HistoryStoreError: the pin cannot be stored; the model in service stays.
        """
        with self._gate:
            recommender = self._load(wanted)
            pin = self._store.pin(recommender.bundle.version)
            self._heard(pin.version)
            self._put(recommender)
            return pin

    def follow(self) -> None:
        """Put into service what is pinned, if another model is; a failure is tried again later.

        The first call that finds the store in order also fills it, if it is new.
        """
        with self._gate:
            try:
                self._fill()
                pinned = self._read_pin()
            except HistoryStoreError:  # the store tells the monitoring itself
                return
            self._heard(pinned)
            if pinned is None or pinned == self.bundle.version:
                self._settle()
            elif self._clock() >= self._next_attempt:
                self._try(pinned)

    def _fill(self) -> None:
        if not self._filled:
            self._store.fill(self.bundle.histories(), origin=self.bundle.version)
            self._filled = True

    def _read_pin(self) -> str | None:
        """Return the pinned version; among several versions, the first one served is pinned."""
        pins = self._store.pins(limit=1)
        if not pins and not self.versions.is_single:
            pins = [self._store.pin(self.bundle.version, only_first=True)]
        return pins[0].version if pins else None

    def _heard(self, pinned: str | None) -> None:
        if pinned != self.pinned:
            self.pinned = pinned
            self._attempts, self._next_attempt = 0, 0.0

    def _try(self, pinned: str) -> None:
        try:
            self._put(self._load(pinned))
        except BundleError as error:
            self._attempts += 1
            pause = min(_LONGEST_PAUSE_SECONDS, 2.0**self._attempts)
            self._next_attempt = self._clock() + pause
            self.problem = _problem(pinned, error)
            self._failed(pinned, error)

    def _load(self, wanted: str) -> Recommender:
        """Return what answers by a version, checked; the present one if it is it."""
        folder = self.versions.folder_of(wanted)
        if Bundle.stated_version(folder) == self.bundle.version:
            return self.recommender
        bundle = load_checked(folder, fallbacks=self._fallbacks)
        require_same_ids(bundle, self.bundle)
        return self._make(bundle)

    def _put(self, recommender: Recommender) -> None:
        before, self.recommender = self.recommender, recommender
        if before is not recommender:
            self._changed(recommender.bundle.version)
        self._settle()

    def _settle(self) -> None:
        if self.problem is not None:
            self.problem = None
            self._settled()


class Following:
    """A thread that looks once a second which model is pinned."""

    def __init__(self, model: ModelInService) -> None:
        self._model = model
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="pinned-model", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more; a model that is being loaded is not waited for."""
        self._stop.set()

    def _follow(self) -> None:
        while not self._stop.wait(_POLL_SECONDS):
            try:
                self._model.follow()
            except Exception:  # the thread must go on; the model in service stays
                _log.exception("cannot follow the pinned model")


def _problem(pinned: str, error: BundleError) -> str:
    """Return what clients may know of an error; the log tells more."""
    if isinstance(error, UnknownVersionError):
        return f"the pinned version {pinned} is not in the folder of bundles"
    return f"the pinned version {pinned} cannot be put into service; the log tells why"
