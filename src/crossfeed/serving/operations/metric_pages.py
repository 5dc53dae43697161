"""The metrics of several workers as one page: each sample says whose it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client import Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector, CollectorRegistry

__all__ = ["merged"]


def merged(pages: Mapping[str, str]) -> bytes:
    """Return one page of several, each sample with the label `worker`.

    Args:
        pages: worker -> its own page in Prometheus' text format.
    """
    registry = CollectorRegistry()
    registry.register(_Pages(pages))
    return generate_latest(registry)


class _Pages(Collector):
    def __init__(self, pages: Mapping[str, str]) -> None:
        self._pages = pages

    def collect(self) -> Iterator[Metric]:
        """Yield each metric once, with the samples of all workers."""
        found: dict[str, Metric] = {}
        for worker, page in self._pages.items():
            for metric in text_string_to_metric_families(page):
                whole = found.setdefault(
                    metric.name, Metric(metric.name, metric.documentation, metric.type)
                )
                whole.samples += [
                    sample._replace(labels={"worker": worker, **sample.labels})
                    for sample in metric.samples
                ]
        yield from found.values()
