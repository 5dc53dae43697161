"""Datasets prepared once from a small log with a planted answer."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from planted import planted_log

from crossfeed.config import DataConfig
from crossfeed.data.dataset import Dataset
from crossfeed.data.prepare.pipeline import prepare

# How long an example takes says something of the machine, and nothing of the code.
settings.register_profile(
    "any-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any-machine")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs CUDA where there is none."""
    needing = [item for item in items if "gpu" in item.keywords]
    if not needing:
        return
    import torch

    if not torch.cuda.is_available():
        for item in needing:
            item.add_marker(pytest.mark.skip(reason="needs CUDA, and there is none"))


_LOG = logging.getLogger("crossfeed")
_HANDLERS, _LEVEL = _LOG.handlers[:], _LOG.level


def _take_back_log() -> None:
    _LOG.handlers = _HANDLERS[:]
    _LOG.setLevel(_LEVEL)


@pytest.fixture(autouse=True, scope="module")
def _log_of_a_file() -> None:
    """Take back how a command set the log up: its stderr ended with an earlier file's test."""
    _take_back_log()


@pytest.fixture(autouse=True)
def _log_of_a_test() -> Iterator[None]:
    """Take back how a command set the log up: its stderr ends with its test."""
    yield
    _take_back_log()


@pytest.fixture(scope="session")
def last_out(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Return the planted log under the last-out split."""
    return _prepared(tmp_path_factory.mktemp("last-out") / "dataset", split="last-out")


@pytest.fixture(scope="session")
def new_in_domain(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Return the planted log under the new-in-domain split."""
    return _prepared(tmp_path_factory.mktemp("new-in-domain") / "dataset", split="new-in-domain")


def _prepared(out: Path, *, split: str) -> Dataset:
    config = DataConfig.model_validate({"split": split, "min_domain_events": 10})
    return prepare(planted_log(), out=out, config=config)
