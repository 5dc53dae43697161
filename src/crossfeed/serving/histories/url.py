"""From a URL to the history store that it names."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from crossfeed.errors import HistoryStoreError, MissingExtraError
from crossfeed.serving.histories.history import HistoryStore
from crossfeed.serving.histories.sqlite.store import SqliteHistoryStore

__all__ = ["default_store_url", "open_store"]

_REDIS = ("redis", "rediss", "unix")


def open_store(url: str) -> HistoryStore:
    """Open the history store that a URL names, or make it.

    Args:
        url: `sqlite://` and a path, as for logs: `sqlite:///absolute.sqlite` or
            `sqlite://relative.sqlite`; `sqlite://` alone keeps histories in memory, for trials;
            `redis://HOST:PORT/DATABASE`, `rediss://` with TLS or `unix://SOCKET` names a Redis
            server.

    Raises:
        HistoryStoreError: the URL names an unknown kind of store, or the store cannot be opened.
        MissingExtraError: it names Redis, and the extra `redis` is not installed.
    """
    scheme, separator, rest = url.partition("://")
    if url == "sqlite://":
        return SqliteHistoryStore(None)
    if scheme == "sqlite" and rest.strip("/"):
        return SqliteHistoryStore(_store_file(rest))
    if scheme in _REDIS and rest:
        return _open_redis(url)
    # The rest is not shown, nor a scheme that does not end in ://: it may hold a password.
    named = f"'{scheme}'" if separator else "the given text"
    raise HistoryStoreError(
        f"{named} is not the URL of a history store",
        hint="name a file, sqlite://histories.sqlite, or a server, redis://localhost:6379/0; "
        "sqlite:// keeps histories in memory",
    )


def _store_file(path: str) -> Path:
    """Return the file of a store; leading slashes are one, so that four are as good as three.

    Until version 0.1 three slashes began a relative path. A file that such a URL may have meant is
    never passed over for a new one.

    Raises:
        HistoryStoreError: the path is absolute, nothing is there, and a relative one was meant.
    """
    if not path.startswith("/"):
        return Path(path)
    relative = Path(path.lstrip("/"))
    file = Path("/") / relative
    if not file.exists() and (relative.exists() or len(relative.parts) == 1):
        raise HistoryStoreError(
            f"there is no file '{file}', which sqlite://{path} names",
            hint=f"a path relative to the working directory has two slashes: sqlite://{relative}",
        )
    return file


def default_store_url(bundle: Path) -> str:
    """Return the store beside a bundle: never inside, where every file is verified by its hash.

    It lies beside a link, not beside its target, so that it stays when the link changes.

    Raises:
        HistoryStoreError: there is none beside the link, but one beside its target.
    """
    store, old = map(_beside, (Path(os.path.abspath(bundle)), bundle.resolve()))
    if old.exists() and not store.exists():
        raise HistoryStoreError(
            f"'{bundle}' is a link: its histories belong in '{store}', and there are some in "
            f"'{old}'",
            hint=f"name those, --history-store sqlite://{old}; or move them there while nothing "
            "serves them, with the files of that name and -wal or -shm, if there are any",
        )
    return f"sqlite://{store}"


def _beside(bundle: Path) -> Path:
    return bundle.with_name(f"{bundle.name}.histories.sqlite")


def _open_redis(url: str) -> HistoryStore:
    if importlib.util.find_spec("redis") is None:
        raise MissingExtraError(package="redis", extra="redis")
    from crossfeed.serving.histories.redis.store import RedisHistoryStore

    return RedisHistoryStore(url)
