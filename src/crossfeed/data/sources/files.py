"""How the readers of sources find files and name their columns in SQL."""

from __future__ import annotations

import csv
import glob
import gzip
from collections.abc import Mapping, Sequence
from pathlib import Path

from crossfeed.data.engines.sql import quoted_text as text
from crossfeed.errors import LogError

__all__ = ["csv_query", "find", "find_one", "header", "rarest_genre", "stem_case"]


def find(
    folder: Path, *patterns: str, title: str, home_page: str, without: tuple[str, ...] = ()
) -> list[Path]:
    """Return the files below a folder that match the first pattern with a match, by path.

    Names that begin with one of `without` are left out.

    Raises:
        LogError: no file matches any of the patterns.
    """
    if folder.is_file():
        return [folder]
    for pattern in patterns:
        found = (path for path in folder.rglob(pattern) if not path.name.startswith(without))
        if files := sorted(path for path in found if path.is_file()):
            return files
    wanted = " or ".join(patterns)
    raise LogError(
        f"'{folder}' is not {title}: it has no {wanted}",
        hint=f"fetch and unpack it from {home_page} and give its folder",
    )


def find_one(folder: Path, name: str, *, title: str, home_page: str) -> Path:
    """Return the file of a name below a folder.

    Raises:
        LogError: there is no such file, or several, such as two copies.
    """
    files = find(folder, name, title=title, home_page=home_page)
    if len(files) > 1:
        raise LogError(
            f"'{folder}' has several {name}: {', '.join(map(str, files))}",
            hint="give the folder of one copy",
        )
    return files[0]


def csv_query(
    files: Sequence[Path],
    *,
    columns: Mapping[str, str],
    delimiter: str = ",",
    has_header: bool = False,
    encoding: str = "utf-8",
    quote: str = "",
) -> str:
    """Return a SELECT of the rows of files without surprises: nothing is guessed.

    Args:
        files: read one after the other.
        columns: name -> SQL type, in the files' order.
        delimiter: between values.
        has_header: whether the first line of each file is left out.
        encoding: utf-8 or latin-1.
        quote: around values; empty for none.
    """
    paths = ", ".join(text(glob.escape(str(file))) for file in files)
    types = ", ".join(f"{text(name)}: {text(type_)}" for name, type_ in columns.items())
    options = (
        f"delim = {text(delimiter)}, header = {str(has_header).lower()}, quote = {text(quote)}, "
        f"escape = {text(quote)}, encoding = {text(encoding)}, auto_detect = false, "
        f"nullstr = '', filename = true, hive_partitioning = false, max_line_size = 67108864"
    )
    return f"SELECT * FROM read_csv([{paths}], {options}, columns = {{{types}}})"


def header(file: Path, *, delimiter: str = ",") -> list[str]:
    """Return the names in a file's first line.

    Raises:
        LogError: it has no first line of text.
    """
    opened = gzip.open(file, "rt", encoding="utf-8-sig") if file.suffix == ".gz" else None
    try:
        with opened or file.open(encoding="utf-8-sig") as stream:
            first = stream.readline()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise LogError(f"'{file}' cannot be read: {error}") from None
    return next(csv.reader([first.rstrip("\r\n")], delimiter=delimiter), [])


def stem_case(files: Sequence[Path], names: Sequence[str]) -> str:
    """Return the SQL that names each file's rows."""
    cases = (
        f"WHEN {text(str(file))} THEN {text(name)}" for file, name in zip(files, names, strict=True)
    )
    return f"CASE filename {' '.join(cases)} END"


def rarest_genre(films: str) -> str:
    """Return the SELECT of item_id and domain: the rarest of each film's genres.

    Args:
        films: a SELECT of item_id and genres, a list; the first in the alphabet among equally rare
            ones wins.
    """
    return (
        f"WITH films AS ({films}), one AS (SELECT item_id, unnest(genres) AS genre FROM films), "
        "counted AS (SELECT genre, count(*) AS films FROM one GROUP BY genre) "
        "SELECT item_id, arg_min(genre, (films, genre)) AS domain "
        "FROM one JOIN counted USING (genre) GROUP BY item_id"
    )
