"""Where items come from: the pool or its index, the request's list, the generator's draws."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from bundles import Quiet
from numpy.typing import NDArray
from starlette.testclient import TestClient

from crossfeed.bundle import Bundle, BundleContents, write_bundle
from crossfeed.bundle.item_index import build_index
from crossfeed.config import ModelConfig
from crossfeed.data.dataset import Dataset, Part
from crossfeed.errors import RequestError
from crossfeed.export import export
from crossfeed.model.network_scorer import NetworkScorer
from crossfeed.model.players import Players
from crossfeed.run import Run
from crossfeed.scorer import Catalogue, Floats, Histories, Ints
from crossfeed.serving.histories.sqlite.store import SqliteHistoryStore
from crossfeed.serving.http.app import create_app
from crossfeed.serving.recommend import sources as sources_module
from crossfeed.serving.recommend.pipeline import Pipeline
from crossfeed.serving.recommend.query import Query, Source
from crossfeed.serving.recommend.ranking import rank_by_score
from crossfeed.serving.recommend.recommender import Recommender
from crossfeed.serving.recommend.sources import ModelSources
from crossfeed.serving.recommend.target import Lists, Target, User

USER: dict[str, Any] = {"user_id": "u001", "domain": "videos", "exclude_seen": False}


@pytest.fixture(scope="module")
def recommender(bundle: Bundle) -> Recommender:
    return Recommender(bundle)


def ranked(recommender: Recommender, **more: Any) -> list[tuple[object, str]]:
    return [(item.item_id, item.source) for item in recommender.recommend(**{**USER, **more}).items]


def test_sources_are_united_and_each_item_says_its_own(
    recommender: Recommender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources_module, "_DRAWS", 4)
    order = [item_id for item_id, _ in ranked(recommender, k=20)]
    listed = [order[0], order[-1]]
    drawn = {item_id for item_id, _ in ranked(recommender, k=4, sources=["generator"])}
    assert len(drawn) == 4
    both = ranked(recommender, k=4, candidates=listed, sources=["candidates", "generator"])
    wanted = [item for item in order if item in drawn or item in listed][:4]
    assert [item_id for item_id, _ in both] == wanted
    for item_id, source in both:
        assert source == ("candidates" if item_id in listed else "generator")
    every = ranked(
        recommender, k=20, candidates=listed, sources=["candidates", "generator", "pool"]
    )
    assert [item_id for item_id, _ in every] == order
    assert [source for item, source in every if item in listed] == ["candidates"] * 2
    assert "pool" not in {source for _, source in every}  # k = 20 draws all that there are
    plain = ranked(recommender, k=20, candidates=listed, sources=["candidates", "pool"])
    assert Counter(source for _, source in plain) == {"candidates": 2, "pool": 18}


def test_the_generator_draws_before_the_cut_from_what_the_rules_allow(
    recommender: Recommender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources_module, "_DRAWS", 1)
    order = [item_id for item_id, _ in ranked(recommender, k=20)]
    answer = recommender.recommend(**USER, k=10, exclude=order[:10], sources=["generator"])
    assert {item.item_id for item in answer.items} == set(order[10:])
    assert answer.reason is None
    more = recommender.recommend(**USER, k=11, exclude=order[:10], sources=["generator"])
    assert more.reason == "10 of 11 items: 'videos' has 20, 10 filtered by the request"


def found(
    bundle: Bundle,
    *,
    number: int = 0,
    k: int = 5,
    source: Source = "pool",
    allowed: Sequence[int] | None = None,
) -> tuple[list[int], list[float], set[str]]:
    """Return positions, scores and sources of what one user gets in the domain `articles`.

    The number only changes the draws.
    """
    vector = bundle.scorer.user_vectors(Histories.of([[20, 21, 22]]), np.array([0]))[0]
    only = np.ones(bundle.catalogue.items, np.bool_)
    if allowed is not None:
        only[:] = False
        only[list(allowed)] = True
    query = Query(domains={"articles": k}, history=[], sources=[source])
    user = User((), np.array([number + 20]))
    lists = Lists(only=((only, frozenset()),))
    target = Target(query, lists, 0, "articles", slice(0, 20), k, user, vector)
    rules = Pipeline(bundle).allowed(target)
    candidates = [find(target, rules) for find in ModelSources(bundle).of(query)]
    items = rank_by_score(bundle, target, rules, candidates).items
    positions = [bundle.ids.index(item.item_id, "articles") for item in items]
    return positions, [item.score for item in items], {item.source for item in items}


def test_draws_follow_the_generators_confidence(
    bundle: Bundle, last_out: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources_module, "_DRAWS", 1)
    drawn = [found(bundle, number=number, k=1, source="generator")[0][0] for number in range(2_000)]
    players = bundle.scorer.players
    vector = bundle.scorer.user_vectors(Histories.of([[20, 21, 22]]), np.array([0]))[0]
    user = torch.from_numpy(vector[players.config.width :] / players.config.output_share)
    user = user / players.personal_share
    with torch.no_grad():
        output = players.generator.layer.item_vectors()[:20] @ user
        demand = torch.from_numpy(last_out.end(Part.TEST).demand(0)).float()
        confidence = (output + players.confidence_biases(0, demand)).softmax(dim=0).numpy()
    np.testing.assert_allclose(np.bincount(drawn, minlength=20) / 2_000, confidence, atol=0.04)
    assert confidence.max() > 0.06  # more than one in twenty: there is something to follow


def test_the_same_history_is_shown_the_same_draws(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources_module, "_DRAWS", 5)
    one, again, other = (
        found(bundle, number=number, source="generator")[0] for number in (1, 1, 2)
    )
    assert one == again
    assert set(one) != set(other)


class Index:
    """Stands in for an index that finds the given positions."""

    def __init__(self, *positions: int) -> None:
        self.positions, self.searches = np.array(positions, np.int64), 0

    def search(self, user: Floats, allowed: NDArray[np.bool_], k: int) -> Ints:
        self.searches += 1
        return self.positions[allowed[self.positions]][:k]


def with_index(bundle: Bundle, index: Index) -> Bundle:
    copy = dataclasses.replace(bundle)
    copy.__dict__.update(indexes={"articles": index})
    return copy


def test_what_an_index_finds_is_ranked_by_the_score(bundle: Bundle) -> None:
    index = Index(7, 3, 11, 5, 2)
    positions, _, sources = found(with_index(bundle, index))
    order, values, exact = found(bundle, k=20)
    scores = dict(zip(order, values, strict=True))
    assert positions == sorted([7, 3, 11, 5, 2], key=lambda at: -scores[at])
    assert sources == {"index"} and exact == {"pool"}


def test_where_an_index_finds_too_few_the_pool_is_searched(bundle: Bundle) -> None:
    index = Index(7, 3)
    positions, _, sources = found(with_index(bundle, index))
    assert positions == found(bundle)[0]
    assert sources == {"pool"} and index.searches == 1


def test_where_few_items_are_allowed_no_index_is_asked(bundle: Bundle) -> None:
    index = Index(7, 3)
    positions, _, _ = found(with_index(bundle, index), allowed=[4, 9])
    assert set(positions) == {4, 9} and index.searches == 0


def test_the_rules_hold_for_whatever_a_source_finds(bundle: Bundle) -> None:
    """A source that does not look at the rules cannot break them."""

    class Careless(Index):
        def search(self, user: Floats, allowed: NDArray[np.bool_], k: int) -> Ints:
            return self.positions

    copy = with_index(bundle, Careless(7, 3, 11))
    query: dict[str, Any] = {"user_id": "u001", "domain": "articles", "exclude_seen": False}
    ids = bundle.item_ids.to_pylist()
    answer = Recommender(copy).recommend(**query, exclude=[ids[7]], k=3)
    assert {item.source for item in answer.items} == {"index"}
    assert {item.item_id for item in answer.items} == {ids[3], ids[11]}


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Return a bundle with 5,000 films in 50 clusters, and an index of them."""
    catalogue = Catalogue(("films",), np.array([0, 5_000]), np.array([5_000]))
    config = ModelConfig(width=8, heads=2, fuse="none")
    torch.manual_seed(0)
    players = Players(catalogue, config)
    draws = torch.Generator().manual_seed(0)
    centres = torch.randn(50, 8, generator=draws)
    near = centres.repeat(100, 1) + 0.05 * torch.randn(5_000, 8, generator=draws)
    players.discriminator.scoring_layer.vectors.weight.data = near
    scorer = NetworkScorer(catalogue, players)
    histories = Histories.of([[n, n + 50, n + 100] for n in range(50)])
    users = scorer.user_vectors(histories, np.zeros(50, np.int64))
    index = build_index(scorer.item_vectors, scorer.item_biases(0, Quiet(catalogue)), users)
    assert index.data is not None
    ids = pa.chunked_array([pa.array(range(5_000), pa.int64())])
    out = tmp_path_factory.mktemp("large") / "bundle"
    contents = BundleContents(
        scorer=scorer,
        item_ids=ids,
        user_id_type=pa.int64(),
        clicks=np.ones(5_000, np.int64),
        recent_clicks=np.ones(5_000, np.int64),
        moment=Quiet(catalogue),
        histories=None,
        card={},
        indexes={"films": index},
    )
    return Bundle.load(write_bundle(out, contents))


def test_a_bundle_with_an_index_answers_by_it(large: Bundle) -> None:
    facts = large.about["indexes"]["films"]
    assert facts["file"] == "index-0.faiss" and facts["recall@100"] >= 0.99
    recommender, hits = Recommender(large), 0
    for item in range(20):
        history = [{"item_id": item, "domain": "films"}, {"item_id": item + 50, "domain": "films"}]
        asked: dict[str, Any] = {"domain": "films", "history": history, "k": 20}
        scores = large.scorer.score(Histories.of([[item, item + 50]]), 0, Quiet(large.catalogue))[0]
        scores[[item, item + 50]] = -np.inf
        answer = recommender.recommend(**asked)
        assert {one.source for one in answer.items} == {"index"}
        assert len(answer.items) == 20 and answer.reason is None
        values = [scores[int(one.item_id)] for one in answer.items]
        assert values == pytest.approx([one.score for one in answer.items], abs=1e-4)
        hits += len(set(np.argsort(-scores)[:20].tolist()) & {one.item_id for one in answer.items})
    assert hits >= 0.99 * 400


def test_a_domain_whose_index_measures_too_low_is_searched_exactly(
    run: Run, tmp_path: Path
) -> None:
    exported = Bundle.load(export(run, out=tmp_path / "bundle", onnx=False, index_above=19))
    facts = exported.about["indexes"]["videos"]
    assert facts["file"] is None and 0 <= facts["recall@100"] <= 1
    assert exported.indexes == {}
    assert set(source for _, source in ranked(Recommender(exported))) == {"pool"}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"sources": ["shop"]}, "sources must be some of pool, candidates, generator"),
        ({"sources": []}, "sources must be some of pool, candidates, generator"),
        ({"sources": ["candidates"]}, "candidates if and only if the request lists them"),
        ({"sources": ["pool"], "candidates": ["v01"]}, "candidates if and only if the request"),
    ],
)
def test_sources_that_are_not_valid_are_refused(
    recommender: Recommender, more: dict[str, Any], message: str
) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        recommender.recommend(**USER, **more)
    assert caught.value.field == "sources"


def test_a_score_without_generator_cannot_draw(large: Bundle) -> None:
    with pytest.raises(RequestError, match="this bundle's score holds no generator"):
        Recommender(large).recommend(domain="films", history=[], sources=["generator"])


def test_candidates_beside_other_sources_do_not_narrow_the_fallback(
    recommender: Recommender,
) -> None:
    wide: list[Source] = ["candidates", "pool"]
    asked: dict[str, Any] = {"domain": "videos", "history": [], "candidates": ["v01"], "k": 5}
    assert len(recommender.recommend(**asked, sources=wide).items) == 5
    assert [item.item_id for item in recommender.recommend(**asked).items] == ["v01"]


@pytest.fixture
def client(bundle: Bundle, tmp_path: Path) -> Iterator[TestClient]:
    app = create_app(bundle, store=SqliteHistoryStore(tmp_path / "store.sqlite"))
    with TestClient(app) as client:
        yield client


def test_sources_over_http(client: TestClient) -> None:
    sent = {"user_id": "u001", "domain": "videos", "k": 3, "sources": ["generator"]}
    answer = client.post("/v1/recommend", json=sent).json()
    assert [item["source"] for item in answer["items"]] == ["generator"] * 3
    refused = client.post("/v1/recommend", json={**sent, "sources": ["shop"]})
    assert refused.status_code == 422 and "'generator'" in refused.json()["detail"]
