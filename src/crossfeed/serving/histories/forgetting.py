"""Tombstones: a store remembers that it forgot a user, without the user's id.

A client that did not hear an answer sends its events again. Without a tombstone the retry would
bring a forgotten user back. A tombstone holds a keyed hash of the user's id and a time: events of
this user up to that time are not stored again, later ones are.
"""

from __future__ import annotations

import hashlib

__all__ = ["tombstone"]


def tombstone(user_id: object, *, salt: str) -> str:
    """Return the keyed hash of a user's id; 7 and "7" are two users.

    Args:
        user_id: the id.
        salt: the store's own secret, in hexadecimal.
    """
    kind = "i" if isinstance(user_id, int) else "s"
    text = f"{kind}:{user_id}".encode("utf-8", "surrogatepass")
    return hashlib.blake2b(text, key=bytes.fromhex(salt), digest_size=16).hexdigest()
