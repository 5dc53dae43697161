"""Rows on their way into timelines."""

from __future__ import annotations

import time
from collections.abc import Sequence

from crossfeed.serving.histories.forgetting import tombstone
from crossfeed.serving.histories.redis.client import Client
from crossfeed.serving.histories.redis.records import (
    COUNTER,
    FORGOTTEN,
    checked,
    content,
    event_id_keys,
    timeline,
)
from crossfeed.serving.histories.redis.scripts import APPEND
from crossfeed.serving.histories.tables import Row

__all__ = ["Appending"]


class Appending:
    """Appends rows by one call of a script."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._script = client.redis.register_script(APPEND)

    def __call__(self, rows: Sequence[Row], *, by_content: bool = False) -> int:
        """Append rows; return how many were new."""
        with self._client.using("write"):
            good = [checked(row) for row in rows]
            sets = event_id_keys(time.time())
            keys = [COUNTER, *sets, FORGOTTEN, *(timeline(row[0]) for row in good)]
            args: list[str | int] = ["by content" if by_content else ""]
            for user_id, item_id, domain, timestamp, event_id in good:
                user = tombstone(user_id, salt=self._client.salt)
                args += [timestamp, content(item_id, domain), event_id or "", user]
            return int(self._script(keys=keys, args=args))
