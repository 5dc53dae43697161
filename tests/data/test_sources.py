"""Public data becomes what its protocol says; found through CROSSFEED_DATA."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from crossfeed.config import load_config
from crossfeed.data.dataset import Dataset
from crossfeed.data.prepare import prepare
from crossfeed.data.sources import SOURCES
from crossfeed.errors import LogError

EXAMPLES = Path(__file__).parents[2] / "examples"


def real_data(name: str) -> Path:
    folder = os.environ.get("CROSSFEED_DATA")
    if folder is None:
        pytest.skip("CROSSFEED_DATA is not set: the folder with ciao/ and movielens-100k/")
    path = Path(folder) / name
    if not path.exists():
        pytest.skip(f"CROSSFEED_DATA has no {name}")
    return path


def test_ciao_by_its_protocol(tmp_path: Path) -> None:
    log = real_data("ciao/ratings.parquet")
    config = load_config(EXAMPLES / "ciao.toml").data
    dataset = prepare(log, out=tmp_path / "ciao", config=config)
    counts = dataset.manifest["counts"]
    assert counts["events"] == pytest.approx(141_168, rel=0.01)
    assert counts["users"] == pytest.approx(5_827, rel=0.01)
    assert counts["items"] == pytest.approx(10_592, rel=0.01)
    assert counts["domains"] == 22
    assert counts["parts"]["test"] == pytest.approx(13_240, rel=0.01)


def test_movielens_goes_through_the_temporal_split(tmp_path: Path) -> None:
    folder = real_data("movielens-100k")
    dataset = prepare(folder, out=tmp_path / "ml", source="movielens-100k")
    log, counts = dataset.manifest["log"], dataset.manifest["counts"]
    assert log["rows"] == 100_000
    assert log["positive"] == "rating >= 4"
    assert dataset.manifest["dropped"]["not a click"] == 44_625  # ratings of 1 to 3
    assert counts["domains"] >= 15
    assert min(counts["parts"][part] for part in ("train", "validation", "test")) > 5_000
    assert dataset.manifest["source"] == "movielens-100k"
    dataset.verify()


def written(folder: Path) -> Path:
    """Write a MovieLens of four films, in the layout of the original."""
    genres = ["unknown", "Action", "Drama", "Western"]
    films = {1: "0010", 2: "0110", 3: "0011", 4: "1000"}
    (folder / "u.genre").write_text("".join(f"{g}|{n}\n" for n, g in enumerate(genres)))
    lines = [f"{n}|Film é {n}|01-Jan-1995||http://|{'|'.join(f)}\n" for n, f in films.items()]
    (folder / "u.item").write_text("".join(lines), "latin-1")
    ratings = [(u, f, 3 + (u + f) % 3, 880_000_000 + u * 10 + f) for u in range(5) for f in films]
    (folder / "u.data").write_text("".join("\t".join(map(str, row)) + "\n" for row in ratings))
    return folder


def test_a_film_stands_in_its_rarest_genre(tmp_path: Path) -> None:
    table = SOURCES["movielens-100k"].read(written(tmp_path))
    domains = dict(zip(table["item_id"].to_pylist(), table["domain"].to_pylist(), strict=True))
    assert domains == {1: "Drama", 2: "Action", 3: "Western", 4: "unknown"}


def test_a_given_expression_wins_over_that_of_the_source(
    tmp_path: Path, prepared: Callable[..., Dataset]
) -> None:
    (tmp_path / "ml").mkdir()
    folder = written(tmp_path / "ml")
    options = {"source": "movielens-100k", "split": "last-out", "columns": {}}
    with pytest.raises(LogError, match="nothing is left"):  # 3 clicks in a genre are rare here
        prepared(folder, **options)
    with pytest.raises(LogError, match=r"look at data\.positive"):
        prepared(folder, **options, positive="rating > 5")


def test_a_folder_that_is_no_movielens(tmp_path: Path) -> None:
    with pytest.raises(LogError, match=r"is not MovieLens 100K: it has no u\.data"):
        SOURCES["movielens-100k"].read(tmp_path)
    written(tmp_path)
    (tmp_path / "u.item").write_text("1|only|one|line\n")
    with pytest.raises(LogError, match=r"u\.item' cannot be read as MovieLens 100K"):
        SOURCES["movielens-100k"].read(tmp_path)


def test_every_source_states_its_rules_and_terms() -> None:
    for name, source in SOURCES.items():
        assert source.name == name
        assert source.title and source.licence and source.rules
        assert source.home_page.startswith("https://")
