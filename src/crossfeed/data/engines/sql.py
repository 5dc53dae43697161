"""Names and texts as SQL writes them, for the parsers."""

from __future__ import annotations

from collections.abc import Collection, Iterable

__all__ = ["is_word", "names", "quoted_name", "quoted_text"]


def quoted_name(name: str) -> str:
    """Return a column's name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def quoted_text(text: str) -> str:
    """Return a text as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"


def names(columns: Iterable[str]) -> str:
    """Return columns as the list that a SELECT wants."""
    return ", ".join(map(quoted_name, columns))


def is_word(name: str, words: Collection[str]) -> str:
    """Return the condition that a text is one of some words."""
    return f"{name} IN ({', '.join(map(quoted_text, words))})" if words else "false"
