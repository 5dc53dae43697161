"""A prepared dataset, as all later steps read it."""

from crossfeed.data.dataset.folder import FORMAT_VERSION, ROW_ORDER, Dataset, Part

__all__ = ["FORMAT_VERSION", "ROW_ORDER", "Dataset", "Part"]
