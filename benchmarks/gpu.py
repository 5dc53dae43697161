"""Training on a GPU: events a second by batch size, and how much of the chip that takes.

    python benchmarks/gpu.py DATASET
    python benchmarks/gpu.py DATASET --batch-sizes 1024,8192 --set model.width=128

It needs CUDA. For each precision and batch size it trains some steps of a fresh network behind the
warm-up epochs, then records a few by operator. The last columns say which share of what the chip
reaches alone the work reaches: of its rate of copies in memory, where rows of tables are looked up;
of its rate of products, where matrices are multiplied; and how long the chip waits. The chip's own
rates are measured in the same run. `--device cpu` is there to try the script.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from crossfeed.config import Config, load_config
from crossfeed.data.dataset import Dataset
from crossfeed.files import write_json
from crossfeed.run import Run
from crossfeed.training.loop.trainer import Fit
from crossfeed.training.step.batches import Batch, batches, prefetched

ROOT = Path(__file__).parents[1]

WARM_UP, RECORDED = 10, 5

LOOK_UPS = (
    "aten::embedding",
    "aten::embedding_dense_backward",
    "aten::gather",
    "aten::index_add",
    "aten::index_add_",
    "aten::index_copy",
    "aten::index_copy_",
    "aten::index_select",
)
"""Operators that read or write rows of tables by their number."""
PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm")

Shapes = Sequence[Sequence[int]]


@dataclass(frozen=True)
class Chip:
    """What the device reaches when it does one thing alone."""

    name: str
    copy_gigabytes: float
    """Read and written, a second."""
    gigaflops: dict[str, float]
    """By precision, in products of large square matrices."""


@dataclass(frozen=True)
class Measured:
    """One precision and batch size."""

    precision: str
    batch_size: int
    clicks_per_second: float
    events_per_second: float
    """Of histories, which is what the encoder reads."""
    milliseconds: float
    """Of a step."""
    peak_gigabytes: float
    look_up_share: float
    """Of the chip's rate of copies, reached while rows are looked up."""
    product_share: float
    """Of the chip's rate of products in this precision, reached while matrices are multiplied."""
    time_shares: dict[str, float]
    """Of a step: look-ups, products, other operators, and waiting."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print a table and keep the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--batch-sizes", default="1024,2048,4096,8192,16384")
    parser.add_argument("--precisions", default="float32,bfloat16")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--set", action="append", default=[], dest="settings")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "gpu.json")
    asked = parser.parse_args(arguments)
    if asked.device == "cuda" and not torch.cuda.is_available():
        print("this benchmark needs CUDA, and torch sees no CUDA device here", file=sys.stderr)
        return 2
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # else it prints when it starts and stops
    device = torch.device(asked.device)
    chip = measure_chip(device, asked.precisions.split(","))
    print(f"{chip.name}: copies {chip.copy_gigabytes:,.0f} GB/s", end="")
    print("".join(f", {name} {rate:,.0f} GFLOP/s" for name, rate in chip.gigaflops.items()))
    print(
        "precision   batch  clicks/s   events/s   ms/step     GB  look-ups  products  time by part"
    )
    dataset, measured = Dataset.load(asked.dataset), []
    facts = {
        "torch": torch.__version__,
        "dataset": dataset.manifest["content_hash"],
        "chip": asdict(chip),
        "settings": asked.settings,
    }
    for precision, size in itertools.product(
        asked.precisions.split(","), map(int, asked.batch_sizes.split(","))
    ):
        config = load_config(
            overrides=[
                *(f"train.batch_size={size}", f"train.precision={precision}"),
                *(f"train.device={asked.device}", "train.warmup_epochs=0", *asked.settings),
            ]
        )
        measured.append(measure(dataset, config, device, chip, steps=asked.steps))
        print(_line(measured[-1]), flush=True)
        write_json(asked.out, {**facts, "rows": [asdict(one) for one in measured]})
    return 0


def measure(
    dataset: Dataset, config: Config, device: torch.device, chip: Chip, *, steps: int
) -> Measured:
    """Train some steps and say how fast they were, and by what they were bound."""
    with tempfile.TemporaryDirectory() as folder:
        run = Run.create(Path(folder) / "run", dataset=dataset, config=config, overwrite=False)
        fit = Fit(run, dataset, stage="train", epochs=config.train.epochs, selects=True)
        fit.state.players.train()
        feed = prefetched(_whole_batches(fit))  # by a thread of its own, as in training
        for _ in range(WARM_UP):
            fit._step(next(feed).to(device))
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        _finish(device)
        began, clicks, events = time.perf_counter(), 0, 0
        for _ in range(steps):
            batch = next(feed)
            fit._step(batch.to(device))
            clicks, events = clicks + batch.rows, events + len(batch.timelines.item_rows)
        _finish(device)
        seconds = time.perf_counter() - began
        peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else 0
        look_ups, products, others, flops, moved = _by_operator(fit, feed, device)
    step = seconds / steps
    rate = chip.gigaflops[config.train.precision] * 1e9
    parts = {"look-ups": look_ups, "products": products, "other": others}
    parts["waiting"] = max(0.0, step - sum(parts.values()))
    return Measured(
        precision=config.train.precision,
        batch_size=config.train.batch_size,
        clicks_per_second=clicks / seconds,
        events_per_second=events / seconds,
        milliseconds=step * 1000,
        peak_gigabytes=peak / 1e9,
        look_up_share=moved / look_ups / (chip.copy_gigabytes * 1e9) if look_ups else math.nan,
        product_share=flops / products / rate if products else math.nan,
        time_shares={name: own / step for name, own in parts.items()},
    )


def _by_operator(
    fit: Fit, feed: Iterator[Batch], device: torch.device
) -> tuple[float, float, float, float, float]:
    """Return a step's seconds in look-ups, products and others, its FLOP, its bytes looked up."""
    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    waiting = [next(feed).to(device) for _ in range(2 * RECORDED)]
    with profile(activities=activities, record_shapes=True) as recorder:
        for batch in waiting[:RECORDED]:
            fit._step(batch)
        _finish(device)
    with FlopCounterMode(display=False) as counter:
        for batch in waiting[RECORDED:]:
            fit._step(batch)
    time_of = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    look_ups = products = others = moved = 0.0
    for one in recorder.key_averages(group_by_input_shape=True):
        seconds = getattr(one, time_of) / 1e6
        if one.key in LOOK_UPS:
            look_ups += seconds
            moved += one.count * looked_up_bytes(one.key, one.input_shapes)
        elif one.key in PRODUCTS:
            products += seconds
        elif one.key.startswith("aten::") or "optim" in one.key.lower():
            others += seconds
    per_step = [each / RECORDED for each in (look_ups, products, others)]
    flops = counter.get_total_flops() / RECORDED
    return per_step[0], per_step[1], per_step[2], flops, moved / RECORDED


def looked_up_bytes(operator: str, shapes: Shapes) -> float:
    """Return the bytes that a look-up has to move: each value read once and written once.

    Args:
        operator: of `LOOK_UPS`.
        shapes: of its inputs, empty for those that are no tensors; values are of 4 bytes.
    """
    tensors = [shape for shape in shapes if shape]
    if operator == "aten::embedding":  # table, numbers
        return 8.0 * math.prod(tensors[1]) * tensors[0][1]
    if operator == "aten::gather":  # values, numbers
        return 8.0 * math.prod(tensors[1])
    if operator == "aten::index_select":  # values, numbers
        return 8.0 * math.prod(tensors[1]) * math.prod(tensors[0][1:])
    if operator == "aten::embedding_dense_backward":  # gradients, numbers
        return 8.0 * math.prod(tensors[0])
    return 8.0 * math.prod(tensors[-1])  # what is added or copied


def measure_chip(device: torch.device, precisions: Sequence[str]) -> Chip:
    """Return the rates that the device reaches in copies and in products."""
    large = device.type == "cuda"
    name = torch.cuda.get_device_name() if large else "processor"
    values = torch.empty(2**28 if large else 2**24, device=device)
    there = torch.empty_like(values)
    seconds = _seconds(lambda: there.copy_(values), device)
    size = 8192 if large else 1024
    rates = {}
    for precision in precisions:
        square = torch.randn(size, size, device=device, dtype=getattr(torch, precision))
        rates[precision] = 2 * size**3 / _seconds(partial(torch.mm, square, square), device) / 1e9
    return Chip(name, 2 * values.nbytes / seconds / 1e9, rates)


def _seconds(act: Callable[[], object], device: torch.device, *, repeats: int = 10) -> float:
    """Return the least time of some repeats, the first apart."""
    taken = []
    for _ in range(repeats + 1):
        _finish(device)
        began = time.perf_counter()
        act()
        _finish(device)
        taken.append(time.perf_counter() - began)
    return min(taken[1:])


def _whole_batches(fit: Fit) -> Iterator[Batch]:
    size = min(fit.config.train.batch_size, len(fit.clicks))
    stacked = fit.device.type == "cuda"
    for epoch in itertools.count():
        for batch in batches(
            fit.dataset, fit.config, clicks=fit.clicks, epoch=epoch, stacked=stacked
        ):
            if batch.rows == size:
                yield batch


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _line(one: Measured) -> str:
    parts = ", ".join(f"{name} {share:.0%}" for name, share in one.time_shares.items())
    return (
        f"{one.precision:10} {one.batch_size:6,} {one.clicks_per_second:9,.0f} "
        f"{one.events_per_second:10,.0f} {one.milliseconds:9.2f} {one.peak_gigabytes:6.2f} "
        f"{one.look_up_share:9.1%} {one.product_share:9.1%}  {parts}"
    )


if __name__ == "__main__":
    sys.exit(main())
