"""Behaviour logs: opened (files and columns checked), then read into rows of one shape."""

from __future__ import annotations

from crossfeed.data.logs.opening import Log, Logs, open_log
from crossfeed.data.logs.reading import LogRows, encoding_notes, read_log, reading, require_readable

__all__ = [
    "Log",
    "LogRows",
    "Logs",
    "encoding_notes",
    "open_log",
    "read_log",
    "reading",
    "require_readable",
]
