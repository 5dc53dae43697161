"""Which names the service answers to, and which other sites' pages may ask it."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence, Set
from dataclasses import dataclass, replace
from urllib.parse import quote, urlsplit

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from crossfeed.errors import ConfigError

__all__ = [
    "Access",
    "BelowRootPath",
    "RequireOwnHost",
    "RequireSameOrigin",
    "is_loopback",
    "local_access",
]

_ONLY_READING = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(frozen=True)
class Access:
    """Where the service is reached from."""

    hosts: Sequence[str] = ()
    """Names in a request's Host header that are answered, `*.example.org` all names below; none
    means any name."""
    origins: Sequence[str] = ()
    """Origins of other sites whose pages may ask, such as `https://shop.example`; `*` is any."""
    root_path: str = ""
    """The path below which a proxy in front shows the service."""

    def __post_init__(self) -> None:
        """Check the form of each.

        Raises:
            ConfigError: an origin is no origin, or the root path does not begin with a slash.
        """
        for origin in self.origins:
            parts = urlsplit(origin)
            whole = parts.scheme in ("http", "https") and parts.netloc
            if origin != "*" and not (whole and origin == f"{parts.scheme}://{parts.netloc}"):
                raise ConfigError(
                    f"'{origin}' is not an origin", hint="write it as https://shop.example, or *"
                )
        if self.root_path and (not self.root_path.startswith("/") or self.root_path.endswith("/")):
            raise ConfigError(
                f"the root path '{self.root_path}' must begin with a slash and not end with one",
                hint="write it as /recommender",
            )


def local_access(access: Access, *, host: str) -> Access:
    """Return the access of a service without keys: by default its own names on this machine alone.

    A page of another site may have its name resolve to this machine, and would then be answered.
    """
    return (
        access if access.hosts else replace(access, hosts=("localhost", "127.0.0.1", "::1", host))
    )


class BelowRootPath:
    """Takes the root path off each path, whether or not the proxy in front did."""

    def __init__(self, app: ASGIApp, *, root_path: str) -> None:
        self.app, self.root_path = app, root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on a request as if it had been made without the root path."""
        if scope["type"] != "lifespan":
            scope = {**scope, "root_path": self.root_path}
            root = quote(self.root_path).encode()
            if f"{scope['path']}/".startswith(f"{self.root_path}/"):
                scope["path"] = scope["path"].removeprefix(self.root_path) or "/"
                scope["raw_path"] = scope["raw_path"].removeprefix(root) or b"/"
        await self.app(scope, receive, send)


class RequireOwnHost:
    """Refuses a request for another host: a page may have its own name resolve to this machine."""

    def __init__(
        self, app: ASGIApp, *, hosts: Sequence[str], open_paths: Set[str], refusal: Response
    ) -> None:
        """Guard an application.

        Args:
            app: what is guarded.
            hosts: the names that are answered.
            open_paths: what is answered under any name: a platform asks a process by its address.
            refusal: the answer to a request for another one.
        """
        self.app, self.open_paths, self.refusal = app, open_paths, refusal
        names = [host.lower() for host in hosts]
        self.hosts = frozenset(names)
        self.endings = tuple(name[1:] for name in names if name.startswith("*."))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what asks for one of the hosts."""
        guarded = scope["type"] == "http" and scope["path"] not in self.open_paths
        if guarded and not self._is_own(_header(scope, b"host") or ""):
            await self.refusal(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _is_own(self, header: str) -> bool:
        host = _host_of(header)
        return host in self.hosts or "*" in self.hosts or host.endswith(self.endings)


class RequireSameOrigin:
    """Refuses what a page of another site sends in its user's name, unless it may."""

    def __init__(self, app: ASGIApp, *, origins: Sequence[str], refusal: Response) -> None:
        """Guard an application.

        Args:
            app: what is guarded.
            origins: other sites that may.
            refusal: the answer to those that may not.
        """
        self.app, self.origins, self.refusal = app, frozenset(origins), refusal

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what only reads, and what comes from no page or from one that may."""
        if scope["type"] == "http" and scope["method"] not in _ONLY_READING:
            origin = _header(scope, b"origin")
            if origin is not None and not self._may(origin, _header(scope, b"host") or ""):
                await self.refusal(scope, receive, send)
                return
        await self.app(scope, receive, send)

    def _may(self, origin: str, host: str) -> bool:
        return "*" in self.origins or origin in self.origins or urlsplit(origin).netloc == host


def is_loopback(host: str) -> bool:
    """Return whether a host name or address is this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _header(scope: Scope, name: bytes) -> str | None:
    """Return a request's header; Starlette's Headers cost more, and each request passes here."""
    for key, value in scope["headers"]:
        if key == name:
            return str(value, "latin-1")
    return None


def _host_of(header: str) -> str:
    """Return the host of a Host header, without its port."""
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.partition(":")[0].lower().rstrip(".")
