"""MovieLens in GroupLens' original files of three layouts, with genres as domains."""

from __future__ import annotations

from pathlib import Path

import duckdb

from crossfeed.data.engines.sql import quoted_text as text
from crossfeed.data.sources.files import csv_query, find_one, rarest_genre
from crossfeed.data.sources.source import Source
from crossfeed.errors import LogError

__all__ = ["MOVIELENS", "MOVIELENS_1M", "MOVIELENS_100K"]

_RULES = (
    "A domain is a genre; a film of several genres stands in the rarest of them, counted over the "
    "catalogue, the first in the alphabet among equals.",
    "A rating of 4 or more is a click; times are seconds since 1970.",
)
_RATINGS = {"user_id": "BIGINT", "item_id": "BIGINT", "rating": "DOUBLE", "timestamp": "BIGINT"}


def _joined(ratings: str, films: str) -> str:
    return (
        f"SELECT user_id, item_id, domain, rating, timestamp FROM ({ratings}) "
        f"LEFT JOIN ({rarest_genre(films)}) USING (item_id)"
    )


def _query_100k(connection: duckdb.DuckDBPyConnection, folder: Path) -> str:
    def one(name: str) -> Path:
        return find_one(folder, name, title="MovieLens 100K", home_page=MOVIELENS_100K.home_page)

    ratings = csv_query([one("u.data")], columns=_RATINGS, delimiter="\t")
    genres_file = one("u.genre")
    lines = genres_file.read_text("latin-1").splitlines()
    genres = [line.rpartition("|")[0] for line in lines if "|" in line]
    if not genres:
        raise LogError(f"'{genres_file}' names no genre")
    plain = dict.fromkeys(("title", "release", "video_release", "url"), "VARCHAR")
    flags = {f"is_{number}": "BIGINT" for number in range(len(genres))}
    films = csv_query(
        [one("u.item")],
        columns={"item_id": "BIGINT", **plain, **flags},
        delimiter="|",
        encoding="latin-1",
    )
    named = ", ".join(
        f"CASE WHEN is_{number} = 1 THEN {text(genre)} END" for number, genre in enumerate(genres)
    )
    lists = f"list_filter([{named}], lambda genre: genre IS NOT NULL)"
    return _joined(ratings, f"SELECT item_id, {lists} AS genres FROM ({films})")


def _query_1m(connection: duckdb.DuckDBPyConnection, folder: Path) -> str:
    def one(name: str) -> Path:
        return find_one(folder, name, title="MovieLens 1M", home_page=MOVIELENS_1M.home_page)

    columns = {"item_id": "BIGINT", "title": "VARCHAR", "genres": "VARCHAR"}
    ratings = csv_query([one("ratings.dat")], columns=_RATINGS, delimiter="::", encoding="latin-1")
    films = csv_query([one("movies.dat")], columns=columns, delimiter="::", encoding="latin-1")
    return _joined(ratings, f"SELECT item_id, string_split(genres, '|') AS genres FROM ({films})")


def _query_csv(connection: duckdb.DuckDBPyConnection, folder: Path) -> str:
    def one(name: str) -> Path:
        return find_one(folder, name, title="MovieLens as CSV", home_page=MOVIELENS.home_page)

    columns = {"item_id": "BIGINT", "title": "VARCHAR", "genres": "VARCHAR"}
    ratings = csv_query([one("ratings.csv")], columns=_RATINGS, has_header=True)
    films = csv_query([one("movies.csv")], columns=columns, has_header=True, quote='"')
    return _joined(ratings, f"SELECT item_id, string_split(genres, '|') AS genres FROM ({films})")


_LICENCE = "research use only, no redistribution without permission (GroupLens; see its README)"

MOVIELENS_100K = Source(
    name="movielens-100k",
    title="MovieLens 100K: 100,000 ratings of 1,682 films by 943 users, 1997-1998",
    licence=_LICENCE,
    home_page="https://grouplens.org/datasets/movielens/100k/",
    rules=("The files are u.data, u.item and u.genre.", *_RULES),
    positive="rating >= 4",
    query=_query_100k,
)
"""The source `movielens-100k`."""

MOVIELENS_1M = Source(
    name="movielens-1m",
    title="MovieLens 1M: 1,000,209 ratings of 3,883 films by 6,040 users, 2000",
    licence=_LICENCE,
    home_page="https://grouplens.org/datasets/movielens/1m/",
    rules=("The files are ratings.dat and movies.dat.", *_RULES),
    positive="rating >= 4",
    query=_query_1m,
)
"""The source `movielens-1m`; the 10M set has the same layout."""

MOVIELENS = Source(
    name="movielens-25m",
    title="MovieLens 25M, and 20M, 32M and the latest ones, which are laid out alike",
    licence=_LICENCE,
    home_page="https://grouplens.org/datasets/movielens/25m/",
    rules=(
        "The files are ratings.csv and movies.csv.",
        *_RULES,
        "Films without a genre form the domain '(no genres listed)'.",
    ),
    positive="rating >= 4",
    query=_query_csv,
)
"""The source `movielens-25m`."""
