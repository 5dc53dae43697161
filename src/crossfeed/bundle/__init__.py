"""The bundle: one folder that serves on a laptop and on a server; see `format`."""

from crossfeed.bundle.reading import Bundle
from crossfeed.bundle.writing import BundleContents, write_bundle

__all__ = ["Bundle", "BundleContents", "write_bundle"]
