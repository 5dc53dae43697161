"""Each kind of dirt, planted into a clean log, is found, counted and named."""

from __future__ import annotations

import pandas as pd
import pytest

from crossfeed.config import DataConfig
from crossfeed.data.inspect.oddities import Bot, Twins
from crossfeed.data.inspect.quality import LogReport, validate_log

DAY = 86_400
START = 1_700_006_400  # 2023-11-15, midnight


def clean() -> pd.DataFrame:
    """Return 40 users who click an item a day in two domains for 20 days."""
    rows = [
        (f"user {user}", domain, f"{domain}-{(user + day) % 15}", START + day * DAY + user * 60 + n)
        for user in range(40)
        for day in range(20)
        for n, domain in enumerate(("books", "films"))
    ]
    return pd.DataFrame(rows, columns=["user_id", "domain", "item_id", "timestamp"])


def report_of(log: pd.DataFrame) -> LogReport:
    return validate_log(log, config=DataConfig())


def with_rows(*rows: tuple[str, str, str, int]) -> pd.DataFrame:
    log = clean()
    return pd.concat([log, pd.DataFrame(rows, columns=log.columns)], ignore_index=True)


def test_a_clean_log_has_none() -> None:
    report = report_of(clean())
    odd = report.oddities
    assert (odd.duplicates, odd.shared_items, odd.tied, odd.bot_count) == (0, 0, 0, 0)
    assert (odd.longest_gap_days, odd.gap_after, odd.twins, odd.bots) == (0, None, (), ())
    assert report.warnings == ()


def test_rows_that_are_there_twice() -> None:
    log = clean()
    report = report_of(pd.concat([log, log[:7]], ignore_index=True))
    assert report.oddities.duplicates == 7
    assert any("7 clicks repeat another one entirely" in told for told in report.warnings)


def test_an_item_under_two_domains() -> None:
    report = report_of(with_rows(("user 1", "films", "books-3", START + 9)))
    assert report.oddities.shared_items == 1
    assert any("1 item ids occur in several domains" in told for told in report.warnings)


def test_clicks_at_one_time() -> None:
    log = clean()
    log["timestamp"] = log["timestamp"] // DAY * DAY  # days alone: both clicks of a day tie
    report = report_of(log)
    assert report.oddities.tied == report.clicks == 1_600
    assert any(
        "100% of the clicks have the same time as another" in told for told in report.warnings
    )


def test_a_gap_without_clicks() -> None:
    log = clean()
    late = log["timestamp"] >= START + 10 * DAY
    log.loc[late, "timestamp"] += 45 * DAY
    odd = report_of(log).oddities
    assert (odd.longest_gap_days, odd.gap_after) == (45, "2023-11-24")
    assert any(
        "no click in the 45 days after 2023-11-24" in told for told in report_of(log).warnings
    )


def test_ids_that_differ_by_case_or_white_space() -> None:
    report = report_of(
        with_rows(
            ("User 1", "books", "books-1", START),
            ("user  1 ", "books", "books-1", START),
            ("user 2", "Books", "BOOKS-2", START),
        )
    )
    assert report.oddities.twins == (
        Twins("user_id", 2, (("User 1", "user  1 ", "user 1"),)),
        Twins("item_id", 1, (("BOOKS-2", "books-2"),)),
        Twins("domain", 1, (("Books", "books"),)),
    )
    told = (
        "2 values of user_id differ from another only by case, white space, invisible "
        "characters, the form of accents or a final .0: "
        "'User 1' = "
    )
    assert any(told in warning for warning in report.warnings)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Jos\u00e9", "Jose\u0301"),  # one character and two
        ("a b", "a\u00a0b"),  # a blank where lines do not break
        ("a b", " a\u3000 b"),
        ("ann", "an\u200bn"),  # zero width
        ("ann", "\ufeffann"),
        ("7", "7.0"),
    ],
)
def test_ids_that_look_alike(one: str, other: str) -> None:
    report = report_of(with_rows((one, "books", "books-1", START), (other, "books", "b", START)))
    assert report.oddities.twins == (Twins("user_id", 1, (tuple(sorted([one, other])),)),)


def test_letters_with_and_without_accent_are_no_twins() -> None:
    report = report_of(
        with_rows(("Jose", "books", "books-1", START), ("Jos\u00e9", "books", "b", START))
    )
    assert report.oddities.twins == ()


def test_a_bot_is_who_clicks_beyond_people() -> None:
    bot = [("crawler", "books", f"books-{n % 15}", START + 5 * n) for n in range(900)]
    eager = [("reader", "books", f"books-{n % 15}", START + 5 * n) for n in range(150)]
    report = report_of(with_rows(*bot, *eager))
    assert report.oddities.bots == (Bot("crawler", 900),)
    assert report.oddities.bot_count == 1
    assert any("1 users are suspected to be bots (more than 200" in w for w in report.warnings)


def test_numbers_are_never_twins_and_a_log_without_times_has_no_ties() -> None:
    log = clean()
    log["user_id"] = log["user_id"].str.removeprefix("user ").astype(int)
    report = validate_log(log.drop(columns="timestamp"), config=DataConfig(split="last-out"))
    odd = report.oddities
    assert (odd.twins, odd.tied, odd.duplicates, odd.longest_gap_days) == ((), 0, 0, 0)


@pytest.mark.parametrize("domains", [1, 2])
def test_domains_that_share_nobody_are_named(domains: int) -> None:
    log = clean()
    other = log.assign(user_id="x" + log["user_id"], domain="x" + log["domain"].str[:0])
    report = report_of(log if domains == 1 else pd.concat([log, other]))
    told = [warning for warning in report.warnings if "that share no user" in warning]
    assert told == ([] if domains == 1 else ["no transfer to domains that share no user: x"])
