"""Amazon reviews of 2018 and 2023: one file per category, each a domain."""

from __future__ import annotations

import re
from pathlib import Path

import duckdb

from crossfeed.data.engines.sql import quoted_text as text
from crossfeed.data.sources.files import csv_query, find, stem_case
from crossfeed.data.sources.source import Source

__all__ = ["AMAZON_2018", "AMAZON_2023"]

_NO_DOMAIN = re.compile(r"^(reviews_|ratings_)|(_\d+|_5core|_reviews|_ratings)?(\.[a-z]+)+$")
"""The parts of a file's name around the category: reviews_Books_5.json.gz."""
_NO_REVIEWS = ("meta_",)
"""How the names of files begin that describe items."""


def _query_2018(connection: duckdb.DuckDBPyConnection, folder: Path) -> str:
    files = _categories(
        folder,
        *("*.json.gz", "*.json", "*.csv"),
        title="Amazon Reviews 2018",
        home_page=AMAZON_2018.home_page,
    )
    if files[0].suffix == ".csv":
        columns = {
            "item_id": "VARCHAR",
            "user_id": "VARCHAR",
            "rating": "DOUBLE",
            "timestamp": "BIGINT",
        }
        rows = csv_query(files, columns=columns)
    else:
        rows = _json_rows(
            files,
            {
                "reviewerID": ("user_id", "VARCHAR"),
                "asin": ("item_id", "VARCHAR"),
                "overall": ("rating", "DOUBLE"),
                "unixReviewTime": ("timestamp", "BIGINT"),
            },
        )
    return f"SELECT user_id, item_id, {_domain(files)} AS domain, rating, timestamp FROM ({rows})"


def _query_2023(connection: duckdb.DuckDBPyConnection, folder: Path) -> str:
    files = _categories(
        folder,
        *("*.jsonl.gz", "*.jsonl", "*.csv.gz", "*.csv"),
        title="Amazon Reviews 2023",
        home_page=AMAZON_2023.home_page,
    )
    if ".csv" in files[0].suffixes:
        columns = {
            "user_id": "VARCHAR",
            "item_id": "VARCHAR",
            "rating": "DOUBLE",
            "timestamp": "BIGINT",
        }
        rows = csv_query(files, columns=columns, has_header=True)
    else:
        rows = _json_rows(
            files,
            {
                "user_id": ("user_id", "VARCHAR"),
                "parent_asin": ("item_id", "VARCHAR"),
                "rating": ("rating", "DOUBLE"),
                "timestamp": ("timestamp", "BIGINT"),
            },
        )
    return f"SELECT user_id, item_id, {_domain(files)} AS domain, rating, timestamp FROM ({rows})"


def _categories(folder: Path, *patterns: str, title: str, home_page: str) -> list[Path]:
    """Return the files of categories, packed or unpacked, each category once."""
    files = find(folder, *patterns, title=title, home_page=home_page, without=_NO_REVIEWS)
    if files[0].suffix == ".gz":
        packed = set(map(_category, files))
        others = sorted(folder.rglob(f"*{Path(files[0].stem).suffix}"))
        others = [file for file in others if not file.name.startswith(_NO_REVIEWS)]
        files += [file for file in others if _category(file) not in packed]
    return files


def _json_rows(files: list[Path], fields: dict[str, tuple[str, str]]) -> str:
    types = ", ".join(f"{text(field)}: {text(type_)}" for field, (_, type_) in fields.items())
    named = ", ".join(f'"{field}" AS {name}' for field, (name, _) in fields.items())
    paths = ", ".join(text(str(file)) for file in files)
    options = (
        f"columns = {{{types}}}, filename = true, hive_partitioning = false, "
        "format = 'newline_delimited'"
    )
    return f"SELECT {named}, filename FROM read_json([{paths}], {options})"


def _domain(files: list[Path]) -> str:
    return stem_case(files, list(map(_category, files)))


def _category(file: Path) -> str:
    return _NO_DOMAIN.sub("", file.name)


_LICENCE = "no licence is stated; the authors ask for citation (McAuley lab, UC San Diego)"

AMAZON_2018 = Source(
    name="amazon-2018",
    title="Amazon Reviews 2018: 233 million reviews in 29 categories, 1996-2018",
    licence=_LICENCE,
    home_page="https://nijianmo.github.io/amazon/index.html",
    rules=(
        "The files are the reviews of categories (Books.json.gz, Books_5.json.gz), or their "
        "ratings alone (Books.csv: item, user, rating, time); meta_* is left out.",
        "A domain is a category, which is the file's name; an item is an asin.",
        "A rating of 4 or 5 is a click, at unixReviewTime, which is a day.",
    ),
    positive="rating >= 4",
    query=_query_2018,
)
"""The source `amazon-2018`."""

AMAZON_2023 = Source(
    name="amazon-2023",
    title="Amazon Reviews 2023: 571 million reviews in 33 categories, 1996-2023",
    licence=_LICENCE,
    home_page="https://amazon-reviews-2023.github.io/",
    rules=(
        "The files are the reviews of categories (Books.jsonl.gz), or their ratings alone "
        "(Books.csv.gz: user_id, parent_asin, rating, timestamp); meta_* is left out.",
        "A domain is a category, which is the file's name; an item is a parent_asin.",
        "A rating of 4 or 5 is a click, to the millisecond.",
    ),
    positive="rating >= 4",
    query=_query_2023,
)
"""The source `amazon-2023`."""
