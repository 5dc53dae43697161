"""How much one process of the service takes on."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Limits"]


@dataclass(frozen=True)
class Limits:
    """The limits of one process."""

    body_bytes: int = 1_048_576
    """The largest body that is read."""
    requests_at_once: int = 100
    """Requests in work or waiting for a thread; one more is refused, so that no queue grows."""
    timeout_seconds: float = 10.0
    """How long a request's headers may take to come, then its body, and then the answer."""
    requests_per_second: float | None = None
    """For each key, or for all requests together where there are no keys; None is no limit."""
