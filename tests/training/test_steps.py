"""Who moves in a step, what is drawn, and that a bad loss stops before it reaches the weights."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from demanding import with_demand
from planted import tiny_config
from torch import Tensor, nn

from crossfeed.config import Config
from crossfeed.data.dataset import Dataset, Part
from crossfeed.errors import NonFiniteLossError
from crossfeed.model.candidates import Proposals, Scores
from crossfeed.model.gaps import kl_gap
from crossfeed.model.items.layer import ItemLayer
from crossfeed.model.losses import TargetLoss, target_loss
from crossfeed.model.players import Players
from crossfeed.scorer import Histories
from crossfeed.training.step.batches import Batch, batches, mask
from crossfeed.training.step.means import Means
from crossfeed.training.step.optimiser import PlayerOptimiser
from crossfeed.training.step.pool import pools_of
from crossfeed.training.step.pool_groups import DomainRows
from crossfeed.training.step.proposals import propose
from crossfeed.training.step.steps import (
    StepResult,
    discriminator_step,
    gaps_of,
    generator_step,
    score,
    train_step,
)
from crossfeed.training.watch.health import Health, add_health

CONFIGS = {
    "default": tiny_config(),
    "all terms": tiny_config(gap="mmd", gap_weight=0.1, reward_weight=0.5),
    "kl": tiny_config(gap="kl", gap_weight=0.1),
    "euclidean": tiny_config(gap="euclidean", gap_weight=0.1),
    "published": tiny_config(objective="binary", correction=0.0),
    "static": tiny_config(proposal_share=0.0, reward_weight=0.0, static_proposal="uniform"),
    "whole pool": tiny_config(objective="full-softmax"),
}


@dataclasses.dataclass
class Table:
    """Everything of one step."""

    config: Config
    players: Players
    batch: Batch
    proposals: Proposals


def deal(dataset: Dataset, config: Config, *, expanded: bool = True) -> Table:
    torch.manual_seed(0)
    players = with_demand(Players(dataset.catalogue, config.model))
    batch = next(batches(dataset, config, clicks=dataset.learned_events, epoch=0))
    proposals = propose(
        players.generator,
        batch,
        config=config.train,
        expanded=[expanded] * len(dataset.catalogue.domains),
    )
    return Table(config, players, batch, proposals)


def judge(table: Table, proposals: Proposals | None = None) -> tuple[Scores, TargetLoss]:
    """Return the scores and the target loss of a table's candidates, or of other proposals."""
    proposals = proposals or table.proposals
    discriminator, train = table.players.discriminator, table.config.train
    pools = pools_of(discriminator, table.batch)
    scores = score(discriminator, table.batch, pools, proposals, train)
    gaps = gaps_of(table.batch, pools, proposals, train)
    return scores, target_loss(proposals, scores, gaps, table.config)


def whole_step(dataset: Dataset, table: Table, *, expanded: bool = True) -> StepResult:
    """Move both players of a table."""
    optimisers = {
        name: PlayerOptimiser(player, table.config.train, average=None)
        for name, player in table.players.named_children()
    }
    return train_step(
        table.players,
        optimisers,
        table.batch,
        config=table.config,
        expanded=[expanded] * 3,
    )


def moments_of(dataset: Dataset, group: DomainRows) -> list[int]:
    """Return the moment of each window of a domain: the last but for which all demand is known.

    The number of the domain's clicks before a window is told by the weights of its pool.
    """
    counts = (group.static.double() ** (4 / 3)).sum(-1).round().long()
    wanted = (dataset.event_part == Part.TRAIN) & (dataset.event_domain == group.domains[0])
    times = np.sort(dataset.event_time[wanted])
    return [int(times[count]) for count in counts.tolist()]


def snapshot(player: nn.Module) -> dict[str, tuple[Tensor, Tensor | None]]:
    return {
        name: (value.detach().clone(), None if value.grad is None else value.grad.clone())
        for name, value in player.named_parameters()
    }


def same(player: nn.Module, before: dict[str, tuple[Tensor, Tensor | None]]) -> bool:
    for name, value in player.named_parameters():
        weight, gradient = before[name]
        if not torch.equal(value, weight):
            return False
        if (gradient is None) != (value.grad is None):
            return False
        if gradient is not None and value.grad is not None and not gradient.equal(value.grad):
            return False
    return True


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_only_the_moving_player_changes(name: str, last_out: Dataset) -> None:
    table = deal(last_out, CONFIGS[name])
    generator, discriminator = table.players.generator, table.players.discriminator
    for step, mover, idler in (
        (discriminator_step, discriminator, generator),
        (generator_step, generator, discriminator),
    ):
        idle, moving = snapshot(idler), snapshot(mover)
        optimiser = torch.optim.AdamW(mover.parameters())
        _, losses = judge(table)
        step(table.players, optimiser, table.batch, losses)
        assert same(idler, idle)
        moved = [
            key for key, value in mover.named_parameters() if not torch.equal(value, moving[key][0])
        ]
        assert moved


def test_without_a_generator_all_proposals_are_static(last_out: Dataset) -> None:
    config = tiny_config(proposal_share=0.0, static_proposal="uniform", reward_weight=1.0)
    table = deal(last_out, config)
    alone = propose(None, table.batch, config=config.train, expanded=[True] * 3)
    pools = torch.isfinite(table.proposals.confidences[0]).sum(1).float()
    rows = table.batch.groups[0].rows
    torch.testing.assert_close(alone.click_log_proposal[rows], -pools.log())
    _, losses = judge(table, alone)
    assert float(losses.discriminator.detach()) > 0
    assert float(losses.generator) == float(losses.gap) == 0


def test_target_loss_is_the_sum_of_its_terms(last_out: Dataset) -> None:
    table = deal(last_out, CONFIGS["all terms"])
    _, losses = judge(table)
    terms = (losses.generator, losses.anchor, losses.discriminator, losses.gap)
    assert all(float(term.detach()) != 0 for term in terms)
    torch.testing.assert_close(losses.total, sum(terms, torch.zeros(())))


def test_the_gap_knows_how_likely_the_items_of_a_sample_were(last_out: Dataset) -> None:
    table = deal(last_out, tiny_config(gap="kl", gap_weight=0.1, pool_items=6, batch_size=24))
    _, losses = judge(table)
    distances = [
        kl_gap(group.clicks, confidence.exp(), torch.zeros(0), None, group.sample.log_inclusion)
        for group, confidence in zip(table.batch.groups, table.proposals.confidences, strict=True)
        if group.sample is not None
    ]
    assert len(distances) == len(table.batch.groups) > 1
    torch.testing.assert_close(losses.gap, 0.1 * torch.exp(-torch.stack(distances)).mean())


def test_the_full_softmax_is_over_the_pool_without_the_history(last_out: Dataset) -> None:
    table = deal(last_out, CONFIGS["whole pool"])
    table.players.eval()
    _, losses = judge(table)
    player = table.players.discriminator
    users = player.users(table.batch.timelines)
    likelihoods = []
    for group in table.batch.groups:
        vectors, own = player.layer.vectors.weight[group.pool], player.layer.biases[group.pool]
        domain = torch.tensor(group.domains)
        for row, window in enumerate(group.windows.tolist()):
            demand = player.demand(group.demand[window].unsqueeze(0), domain)[0]
            of_row = vectors @ users[group.rows][row] + own + demand
            of_row[group.static[window] == 0] = float("-inf")
            of_row[group.seen[1][group.seen[0] == row]] = float("-inf")
            likelihoods.append(of_row.log_softmax(0)[group.clicks[row]])
    expected = -torch.stack(likelihoods).mean()
    torch.testing.assert_close(losses.discriminator, expected)


def test_each_term_has_a_gradient_for_one_player_only(last_out: Dataset) -> None:
    table = deal(last_out, CONFIGS["all terms"])
    _, losses = judge(table)
    owners = {"generator": "generator", "anchor": "generator", "gap": "generator"}
    for term in ("generator", "anchor", "discriminator", "gap"):
        table.players.zero_grad(set_to_none=True)
        getattr(losses, term).backward(retain_graph=True)
        touched = {
            name.split(".")[0]
            for name, value in table.players.named_parameters()
            if value.grad is not None
        }
        assert touched == {owners.get(term, "discriminator")}


def test_claims_preset_turns_every_term_on(last_out: Dataset) -> None:
    from crossfeed.config import load_config

    config = load_config(preset="claims", overrides=["model.width=16", "train.candidates=8"])
    table = deal(last_out, config)
    _, losses = judge(table)
    assert float(losses.gap.detach()) > 0
    assert float(losses.generator.detach()) != 0
    assert float(losses.discriminator.detach()) > 0


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_candidates_come_from_the_pool_and_never_from_history(name: str, last_out: Dataset) -> None:
    table = deal(last_out, CONFIGS[name])
    for group in table.batch.groups:
        size = group.pool.stop - group.pool.start
        candidates = table.proposals.candidates[group.rows]
        assert 0 <= int(candidates.min()) and int(candidates.max()) < size
        seen = torch.zeros(len(group.clicks), size, dtype=torch.bool)
        seen[group.seen] = True
        assert not bool(seen.gather(1, candidates).any())
        assert not bool(seen.gather(1, group.clicks.unsqueeze(1)).any())


def test_the_proposal_mixes_confidence_and_popularity(last_out: Dataset) -> None:
    """q of a candidate is share * g + (1 - share) * static, each normalised over the pool."""
    config = tiny_config(proposal_share=0.25)
    table = deal(last_out, config)
    group = table.batch.groups[0]
    confidence = table.proposals.confidences[0].detach().exp()
    events = last_out.event_item[last_out.event_part == Part.TRAIN]
    times = last_out.event_time[last_out.event_part == Part.TRAIN]
    weights = []
    for moment in moments_of(last_out, group):
        counts = np.bincount(events[times < moment], minlength=last_out.catalogue.items)
        weights.append(counts[group.pool] ** 0.75)
    static = torch.from_numpy(np.stack(weights)).float()[group.windows]
    static[group.seen] = 0
    proposal = 0.25 * confidence + 0.75 * static / static.sum(1, keepdim=True)
    torch.testing.assert_close(confidence.sum(1), torch.ones(len(confidence)))
    torch.testing.assert_close(
        table.proposals.candidate_log_proposal[group.rows],
        proposal.gather(1, table.proposals.candidates[group.rows]).log(),
    )


def test_a_domain_that_is_not_expanded_gets_static_proposals_alone(last_out: Dataset) -> None:
    config = tiny_config(static_proposal="uniform", reward_weight=1.0)
    table = deal(last_out, config, expanded=False)
    group = table.batch.groups[0]
    pools = torch.isfinite(table.proposals.confidences[0]).sum(1)
    expected = -pools.float().log()
    torch.testing.assert_close(table.proposals.click_log_proposal[group.rows], expected)
    result = whole_step(last_out, table, expanded=False)
    assert float(result.losses["generator"]) == float(result.losses["gap"]) == 0
    means = Means({}, {})
    add_health(means, table.batch, result)
    assert Health.of(means).gap is None


def test_the_gap_is_of_the_domains_that_are_expanded(last_out: Dataset) -> None:
    config = tiny_config(gap_weight=0.1)
    table = deal(last_out, config)
    by_domain = []
    for domain in range(3):
        expanded = table.batch.timelines.target_domains == domain
        proposals = dataclasses.replace(table.proposals, expanded=expanded)
        by_domain.append(judge(table, proposals)[1].gap)
    of_all = judge(table)[1].gap
    assert len({float(gap.detach()) for gap in by_domain}) == 3
    torch.testing.assert_close(torch.stack(by_domain).mean(), of_all)


@pytest.mark.parametrize("drop", [0.0, 0.4])
def test_about_the_stated_shares_of_a_history_are_hidden(drop: float, last_out: Dataset) -> None:
    config = tiny_config()
    shares = config.model.model_copy(update={"drop_share": drop, "mask_share": 0.5})
    clicks = last_out.events(Part.TRAIN)
    domains, catalogue = last_out.event_domain[clicks].astype(np.int64), last_out.catalogue
    whole = last_out.histories(clicks, Part.TRAIN)

    def in_target(histories: Histories) -> np.ndarray:
        return catalogue.domain_of(histories.items) == domains[histories.rows()]

    masked = mask(whole, in_target(whole), shares, np.random.default_rng(0))
    elsewhere, there = (~in_target(whole)).sum(), in_target(whole).sum()
    assert (~in_target(masked)).sum() == pytest.approx((1 - drop) * elsewhere, rel=0.05)
    assert in_target(masked).sum() == pytest.approx((1 - drop) * 0.5 * there, rel=0.1)


def test_what_is_hidden_is_still_no_candidate(last_out: Dataset) -> None:
    config = tiny_config()
    shares = config.model.model_copy(update={"drop_share": 0.9})
    clicks = last_out.events(Part.TRAIN)
    plain, hiding = (
        next(batches(last_out, one, clicks=clicks, epoch=0))
        for one in (config, config.model_copy(update={"model": shares}))
    )
    assert len(hiding.timelines.item_rows) < len(plain.timelines.item_rows)
    for one, other in zip(plain.groups, hiding.groups, strict=True):
        assert torch.equal(one.seen[0], other.seen[0]) and torch.equal(one.seen[1], other.seen[1])


def test_a_resumed_epoch_gets_the_batches_it_would_have_had(last_out: Dataset) -> None:
    config, clicks = tiny_config(batch_size=64), last_out.events(Part.TRAIN)
    whole = list(batches(last_out, config, clicks=clicks, epoch=3))
    rest = list(batches(last_out, config, clicks=clicks, epoch=3, first_step=2))
    assert [batch.step for batch in rest] == [batch.step for batch in whole[2:]]
    for one, other in zip(whole[2:], rest, strict=True):
        assert torch.equal(one.timelines.item_rows, other.timelines.item_rows)
        assert torch.equal(one.groups[0].clicks, other.groups[0].clicks)


@pytest.mark.parametrize(
    ("player", "loss"), [("generator", "anchor"), ("discriminator", "discriminator")]
)
def test_a_loss_that_is_not_finite_stops_before_the_weights(
    player: str, loss: str, last_out: Dataset
) -> None:
    table = deal(last_out, tiny_config(reward_weight=0.0, gap="none"))
    group = table.batch.groups[1]
    with torch.no_grad():
        getattr(table.players, player).layer.biases[group.pool] = float("nan")
    before = snapshot(table.players)
    message = f"the {loss} loss became nan in epoch 1, step 1, domain '{group.names[0]}'"
    with pytest.raises(NonFiniteLossError, match=message):
        whole_step(last_out, table)
    after = snapshot(table.players)
    assert all(
        torch.equal(before[key][0], after[key][0]) or before[key][0].isnan().any() for key in before
    )


def test_confidences_that_are_not_finite_stop_before_the_draws(last_out: Dataset) -> None:
    config = tiny_config()
    table = deal(last_out, config)
    group = table.batch.groups[1]
    with torch.no_grad():
        table.players.generator.output_layer.biases[group.pool.start] = float("inf")
    message = f"the anchor loss became nan in epoch 1, step 1, domain '{group.names[0]}'"
    with pytest.raises(NonFiniteLossError, match=message):
        propose(
            table.players.generator,
            table.batch,
            config=config.train,
            expanded=[True] * 3,
        )


@pytest.mark.parametrize("name", ["generator", "discriminator"])
def test_a_gradient_that_is_not_finite_stops_before_the_weights(
    name: str, last_out: Dataset
) -> None:
    table = deal(last_out, CONFIGS["all terms"])
    player = getattr(table.players, name)
    next(player.parameters()).register_hook(lambda gradient: gradient * float("inf"))
    before = {key: value.clone() for key, value in player.state_dict().items()}
    _, losses = judge(table)
    step = generator_step if name == "generator" else discriminator_step
    message = f"the gradient of the {name} became (inf|nan) in epoch 1, step 1, domain 'articles, "
    with pytest.raises(NonFiniteLossError, match=message):
        step(
            table.players,
            torch.optim.AdamW(player.parameters()),
            table.batch,
            losses,
        )
    assert all(torch.equal(value, before[key]) for key, value in player.state_dict().items())


def test_each_player_looks_its_pools_up_once_a_step(
    last_out: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, asked = deal(last_out, CONFIGS["all terms"]), []
    pools = ItemLayer.pools
    monkeypatch.setattr(
        ItemLayer, "pools", lambda layer, items: asked.append(layer) or pools(layer, items)
    )
    result = whole_step(last_out, table)
    assert set(result.losses) == {"generator", "anchor", "discriminator", "gap"}
    assert all(bool(value != 0) for value in result.losses.values())
    assert asked == [table.players.generator.layer, table.players.discriminator.layer]
