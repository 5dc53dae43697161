"""URLs of logs: their parts, and hiding secrets in messages of ours and of drivers."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from urllib.parse import SplitResult, parse_qs, unquote_plus, urlsplit

from crossfeed.errors import LogError

__all__ = ["Secrets", "secrets_of", "url_parts", "url_scheme"]

_URL = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)
_SECRET = re.compile(r"pass|pwd|secret|token|key|credential|auth|sig", re.IGNORECASE)
"""Names of options whose values are secrets."""
_LONG = 6
"""Shortest secret that is also recognised inside a word."""
_WITHHELD = "(its words are withheld, because they hold a secret of the URL)"


@dataclass(frozen=True)
class Secrets:
    """The secret parts of a URL, never shown."""

    url: str
    shown: str
    """The URL without secrets."""
    values: tuple[str, ...]

    def reason(self, error: Exception) -> str:
        """Return the first line of an error; only its kind if that line holds a secret.

        A secret is not cut out of a sentence: the rest would reveal a short one.
        """
        kind = type(error).__name__
        line = (str(error).strip() or kind).splitlines()[0].replace(self.url, self.shown)
        return f"{kind} {_WITHHELD}" if self._told(line) else line

    def _told(self, text: str) -> bool:
        return any(
            re.search(rf"(?<!\w){re.escape(value)}(?!\w)", text)
            or (len(value) >= _LONG and value in text)
            for value in self.values
        )


def secrets_of(url: str, parts: SplitResult, *, shown: str) -> Secrets:
    """Return the secrets of a URL: its password, and the options that are named as secrets are."""
    password = parts.password or ""
    options = parse_qs(parts.query)
    values = [value for name, own in options.items() if _SECRET.search(name) for value in own]
    found = (password, unquote_plus(password), *values)
    return Secrets(url, shown, tuple(dict.fromkeys(filter(None, found))))


def url_scheme(log: object) -> str | None:
    """Return the scheme of a URL in small letters, None of a path or a table."""
    found = _URL.match(log) if isinstance(log, str) else None
    return found[1].lower() if found else None


def url_parts(url: str, *, has_server: bool) -> SplitResult:
    """Split a URL, unless a part of a password would be mistaken for a visible part.

    Args:
        url: with a scheme.
        has_server: whether it may hold a user and a password.

    Raises:
        LogError: a separator of URLs occurs before the @.
    """
    scheme, _, rest = url.partition("://")
    before = rest.rpartition("@")[0] if has_server else ""
    with contextlib.suppress(ValueError):  # which may show the password
        if not set(before) & set("/?#[]"):
            return urlsplit(url)
    raise LogError(
        f"a URL of {scheme}:// cannot be taken apart: it has / ? # [ or ] before the @, or "
        "an @ after the host",
        hint="percent-encode the password, and an @ elsewhere: %2F %3F %23 %5B %5D %40",
    )
