"""What users without history get: a chain of steps per domain, each filling what is left open."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient
from toy import toy_dataset

from crossfeed.bundle import Bundle
from crossfeed.cli.serving import recommend
from crossfeed.data.dataset import Part
from crossfeed.errors import BundleError, ConfigError
from crossfeed.export import recent_clicks
from crossfeed.serving.engine.checking import check_answers
from crossfeed.serving.histories.availability import Availability, ItemFlag
from crossfeed.serving.histories.history import Event
from crossfeed.serving.histories.sqlite.store import SqliteHistoryStore
from crossfeed.serving.http.app import create_app
from crossfeed.serving.recommend.answers import Step
from crossfeed.serving.recommend.fallback import Fallback, FallbackChain, Fallbacks, read_fallbacks
from crossfeed.serving.recommend.recommender import Recommender


def counted(bundle: Bundle, clicks: dict[str, int], recent: dict[str, int]) -> Bundle:
    """Return a bundle whose videos have these clicks and no others."""
    columns = []
    for counts in (clicks, recent):
        column = np.zeros_like(bundle.clicks)
        for item_id, count in counts.items():
            column[bundle.ids.index(item_id, "videos")] = count
        columns.append(column)
    return dataclasses.replace(bundle, clicks=columns[0], recent_clicks=columns[1])


@pytest.fixture(scope="module")
def known(bundle: Bundle) -> Bundle:
    clicks = {"v01": 9, "v02": 8, "v03": 7, "v04": 7}
    return counted(bundle, clicks, {"v03": 2, "v04": 2, "v02": 1})


def answered(
    bundle: Bundle, chain: FallbackChain | None = None, *, k: int = 10, **more: Any
) -> tuple[list[object], list[str], str | None]:
    chains: Fallbacks = {"videos": chain} if chain else {}
    recommender = Recommender(bundle, fallbacks=chains)
    answer = recommender.recommend(**{"history": [], "domain": "videos", "k": k, **more})
    ids, sources = ([getattr(i, name) for i in answer.items] for name in ("item_id", "source"))
    return ids, sources, answer.fallback


LISTED = FallbackChain(items=("v07", "brand-new", "v01"))


@pytest.fixture(scope="module")
def rest(known: Bundle) -> list[object]:
    """Return the videos that nobody clicked, in the order of the pool."""
    ids = known.item_ids.to_pylist()[known.catalogue.pool(known.catalogue.domain_index("videos"))]
    return [item_id for item_id in ids if item_id not in ("v01", "v02", "v03", "v04")]


def test_a_step_fills_what_those_before_it_left_open(known: Bundle, rest: list[object]) -> None:
    assert answered(known, k=3) == (["v03", "v04", "v02"], ["recent"] * 3, "recent")
    assert answered(known, k=5) == (
        ["v03", "v04", "v02", "v01", rest[0]],
        ["recent"] * 3 + ["popular"] * 2,
        "popular",
    )
    chain = FallbackChain(("recent", "listed", "popular"), LISTED.items)
    assert answered(known, chain, k=7) == (
        ["v03", "v04", "v02", "v07", "brand-new", "v01", rest[0]],
        ["recent"] * 3 + ["listed"] * 3 + ["popular"],
        "popular",
    )
    assert answered(known, LISTED, k=22) == (
        ["v03", "v04", "v02", "v01", *rest, "brand-new"],
        ["recent"] * 3 + ["popular"] * 17 + ["listed"],
        "listed",
    )


@pytest.mark.parametrize(
    ("steps", "ids"),
    [
        (("listed", "popular"), ["v07", "brand-new", "v01", "v02", "v03"]),
        (("popular",), ["v01", "v02", "v03", "v04"]),
        (("listed",), ["v07", "brand-new", "v01"]),
    ],
)
def test_a_domain_has_its_own_chain(
    known: Bundle, steps: Sequence[Step], ids: list[object]
) -> None:
    assert answered(known, FallbackChain(tuple(steps), LISTED.items), k=len(ids))[0] == ids


def test_rules_act_on_every_step_also_on_items_that_the_model_does_not_know(known: Bundle) -> None:
    seen = [Event("v03", "videos", 0)]
    held = dataclasses.replace(known, about={**known.about, "held_back": ["videos"]})
    assert answered(held, history=seen, exclude=["v01"], k=2)[0] == ["v02", "v04"]
    assert answered(known, LISTED, include=["v07", "brand-new", "x"])[0] == ["v07", "brand-new"]
    assert answered(known, LISTED, candidates=["v07"])[0] == ["v07"]
    assert "brand-new" not in answered(known, LISTED, exclude=["brand-new"], k=30)[0]
    had = [Event("brand-new", "videos", 0)]
    assert "brand-new" not in answered(known, LISTED, history=had, k=30)[0]
    assert "brand-new" in answered(known, LISTED, history=had, exclude_seen=False, k=30)[0]


def test_what_is_not_available_is_left_out_of_every_step(known: Bundle) -> None:
    store = SqliteHistoryStore(None)
    store.set_available([ItemFlag(item, "videos", False) for item in ("v03", "v01", "brand-new")])
    recommender = Recommender(known, availability=Availability(store), fallbacks={"videos": LISTED})
    answer = recommender.recommend(history=[], domain="videos", k=20)
    assert [item.item_id for item in answer.items][:2] == ["v04", "v02"]
    assert {"v03", "v01", "brand-new"}.isdisjoint(item.item_id for item in answer.items)
    assert answer.reason == "18 of 20 items: 'videos' has 20, 2 not available"
    store.close()


def test_where_the_chain_is_too_short_the_reason_says_so(known: Bundle) -> None:
    recommender = Recommender(known, fallbacks={"videos": FallbackChain(("listed",), ("v07",))})
    answer = recommender.recommend(history=[], domain="videos", k=3)
    assert answer.reason == "1 of 3 items: 'videos' has 20, 19 not in its fallback"


def test_a_domain_that_is_held_back_gets_what_the_gate_judged(known: Bundle) -> None:
    held = dataclasses.replace(known, about={**known.about, "held_back": ["videos"]})
    assert answered(held, k=3, history=None, user_id="u001", exclude_seen=False) == (
        ["v01", "v02", "v03"],
        ["popular"] * 3,
        "popular",
    )


@pytest.mark.parametrize(
    ("steps", "ids", "last"),
    [
        (("recent",), ["v01", "v02", "v03"], "popular"),
        (("listed", "recent"), ["v07", "brand-new", "v01"], "popular"),
        (("recent", "listed", "popular"), ["v01", "v02", "v03"], "popular"),
    ],
)
def test_where_a_domain_is_held_back_popular_takes_the_place_of_recent(
    known: Bundle, steps: Sequence[Step], ids: list[object], last: Step
) -> None:
    held = dataclasses.replace(known, about={**known.about, "held_back": ["videos"]})
    found, _, fallback = answered(held, FallbackChain(tuple(steps), ("v07", "brand-new")), k=3)
    assert (found, fallback) == (ids, last)


def test_chains_are_tried_before_the_first_request(
    known: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = {"videos": FallbackChain(("listed",))}
    check_answers(known, fallbacks=empty)  # nothing for nobody is what was asked for

    def fail(*_: object, **__: object) -> None:
        raise ValueError("planted")

    monkeypatch.setattr(Fallback, "_listed", fail)
    check_answers(known, fallbacks=None)
    with pytest.raises(BundleError, match="'videos' cannot be answered"):
        check_answers(known, fallbacks=empty)


def test_a_known_user_needs_no_fallback(known: Bundle) -> None:
    _, sources, fallback = answered(known, LISTED, history=None, user_id="u001", k=5)
    assert fallback is None and sources == ["pool"] * 5


def test_recent_clicks_are_the_newest_tenth_of_each_domain() -> None:
    events = [(0, "books", n % 3, Part.TRAIN) for n in range(20)]
    events += [(1, "films", 1, Part.TRAIN), (1, "films", 0, Part.TEST)]
    dataset = toy_dataset({"books": [7, 7, 6], "films": [1, 1]}, events)
    # 20 clicks on books: the newest two are those of items 18 % 3 and 19 % 3; one on films.
    assert recent_clicks(dataset).tolist() == [1, 1, 0, 0, 1]


def written(folder: Path, text: str) -> Path:
    file = folder / "fallbacks.toml"
    file.write_text(text)
    return file


def test_fallbacks_are_read_from_toml(bundle: Bundle, tmp_path: Path) -> None:
    text = '[videos]\nchain = ["listed", "recent"]\nitems = ["v07", "new"]\n[articles]\nitems = []'
    assert read_fallbacks(written(tmp_path, text), bundle) == {
        "videos": FallbackChain(("listed", "recent"), ("v07", "new")),
        "articles": FallbackChain(),
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[boks]", "domain 'boks' is unknown; it is one of: articles, shopping, videos"),
        ("videos = 1", "fallbacks of 'videos' must be a table of chain and items"),
        ("[videos]\nlist = []", "must be a table of chain and items"),
        ('[videos]\nchain = ["newest"]', r"the chain of 'videos' is \['newest'\]; allowed are rec"),
        ("[videos]\nchain = []", "at least one"),
        ('[videos]\nchain = ["recent", "recent"]', "each at most once"),
        ("[videos]\nitems = 1", "must be a list of different ids"),
        ('[videos]\nitems = ["a", "a"]', "must be a list of different ids"),
        ("[videos]\nitems = [1.5]", "fallbacks.videos.items must be a string"),
        ("videos", "cannot read the fallbacks"),
    ],
)
def test_fallbacks_that_are_not_valid_say_what_is(
    bundle: Bundle, tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        read_fallbacks(written(tmp_path, text), bundle)


@pytest.mark.parametrize(
    ("held_back", "k", "said"),
    [
        ([], 1, "nothing is known of this user: these are the domain's recent items"),
        ([], 20, "nothing is known of this user: these are the domain's recent and popular items"),
        (["videos"], 1, "the gate holds 'videos' back: these are the domain's popular items"),
    ],
)
def test_the_command_line_says_what_it_fell_back_on(
    known: Bundle,
    held_back: list[str],
    k: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    held = dataclasses.replace(known, about={**known.about, "held_back": held_back})
    monkeypatch.setattr(Recommender, "load", lambda path: Recommender(held))
    recommend(Path("bundle"), domain="videos", user="nobody", k=k)
    assert said in " ".join(capsys.readouterr().err.split())


def test_the_service_marks_what_it_fell_back_on(known: Bundle, tmp_path: Path) -> None:
    store = SqliteHistoryStore(tmp_path / "store.sqlite")
    app = create_app(known, store=store, fallbacks={"videos": LISTED})
    with TestClient(app) as client:
        answer = client.get("/v1/users/nobody/recommendations?domain=videos&k=21").json()
        assert answer["fallback"] == "listed" and answer["reason"] is None
        assert [item["source"] for item in answer["items"]][-2:] == ["popular", "listed"]
        page = client.get("/metrics").text
        assert 'domain="videos",fallback="listed",user="cold"} 1.0' in page
