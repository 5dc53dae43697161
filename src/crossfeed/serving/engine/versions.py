"""The bundles that can be served: one folder each, side by side, or a single one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from crossfeed.bundle import Bundle
from crossfeed.errors import BundleError, HistoryStoreError, UnknownVersionError
from crossfeed.serving.histories.pins import PinReader

__all__ = ["BundleFolder", "Versions", "first_loadable", "pinned_versions"]

_FILE = "bundle.json"
_PINS = 100


@dataclass(frozen=True)
class BundleFolder:
    """One bundle among others."""

    path: Path
    version: str | None
    """None where `problem` says why it cannot be told."""
    problem: str | None = None


@dataclass(frozen=True)
class Versions:
    """A folder of bundles, or a bundle."""

    path: Path

    @property
    def is_single(self) -> bool:
        """Return whether the folder is itself a bundle."""
        return (self.path / _FILE).exists()

    def require(self) -> None:
        """Check that the folder has any bundle, sound or not.

        Raises:
            BundleError: there is none.
        """
        if not self.is_single and not self._folders():
            raise BundleError(
                f"'{self.path}' is neither a bundle nor a folder of bundles",
                hint="make one with: crossfeed export RUN --out BUNDLE",
            )

    def found(self) -> list[BundleFolder]:
        """Return the bundles that are there now, the newest first; no other file is looked into."""
        folders = [self.path] if self.is_single else self._folders()
        written = {folder: _written(folder) for folder in folders}
        newest = sorted(folders, key=lambda folder: (-written[folder], folder.name))
        return [_read(folder) for folder in newest]

    def folder_of(self, wanted: str) -> Path:
        """Return the bundle of a version, or the one whose folder has this name.

        Raises:
            UnknownVersionError: there is none; the message names the versions in the folder.
        """
        found = self.found()
        for bundle in found:
            if wanted in (bundle.version, bundle.path.name):
                return bundle.path
        there = ", ".join(str(bundle.version or bundle.path.name) for bundle in found)
        raise UnknownVersionError(
            f"version '{wanted}' is not here; there are: {there or 'none'}",
            hint="export it into a folder beside the others: crossfeed export RUN --out "
            "BUNDLES/NAME",
        )

    def _folders(self) -> list[Path]:
        try:
            inside = sorted(self.path.iterdir())
        except OSError:
            return []
        # A name that begins with a dot is one that is still being written.
        return [one for one in inside if one.name[0] != "." and (one / _FILE).exists()]


def first_loadable(
    versions: Versions, wanted: Iterable[str], *, others: bool, load: Callable[[Path], Bundle]
) -> Bundle:
    """Load the first version that can be loaded.

    Args:
        versions: the bundles.
        wanted: versions, the one that is wanted most first; at least one, or `others`.
        others: whether, after these, any other one will do; the newest is tried first.
        load: loads the bundle in a folder, or raises BundleError.

    Raises:
        BundleError: none can be loaded; it carries the message of the first.
    """
    names = [*wanted]
    if others:
        versions.require()
        names += [one.version or one.path.name for one in versions.found()]
    problems: list[BundleError] = []
    for name in dict.fromkeys(names):
        try:
            return load(versions.folder_of(name))
        except BundleError as error:
            problems.append(error)
    raise problems[0]


def pinned_versions(store: PinReader) -> list[str]:
    """Return the versions that were pinned, the newest pin first; none if the store is down."""
    try:
        return [pin.version for pin in store.pins(limit=_PINS)]
    except HistoryStoreError:
        return []


def _read(folder: Path) -> BundleFolder:
    try:
        return BundleFolder(folder, Bundle.stated_version(folder))
    except BundleError as error:
        return BundleFolder(folder, None, error.message)


def _written(folder: Path) -> float:
    try:
        return (folder / _FILE).stat().st_mtime
    except OSError:  # removed meanwhile
        return 0.0
