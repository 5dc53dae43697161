"""MovieLens 100K in GroupLens' original files, with genres as domains."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from crossfeed.data.sources.source import Source
from crossfeed.errors import LogError

__all__ = ["MOVIELENS_100K"]

_GENRES_FROM = 5
"""The first genre column of u.item, after id, title, two dates and a URL."""


def _read(folder: Path) -> pa.Table:
    """Read u.data, each rating in the domain of its film."""
    ratings = _read_table(folder, "u.data", "\t", ["user_id", "item_id", "rating", "timestamp"])
    genres = [*_read_table(folder, "u.genre", "|", ["genre", "number"])["genre"].to_pylist()]
    films = _read_films(folder, genres)
    unknown = set(pc.unique(ratings["item_id"]).to_pylist()) - set(films["item_id"].to_pylist())
    if unknown:
        raise LogError(
            f"'{folder / 'u.data'}' rates films that u.item lacks: {sorted(unknown)[:5]}"
        )
    position = pc.index_in(ratings["item_id"], films["item_id"])
    return ratings.append_column("domain", films["domain"].take(position))


def _read_films(folder: Path, genres: list[str]) -> pa.Table:
    plain = ["item_id", "title", "release", "video_release", "url"]
    films = _read_table(folder, "u.item", "|", [*plain, *genres])
    flags = np.stack([films[genre].to_numpy() for genre in genres], axis=1).astype(bool)
    # A film stands in its rarest genre: Drama and Comedy would swallow the others.
    rarity = np.argsort(np.argsort(flags.sum(axis=0), kind="stable"), kind="stable")
    rarest = np.where(flags, rarity, len(genres)).argmin(axis=1)
    domains = pa.array(np.array(genres, dtype=object)[rarest], pa.string())
    return pa.table({"item_id": films["item_id"], "domain": domains})


def _read_table(folder: Path, name: str, delimiter: str, columns: list[str]) -> pa.Table:
    path = folder / name
    if not path.is_file():
        raise LogError(
            f"'{folder}' is not MovieLens 100K: it has no {name}",
            hint=f"unpack ml-100k.zip from {_HOME_PAGE} and give its folder",
        )
    try:
        return pacsv.read_csv(
            path,
            read_options=pacsv.ReadOptions(column_names=columns, encoding="latin-1"),
            parse_options=pacsv.ParseOptions(delimiter=delimiter, quote_char=False),
        )
    except pa.ArrowException as error:
        raise LogError(f"'{path}' cannot be read as MovieLens 100K: {error}") from error


_HOME_PAGE = "https://grouplens.org/datasets/movielens/100k/"

MOVIELENS_100K = Source(
    name="movielens-100k",
    title="MovieLens 100K: 100,000 ratings of 1,682 films by 943 users, 1997-1998",
    licence="research use only, no redistribution without permission (GroupLens; see its README)",
    home_page=_HOME_PAGE,
    rules=(
        "A domain is a genre; a film of several genres stands in the rarest of them, counted over "
        "the catalogue, the first listed among equals.",
        "A rating of 4 or 5 is a click.",
    ),
    positive="rating >= 4",
    read=_read,
)
"""The source `movielens-100k`."""
