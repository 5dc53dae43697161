"""Domains that are not a column: from the path of each file, or one for the whole log.

domain=books/part-1.csv     a folder of that name is a column, as Hive, Spark and pandas write it
"{domain}.csv"              `data.columns.domain`: the part of each file's path that {domain} marks
"{constant:books}"          `data.columns.domain`: one domain for the whole log
"""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import unquote

from crossfeed.errors import ConfigError

__all__ = ["domain_rule", "hive_values"]

_CONSTANT = re.compile(r"\{constant:(.+)\}")
_MARK = "{domain}"
_HIVE = re.compile(r"([^/=]+)=([^/]*)")
_HIVE_MISSING = "__HIVE_DEFAULT_PARTITION__"

DomainRule = Callable[[str | None], str | None]
"""Return the domain of an input by its path; a table has none."""


def domain_rule(value: str) -> DomainRule | None:
    """Return how `data.columns.domain` tells a domain without a column; None if it names one.

    Raises:
        ConfigError: it has braces, and is neither a pattern nor a constant.
    """
    if "{" not in value:
        return None
    constant = _CONSTANT.fullmatch(value)
    if constant:
        return lambda path: constant[1]
    if value.count(_MARK) != 1 or set(value.replace(_MARK, "")) & set("{}"):
        raise ConfigError(
            f"data.columns.domain = {value!r} is not a pattern",
            hint='mark the domain in the end of each path, "{domain}.csv" or "{domain}/*", or give '
            'one for the whole log, "{constant:books}"',
        )
    pattern = re.compile(f"(?:.*/)?{_as_regex(value)}", re.DOTALL)

    def by_path(path: str | None) -> str | None:
        found = pattern.fullmatch(path) if path is not None else None
        return found[1] if found else None

    return by_path


def hive_values(path: str) -> dict[str, str | None]:
    """Return the values in the folders of a path, named key=value; the innermost folder wins."""
    found = [_HIVE.fullmatch(part) for part in path.split("/")[:-1]]
    return {
        unquote(one[1]): None if one[2] == _HIVE_MISSING else unquote(one[2])
        for one in found
        if one
    }


def _as_regex(pattern: str) -> str:
    """Return a pattern of paths as a regular expression; {domain} is as short as it can be."""
    parts = re.split(r"(\{domain\}|\*)", pattern)
    known = {_MARK: "([^/]+?)", "*": "[^/]*"}
    return "".join(known.get(part, re.escape(part)) for part in parts)
