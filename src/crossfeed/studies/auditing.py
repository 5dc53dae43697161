"""The leakage audit of a run: its dataset and its training candidates."""

from __future__ import annotations

from itertools import islice

import numpy as np
import torch

from crossfeed.data.dataset import Dataset, Part
from crossfeed.evaluation.audit import AuditReport, Finding, audit
from crossfeed.model.candidates import Proposals
from crossfeed.run import Run
from crossfeed.training.step.batches import Batch, batches
from crossfeed.training.step.proposals import propose

__all__ = ["audit_run", "proposals_finding"]

_BATCHES = 5


def audit_run(run: Run) -> AuditReport:
    """Check the run's dataset, and candidates drawn by its generator for training batches.

    Raises:
        DatasetError: the dataset has moved or is missing.
        RunError: the dataset has changed, or nothing has been trained.
    """
    dataset = run.dataset()
    generator = run.scorer().players.generator if run.config.has_generator else None
    config = run.config
    expanded = [True] * len(dataset.catalogue.domains)
    clicks = dataset.learned_events
    drawn = []
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(config.train.seed)
        for batch in islice(batches(dataset, config, clicks=clicks, epoch=0), _BATCHES):
            proposals = propose(generator, batch, config=config.train, expanded=expanded)
            drawn.append((batch, proposals))
    findings = audit(dataset).findings
    return AuditReport((*findings, proposals_finding(dataset, drawn)))


def proposals_finding(dataset: Dataset, drawn: list[tuple[Batch, Proposals]]) -> Finding:
    """Check that candidates and the clicks beside them come only from training."""
    training = dataset.event_item[dataset.events(Part.TRAIN)]
    clicked = np.bincount(training, minlength=dataset.catalogue.items) > 0
    checked, bad = 0, []
    for batch, proposals in drawn:
        for group, candidates in zip(
            batch.groups, batch.by_domain(proposals.candidates), strict=True
        ):
            positions = torch.cat([candidates, group.clicks.unsqueeze(-1)], -1)
            items = group.item_indices(positions).flatten().numpy()
            checked += len(items)
            bad += items[~clicked[items]].tolist()
    return Finding(
        artefact="candidates",
        rule="every candidate, and every click beside it, is an item with training clicks",
        passed=not bad,
        checked=checked,
        detail=f"{len(bad):,} violations, the first is item {bad[0]}" if bad else "",
    )
