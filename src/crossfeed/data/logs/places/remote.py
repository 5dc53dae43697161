"""Files elsewhere: of the web, or of object stores by fsspec, as copies on this machine.

file:///data/clicks.csv           a path of this machine
https://host/clicks.parquet       one file
s3://bucket/logs/2026/*.parquet   a file, a folder or a glob

Copies are kept in the folder for temporary files (TMPDIR) while the log is in use. Parquet is read
several times: fetching it once is faster, and needs one response of the store.
"""

from __future__ import annotations

import base64
import errno
import glob
import logging
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit
from urllib.request import Request, urlopen

from crossfeed.data.logs.places.files import format_of
from crossfeed.data.logs.places.urls import Secrets, secrets_of, url_scheme
from crossfeed.errors import CrossfeedError, LogError, OutputError

__all__ = ["fetch", "is_file_url", "is_remote", "local_path"]

_log = logging.getLogger(__name__)

_WEB = ("http", "https")
_TIMEOUT_SECONDS = 60
_PACKAGES = {
    **{"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "oci": "ocifs", "oss": "ossfs"},
    **{"az": "adlfs", "abfs": "adlfs", "abfss": "adlfs", "hf": "huggingface_hub"},
    **{"sftp": "paramiko", "ftp": "", "hdfs": "", "webhdfs": "requests", "memory": ""},
}
"""The schemes of files, and what fsspec needs beside itself for each."""


def is_file_url(log: object) -> bool:
    """Return whether a log is a URL of a file: elsewhere, or on this machine."""
    scheme = url_scheme(log)
    return scheme == "file" or is_remote(log)


def is_remote(log: object) -> bool:
    """Return whether a log is a file elsewhere."""
    scheme = url_scheme(log)
    return scheme in _WEB or scheme in _PACKAGES


def local_path(log: str | Path) -> Path:
    """Return the path that a log names, as itself or as file:///path.

    Raises:
        LogError: a URL names a file of another machine.
    """
    if url_scheme(log) != "file":
        return Path(log)
    parts = urlsplit(str(log))
    if parts.netloc not in ("", "localhost"):
        raise LogError(
            f"'{log}' names a file of the machine '{parts.netloc}'",
            hint=f"a path of this machine has three slashes: file:///{parts.netloc}{parts.path}",
        )
    return Path(unquote(parts.path))


class _Folder:
    """A folder for copies; it is removed with its last reference, or with the process."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="crossfeed-"))
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


def fetch(url: str) -> list[tuple[str, Path, object]]:
    """Copy files to this machine.

    Args:
        url: of a file; of an object store also of a folder, or with a glob.

    Returns:
        For each file its URL, the copy, and what keeps it.

    Raises:
        LogError: a package is missing, or the files cannot be found or read.
    """
    parts = urlsplit(url)
    shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    secrets = secrets_of(url, parts, shown=shown)
    folder = _Folder()
    try:
        load = _load_page if parts.scheme.lower() in _WEB else _load_objects
        copies: list[tuple[str, Path, object]] = [
            (name, copy, folder) for name, copy in load(url, shown, folder.path)
        ]
    except Exception as error:  # each store has errors of its own
        raise _unread(error, secrets) from None  # the cause may hold the URL
    if not copies:
        raise LogError(f"'{shown}' holds no log")
    return copies


def _load_page(url: str, shown: str, folder: Path) -> Iterator[tuple[str, Path]]:
    parts = urlsplit(url)
    user, _, address = parts.netloc.rpartition("@")
    request = Request(parts._replace(netloc=address).geturl())
    if user:
        credentials = base64.b64encode(unquote(user).encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {credentials}")
    copy = _place(folder, 0, shown)
    with urlopen(request, timeout=_TIMEOUT_SECONDS) as answer, copy.open("wb") as file:
        shutil.copyfileobj(answer, file)
        promised = answer.headers.get("Content-Length")
    if promised is not None and copy.stat().st_size != int(promised):
        raise OSError(f"{copy.stat().st_size} of {promised} bytes came")
    yield shown, copy


def _load_objects(url: str, _: str, folder: Path) -> Iterator[tuple[str, Path]]:
    import fsspec.core

    store, path = fsspec.core.url_to_fs(url)
    for number, one in enumerate(_files_of(store, path)):
        name = store.unstrip_protocol(one)
        copy = _place(folder, number, name)
        store.get_file(one, str(copy))
        yield name, copy


def _place(folder: Path, number: int, name: str) -> Path:
    _log.info("fetching %s", name)
    copy = folder / str(number) / name.rpartition("/")[2]
    copy.parent.mkdir()
    return copy


def _files_of(store: Any, path: str) -> list[str]:  # Any: fsspec has no types
    if glob.has_magic(path):
        found = store.glob(path)
    elif store.isdir(path):
        found = store.find(path)
    else:
        return [path]
    plain = path if not glob.has_magic(path) else ""
    shown = [one for one in found if not _hidden(one.removeprefix(plain)) and format_of(one)]
    return sorted(one for one in shown if not store.isdir(one))


def _hidden(path: str) -> bool:
    return any(part.startswith((".", "_")) for part in path.split("/"))


def _unread(error: Exception, secrets: Secrets) -> CrossfeedError:
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return OutputError(
            f"a copy of '{secrets.shown}' does not fit on the disk of {tempfile.gettempdir()}",
            hint="free some space there, or set TMPDIR to a folder on another disk",
        )
    scheme = secrets.url.partition("://")[0].lower()
    if isinstance(error, ImportError):
        packages = " ".join(filter(None, ("fsspec", _PACKAGES[scheme])))
        return LogError(
            f"'{secrets.shown}' cannot be read: {scheme}:// needs packages that are not installed",
            hint=f"pip install {packages}; or copy the files to this machine and give their folder",
        )
    return LogError(
        f"'{secrets.shown}' cannot be read: {secrets.reason(error)}",
        hint="is the address right, and does the store find its credentials where it looks for "
        "them? Or copy the files to this machine and give their folder",
    )
