"""The settings of one process, and its application."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from crossfeed.bundle import Bundle
from crossfeed.serving.engine.checking import load_checked
from crossfeed.serving.engine.versions import Versions, first_loadable
from crossfeed.serving.histories.url import open_store
from crossfeed.serving.http.app import create_app
from crossfeed.serving.http.guards.access import Access
from crossfeed.serving.http.guards.limits import Limits
from crossfeed.serving.http.guards.security import keys_from_environment
from crossfeed.serving.operations.tracing import tracing_from_environment
from crossfeed.serving.operations.worker_folder import WorkerFolder
from crossfeed.serving.recommend.fallback import FallbackChain

if TYPE_CHECKING:
    from fastapi import FastAPI

__all__ = ["Serving", "first_bundle", "make_app"]


@dataclass(frozen=True)
class Serving:
    """The settings of one process; a worker receives them when it starts."""

    bundles: Path
    history_store: str
    """URL of the store."""
    limits: Limits
    access: Access
    fallbacks: Mapping[str, FallbackChain] = field(default_factory=dict)
    traced: bool = False
    """Whether traces are asked for, also where no variable OTEL_* does."""
    workers: WorkerFolder | None = None
    """The folder that the workers of a port share; None for a process alone."""


def first_bundle(
    serving: Serving, wanted: Iterable[str], *, others: bool, checked: bool = True
) -> Bundle:
    """Load the bundle that a process serves first (see `first_loadable`).

    Args:
        serving: what it serves.
        wanted: versions, the one that is wanted most first.
        others: whether any other one will do.
        checked: whether it must answer; else only its files are verified.

    Raises:
        BundleError: none can be loaded.
    """
    checking = partial(load_checked, fallbacks=serving.fallbacks)
    load = checking if checked else Bundle.load
    return first_loadable(Versions(serving.bundles), wanted, others=others, load=load)


def make_app(serving: Serving, bundle: Bundle) -> FastAPI:
    """Make the application; it opens the store itself, also later."""
    return create_app(
        bundle,
        store=partial(open_store, serving.history_store),
        versions=Versions(serving.bundles),
        keys=keys_from_environment(),
        limits=serving.limits,
        access=serving.access,
        fallbacks=serving.fallbacks,
        tracing=tracing_from_environment(asked=serving.traced),
        workers=serving.workers,
    )
