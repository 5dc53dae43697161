"""The user side of the score as an ONNX graph.

Item vectors are an input, for the items that a batch reads. So the graph stays small, and all
processes of a machine share one copy of the vectors.

Dims: B rows, T items, E width of the score's vectors (both players' if it is fused).
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import warnings
from collections.abc import Callable, Iterator
from typing import cast

import torch
from torch import Tensor, nn

from crossfeed.errors import MissingExtraError
from crossfeed.model.network_scorer import NetworkScorer
from crossfeed.model.onnx.probes import probes
from crossfeed.model.onnx.runtime import GRAPH_INPUTS
from crossfeed.model.players import Players
from crossfeed.model.users.timelines import Timelines, build_timelines

__all__ = ["export_encoder"]

_OPSET = 18
"""The opset that torch writes and ONNX Runtime serves; 23 fails at run time."""


def export_encoder(scorer: NetworkScorer) -> bytes:
    """Return the graph (`vectors` (T, E), then the timelines' fields) -> (B, E) users.

    Raises:
        MissingExtraError: the extra `serve` is not installed.
    """
    for package in ("onnxscript", "onnxruntime"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(package=package, extra="serve")
    histories, domains = probes(scorer.catalogue)
    timelines = build_timelines(
        histories, domains, catalogue=scorer.catalogue, config=scorer.config
    )
    vectors = torch.from_numpy(scorer.item_vectors[timelines.item_rows.numpy()])
    fields = {name: getattr(timelines, name) for name in GRAPH_INPUTS[1:]}
    free = {0: torch.export.Dim.DYNAMIC}
    # With one domain every row has one group. A constant size may not be declared dynamic.
    fixed = {"slots"} if len(scorer.catalogue.domains) == 1 else set()
    shapes = tuple(None if name in fixed else free for name in fields)
    graph = _UserSide(scorer.players).eval()
    with _quiet(), torch.no_grad():
        traced = torch.export.export(
            graph, (vectors, *fields.values()), dynamic_shapes=(free, shapes)
        )
        program = torch.onnx.export(
            traced,
            (),
            dynamo=True,
            opset_version=_OPSET,
            input_names=list(GRAPH_INPUTS),
            output_names=["users"],
            verbose=False,
        )
    assert program is not None
    proto = program.model_proto
    for node in proto.graph.node:
        node.ClearField("metadata_props")  # source paths and lines of the exporting machine
    return bytes(proto.SerializeToString(deterministic=True))


class _UserSide(nn.Module):
    """`Players.user_vectors` with the item vectors as an input."""

    def __init__(self, players: Players) -> None:
        super().__init__()
        self.players = players

    def forward(self, vectors: Tensor, *fields: Tensor) -> Tensor:
        """Return (B, E) users; the fields are the timelines' without the items."""
        # Each player looks up rows of its own item table; here they are already looked up.
        timelines = Timelines(fields[0], *fields)
        width = self.players.config.width
        users = self.players.discriminator.network(timelines, _looked_up(vectors[:, :width]))
        if not self.players.config.fused:
            return users * self.players.personal_share  # type: ignore[no-any-return]
        proposing = self.players.generator.encoder(timelines, _looked_up(vectors[:, width:]))
        share = self.players.config.output_share * self.players.personal_share
        return torch.cat([users, proposing], dim=1) * share


def _looked_up(vectors: Tensor) -> nn.Embedding:
    """Return a stand-in for an item table that gives the rows already looked up."""
    look_up: Callable[[Tensor], Tensor] = lambda items: vectors  # noqa: E731
    return cast(nn.Embedding, look_up)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's messages about itself and about packages that are not needed."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
