"""The bundle: one folder that serves on a laptop and on a server; `format` says what is in it."""

from crossfeed.bundle.reading import Bundle
from crossfeed.bundle.writing import BundleContents, write_bundle

__all__ = ["Bundle", "BundleContents", "write_bundle"]
