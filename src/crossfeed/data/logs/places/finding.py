"""Which files a log consists of: paths, folders, globs and URLs of files."""

from __future__ import annotations

import fnmatch
import glob
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from crossfeed.data.logs.places.files import ALLOWED, LogFile, format_of, raise_all
from crossfeed.data.logs.places.remote import fetch, is_remote, local_path
from crossfeed.errors import LogError

__all__ = ["FoundFiles", "find_files"]

_OWN = {"manifest.json": "a dataset", "config.json": "a run", "bundle.json": "a bundle"}
"""File -> kind of folder that crossfeed marks with it."""
_SHOWN = 5


@dataclass(frozen=True)
class FoundFiles:
    """The files of a log, in their order."""

    files: tuple[LogFile, ...]
    notes: tuple[str, ...] = ()
    """Ignored files, and why."""


def find_files(logs: Sequence[str | Path]) -> FoundFiles:
    """Resolve files, folders, globs and URLs of files to the files of a log.

    The files of a folder or glob come sorted by path. Links to files and folders are followed.
    Hidden files, names that begin with `_`, folders that crossfeed wrote and, in a folder, files
    of other formats are left out.

    Raises:
        LogError: naming every path that does not exist, matches nothing or is not a log.
    """
    files: list[LogFile] = []
    notes: list[str] = []
    problems: list[str] = []
    hints: list[str] = []
    for log in logs:
        try:
            found = _resolve(log)
        except LogError as error:
            problems.append(error.message)
            hints += [error.hint] if error.hint else []
        else:
            files += found.files
            notes += found.notes
    if not logs:
        problems.append("no log was given")
    problems += _format_problems(files)
    paths = [os.path.realpath(file.path) for file in files]
    problems += [f"'{path}' is given twice" for path in sorted(set(paths)) if paths.count(path) > 1]
    usual = f"a log is one file, a folder or a glob of files that end in {ALLOWED}"
    raise_all(problems, hint="; ".join(dict.fromkeys(hints)) or usual)
    return FoundFiles(tuple(files), tuple(dict.fromkeys(notes)))


def _format_problems(files: Sequence[LogFile]) -> Iterator[str]:
    first = {file.format: file.name for file in reversed(files)}
    if len(first) > 1:
        shown = ", ".join(f"{format_} ('{first[format_]}')" for format_ in sorted(first))
        yield f"the files of one log have one format; these are {shown}"


def _resolve(log: str | Path) -> FoundFiles:
    if not str(log).strip():
        raise LogError(
            "a path is empty", hint="is a variable of the shell unset? '.' is the working directory"
        )
    if is_remote(log):
        return FoundFiles(tuple(map(_fetched, fetch(str(log)))))
    path = local_path(log)
    if path.is_dir():
        if own := _own_kind(path):
            raise LogError(
                f"'{path}' is {own} that crossfeed wrote, not a log",
                hint="give the log that it was made from",
            )
        return _logs_in(path)
    if path.exists():
        return FoundFiles((_log_file(path),))
    if path.is_symlink():
        raise LogError(f"there is no file '{path}': it is a link to nothing")
    if glob.has_magic(str(path)):
        return _glob_files(str(path))
    raise LogError(f"there is no file '{path}'")


def _glob_files(pattern: str) -> FoundFiles:
    """Return the files that a glob matches; matched folders are read whole."""
    found_paths = _matches_below(pattern) if "**" in pattern else map(Path, glob.glob(pattern))
    matches = _once([match for match in sorted(found_paths) if not _hidden(match.name)])
    _refuse_dangling([match for match in matches if not match.exists()])
    files = [match for match in matches if match.is_file()]
    folders = [match for match in matches if match.is_dir()]
    own = {file: kind for file in files if (kind := _own_kind(file.parent))}
    notes = [f"'{file}' is left out: it is part of {kind}" for file, kind in own.items()]
    found = [_log_file(file) for file in files if file not in own]
    taken = {_entry(file.path) for file in found}
    for folder in folders:
        if kind := _own_kind(folder):
            notes.append(f"'{folder}' is left out: it is {kind}")
        elif "**" not in pattern:  # which matches the files in folders by itself
            inner = _folder_files(folder)
            found += [file for file in inner.files if _entry(file.path) not in taken]
            notes += inner.notes
    if not found:
        raise LogError("\n".join([f"no file matches '{pattern}'", *notes]))
    return FoundFiles(tuple(sorted(found, key=lambda file: file.path)), tuple(notes))


def _folder_files(folder: Path) -> FoundFiles:
    """Return the logs in a folder, perhaps none."""
    walk = _Walk(folder)
    files = [path for path in walk.files if format_of(path.name)]
    others = [path.name for path in walk.files if not format_of(path.name)]
    _refuse_dangling(walk.dangling)
    if others:
        more = ", ..." if len(others) > _SHOWN else ""
        walk.notes.append(
            f"files in '{folder}' that are no logs by their names are left out ({len(others)}): "
            f"{', '.join(others[:_SHOWN])}{more}"
        )
    return FoundFiles(tuple(map(_log_file, files)), tuple(walk.notes))


def _logs_in(folder: Path) -> FoundFiles:
    found = _folder_files(folder)
    if not found.files:
        notes = found.notes or ("it holds nothing",)
        raise LogError("\n".join([f"the folder '{folder}' holds no log", *notes]))
    return found


class _Walk:
    """Walks a folder and the folders below it, links included, each once."""

    def __init__(self, folder: Path) -> None:
        self.files: list[Path] = []
        self.dangling: list[Path] = []
        self.notes: list[str] = []
        self._root = Path(os.path.realpath(folder))
        self._seen: set[Path] = set()
        self._links: list[Path] = []
        self._enter(folder)
        while self._links:  # after the folders themselves, so that these have their own names
            self._follow(self._links.pop(0))
        self.files.sort()

    def _enter(self, folder: Path) -> None:
        real = Path(os.path.realpath(folder))
        if real in self._seen:
            return
        self._seen.add(real)
        for path in _entries(folder):
            self._take(path)

    def _take(self, path: Path) -> None:
        if not path.exists():
            self.dangling.append(path)
        elif path.is_file():
            self.files.append(path)
        elif path.is_symlink():
            self._links.append(path)
        elif kind := _own_kind(path):
            self.notes.append(f"'{path}' is left out: it is {kind} that crossfeed wrote")
        else:
            self._enter(path)

    def _follow(self, link: Path) -> None:
        real = Path(os.path.realpath(link))
        if self._root.is_relative_to(real):
            self.notes.append(f"'{link}' is left out: it links to a folder that holds it")
        elif kind := _own_kind(real):
            self.notes.append(f"'{link}' is left out: it is {kind} that crossfeed wrote")
        else:
            self._enter(link)


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if not _hidden(path.name))
    except OSError as error:
        raise LogError(f"the folder '{folder}' cannot be read: {error.strerror}") from None


def _refuse_dangling(links: Sequence[Path]) -> None:
    if links:
        names = ", ".join(f"'{link}' -> '{os.readlink(link)}'" for link in links)
        raise LogError(f"links that lead to nothing: {names}", hint="mend or remove them")


def _matches_below(pattern: str) -> Iterator[Path]:
    """Yield the matches of a pattern with **; links to folders that hold them are not followed."""
    parts = Path(pattern).parts
    first = next(number for number, part in enumerate(parts) if glob.has_magic(part))
    base = Path(*parts[:first])
    root = Path(os.path.realpath(base))
    for path in _below(base, root, (root,)):
        if _fits(path.relative_to(base).parts, parts[first:]):
            yield path


def _fits(names: Sequence[str], parts: Sequence[str]) -> bool:
    """Return whether the parts of a path fit those of a pattern; ** is any number of folders."""
    if not parts:
        return not names
    if parts[0] == "**":
        return any(_fits(names[number:], parts[1:]) for number in range(len(names) + 1))
    return bool(names) and fnmatch.fnmatchcase(names[0], parts[0]) and _fits(names[1:], parts[1:])


def _below(folder: Path, root: Path, chain: tuple[Path, ...]) -> Iterator[Path]:
    for path in _entries(folder) if folder.is_dir() else ():
        yield path
        real = Path(os.path.realpath(path))
        if path.is_dir() and real not in chain and not root.is_relative_to(real):
            yield from _below(path, root, (*chain, real))


def _once(paths: Sequence[Path]) -> list[Path]:
    """Leave out paths that were already reached through a link to their folder."""
    return list({_entry(path): path for path in reversed(paths)}.values())[::-1]


def _entry(path: Path) -> tuple[str, str]:
    return os.path.realpath(path.parent), path.name


def _own_kind(folder: Path) -> str | None:
    """Return the kind of a folder that crossfeed wrote; None for any other folder."""
    for name, kind in _OWN.items():
        try:
            facts = json.loads((folder / name).read_text("utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(facts, dict) and {"format_version", "crossfeed"} <= facts.keys():
            return kind
    return None


def _hidden(name: str) -> bool:
    return name.startswith((".", "_"))


def _log_file(path: Path) -> LogFile:
    shown = os.fsencode(path).decode(errors="replace")
    if shown != str(path):
        raise LogError(f"the name of '{shown}' is not UTF-8: rename the file")
    known = format_of(path.name)
    if known is None:
        raise LogError(f"'{path}' is not a log by its name, which must end in {ALLOWED}")
    if kind := _own_kind(path.parent):
        raise LogError(f"'{path}' is part of {kind} that crossfeed wrote, not a log")
    return LogFile(path, *known)


def _fetched(copy: tuple[str, Path, object]) -> LogFile:
    url, path, keep = copy
    known = format_of(path.name)
    if known is None:
        raise LogError(f"'{url}' is not a log by its name, which must end in {ALLOWED}")
    return LogFile(path, *known, url=url, fetched=keep)
