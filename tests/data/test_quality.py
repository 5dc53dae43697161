"""The report on a log says what prepare would read."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from crossfeed.config import DataConfig
from crossfeed.data.inspect.quality import DomainReport, validate_log
from crossfeed.errors import LogError, QuarantineError

LOG = pd.DataFrame(
    [
        *[(f"u{n}", "books", f"b{n % 3}", "2024-01-01", 1) for n in range(6)],
        *[(f"u{n}", "films", "f0", "2024-03-01T12:00:00Z", 1) for n in range(2)],
        ("u0", "books", "b0", "2024-02-01", 1),  # again
        ("u0", "books", "b1", "2024-02-01", 0),  # an impression
        ("u0", "", "b1", "2024-02-01", 1),  # no domain
    ],
    columns=["user_id", "domain", "item_id", "timestamp", "label"],
)
SETTINGS = DataConfig(max_quarantine_share=0.2, min_domain_events=5)


def test_the_report_counts_what_is_there() -> None:
    report = validate_log(LOG, config=SETTINGS)
    assert (report.rows, report.clicks, report.repeats) == (11, 9, 1)
    assert (report.users, report.users_of_several_domains, report.items) == (6, 2, 4)
    assert report.domains == (
        DomainReport("books", 7, 6, 3, pytest.approx(7 / 18)),
        DomainReport("films", 2, 2, 1, 1.0),
    )
    assert report.shared_users == {"books": {"films": 2}, "films": {"books": 2}}
    assert report.not_clicked == 1
    assert report.quarantined == {"missing domain": 1}
    assert report.examples == {"missing domain": "table in memory, row 11"}
    assert (report.time_unit, report.positive) == ("iso", '"label" > 0')
    assert report.first_time == "2024-01-01T00:00:00.000+00:00"
    assert report.last_time == "2024-03-01T12:00:00.000+00:00"
    assert (report.user_ids, report.item_ids) == ("text", "text")


def test_the_report_is_json() -> None:
    report = validate_log(LOG, config=SETTINGS)
    read = json.loads(json.dumps(report.to_json()))
    assert read["domains"][1] == {
        **{"domain": "films", "clicks": 2, "users": 2, "items": 1, "density": 1.0},
    }
    assert read["warnings"][0] == (
        "domain 'films' has 2 clicks: it will be dropped; "
        "lower data.min_domain_events (5) to keep it"
    )


@pytest.mark.parametrize(
    ("log", "warning"),
    [
        (LOG.assign(label=0), "no row is a click: look at data.positive"),
        (LOG.assign(domain="one"), "the log has only one domain"),
        (LOG.assign(user_id=LOG["domain"] + LOG["user_id"]), "only 0 of 8 users have clicks in"),
        (LOG.assign(timestamp="2024-01-01"), "all clicks have the same time"),
    ],
)
def test_warnings(log: pd.DataFrame, warning: str) -> None:
    assert any(warning in told for told in validate_log(log, config=SETTINGS).warnings)
    assert not any(warning in told for told in validate_log(LOG, config=SETTINGS).warnings)


def test_what_prepare_would_refuse_is_refused_here(tmp_path: Path) -> None:
    with pytest.raises(QuarantineError, match="missing domain: 1"):
        validate_log(LOG)
    with pytest.raises(LogError, match="there is no file"):
        validate_log(tmp_path / "none.csv")
    with pytest.raises(LogError, match="the log has no rows"):
        validate_log(LOG[:0])


def test_a_damaged_column_is_one_clear_error(tmp_path: Path) -> None:
    file = tmp_path / "log.parquet"
    names = pd.Series([f"books {n % 500}" for n in range(5_000)])
    pd.DataFrame(
        {"user_id": 1, "item_id": 2, "domain": names, "timestamp": 1_600_000_000}
    ).to_parquet(file, compression=None)
    file.write_bytes(file.read_bytes().replace(b"books 1", b"books\xff\xff"))
    with pytest.raises(LogError, match=r"log\.parquet' cannot be read"):
        validate_log(file, config=SETTINGS)


def test_a_log_without_times_has_no_first_and_last() -> None:
    config = DataConfig(split="last-out", max_quarantine_share=0.2)
    report = validate_log(LOG.drop(columns="timestamp"), config=config)
    assert (report.time_unit, report.first_time, report.last_time) == ("row order", None, None)
