"""Logs of ratings: Douban, Netflix Prize, Ciao and Epinions, and RecBole's atomic files."""

from __future__ import annotations

from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa

from crossfeed.data.sources.files import csv_query, find, find_one, header, rarest_genre, stem_case
from crossfeed.data.sources.source import Source
from crossfeed.errors import LogError

__all__ = ["CIAO", "DOUBAN", "EPINIONS", "NETFLIX", "RECBOLE"]

_STEPS = 11
"""Steps of Epinions' times: the publisher divided 1999 to 2011 into them."""
_BEFORE_FIRST_STEP = 1999
_MAT_COLUMNS = ("user_id", "item_id", "category", "rating", "helpfulness", "timestamp")


def _query_douban(connection: duckdb.DuckDBPyConnection, folder: Path) -> str:
    title, home_page = "Douban", DOUBAN.home_page
    files = find(folder, "*reviews_cleaned.txt", "*.csv", title=title, home_page=home_page)
    if files[0].suffix == ".csv":
        columns = header(files[0])
        _require(columns, ["user_id", "item_id", "rating", "domain"], files[0], title)
        rows = csv_query(
            files, columns=dict.fromkeys(columns, "VARCHAR"), has_header=True, quote='"'
        )
        return (
            f"SELECT user_id, item_id, domain, try_cast(rating AS DOUBLE) AS rating FROM ({rows})"
        )
    parts = []
    for file in files:
        columns = header(file, delimiter="\t")
        domain = file.name.removesuffix("reviews_cleaned.txt")
        item = f"{domain}_id"
        _require(columns, ["user_id", item, "rating", "time"], file, title)
        rows = csv_query(
            [file],
            columns=dict.fromkeys(columns, "VARCHAR"),
            delimiter="\t",
            has_header=True,
            quote='"',
        )
        parts.append(
            f"SELECT user_id, {item} AS item_id, '{domain}' AS domain, "
            f"try_cast(rating AS DOUBLE) AS rating, time AS timestamp FROM ({rows})"
        )
    return " UNION ALL ".join(parts)


def _query_netflix(connection: duckdb.DuckDBPyConnection, folder: Path) -> str:
    title, home_page = "the Netflix Prize", NETFLIX.home_page
    files = find(folder, "combined_data_*.txt", "mv_*.txt", title=title, home_page=home_page)
    titles = find(folder, "movie_titles.*", title=title, home_page=home_page)
    # A line is either a film, "7:", or a rating of the last film, "user,rating,date".
    lines = csv_query(files, columns={"line": "VARCHAR"}, delimiter="\x07")
    films = csv_query(titles, columns={"line": "VARCHAR"}, delimiter="\x07", encoding="latin-1")
    numbered = f"SELECT line, row_number() OVER () AS number FROM ({lines})"
    ratings = (
        "SELECT line, number, last_value(CASE WHEN line LIKE '%:' THEN rtrim(line, ':') END "
        f"IGNORE NULLS) OVER (ORDER BY number) AS item_id FROM ({numbered})"
    )
    decades = (
        "SELECT string_split(line, ',')[1] AS item_id, "
        "try_cast(string_split(line, ',')[2] AS INTEGER) // 10 * 10 AS decade "
        f"FROM ({films})"
    )
    return (
        "SELECT CAST(string_split(line, ',')[1] AS BIGINT) AS user_id, "
        "CAST(item_id AS BIGINT) AS item_id, coalesce(decade || 's', 'no year') AS domain, "
        "CAST(string_split(line, ',')[2] AS DOUBLE) AS rating, "
        "CAST(string_split(line, ',')[3] AS DATE) AS timestamp "
        f"FROM ({ratings}) LEFT JOIN ({decades}) USING (item_id) WHERE line NOT LIKE '%:'"
    )


def _query_epinions(connection: duckdb.DuckDBPyConnection, folder: Path) -> str:
    """Return the SELECT of the ratings; steps become dates a year apart, seconds stay."""
    rows = _mat_query(connection, folder, EPINIONS)
    query = f"SELECT min(timestamp), max(timestamp) FROM ({rows})"
    [[first, last]] = connection.execute(query).fetchall()
    if last is not None and last > _STEPS:
        return rows
    if first is not None and first < 1:
        raise LogError(
            f"'{folder}' is not Epinions: a step of its times is {first}, not 1 to {_STEPS}"
        )
    step = f"make_date({_BEFORE_FIRST_STEP} + CAST(timestamp AS INTEGER), 1, 1)"
    return f"SELECT * REPLACE ({step} AS timestamp) FROM ({rows})"


def _mat_query(connection: duckdb.DuckDBPyConnection, folder: Path, source: Source) -> str:
    """Read a MATLAB file of one matrix: at most a million ratings, small enough for memory."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    title = source.title.partition(":")[0]
    file = find_one(folder, "rating_with_timestamp.mat", title=title, home_page=source.home_page)
    try:
        matrices = [value for name, value in loadmat(file).items() if not name.startswith("__")]
    except (MatReadError, ValueError, OSError, NotImplementedError, TypeError) as error:
        raise LogError(f"'{file}' cannot be read as MATLAB: {error}") from None
    if len(matrices) != 1 or np.ndim(matrices[0]) != 2 or np.shape(matrices[0])[1] != 6:
        raise LogError(
            f"'{file}' is not {title}: it must hold one matrix with the columns "
            f"{', '.join(_MAT_COLUMNS)}"
        )
    table = pa.table(dict(zip(_MAT_COLUMNS, np.asarray(matrices[0], np.int64).T, strict=True)))
    connection.register("ratings_of_source", table)
    return (
        "SELECT user_id, item_id, 'category-' || category AS domain, rating, timestamp "
        "FROM ratings_of_source"
    )


def _query_recbole(connection: duckdb.DuckDBPyConnection, folder: Path) -> str:
    title, home_page = "a RecBole atomic data set", RECBOLE.home_page
    files = find(folder, "*.inter", title=title, home_page=home_page)
    parts = [_inter_query(file) for file in files]
    return " UNION ALL BY NAME ".join(parts)


def _inter_query(file: Path) -> str:
    names = [name.partition(":")[0] for name in header(file, delimiter="\t")]
    _require(names, ["user_id", "item_id"], file, "a RecBole atomic file")
    rows = csv_query(
        [file], columns=dict.fromkeys(names, "VARCHAR"), delimiter="\t", has_header=True
    )
    plain = [name for name in ("rating", "label") if name in names]
    others = "".join(f", CAST({name} AS DOUBLE) AS {name}" for name in plain)
    if "timestamp" in names:
        others += ", CAST(timestamp AS DOUBLE) AS timestamp"
    if "domain" in names:
        return f"SELECT user_id, item_id, domain{others} FROM ({rows})"
    items = _item_domains(file.with_suffix(".item"))
    if items is None:
        domain = stem_case([file], [file.stem])
        return f"SELECT user_id, item_id, {domain} AS domain{others} FROM ({rows})"
    return (
        f"SELECT user_id, item_id, domain{others} FROM ({rows}) LEFT JOIN ({items}) USING (item_id)"
    )


def _item_domains(file: Path) -> str | None:
    """Return the SELECT of item_id and domain by an .item file, if it tells categories."""
    if not file.exists():
        return None
    head = [name.partition(":")[::2] for name in header(file, delimiter="\t")]
    kinds = [name for name, type_ in head if type_ == "token_seq" and name != "item_id"]
    categories = [name for name in kinds if name in ("class", "genre", "genres", "categories")]
    if not categories or head[0][0] != "item_id":
        return None
    columns = dict.fromkeys((name for name, _ in head), "VARCHAR")
    rows = csv_query([file], columns=columns, delimiter="\t", has_header=True)
    lists = f"string_split(\"{categories[0]}\", ' ')"
    return rarest_genre(f"SELECT item_id, {lists} AS genres FROM ({rows})")


def _require(columns: list[str], wanted: list[str], file: Path, title: str) -> None:
    missing = [name for name in wanted if name not in columns]
    if missing:
        raise LogError(
            f"'{file}' is not {title}: it lacks {', '.join(missing)}; its columns are "
            f"{', '.join(columns[:20])}"
        )


DOUBAN = Source(
    name="douban",
    title="Douban: ratings of books, films and music by the same users (Zhu et al. 2020)",
    licence="no licence is stated; the authors ask for citation",
    home_page="https://github.com/FengZhu-Joey/GA-DTCDR",
    rules=(
        "The files are bookreviews_cleaned.txt, moviereviews_cleaned.txt and "
        "musicreviews_cleaned.txt, or one CSV with user_id, item_id, rating and domain, which is "
        "read in the order of its rows.",
        "A domain is a kind of product; an item is the product's id in its file.",
        "A rating of 4 or 5 is a click, on its day.",
    ),
    positive="rating >= 4",
    query=_query_douban,
)
"""The source `douban`."""

NETFLIX = Source(
    name="netflix",
    title="Netflix Prize: 100 million ratings of 17,770 films by 480,189 users, 1998-2005",
    licence="research use only, no redistribution (Netflix; withdrawn by its publisher)",
    home_page="https://www.kaggle.com/datasets/netflix-inc/netflix-prize-data",
    rules=(
        "The files are combined_data_*.txt, or mv_*.txt, and movie_titles.csv or .txt.",
        "The files tell no genres: a domain is the decade of a film's release.",
        "A rating of 4 or 5 is a click, on its day.",
    ),
    positive="rating >= 4",
    query=_query_netflix,
)
"""The source `netflix`."""

_MAT_RULES = (
    "The file is rating_with_timestamp.mat, a matrix of user, product, category, rating, "
    "helpfulness and time.",
    "A domain is a category, by its number.",
    "Every rating is a click.",
)

CIAO: Source = Source(
    name="ciao",
    title="Ciao: 284,086 product ratings in 28 categories, 2000-2011 (Tang et al. 2012)",
    licence="no licence is stated; the authors ask for citation",
    home_page="https://www.cse.msu.edu/~tangjili/datasetcode/truststudy.htm",
    rules=(*_MAT_RULES, "Times are seconds since 1970."),
    positive="true",
    query=lambda connection, folder: _mat_query(connection, folder, CIAO),
)
"""The source `ciao`."""

EPINIONS = Source(
    name="epinions",
    title="Epinions: 922,267 product ratings in 27 categories, 1999-2011 (Tang et al. 2012)",
    licence="no licence is stated; the authors ask for citation",
    home_page="https://www.cse.msu.edu/~tangjili/datasetcode/truststudy.htm",
    rules=(
        *_MAT_RULES,
        "Times are steps 1 to 11, into which the publisher divided 1999 to 2011. Their dates are "
        "not published: step 1 is read as 2000-01-01, each further one a year later. Only their "
        "order is known, and clicks of the same step have the same time.",
        "A copy that has seconds since 1970 instead keeps them.",
    ),
    positive="true",
    query=_query_epinions,
)
"""The source `epinions`."""

RECBOLE = Source(
    name="recbole",
    title="RecBole's atomic files: any data set that RecBole has converted",
    licence="see the data set",
    home_page="https://recbole.io/atomic_files.html",
    rules=(
        "The files are all *.inter below the folder, with typed names in their first line.",
        "A domain is the column domain; without it the rarest class, genre or category of the item "
        "in the .item file of the same name; without that the name of the file.",
        "Every row is a click unless data.positive says otherwise; without the column timestamp "
        "rows are in the order of the file.",
    ),
    positive=None,
    query=_query_recbole,
)
"""The source `recbole`."""
