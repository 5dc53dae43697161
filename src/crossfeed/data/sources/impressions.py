"""Logs of impressions with a label each: KuaiRand, MIND and Ali-CCP."""

from __future__ import annotations

from pathlib import Path

import duckdb

from crossfeed.data.sources.files import csv_query, find, header
from crossfeed.data.sources.source import Source
from crossfeed.errors import LogError

__all__ = ["ALI_CCP", "KUAIRAND", "MIND"]


def _query_kuairand(connection: duckdb.DuckDBPyConnection, folder: Path) -> str:
    title, home_page = "KuaiRand", KUAIRAND.home_page
    files = find(folder, "log_standard_*.csv", "*.csv", title=title, home_page=home_page)
    columns = _columns(files, ["user_id", "video_id", "is_click", "tab"], title=title)
    time = ", time_ms AS timestamp" if "time_ms" in columns else ""
    rows = csv_query(files, columns=columns, has_header=True)
    return (
        "SELECT user_id, video_id AS item_id, 'tab-' || tab AS domain, "
        f"CAST(is_click AS INTEGER) AS label{time} FROM ({rows})"
    )


def _query_mind(connection: duckdb.DuckDBPyConnection, folder: Path) -> str:
    title, home_page = "MIND", MIND.home_page
    behaviors = find(folder, "behaviors.tsv", "*.csv", title=title, home_page=home_page)
    if behaviors[0].suffix == ".csv":
        wanted = ["User_ID", "News_ID", "label", "Category"]
        columns = _columns(behaviors, wanted, title=title)
        rows = csv_query(behaviors, columns=columns, has_header=True, quote='"')
        return (
            'SELECT "User_ID" AS user_id, "News_ID" AS item_id, "Category" AS domain, '
            f"CAST(label AS INTEGER) AS label FROM ({rows})"
        )
    news = find(folder, "news.tsv", title=title, home_page=home_page)
    shown = csv_query(
        behaviors,
        columns=dict.fromkeys(("impression", "user_id", "time", "history", "shown"), "VARCHAR"),
        delimiter="\t",
    )
    names = (
        "item_id",
        "category",
        "subcategory",
        "title",
        "abstract",
        "url",
        "in_title",
        "in_text",
    )
    articles = csv_query(news, columns=dict.fromkeys(names, "VARCHAR"), delimiter="\t")
    return (
        "SELECT user_id, item_id, category AS domain, label, timestamp FROM (SELECT user_id, "
        "string_split(one, '-')[1] AS item_id, CAST(string_split(one, '-')[2] AS INTEGER) AS label,"
        " timestamp FROM (SELECT user_id, strptime(time, '%m/%d/%Y %I:%M:%S %p') AS timestamp, "
        f"unnest(string_split(shown, ' ')) AS one FROM ({shown}))) LEFT JOIN "
        f"(SELECT item_id, min(category) AS category FROM ({articles}) GROUP BY item_id) "
        "USING (item_id)"
    )


def _query_ali_ccp(connection: duckdb.DuckDBPyConnection, folder: Path) -> str:
    title, home_page = "Ali-CCP", ALI_CCP.home_page
    files = find(folder, "sample_skeleton_*.csv", "*.csv", title=title, home_page=home_page)
    if not files[0].name.startswith("sample_skeleton"):
        columns = _columns(files, ["click", "101", "205", "301"], title=title)
        rows = csv_query(files, columns=columns, has_header=True)
        return (
            'SELECT "101" AS user_id, "205" AS item_id, \'scenario-\' || "301" AS domain, '
            f"CAST(click AS INTEGER) AS label FROM ({rows})"
        )
    shared = find(folder, "common_features_*.csv", title=title, home_page=home_page)
    names = ("sample", "click", "purchase", "common", "count", "features")
    samples = csv_query(files, columns=dict.fromkeys(names, "VARCHAR"))
    common = csv_query(shared, columns=dict.fromkeys(("common", "count", "features"), "VARCHAR"))
    return (
        f"SELECT {_feature('c.features', '101')} AS user_id, {_feature('s.features', '205')} AS "
        f"item_id, 'scenario-' || {_feature('s.features', '301')} AS domain, "
        f"CAST(s.click AS INTEGER) AS label FROM ({samples}) s LEFT JOIN ({common}) c "
        "USING (common) ORDER BY ends_with(s.filename, '_test.csv'), s.filename, "
        "CAST(s.sample AS BIGINT)"
    )


def _feature(column: str, field: str) -> str:
    """Return the SQL of a field's first value.

    Features are parted by the byte 1, a field from its value by 2 and from its weight by 3.
    """
    return f"nullif(regexp_extract({column}, '(^|\\x01){field}\\x02([^\\x03\\x01]*)', 2), '')"


def _columns(files: list[Path], wanted: list[str], *, title: str) -> dict[str, str]:
    """Return the columns of files that all have the same header.

    Raises:
        LogError: a file lacks a column that is needed, or differs from the first.
    """
    first = header(files[0])
    for file in files:
        found = header(file)
        missing = [name for name in wanted if name not in found]
        if missing or found != first:
            what = f"it lacks {', '.join(missing)}" if missing else f"it differs from {files[0]}"
            raise LogError(
                f"'{file}' is not {title}: {what}; its columns are {', '.join(found[:20])}",
                hint="give a folder that holds the source's own files alone",
            )
    return dict.fromkeys(first, "VARCHAR")


KUAIRAND = Source(
    name="kuairand",
    title="KuaiRand: short videos of Kuaishou, shown in 15 tabs, 2022",
    licence="CC BY-SA 4.0",
    home_page="https://kuairand.com/",
    rules=(
        "The files are log_standard_*.csv; those of random exposure are left out.",
        "A domain is a tab, the scenario in which a video was shown.",
        "is_click = 1 is a click, at time_ms; without that column, in the order of rows.",
    ),
    positive=None,
    query=_query_kuairand,
)
"""The source `kuairand`."""

MIND = Source(
    name="mind",
    title="MIND: impressions of Microsoft News, 2019",
    licence="Microsoft Research Licence: research use only",
    home_page="https://msnews.github.io/",
    rules=(
        "The files are behaviors.tsv and news.tsv, below the folder (train and dev together).",
        "A domain is a news category.",
        "Each article of an impression is a row, N123-1 a click, at the impression's time; the "
        "history column, which has no times, is left out.",
        "A CSV with User_ID, News_ID, label and Category is read in the order of its rows.",
    ),
    positive=None,
    query=_query_mind,
)
"""The source `mind`."""

ALI_CCP = Source(
    name="ali-ccp",
    title="Ali-CCP: impressions of Taobao in three scenarios",
    licence="CC BY-NC-SA 4.0",
    home_page="https://tianchi.aliyun.com/dataset/408",
    rules=(
        "The files are sample_skeleton_*.csv and common_features_*.csv, or a flat CSV with the "
        "fields' numbers as names.",
        "A user is field 101, an item field 205, a domain field 301 (the scenario).",
        "click = 1 is a click; there are no times: samples are in the order of their numbers, "
        "those for training before those for the test, so that last-out is the only split.",
    ),
    positive=None,
    query=_query_ali_ccp,
)
"""The source `ali-ccp`."""
