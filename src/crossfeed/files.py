"""Durable files: written under a temporary name, synced, then renamed.

A reader never sees half a file, and a process that dies leaves the previous one in place: at worst,
for a folder, beside it, from where the next writer brings it back.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import hashlib
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from crossfeed.errors import OutputError
from crossfeed.outputs import FolderKind, require_folder

__all__ = [
    "atomic_folder",
    "atomic_path",
    "file_hash",
    "only_process",
    "remove_leftovers",
    "require_writable",
    "write_json",
]


def require_writable(folder: Path) -> None:
    """Refuse a folder that cannot be written; make a missing one.

    Raises:
        OutputError: it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise _unwritable(folder, error) from error


def remove_leftovers(folder: Path) -> None:
    """Remove what writers that died left in a folder; no other process may be writing there."""
    for file in folder.glob(".*.tmp"):
        file.unlink(missing_ok=True)


@contextlib.contextmanager
def only_process(lock: Path) -> Iterator[None]:
    """Keep other processes from the same work; the kernel lets go of it when this one dies.

    Args:
        lock: a file that is there while the work goes on.

    Raises:
        OutputError: another process is at it, or the file cannot be written.
    """
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = lock.open("ab")
    except OSError as error:
        raise _unwritable(lock.parent, error) from error
    with file:
        if not _locked(file, lock):
            raise OutputError(
                f"another process is at work there: it holds '{lock}'",
                hint="let it end, or give another --out",
            )
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success sync it and rename it to `path`.

    Raises:
        OutputError: the file cannot be written (no space, no permission); `path` is as before.
    """
    temporary = _beside(path, "tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
        mode = temporary.stat().st_mode  # what the umask gives; some writers leave 0600
        yield temporary
        temporary.chmod(mode)
        _sync(temporary)
        os.replace(temporary, path)
        _sync(path.parent)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        with contextlib.suppress(OSError):  # where nothing could be written, nothing is left
            temporary.unlink()


@contextlib.contextmanager
def atomic_folder(path: Path, kind: FolderKind, *, overwrite: bool) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on success it takes the place of `path`.

    Leftovers of writers that died are put right first.

    Raises:
        OutputError: `path` exists and may not be replaced, cannot be written, or another process
            is writing it.
    """
    with only_process(path.with_name(f".{path.name}.lock")):
        try:
            _put_right(path)
            require_folder(path, kind, overwrite=overwrite)
            temporary = _beside(path, "tmp")
            temporary.mkdir()
            yield temporary
            mode = temporary.stat().st_mode & 0o666  # what the umask gives; some writers leave 0600
            for file in sorted(temporary.rglob("*")):
                if file.is_file():
                    file.chmod(mode)
                _sync(file)
            _sync(temporary)
            require_folder(path, kind, overwrite=overwrite)  # it may have been written meanwhile
            if path.exists():
                os.replace(path, _beside(path, "old"))
            os.replace(temporary, path)
            _sync(path.parent)
        except OSError as error:
            raise _unwritable(path, error) from error
        finally:
            _put_right(path)


def write_json(path: Path, value: Any) -> None:  # Any: whatever JSON can hold
    """Write `value` as indented JSON with a final newline, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", "utf-8")


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file's bytes in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _locked(file: BinaryIO, path: Path) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Who held it may have removed it since it was opened: then another may hold a new one.
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except (BlockingIOError, FileNotFoundError):
        return False
    except OSError as error:  # a file system without locks
        raise _unwritable(path, error) from error


def _put_right(path: Path) -> None:
    """Bring back the folder that was to be replaced, if nothing is in its place; remove the rest.

    No other process may be writing it.
    """
    for replaced in _left_beside(path, "old"):
        if not path.exists():
            os.replace(replaced, path)
    for folder in (*_left_beside(path, "old"), *_left_beside(path, "tmp")):
        shutil.rmtree(folder, ignore_errors=True)


def _beside(path: Path, ending: str) -> Path:
    """Return a hidden name beside `path` that no other process uses, or left when it died."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.{ending}")


def _left_beside(path: Path, ending: str) -> list[Path]:
    """Return the folders of such names."""
    names = f".{glob.escape(path.name)}.{'[0-9a-f]' * 8}.{ending}"
    return [found for found in path.parent.glob(names) if found.is_dir()]


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unwritable(path: Path, error: OSError) -> OutputError:
    return OutputError(
        f"cannot write '{path}': {error.strerror or error}",
        hint="free some space or choose a folder that can be written; nothing was replaced",
    )
