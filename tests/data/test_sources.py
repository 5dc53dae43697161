"""Public data becomes what its rules say: real files through CROSSFEED_DATA, tiny ones anywhere."""

from __future__ import annotations

import gzip
import itertools
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from scipy.io import savemat
from typer.testing import CliRunner

from crossfeed.cli import app
from crossfeed.config import load_config
from crossfeed.data.dataset import Dataset
from crossfeed.data.prepare.pipeline import prepare
from crossfeed.data.sources import SOURCES
from crossfeed.errors import ConfigError, LogError

EXAMPLES = Path(__file__).parents[2] / "examples"

Rows = list[dict[str, Any]]  # Any: ids and times of several types


def real_data(name: str) -> Path:
    folder = os.environ.get("CROSSFEED_DATA")
    if folder is None:
        pytest.skip("CROSSFEED_DATA is not set: the folder with ciao/ and movielens-100k/")
    path = Path(folder) / name
    if not path.exists():
        pytest.skip(f"CROSSFEED_DATA has no {name}")
    return path


def rows_of(source: str, folder: Path) -> Rows:
    with duckdb.connect() as connection:
        query = SOURCES[source].query(connection, folder)
        return list(connection.sql(query).to_arrow_table().to_pylist())


def write(folder: Path, **files: str) -> Path:
    """Write files, whose names have `_dot_` for a point."""
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("_dot_", ".")).write_text(text, "latin-1")
    return folder


# Real data


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


@pytest.mark.parametrize(
    ("source", "file", "first", "domains"),
    [
        (
            *("ali-ccp", "ali_ccp_train_sample.csv"),
            {"user_id": "1", "item_id": "0", "domain": "scenario-3", "label": 0},
            {"scenario-1", "scenario-2", "scenario-3"},
        ),
        (
            *("douban", "douban_sample.csv"),
            {"user_id": "1691", "item_id": "34964", "domain": "book", "rating": 1.0},
            {"book", "movie", "music"},
        ),
        (
            *("mind", "mind_sample.csv"),
            {"user_id": "U479610", "item_id": "N110473", "domain": "sports", "label": 0},
            {"sports", "lifestyle"},
        ),
        (
            *("kuairand", "kuairand_sample.csv"),
            {"user_id": "0", "item_id": "5543", "domain": "tab-1", "label": 0},
            {"tab-1"},
        ),
    ],
)
def test_the_heads_of_real_files(
    source: str, file: str, first: dict[str, object], domains: set[str]
) -> None:
    rows = rows_of(source, real_data(f"samples/{file}"))
    assert rows[0] == first
    assert len(rows) >= 50 and domains <= {row["domain"] for row in rows}


def test_the_head_of_an_atomic_file() -> None:
    rows = rows_of("recbole", real_data("samples/ml-100k_head.inter"))
    assert rows[0] == {
        **{"user_id": "196", "item_id": "242", "domain": "ml-100k_head"},
        **{"rating": 3.0, "timestamp": 881250949.0},
    }


# Tiny files in each publisher's layout

FILMS = {1: "0010", 2: "0110", 3: "0011", 4: "1000"}
GENRES = ["unknown", "Action", "Drama", "Western"]
RAREST = {1: "Drama", 2: "Action", 3: "Western", 4: "unknown"}


def movielens_100k(folder: Path) -> Path:
    ratings = [(u, f, 3 + (u + f) % 3, 880_000_000 + u * 10 + f) for u in range(5) for f in FILMS]
    return write(
        folder,
        u_dot_genre="".join(f"{g}|{n}\n" for n, g in enumerate(GENRES)),
        u_dot_item="".join(
            f"{n}|Film é {n}|01-Jan-1995||http://|{'|'.join(f)}\n" for n, f in FILMS.items()
        ),
        u_dot_data="".join("\t".join(map(str, row)) + "\n" for row in ratings),
    )


def named_genres() -> dict[int, str]:
    return {
        film: "|".join(g for g, flag in zip(GENRES, flags, strict=True) if flag == "1")
        for film, flags in FILMS.items()
    }


def movielens_1m(folder: Path) -> Path:
    return write(
        folder,
        movies_dot_dat="".join(f"{n}::Film é, (1995)::{g}\n" for n, g in named_genres().items()),
        ratings_dot_dat="".join(f"7::{film}::4::97830076{film}\n" for film in FILMS),
    )


def movielens_csv(folder: Path) -> Path:
    head = "movieId,title,genres\n"
    films = "".join(f'{n},"Film, The (1995)",{g}\n' for n, g in named_genres().items())
    ratings = "".join(f"7,{film},4.0,97830076{film}\n" for film in FILMS)
    return write(
        folder,
        movies_dot_csv=head + films,
        ratings_dot_csv="userId,movieId,rating,timestamp\n" + ratings,
    )


@pytest.mark.parametrize(
    ("source", "files"),
    [
        ("movielens-100k", movielens_100k),
        ("movielens-1m", movielens_1m),
        ("movielens-25m", movielens_csv),
    ],
)
def test_a_film_stands_in_its_rarest_genre(
    source: str, files: Callable[[Path], Path], tmp_path: Path
) -> None:
    rows = rows_of(source, files(tmp_path))
    assert {row["item_id"]: row["domain"] for row in rows} == RAREST
    assert all(isinstance(row["user_id"], int) and row["timestamp"] > 8e8 for row in rows)


@pytest.mark.parametrize(
    ("source", "files"),
    [
        ("movielens-100k", movielens_100k),
        ("movielens-1m", movielens_1m),
        ("movielens-25m", movielens_csv),
    ],
)
def test_two_copies_of_movielens_are_not_read_as_one(
    source: str, files: Callable[[Path], Path], tmp_path: Path
) -> None:
    first, second = files(tmp_path / "a"), files(tmp_path / "b")
    with pytest.raises(LogError, match=rf"has several \S+: {first}/\S+, {second}/\S+"):
        rows_of(source, tmp_path)
    assert rows_of(source, first)


def test_amazon_2018_by_category(tmp_path: Path) -> None:
    review = {"reviewerID": "A1", "asin": "B7", "overall": 4.0, "unixReviewTime": 1_500_000_000}
    other = {**review, "reviewerID": "A2", "summary": "fine,\nindeed"}
    for name in ("All_Beauty.json.gz", "Books_5.json.gz"):
        with gzip.open(tmp_path / name, "wt") as file:
            file.write(json.dumps(review) + "\n" + json.dumps(other) + "\n")
    rows = rows_of("amazon-2018", tmp_path)
    assert {(row["domain"], row["user_id"]) for row in rows} == {
        *{("All_Beauty", "A1"), ("All_Beauty", "A2"), ("Books", "A1"), ("Books", "A2")},
    }
    assert rows[0]["item_id"] == "B7" and rows[0]["timestamp"] == 1_500_000_000


@pytest.mark.parametrize(
    ("source", "item", "ending"),
    [("amazon-2018", "asin", "json"), ("amazon-2023", "parent_asin", "jsonl")],
)
def test_amazon_partly_unpacked(source: str, item: str, ending: str, tmp_path: Path) -> None:
    for name in ("Books", "Music", "meta_Music", "Books_5"):
        review = {"reviewerID": "A1", "user_id": "A1", item: name}
        (tmp_path / f"{name}.{ending}").write_text(json.dumps(review) + "\n")
    for name in ("Books", "meta_Books"):
        packed = gzip.compress((json.dumps({"user_id": "A2", item: name}) + "\n").encode())
        (tmp_path / f"{name}.{ending}.gz").write_bytes(packed)
    rows = {row["item_id"]: row["domain"] for row in rows_of(source, tmp_path)}
    assert rows == {"Books": "Books", "Music": "Music"}


def test_amazon_2018_ratings_alone(tmp_path: Path) -> None:
    write(tmp_path, Digital_Music_dot_csv="B7,A1,5.0,1500000000\n")
    assert rows_of("amazon-2018", tmp_path) == [
        {
            **{"user_id": "A1", "item_id": "B7", "domain": "Digital_Music"},
            **{"rating": 5.0, "timestamp": 1_500_000_000},
        }
    ]


def test_the_name_of_a_folder_is_no_value_of_a_source(tmp_path: Path) -> None:
    for form in ("csv", "json"):
        (tmp_path / form / "user_id=7" / "reviewerID=8").mkdir(parents=True)
    write(tmp_path / "csv/user_id=7", Books_dot_csv="B7,A1,5.0,1500000000\n")
    review = '{"reviewerID":"A1","asin":"B7","overall":5.0,"unixReviewTime":1500000000}\n'
    write(tmp_path / "json/user_id=7/reviewerID=8", Books_dot_json=review)
    ratings, reviews = (rows_of("amazon-2018", tmp_path / form) for form in ("csv", "json"))
    assert ratings == reviews and ratings[0]["user_id"] == "A1"


def test_amazon_2023_both_ways(tmp_path: Path) -> None:
    review = {"user_id": "A1", "parent_asin": "B7", "asin": "B8", "rating": 2.0, "text": "x"}
    reviews, ratings = tmp_path / "reviews", tmp_path / "ratings"
    reviews.mkdir()
    ratings.mkdir()
    with gzip.open(reviews / "Video_Games.jsonl.gz", "wt") as file:
        file.write(json.dumps({**review, "timestamp": 1_588_687_728_923}) + "\n")
    with gzip.open(reviews / "meta_Video_Games.jsonl.gz", "wt") as file:
        file.write(json.dumps({"title": "a game"}) + "\n")
    with gzip.open(ratings / "Video_Games.csv.gz", "wt") as file:
        file.write("user_id,parent_asin,rating,timestamp\nA1,B7,2.0,1588687728923\n")
    expected = {
        **{"user_id": "A1", "item_id": "B7", "domain": "Video_Games"},
        **{"rating": 2.0, "timestamp": 1_588_687_728_923},
    }
    assert rows_of("amazon-2023", reviews) == rows_of("amazon-2023", ratings) == [expected]


def test_kuairand_leaves_random_exposure_out(tmp_path: Path) -> None:
    head = "user_id,video_id,date,hourmin,time_ms,is_click,tab\n"
    write(
        tmp_path,
        log_standard_4_08_to_4_21_pure_dot_csv=f"{head}3,9,20220408,1200,1649390400123,1,4\n",
        log_random_4_22_to_5_08_pure_dot_csv=f"{head}3,8,20220422,1200,1650600000000,1,4\n",
    )
    [row] = rows_of("kuairand", tmp_path)
    assert row == {
        **{"user_id": "3", "item_id": "9", "domain": "tab-4", "label": 1},
        "timestamp": "1649390400123",
    }


def test_mind_unfolds_impressions(tmp_path: Path) -> None:
    for part, shown in (("train", "N1-1 N2-0"), ("dev", "N2-1")):
        write(
            tmp_path / part,
            behaviors_dot_tsv=f"1\tU7\t11/15/2019 2:05:58 PM\tN8 N9\t{shown}\n",
            news_dot_tsv="N1\tsports\tgolf\tA 'title'\t\thttp\t[]\t[]\n"
            'N2\tnews\tworld\t"Quoted\t\thttp\t[]\t[]\n',
        )
    rows = rows_of("mind", tmp_path)
    found = sorted((row["item_id"], row["domain"], row["label"]) for row in rows)
    assert found == [("N1", "sports", 1), ("N2", "news", 0), ("N2", "news", 1)]
    assert str(rows[0]["timestamp"]) == "2019-11-15 14:05:58"


def test_ali_ccp_joins_its_common_features(tmp_path: Path) -> None:
    write(
        tmp_path,
        sample_skeleton_train_dot_csv="2,0,0,c1,3,301\x022\x031.0\x01205\x0271\x031.0\n"
        "1,1,0,c1,3,205\x0270\x031.0\x01301\x021\x031.0\n",
        common_features_train_dot_csv="c1,2,121\x025\x031.0\x01101\x029\x031.0\n",
    )
    rows = rows_of("ali-ccp", tmp_path)
    assert [tuple(row.values()) for row in rows] == [
        ("9", "70", "scenario-1", 1),
        ("9", "71", "scenario-2", 0),
    ]


def test_ali_ccp_s_training_comes_before_its_test(tmp_path: Path) -> None:
    sample = "{},1,0,c1,2,205\x02{}\x031.0\x01301\x021\x031.0\n"
    write(
        tmp_path,
        sample_skeleton_train_dot_csv=sample.format(2, "second") + sample.format(1, "first"),
        sample_skeleton_test_dot_csv=sample.format(1, "third"),
        common_features_train_dot_csv="c1,1,101\x029\x031.0\n",
    )
    assert [row["item_id"] for row in rows_of("ali-ccp", tmp_path)] == ["first", "second", "third"]


def test_douban_by_kind_of_product(tmp_path: Path) -> None:
    write(
        tmp_path,
        bookreviews_cleaned_dot_txt='"user_id"\t"book_id"\t"rating"\t"labels"\t"comment"\t"time"\n'
        '"5"\t"71"\t"4"\t"a|b"\t"so\tgood"\t"2010-02-03"\n',
        musicreviews_cleaned_dot_txt="user_id\tmusic_id\trating\tlabels\tcomment\ttime\n"
        "5\t71\t2\t\t\t2011-02-03\n",
    )
    rows = sorted(rows_of("douban", tmp_path), key=lambda row: str(row["domain"]))
    assert [tuple(row.values()) for row in rows] == [
        ("5", "71", "book", 4.0, "2010-02-03"),
        ("5", "71", "music", 2.0, "2011-02-03"),
    ]


def test_netflix_carries_the_film_to_its_ratings(tmp_path: Path) -> None:
    write(
        tmp_path,
        combined_data_1_dot_txt="1:\n1488844,3,2005-09-06\n822109,5,2005-05-13\n2:\n7,4,2003-01-01\n",
        movie_titles_dot_csv="1,2003,Dinosaur Planet\n2,NULL,Amélie, or not\n",
    )
    rows = sorted(rows_of("netflix", tmp_path), key=lambda row: int(row["user_id"]))
    assert [(row["user_id"], row["item_id"], row["domain"], row["rating"]) for row in rows] == [
        (7, 2, "no year", 4.0),
        (822109, 1, "2000s", 5.0),
        (1488844, 1, "2000s", 3.0),
    ]
    assert str(rows[2]["timestamp"]) == "2005-09-06"


@pytest.mark.parametrize("source", ["ciao", "epinions"])
def test_a_matrix_of_ratings(source: str, tmp_path: Path) -> None:
    matrix = np.array([[1, 70, 3, 5, 4, 1_000_000_000], [2, 71, 4, 1, 0, 1_100_000_000]])
    savemat(tmp_path / "rating_with_timestamp.mat", {"rating": matrix.astype(float)})
    rows = rows_of(source, tmp_path)
    assert [tuple(row.values()) for row in rows] == [
        (1, 70, "category-3", 5, 1_000_000_000),
        (2, 71, "category-4", 1, 1_100_000_000),
    ]
    savemat(tmp_path / "rating_with_timestamp.mat", {"rating": matrix[:, :3].astype(float)})
    with pytest.raises(LogError, match="must hold one matrix with the columns user_id"):
        rows_of(source, tmp_path)
    other = tmp_path / "of another source"
    other.mkdir()
    savemat(other / "rating_with_timestamp.mat", {"rating": matrix.astype(float)})
    with pytest.raises(LogError, match=r"has several rating_with_timestamp\.mat: .*another source"):
        rows_of(source, tmp_path)
    shutil.rmtree(other)
    (tmp_path / "rating_with_timestamp.mat").write_text("no matrix")
    with pytest.raises(LogError, match="cannot be read as MATLAB"):
        rows_of(source, tmp_path)


def test_steps_of_epinions_are_dates_in_their_order(
    tmp_path: Path, prepared: Callable[..., Dataset]
) -> None:
    """The matrix is as its publisher ships it: the last column is a step from 1 to 11."""
    rows = [(u, 10 + i, 1 + i % 2, 5, 4, 1 + (u + i) % 11) for u in range(12) for i in range(11)]
    matrix = np.array(rows)
    savemat(tmp_path / "rating_with_timestamp.mat", {"rating_with_timestamp": matrix})
    found = rows_of("epinions", tmp_path)
    years = [row["timestamp"].year for row in found]
    assert years == [1999 + step for *_, step in rows]
    assert {(row["timestamp"].month, row["timestamp"].day) for row in found} == {(1, 1)}
    dataset = prepared(tmp_path, source="epinions")
    assert dataset.manifest["log"]["quarantined"] == {}
    assert dataset.manifest["log"]["time_unit"] == "date"
    assert np.unique(dataset.event_time).size == 11
    told = " ".join(SOURCES["epinions"].rules)
    assert "Times are steps 1 to 11" in told and "step 1 is read as 2000-01-01" in told
    matrix[0, 5] = 0
    savemat(tmp_path / "rating_with_timestamp.mat", {"rating_with_timestamp": matrix})
    with pytest.raises(LogError, match="a step of its times is 0, not 1 to 11"):
        rows_of("epinions", tmp_path)


def test_every_source_says_what_its_times_are() -> None:
    for source in SOURCES.values():
        words = " ".join(source.rules).lower()
        assert any(word in words for word in ("time", " day", "millisecond")), source.name


def test_atomic_files_take_the_domain_of_the_item(tmp_path: Path) -> None:
    inter = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    ratings = "".join(f"u\t{film}\t4\t97830076{film}\n" for film in FILMS)
    classes = "".join(f"{n}\tA b\t{g.replace('|', ' ')}\n" for n, g in named_genres().items())
    write(
        tmp_path,
        ml_dot_inter=inter + ratings,
        ml_dot_item="item_id:token\ttitle:token_seq\tclass:token_seq\n" + classes,
    )
    rows = rows_of("recbole", tmp_path)
    assert {int(row["item_id"]): row["domain"] for row in rows} == RAREST
    (tmp_path / "ml.item").unlink()
    assert {row["domain"] for row in rows_of("recbole", tmp_path)} == {"ml"}


def test_atomic_files_of_several_domains(tmp_path: Path) -> None:
    write(
        tmp_path,
        books_dot_inter="user_id:token\titem_id:token\nu\t1\n",
        films_dot_inter="user_id:token\titem_id:token\trating:float\nu\t1\t3\n",
    )
    rows = rows_of("recbole", tmp_path)
    assert [(row["domain"], row["rating"]) for row in rows] == [("books", None), ("films", 3.0)]


# What a source shares with every log


def test_a_source_without_times_is_in_the_order_of_its_rows(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    lines = "".join(f"u{rng.integers(9)},i{n % 7},1,s{n % 2}\n" for n in range(300))
    file = write(tmp_path / "d", c_dot_csv="User_ID,News_ID,label,Category\n" + lines)
    settings = ["data.split=last-out", "data.repeats=keep", "data.min_domain_events=1"]
    dataset = prepare(
        file, out=tmp_path / "out", source="mind", config=load_config(overrides=settings).data
    )
    times = [dataset.event_time[slice(*pair)] for pair in _bounds(dataset)]
    assert all((np.diff(of_user) > 0).all() for of_user in times)
    assert dataset.manifest["log"]["time_unit"] == "row order"
    with pytest.raises(ConfigError, match="needs times"):
        prepare(file, out=tmp_path / "temporal", source="mind")


def _bounds(dataset: Dataset) -> list[tuple[int, int]]:
    offsets = dataset.user_offsets.tolist()
    return list(itertools.pairwise(offsets))


def test_a_given_expression_wins_over_that_of_the_source(
    tmp_path: Path, prepared: Callable[..., Dataset]
) -> None:
    folder = movielens_100k(tmp_path / "ml")
    options = {"source": "movielens-100k", "split": "last-out", "columns": {}}
    with pytest.raises(LogError, match="no click is left"):  # 3 clicks in a genre are rare here
        prepared(folder, **options)
    with pytest.raises(LogError, match=r"look at data\.positive"):
        prepared(folder, **options, positive="rating > 5")


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_a_folder_without_its_files_is_told_what_it_lacks(name: str, tmp_path: Path) -> None:
    (tmp_path / "other.txt").write_text("nothing of it")
    with pytest.raises(LogError, match=r"is not .*: it has no ") as caught:
        rows_of(name, tmp_path)
    assert SOURCES[name].home_page in str(caught.value.hint)


def test_files_of_another_kind_are_one_clear_error(tmp_path: Path) -> None:
    folder = movielens_100k(tmp_path / "ml")
    (folder / "u.item").write_text("1|only|one|line\n")
    with pytest.raises(LogError, match="as movielens-100k cannot be read") as caught:
        prepare(folder, out=tmp_path / "out", source="movielens-100k")
    assert "grouplens.org" in str(caught.value.hint)
    wrong = write(tmp_path / "k", log_standard_dot_csv="user_id,video_id\n1,2\n")
    with pytest.raises(LogError, match="is not KuaiRand: it lacks is_click, tab; its columns are"):
        prepare(wrong, out=tmp_path / "out", source="kuairand")


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(LogError, match="there is no folder"):
        prepare(tmp_path / "none", out=tmp_path / "out", source="mind")


def test_every_source_states_its_rules_and_terms() -> None:
    for name, source in SOURCES.items():
        assert source.name == name
        assert source.title and source.licence and source.rules
        assert source.home_page.startswith("https://")


def test_the_command_lists_them_all() -> None:
    shown = CliRunner().invoke(app, ["sources", "--json"])
    listed = json.loads(shown.stdout)
    assert {one["name"] for one in listed} == set(SOURCES)
    assert all(one["licence"] and one["home_page"] for one in listed)
