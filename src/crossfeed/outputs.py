"""The guard of every output: which outputs may be replaced.

Nothing is replaced without `overwrite`. With it, like replaces like: a run replaces a run, a report
a report. An output never is or contains an input of the same command, nor lies in an input that
crossfeed wrote. A replaced folder holds only files that crossfeed wrote.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crossfeed.errors import OutputError

__all__ = [
    "BUNDLE",
    "DATASET",
    "DEMO",
    "REPORT",
    "RUN",
    "STUDY",
    "FileKind",
    "FolderKind",
    "kind_told",
    "require_apart",
    "require_file",
    "require_folder",
]


@dataclass(frozen=True)
class FolderKind:
    """A kind of folder that crossfeed writes."""

    name: str
    recognises: Callable[[Path], bool]
    """Whether crossfeed wrote a folder as one of this kind."""
    files: str | None
    """All files that crossfeed writes there, by their path in it: a regular expression. None if
    replacing removes only files that crossfeed wrote."""


@dataclass(frozen=True)
class FileKind:
    """A kind of file that crossfeed writes."""

    name: str
    recognises: Callable[[Path], bool]
    """Whether a file is of this kind; it may raise OSError or ValueError if it is not."""


def _marked(mark: str, key: str) -> Callable[[Path], bool]:
    """Return a test for a JSON file `mark` that crossfeed wrote, with a `key` of its kind."""

    def recognises(folder: Path) -> bool:
        facts = _facts(folder / mark)
        return {"format_version", "crossfeed", key} <= facts.keys()

    return recognises


def _facts(file: Path) -> dict[str, Any]:  # Any: JSON
    try:
        facts = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def _is_report(file: Path) -> bool:
    with file.open("rb") as page:
        return b'<meta name="generator" content="crossfeed">' in page.read(4096)


DATASET = FolderKind(
    "dataset",
    _marked("manifest.json", "content_hash"),
    r"manifest\.json|(users|items|domains|quarantine)\.parquet|events/\w+\.npy",
)
RUN = FolderKind("run", _marked("config.json", "dataset_hash"), None)
BUNDLE = FolderKind(
    "bundle",
    _marked("bundle.json", "files"),
    r"bundle\.json|items\.arrow|(domains|histories)\.parquet|weights\.safetensors"
    r"|(item_vectors|item_biases|encoder_check)\.npy|user_encoder\.onnx|index-\d+\.faiss",
)
STUDY = FolderKind("study of tune", lambda folder: (folder / "study.sqlite").is_file(), None)
DEMO = FolderKind("demonstration", _marked("demo.json", "demo"), None)
REPORT = FileKind("report", _is_report)

_FOLDERS = (DATASET, RUN, BUNDLE, STUDY, DEMO)


def kind_told(path: Path) -> str:
    """Return what a folder that is not of the wanted kind is, as the end of a sentence.

    It is empty where crossfeed does not know the folder.
    """
    return next((f"; it is a {kind.name}" for kind in _FOLDERS if kind.recognises(path)), "")


def require_folder(
    path: Path, kind: FolderKind, *, inputs: Iterable[Path | str] = (), overwrite: bool
) -> None:
    """Refuse a folder that may not be written.

    Args:
        path: the folder that is to be written.
        kind: the kind of folder to write.
        inputs: files and folders that the same command reads.
        overwrite: whether a folder of this kind may be replaced.

    Raises:
        OutputError: `path` is taken, of another kind, holds files of others, or overlaps an input.
    """
    try:
        require_apart(path, inputs)
        if path.exists():
            _require_like_folder(path, kind)
            _require_overwrite(path, overwrite)
    except OSError as error:
        raise _unreachable(path, error) from error


def require_file(
    path: Path, kind: FileKind, *, inputs: Iterable[Path | str] = (), overwrite: bool
) -> None:
    """Refuse a file that may not be written; the arguments are those of `require_folder`.

    Raises:
        OutputError: `path` is taken, of another kind, or overlaps an input.
    """
    try:
        require_apart(path, inputs)
        if path.exists():
            _require_like_file(path, kind)
            _require_overwrite(path, overwrite)
    except OSError as error:
        raise _unreachable(path, error) from error


def require_apart(path: Path, inputs: Iterable[Path | str]) -> None:
    """Refuse an output that is an input of the same command, holds one or lies in one of ours.

    Raises:
        OutputError: naming the input.
    """
    if path.name in ("", ".."):
        raise OutputError(f"'{path}' has no name of its own", hint="give it one: --out ./NAME")
    out = path.resolve()
    for given in inputs:
        source = Path(given).resolve()
        if out == source:
            raise OutputError(
                f"'{path}' is an input of this command; writing there would destroy it",
                hint="choose another --out",
            )
        if source.is_relative_to(out):
            raise OutputError(
                f"'{path}' holds '{given}', an input of this command",
                hint="choose an --out that holds no input",
            )
        # A folder of logs may hold it: reading leaves out what crossfeed wrote.
        if out.is_relative_to(source) and any(kind.recognises(source) for kind in _FOLDERS):
            raise OutputError(
                f"'{path}' lies in '{given}', an input of this command",
                hint=f"choose an --out outside of '{given}'",
            )


def _require_like_folder(path: Path, kind: FolderKind) -> None:
    if not path.is_dir():
        raise OutputError(
            f"'{path}' is a file; a {kind.name} is a folder", hint="choose another --out"
        )
    others = [other.name for other in _FOLDERS if other != kind and other.recognises(path)]
    if others:
        raise OutputError(
            f"'{path}' is a {' and a '.join(others)}; only a {kind.name} is replaced by a "
            f"{kind.name}",
            hint="choose another --out",
        )
    files = [file for file in sorted(path.rglob("*")) if not file.is_dir() or file.is_symlink()]
    if files and not kind.recognises(path):
        raise OutputError(
            f"'{path}' is a folder that crossfeed did not write; it will not be replaced",
            hint="choose another --out, or remove the folder yourself",
        )
    if kind.files is not None:
        names = [file.relative_to(path).as_posix() for file in files]
        foreign = [name for name in names if not re.fullmatch(kind.files, name)]
        if foreign:
            raise OutputError(
                f"'{path}' also holds {_few(foreign)}, which crossfeed did not write; replacing "
                f"the {kind.name} would delete it",
                hint="move it away, or choose another --out",
            )


def _require_like_file(path: Path, kind: FileKind) -> None:
    if path.is_dir():
        raise OutputError(
            f"'{path}' is a folder; a {kind.name} is a file", hint="choose another --out"
        )
    if not path.is_file():
        raise OutputError(
            f"'{path}' is not an ordinary file; it will not be replaced",
            hint="choose an --out in a folder",
        )
    if path.stat().st_size and not _recognised(path, kind):
        raise OutputError(
            f"'{path}' is not a {kind.name}; only a {kind.name} is replaced by a {kind.name}",
            hint="choose another --out, or remove the file yourself",
        )


def _recognised(path: Path, kind: FileKind) -> bool:
    try:
        return kind.recognises(path)
    except (OSError, ValueError):
        return False


def _require_overwrite(path: Path, overwrite: bool) -> None:
    if not overwrite:
        raise OutputError(
            f"'{path}' exists already", hint="choose another --out, or replace it with --overwrite"
        )


def _few(names: list[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3:,} more"


def _unreachable(path: Path, error: OSError) -> OutputError:
    return OutputError(
        f"cannot write '{path}': {error.strerror or error}", hint="choose another --out"
    )
