from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from crossfeed.errors import RunError
from crossfeed.evaluation.outcomes import Outcomes, read_outcomes, write_outcomes


def outcomes(scorer: str) -> Outcomes:
    return Outcomes(
        scorer=scorer,
        events=np.array([3, 5]),
        users=np.array([0, 1]),
        domains=np.array(["books", "film, old"], dtype=object),
        values={"ndcg@10": np.array([0.5, np.nan])},
    )


def test_outcomes_come_back_in_their_order(tmp_path: Path) -> None:
    written = [outcomes("crossfeed"), outcomes("a baseline")]
    write_outcomes(tmp_path / "outcomes.parquet", written)
    for one, other in zip(read_outcomes(tmp_path / "outcomes.parquet"), written, strict=True):
        assert one.scorer == other.scorer
        np.testing.assert_array_equal(one.events, other.events)
        np.testing.assert_array_equal(one.users, other.users)
        np.testing.assert_array_equal(one.domains, other.domains)
        np.testing.assert_array_equal(one.values["ndcg@10"], other.values["ndcg@10"])


def test_what_holds_no_outcomes_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "outcomes.parquet"
    with pytest.raises(RunError, match="cannot be read"):
        read_outcomes(file)
    file.write_bytes(b"odd")
    with pytest.raises(RunError, match="cannot be read"):
        read_outcomes(file)
    pq.write_table(pa.table({"scorer": ["a"]}), file)
    with pytest.raises(RunError, match="holds no outcomes"):
        read_outcomes(file)
    table = pa.table({"scorer": ["a"]}).replace_schema_metadata({"crossfeed.outcomes": "9"})
    pq.write_table(table, file)
    with pytest.raises(RunError, match="format version 9"):
        read_outcomes(file)
