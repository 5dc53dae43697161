"""Padded ports of the published layout, to measure crossfeed's training against.

`Plain` is the layout as it was published (xiaobocser/AFT): each player reads a dense cube of
B x D x L items, scores the whole catalogue, and knows a row's pool as a multi-hot vector over all
items; the players move in turn, each phase looks anew, and all tables have dense gradients.

`Competent` is what a good engineer makes of it without giving up padding: histories padded to the
batch's longest, domains to the batch's widest row, embedding gathers, pools sampled uniformly where
they are large, one look of each player for both phases, fused updates of small tables and sparse
ones of large tables; what is large is as crossfeed has it.

Both have the terms of crossfeed's target loss, its widths, batch size and number of candidates.

Dims: B clicks, b clicks of one domain, D domains, L items of a domain, T items of the longest
history, M domains of the widest row, I items, N items of a pool, K candidates, E width, H heads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer, SparseAdam

from crossfeed.config import Config
from crossfeed.data.dataset import Dataset, Part
from crossfeed.model.gaps import mmd_gap
from crossfeed.model.losses import anchor_loss, gap_loss, generator_loss, softmax_loss
from crossfeed.model.users.timelines import Timelines, build_timelines
from crossfeed.scorer import Ints
from crossfeed.training.step.batches import mask

__all__ = ["PORTS", "Competent", "Plain", "Rows", "rows"]


@dataclass(frozen=True)
class Rows:
    """A batch before it is padded: rows by target domain."""

    timelines: Timelines
    clicks: Tensor
    """(B,) item index."""
    seen: tuple[Tensor, Tensor]
    """Row and item index of what the user saw before in the target domain, click excepted."""

    def domains(self) -> Iterator[tuple[int, slice]]:
        """Yield each target domain of the batch and its rows."""
        found, firsts = np.unique(self.timelines.target_domains.numpy(), return_index=True)
        bounds = [*firsts.tolist(), len(self.clicks)]
        for domain, first, last in zip(found.tolist(), bounds[:-1], bounds[1:], strict=True):
            yield domain, slice(first, last)


def rows(dataset: Dataset, config: Config) -> Iterator[Rows]:
    """Yield batches of training clicks without end."""
    rng = np.random.default_rng(config.train.seed)
    clicks = dataset.events(Part.TRAIN)
    while True:
        events = rng.choice(clicks, min(config.train.batch_size, len(clicks)), replace=False)
        yield _assemble(dataset, config, np.sort(events), rng)


def _assemble(dataset: Dataset, config: Config, events: Ints, rng: np.random.Generator) -> Rows:
    catalogue = dataset.catalogue
    domains = dataset.event_domain[events].astype(np.int64)
    order = np.argsort(domains, kind="stable")
    events, domains = events[order], domains[order]
    histories = dataset.histories(events, Part.TRAIN)
    clicks = dataset.event_item[events].astype(np.int64)
    of = histories.rows()
    seen = catalogue.domain_of(histories.items) == domains[of]
    shown = mask(histories, seen, config.model, rng)
    seen &= histories.items != clicks[of]
    return Rows(
        build_timelines(shown, domains, catalogue=catalogue, config=config.model),
        torch.from_numpy(clicks),
        (torch.from_numpy(of[seen]), torch.from_numpy(histories.items[seen])),
    )


class PaddedEncoder(nn.Module):
    """Attention pooling per domain, a transformer over domains, and the target's question."""

    def __init__(self, domains: int, config: Config) -> None:
        super().__init__()
        model = config.model
        self.heads = model.heads
        self.domain = nn.Embedding(domains, model.width)
        self.recency = nn.Embedding(model.history_per_domain, model.width)
        self.attention = nn.Linear(model.width, model.heads)
        self.value = nn.Linear(model.width, model.width)
        self.norm = nn.LayerNorm(model.width)
        self.dropout = nn.Dropout(model.dropout)
        self.layer = nn.TransformerEncoderLayer(
            model.width,
            model.heads,
            2 * model.width,
            model.dropout,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.readout = nn.MultiheadAttention(model.width, model.heads, batch_first=True)
        self.last_norm = nn.LayerNorm(model.width)

    def pool_cube(self, items: Tensor, present: Tensor) -> Tensor:
        """Return (B, D, E) pooled items of a cube (B, D, L, E)."""
        items = self.dropout(items + self.recency.weight)
        logits = self.attention(items).masked_fill(~present.unsqueeze(3), -1e9)  # (B, D, L, H)
        weights = logits.softmax(dim=2) * present.unsqueeze(3)
        by_head = items.reshape(*items.shape[:3], self.heads, -1)  # (B, D, L, H, E/H)
        pooled: Tensor = (weights.unsqueeze(4) * by_head).sum(dim=2).flatten(2)
        return pooled

    def pool_rows(self, items: Tensor, recency: Tensor, within: Tensor) -> Tensor:
        """Return (B, M, E) pooled items (B, T, E); `within` (B, M, T) says which of them."""
        items = self.dropout(items + self.recency(recency))
        logits = self.attention(items).transpose(1, 2).unsqueeze(2)  # (B, H, 1, T)
        members = within.unsqueeze(1)
        weights = logits.masked_fill(~members, -1e9).softmax(dim=3) * members  # (B, H, M, T)
        by_head = items.reshape(*items.shape[:2], self.heads, -1).transpose(1, 2)  # (B, H, T, E/H)
        pooled: Tensor = (weights @ by_head).transpose(1, 2).flatten(2)
        return pooled

    def forward(self, pooled: Tensor, domains: Tensor, known: Tensor, target: Tensor) -> Tensor:
        """Return (B, E) from pooled items (B, M, E) of domains (B, M), `target` (B,) a place."""
        tokens = self.norm(self.value(pooled) + self.domain(domains))
        tokens = self.layer(tokens, src_key_padding_mask=~known)
        question = tokens[torch.arange(len(tokens)), target].unsqueeze(1)  # (B, 1, E)
        answer, _ = self.readout(
            question, tokens, tokens, key_padding_mask=~known, need_weights=False
        )
        return self.last_norm((question + answer).squeeze(1))  # type: ignore[no-any-return]


class PaddedPlayer(nn.Module):
    """An encoder and an output layer over all items; item 0 is padding."""

    def __init__(self, items: int, domains: int, config: Config, *, sparse: bool) -> None:
        super().__init__()
        self.encoder = PaddedEncoder(domains, config)
        self.vectors = nn.Embedding(items + 1, config.model.width, padding_idx=0, sparse=sparse)
        self.biases = nn.Embedding(items + 1, 1, sparse=sparse)
        nn.init.normal_(self.vectors.weight, std=config.model.width**-0.5)
        nn.init.zeros_(self.biases.weight)

    def optimisers(self, config: Config, *, fused: bool, sparse: bool) -> list[Optimizer]:
        """Return what moves the player."""
        tables = [self.vectors.weight, self.biases.weight]
        rate = config.train.learning_rate
        if not sparse:
            return [AdamW(self.parameters(), lr=rate, fused=fused)]
        return [
            AdamW(self.encoder.parameters(), lr=rate, fused=fused),
            SparseAdam(tables, lr=rate),
        ]


class Plain:
    """One step of the layout as it was published."""

    def __init__(self, dataset: Dataset, config: Config) -> None:
        self.config, catalogue = config, dataset.catalogue
        domains = len(catalogue.domains)
        self.players = [
            PaddedPlayer(catalogue.items, domains, config, sparse=False) for _ in range(2)
        ]
        self.movers = [p.optimisers(config, fused=False, sparse=False) for p in self.players]
        self.pools = [catalogue.pool(domain) for domain in range(domains)]
        self.membership = torch.zeros(domains, catalogue.items, dtype=torch.bool)
        for domain, pool in enumerate(self.pools):
            self.membership[domain, pool] = True
        self.weights = torch.from_numpy(dataset.item_clicks).clamp_min(1).float().pow(0.75)

    def step(self, batch: Rows) -> None:
        """Move the generator, then the discriminator."""
        cube, pool = self._cube(batch), self._pool(batch)
        discriminator = self.players[1]
        log_confidence, proposal, candidates = self._propose(batch, cube, pool)
        with torch.no_grad():
            scores = self._scores(discriminator, batch, cube)
        losses = self._generator_losses(batch, log_confidence, proposal, candidates, scores)
        _move(losses, self.movers[0])
        with torch.no_grad():
            _, proposal, candidates = self._propose(batch, cube, pool)
        scores = self._scores(discriminator, batch, cube)
        clicks = batch.clicks.unsqueeze(1)
        loss = softmax_loss(
            scores.gather(1, clicks).squeeze(1),
            scores.gather(1, candidates),
            click_log_proposal=proposal.gather(1, clicks).squeeze(1).log(),
            candidate_log_proposal=proposal.gather(1, candidates).log(),
            correction=self.config.train.correction,
        )
        _move(loss, self.movers[1])

    def _cube(self, batch: Rows) -> Tensor:
        """Return (B, D, L) item + 1, newest first; 0 where there is none."""
        lines = batch.timelines
        length = self.config.model.history_per_domain
        cube = torch.zeros(len(batch.clicks), len(self.pools), length, dtype=torch.long)
        place = (lines.group_rows[lines.groups], lines.group_domains[lines.groups], lines.recency)
        cube[place] = lines.item_rows + 1
        return cube

    def _pool(self, batch: Rows) -> Tensor:
        """Return (B, I) the multi-hot pool of each row."""
        pool = self.membership[batch.timelines.target_domains]
        pool[batch.seen] = False
        pool[torch.arange(len(pool)), batch.clicks] = True
        return pool

    def _scores(self, player: PaddedPlayer, batch: Rows, cube: Tensor) -> Tensor:
        """Return (B, I) what a player gives every item of the catalogue."""
        present = cube > 0
        pooled = player.encoder.pool_cube(player.vectors(cube), present)
        domains = torch.arange(len(self.pools)).expand(len(cube), -1)
        target = batch.timelines.target_domains
        known = present.any(dim=2)
        known[torch.arange(len(cube)), target] = True
        users = player.encoder(pooled, domains, known, target)
        return users @ player.vectors.weight[1:].T + player.biases.weight[1:, 0]  # type: ignore[no-any-return]

    def _propose(self, batch: Rows, cube: Tensor, pool: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return log-confidence and proposal (B, I), and candidates (B, K)."""
        logits = self._scores(self.players[0], batch, cube)
        log_confidence = logits.masked_fill(~pool, float("-inf")).log_softmax(dim=1)
        static = self.weights * pool
        share = self.config.train.proposal_share
        proposal = share * log_confidence.detach().exp()
        proposal += (1 - share) * static / static.sum(dim=1, keepdim=True)
        count = self.config.train.candidates
        return log_confidence, proposal, torch.multinomial(proposal, count, replacement=True)

    def _generator_losses(
        self,
        batch: Rows,
        log_confidence: Tensor,
        proposal: Tensor,
        candidates: Tensor,
        scores: Tensor,
    ) -> Tensor:
        vectors = self.players[1].vectors.weight[1:]
        gaps = [
            mmd_gap(
                batch.clicks[rows] - self.pools[domain].start,
                log_confidence[rows, self.pools[domain]].exp(),
                vectors[self.pools[domain]],
            )
            for domain, rows in batch.domains()
        ]
        clicks = batch.clicks.unsqueeze(1)
        return _generator_loss(
            self.config,
            log_confidence.gather(1, candidates),
            scores.gather(1, candidates),
            proposal.gather(1, candidates).log(),
            log_confidence.gather(1, clicks).squeeze(1),
            gaps,
        )


class Competent:
    """One step of the same players, padded with care."""

    def __init__(self, dataset: Dataset, config: Config) -> None:
        self.config, catalogue = config, dataset.catalogue
        sparse = catalogue.items > config.train.dense_items
        self.players = [
            PaddedPlayer(catalogue.items, len(catalogue.domains), config, sparse=sparse)
            for _ in range(2)
        ]
        self.movers = [p.optimisers(config, fused=True, sparse=sparse) for p in self.players]
        self.pools = [catalogue.pool(domain) for domain in range(len(catalogue.domains))]
        self.weights = torch.from_numpy(dataset.item_clicks).clamp_min(1).float().pow(0.75)
        self.places = torch.full((catalogue.items,), -1)

    def step(self, batch: Rows) -> None:
        """Move both players by one look of each."""
        padded = self._pad(batch)
        generator_users, users = (self._users(player, padded) for player in self.players)
        columns, gaps = [], []
        parts = [(rows, *self._pool(batch, domain, rows)) for domain, rows in batch.domains()]
        tables = [
            self._gather(player, [pool for _, pool, _, _ in parts]) for player in self.players
        ]
        for (rows, pool, clicks, excluded), (theirs, their_biases), (vectors, biases) in zip(
            parts, *tables, strict=True
        ):
            log_confidence = generator_users[rows] @ theirs.T + their_biases
            log_confidence = log_confidence.masked_fill(excluded, float("-inf")).log_softmax(1)
            scores = users[rows] @ vectors.T + biases
            proposal = self._proposal(log_confidence, pool, excluded)
            drawn = torch.multinomial(proposal, self.config.train.candidates, replacement=True)
            asked = torch.cat([clicks.unsqueeze(1), drawn], dim=1)  # (b, 1 + K)
            columns.append([v.gather(1, asked) for v in (log_confidence, scores, proposal)])
            gaps.append(mmd_gap(clicks, log_confidence.exp(), vectors))
        confidence, scores, proposal = (torch.cat(c) for c in zip(*columns, strict=True))
        proposal = proposal.log()
        loss = _generator_loss(
            self.config,
            confidence[:, 1:],
            scores[:, 1:].detach(),
            proposal[:, 1:],
            confidence[:, 0],
            gaps,
        )
        loss = (
            loss
            + softmax_loss(  # no term has gradients for both players
                scores[:, 0],
                scores[:, 1:],
                click_log_proposal=proposal[:, 0],
                candidate_log_proposal=proposal[:, 1:],
                correction=self.config.train.correction,
            )
        )
        _move(loss, [*self.movers[0], *self.movers[1]])

    def _pad(self, batch: Rows) -> tuple[Tensor, ...]:
        """Return items and recency (B, T), members (B, M, T), domains and known (B, M), target."""
        lines = batch.timelines
        of = lines.group_rows[lines.groups]
        counts = torch.bincount(of, minlength=lines.rows)
        column = torch.arange(len(of)) - (counts.cumsum(0) - counts)[of]
        shape = (lines.rows, max(1, int(counts.max())))
        items, recency = torch.zeros(2, *shape, dtype=torch.long)
        slot = torch.full(shape, -1)
        items[of, column] = lines.item_rows + 1
        recency[of, column] = lines.recency
        slot[of, column] = lines.group_slots[lines.groups]
        width = len(lines.slots)
        domains = torch.zeros(lines.rows, width, dtype=torch.long)
        domains[lines.group_rows, lines.group_slots] = lines.group_domains
        known = torch.zeros(lines.rows, width, dtype=torch.bool)
        known[lines.group_rows, lines.group_slots] = True
        members = slot.unsqueeze(1) == lines.slots[:, None]
        return items, recency, members, domains, known, lines.group_slots[lines.target_groups]

    def _users(self, player: PaddedPlayer, padded: tuple[Tensor, ...]) -> Tensor:
        items, recency, members, domains, known, target = padded
        pooled = player.encoder.pool_rows(player.vectors(items), recency, members)
        return player.encoder(pooled, domains, known, target)  # type: ignore[no-any-return]

    def _pool(self, batch: Rows, domain: int, rows: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Return items (N,), places of the clicks (b,) and what is excluded (b, N)."""
        whole, clicks = self.pools[domain], batch.clicks[rows]
        size = whole.stop - whole.start
        if size > self.config.train.pool_items:  # drawn, and the clicks joined to it
            count = self.config.train.pool_items // len(self.pools)
            pool = torch.cat([whole.start + torch.randint(size, (count,)), clicks])
        else:
            pool = torch.arange(whole.start, whole.stop)
        self.places[pool] = torch.arange(len(pool))
        of, seen = batch.seen
        first, last = torch.searchsorted(of, torch.tensor([rows.start, rows.stop])).tolist()
        places = self.places[seen[first:last]]
        drawn = places >= 0
        excluded = torch.zeros(len(clicks), len(pool), dtype=torch.bool)
        excluded[of[first:last][drawn] - rows.start, places[drawn]] = True
        clicked = self.places[clicks]
        self.places[pool] = -1
        return pool, clicked, excluded

    def _gather(self, player: PaddedPlayer, pools: list[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield vectors (N, E) and biases (N,) of each pool, from one look at the tables."""
        sizes, items = [len(pool) for pool in pools], torch.cat(pools) + 1
        vectors, biases = player.vectors(items), player.biases(items).squeeze(1)
        return zip(vectors.split(sizes), biases.split(sizes), strict=True)

    def _proposal(self, log_confidence: Tensor, pool: Tensor, excluded: Tensor) -> Tensor:
        static = self.weights[pool].masked_fill(excluded, 0)
        share = self.config.train.proposal_share
        static = static / static.sum(dim=1, keepdim=True)
        return share * log_confidence.detach().exp() + (1 - share) * static


PORTS: Mapping[str, type[Plain] | type[Competent]] = {"plain": Plain, "competent": Competent}


def _generator_loss(
    config: Config,
    log_confidence: Tensor,
    scores: Tensor,
    log_proposal: Tensor,
    click_log_confidence: Tensor,
    gaps: list[Tensor],
) -> Tensor:
    train = config.train
    reward = generator_loss(log_confidence, scores, candidate_log_proposal=log_proposal)
    gap = torch.stack([gap_loss(gap) for gap in gaps]).mean()
    anchor = anchor_loss(click_log_confidence)
    return train.reward_weight * reward + anchor + train.gap_weight * gap


def _move(loss: Tensor, optimisers: list[Optimizer]) -> None:
    for optimiser in optimisers:
        optimiser.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    for optimiser in optimisers:
        optimiser.step()
