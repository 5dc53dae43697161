"""One recommender for many product domains that share users.

A public name is imported from its module at first use. So importing crossfeed costs nothing, and
torch and DuckDB are loaded only when needed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from crossfeed.bundle import Bundle as Bundle
    from crossfeed.config import Config as Config
    from crossfeed.config import DataConfig as DataConfig
    from crossfeed.config import ModelConfig as ModelConfig
    from crossfeed.config import TrainConfig as TrainConfig
    from crossfeed.config import load_config as load_config
    from crossfeed.data.dataset import Dataset as Dataset
    from crossfeed.data.dataset import Part as Part
    from crossfeed.data.prepare.pipeline import prepare as prepare
    from crossfeed.data.simulate.clicks import simulate as simulate
    from crossfeed.errors import CrossfeedError as CrossfeedError
    from crossfeed.evaluation.evaluate import evaluate as evaluate
    from crossfeed.evaluation.results import Results as Results
    from crossfeed.run import Run as Run
    from crossfeed.scorer import Scorer as Scorer
    from crossfeed.serving.recommend.query import Query as Query
    from crossfeed.serving.recommend.recommender import Recommender as Recommender
    from crossfeed.training.loop.trainer import train as train

__version__ = "0.1.0"

_HOMES = {
    "Bundle": "crossfeed.bundle",
    "Config": "crossfeed.config",
    "CrossfeedError": "crossfeed.errors",
    "DataConfig": "crossfeed.config",
    "Dataset": "crossfeed.data.dataset",
    "ModelConfig": "crossfeed.config",
    "Part": "crossfeed.data.dataset",
    "Query": "crossfeed.serving.recommend.query",
    "Recommender": "crossfeed.serving.recommend.recommender",
    "Results": "crossfeed.evaluation.results",
    "Run": "crossfeed.run",
    "Scorer": "crossfeed.scorer",
    "TrainConfig": "crossfeed.config",
    "evaluate": "crossfeed.evaluation.evaluate",
    "load_config": "crossfeed.config",
    "prepare": "crossfeed.data.prepare.pipeline",
    "simulate": "crossfeed.data.simulate.clicks",
    "train": "crossfeed.training.loop.trainer",
}
"""Public name -> the module that defines it."""

__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'crossfeed' has no attribute '{name}'")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
