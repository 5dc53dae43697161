"""Domains that are looked at together give what they give one by one."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch
from demanding import with_demand
from planted import tiny_config
from torch import Tensor
from toy import living_dataset

from crossfeed.config import Config
from crossfeed.data.dataset import Dataset
from crossfeed.data.demand import FEATURES
from crossfeed.model.candidates import Proposals
from crossfeed.model.losses import target_loss
from crossfeed.model.players import Players
from crossfeed.training.step import pool_groups
from crossfeed.training.step.batches import Batch, batches
from crossfeed.training.step.means import Means
from crossfeed.training.step.pool import pools_of
from crossfeed.training.step.pool_groups import DomainRows, stack
from crossfeed.training.step.proposals import propose
from crossfeed.training.step.steps import StepResult, gaps_of, score
from crossfeed.training.watch.health import Health, add_health

CONFIGS = {
    "default": tiny_config(gap_weight=0.1, reward_weight=0.5),
    "samples": tiny_config(gap_weight=0.1, reward_weight=0.5, pool_items=8),
    "rows": tiny_config(gap_weight=0.1, reward_weight=0.5, pool_items=8, dense_items=0),
    "kl": tiny_config(gap="kl", gap_weight=0.1, objective="full-softmax"),
    "kl of samples": tiny_config(gap="kl", gap_weight=0.1, pool_items=8),
    "euclidean": tiny_config(gap="euclidean", gap_weight=0.1, static_proposal="uniform"),
}
EXPANDED = {"all": [True, True, True], "some": [True, False, True]}


def batch_of(dataset: Dataset, config: Config, *, stacked: bool) -> Batch:
    clicks = dataset.learned_events
    return next(batches(dataset, config, clicks=clicks, epoch=0, stacked=stacked))


def look(
    dataset: Dataset, config: Config, batch: Batch, expanded: list[bool]
) -> tuple[Proposals, dict[str, Tensor], Health]:
    """Return what a batch gives: proposals, losses and gradients by name, health."""
    torch.manual_seed(0)
    players = with_demand(Players(dataset.catalogue, config.model)).eval()
    if dataset.catalogue.rows > config.train.dense_items:
        players.use_sparse_gradients()
    proposals = propose(
        players.generator,
        batch,
        config=config.train,
        expanded=expanded,
    )
    pools = pools_of(players.discriminator, batch)
    scores = score(players.discriminator, batch, pools, proposals, config.train)
    gaps = gaps_of(batch, pools, proposals, config.train)
    losses = target_loss(proposals, scores, gaps, config)
    losses.total.backward()
    found = {term.name: getattr(losses, term.name).detach() for term in fields(losses)}
    for name, value in players.named_parameters():
        if value.grad is not None:
            found[f"gradient of {name}"] = value.grad.to_dense()
    means, zero = Means({}, {}), torch.zeros(())
    norms = {"generator": zero, "discriminator": zero}
    result = StepResult(proposals.detached(), scores.detached(), gaps, {}, norms)
    add_health(means, batch, result)
    return proposals, found, Health.of(means)


@pytest.fixture
def living() -> Dataset:
    """Return a log with untrained items and, in a batch, several windows of most domains."""
    return living_dataset()


@pytest.mark.parametrize("log", ["last_out", "living"])
@pytest.mark.parametrize("free", [0, 1 << 20], ids=["few in a stack", "all in one"])
@pytest.mark.parametrize("expanded", sorted(EXPANDED))
@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_a_stack_gives_what_its_domains_give_one_by_one(
    name: str,
    expanded: str,
    free: int,
    log: str,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dataset = request.getfixturevalue(log)
    monkeypatch.setattr(pool_groups, "_FREE", free)
    config = CONFIGS[name]
    single, stacked = (batch_of(dataset, config, stacked=each) for each in (False, True))
    assert len(stacked.groups) < len(single.groups) or not free
    if log == "living":
        assert max(len(group.static) for group in single.groups) > 1
        assert any(bool((group.static == 0).any()) for group in single.groups)
        assert any(not bool(group.has_row.all()) for group in stacked.groups)  # type: ignore[attr-defined]
    alone, losses, health = look(dataset, config, single, EXPANDED[expanded])
    # The same candidates: a draw for rows of padding too would give others.
    drawn = iter([part.flatten(0, 1) for part in stacked.by_domain(alone.candidates)])
    monkeypatch.setattr(torch, "multinomial", lambda *given, **more: next(drawn))
    together, losses_of_stacks, health_of_stacks = look(
        dataset, config, stacked, EXPANDED[expanded]
    )
    for field in fields(Proposals):
        if field.name != "confidences":
            pair = (getattr(alone, field.name), getattr(together, field.name))
            torch.testing.assert_close(*pair, msg=lambda text, name=field.name: f"{name}: {text}")
    assert losses.keys() == losses_of_stacks.keys()
    for term, value in losses.items():
        torch.testing.assert_close(losses_of_stacks[term], value, rtol=1e-4, atol=1e-6, msg=term)
    for one, other in zip(
        (health.distinct_share, health.gap, *health.entropy.values()),
        (
            health_of_stacks.distinct_share,
            health_of_stacks.gap,
            *(health_of_stacks.entropy[domain] for domain in health.entropy),
        ),
        strict=True,
    ):
        assert one == pytest.approx(other, rel=1e-4)


def test_draws_of_a_stack_are_items_of_the_row_s_domain_that_were_not_seen(
    last_out: Dataset,
) -> None:
    for name in ("default", "samples", "euclidean"):
        batch = batch_of(last_out, CONFIGS[name], stacked=True)
        proposals, _, _ = look(last_out, CONFIGS[name], batch, [True] * 3)
        (group,) = batch.groups
        (candidates,) = batch.by_domain(proposals.candidates)
        items = torch.from_numpy(
            last_out.catalogue.domain_of(group.item_indices(candidates).numpy())
        )
        assert torch.equal(items, torch.tensor(group.domains)[:, None, None].expand_as(items))
        seen = torch.zeros(*group.clicks.shape, group.size, dtype=torch.bool)
        seen[group.seen] = True
        assert not bool(seen.gather(2, candidates).any())
        assert bool(proposals.candidate_log_proposal.isfinite().all())


def test_rows_come_together_in_their_order(last_out: Dataset) -> None:
    for stacked in (False, True):
        batch = batch_of(last_out, tiny_config(), stacked=stacked)
        for shape in ((), (3,), (3, 2)):
            values = torch.rand(batch.rows, *shape)
            assert torch.equal(batch.together(batch.by_domain(values)), values)


def rows(first: int, count: int, *, items: int) -> DomainRows:
    nothing = torch.zeros(0, dtype=torch.long)
    return DomainRows(
        domains=(first,),
        names=(str(first),),
        clicks=torch.zeros(count, dtype=torch.long),
        seen=(nothing, nothing),
        sample=None,
        rows=slice(first, first + count),
        pool=slice(100 * first, 100 * first + items),
        table_rows=slice(10 * first, 10 * first + items - 1),
        windows=torch.zeros(count, dtype=torch.long),
        demand=torch.zeros(1, items, FEATURES),
        static=torch.ones(1, items),
    )


def test_domains_are_stacked_as_long_as_that_pads_little(monkeypatch: pytest.MonkeyPatch) -> None:
    groups = [rows(0, 4, items=50), rows(4, 1, items=5), rows(5, 2, items=6)]
    everything, (source, kept) = stack(groups, rows=7)
    assert [one.domains for one in everything] == [(4, 5, 0)]  # by the size of their pools
    assert source.tolist() == [4, 4, 4, 4, 5, 6, 5, 5, 0, 1, 2, 3]
    assert kept.tolist() == [8, 9, 10, 11, 0, 4, 5]
    monkeypatch.setattr(pool_groups, "_FREE", 0)
    # 2 x 2 x 6 is at most twice 1 x 5 + 2 x 6; with the third, 3 x 4 x 50 of 217 would be too much.
    divided, _ = stack(groups, rows=7)
    assert [one.domains for one in divided] == [(4, 5), (0,)]
    padding = divided[0].padding
    assert padding is not None
    assert padding.rows.tolist() == [[1.0, 0.0], [0.5, 0.5]]
    assert padding.items.tolist() == [[True] * 5 + [False], [True] * 6]
    assert divided[0].most_distinct(4).tolist() == [4, 6]
