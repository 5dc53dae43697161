"""A prepared dataset, as everything after the preparation reads it."""

from crossfeed.data.dataset.folder import FORMAT_VERSION, ROW_ORDER, Dataset, Part

__all__ = ["FORMAT_VERSION", "ROW_ORDER", "Dataset", "Part"]
