"""One file of a log: the format in its name, and whether its content has it."""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from crossfeed.errors import LogError

__all__ = [
    "ALLOWED",
    "HEAD_BYTES",
    "Format",
    "LogFile",
    "check_content",
    "encoding_problem",
    "format_of",
    "has_mark",
    "raise_all",
    "read_head",
]

Format = Literal["Parquet", "CSV", "JSONL"]
Compression = Literal["gzip", "zstd"]

HEAD_BYTES = 1 << 20
"""How much of a text file is looked at before it is read."""

ALLOWED = ".parquet, .csv, .tsv or .jsonl; the text formats also with .gz or .zst"
"""How the name of a log's file may end."""

_FORMATS: dict[str, Format] = {
    ".parquet": "Parquet",
    ".pq": "Parquet",
    ".csv": "CSV",
    ".tsv": "CSV",
    ".jsonl": "JSONL",
    ".ndjson": "JSONL",
}
_COMPRESSIONS: dict[str, Compression] = {".gz": "gzip", ".zst": "zstd"}
_MAGIC = {
    b"PAR1": "Parquet",
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PK\x03\x04": "a zip archive",
    b"\xff\xfe": "text in UTF-16",
    b"\xfe\xff": "text in UTF-16",
}
_EMPTY = "is empty"


@dataclass(frozen=True)
class LogFile:
    """One file of a log, with the format that its name promises."""

    path: Path
    format: Format
    compression: Compression | None
    url: str | None = None
    """Where a file was fetched from, without secrets."""
    fetched: object = None
    """Keeps the fetched copy at `path`, while the file is in use."""

    @property
    def name(self) -> str:
        """Return the path as messages and the quarantine show it."""
        return self.url or str(self.path)


def format_of(name: str) -> tuple[Format, Compression | None] | None:
    """Return the format and compression in the name of a file, None if it does not name a log."""
    suffixes = [suffix.lower() for suffix in Path(name).suffixes]
    compression = _COMPRESSIONS.get(suffixes[-1]) if suffixes else None
    if compression:
        suffixes.pop()
    format_ = _FORMATS.get(suffixes[-1]) if suffixes else None
    if format_ is None or (format_ == "Parquet" and compression):
        return None
    return format_, compression


def check_content(files: Sequence[LogFile]) -> tuple[LogFile, ...]:
    """Look into every file: is it complete, and is it what its name says?

    Returns the files that are not empty, unless all are.

    Raises:
        LogError: naming every file that is not.
    """
    found = {file: _content_problem(file) for file in files}
    empty = [file for file, problem in found.items() if problem == _EMPTY]
    if len(empty) < len(files):
        found = {file: problem for file, problem in found.items() if problem != _EMPTY}
    problems = [f"'{file.name}' {problem}" for file, problem in found.items() if problem]
    raise_all(problems, hint="rename the file by its format, or fetch it again if it was cut short")
    return tuple(found)


def read_head(file: LogFile) -> str:
    """Return the beginning of a text file, decompressed; bytes that are not UTF-8 are replaced."""
    return _head_bytes(file).decode("utf-8-sig", errors="replace")


def has_mark(file: LogFile) -> bool:
    """Return whether a text file begins with the mark that some programs put before UTF-8."""
    return _head_bytes(file).startswith(codecs.BOM_UTF8)


def encoding_problem(file: LogFile) -> str | None:
    """Return the probable encoding of a text file, None if it is UTF-8."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    for block in _blocks(file):
        try:
            decoder.decode(block)
        except UnicodeDecodeError:
            # Bytes from 80 to 9f are letters and quotes in Windows-1252 alone.
            windows = any(0x80 <= byte <= 0x9F for byte in block)
            return "WINDOWS-1252" if windows else "ISO-8859-1"
    return None


def raise_all(problems: Sequence[str], *, hint: str) -> None:
    """Raise one error that names all problems, if there are any.

    Raises:
        LogError: there is a problem.
    """
    if problems:
        raise LogError("\n".join(problems), hint=hint)


def _content_problem(file: LogFile) -> str | None:
    try:
        with file.path.open("rb") as stream:
            start = stream.read(4)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if not start:
        return _EMPTY
    promised = file.compression or file.format
    found = next((kind for magic, kind in _MAGIC.items() if start.startswith(magic)), "text")
    if found != (promised if promised in _MAGIC.values() else "text"):
        return f"is named as {promised}, but its content is {found}"
    if file.format == "Parquet":
        return _parquet_problem(file)
    return _compression_problem(file) or _text_problem(file)


def _parquet_problem(file: LogFile) -> str | None:
    try:
        schema = pq.read_schema(file.path)
    except (pa.ArrowException, OSError) as error:
        return f"is not complete Parquet: {error}"
    return None if schema.names else "has no columns"


def _compression_problem(file: LogFile) -> str | None:
    """Decompress the whole file once: only its end tells whether it is complete."""
    if file.compression is None:
        return None
    try:
        for _ in _blocks(file):
            pass
    except OSError as error:
        return f"is not complete {file.compression}: {error}"
    return None


def _text_problem(file: LogFile) -> str | None:
    head = _head_bytes(file)
    if b"\0" in head:
        return f"is named as {file.format}, but its content is binary"
    text = head.decode("utf-8-sig", errors="replace").lstrip()
    if not text:
        return _EMPTY
    if file.format == "CSV" and text.startswith("{"):
        return "is named as CSV, but its content is JSON"
    if file.format == "JSONL" and text.startswith("["):
        return "is one JSON array; JSONL has one object per line"
    if file.format == "JSONL" and not text.startswith("{"):
        return "is named as JSONL, but its first line is not a JSON object"
    return None


def _head_bytes(file: LogFile) -> bytes:
    return next(_blocks(file), b"")


def _blocks(file: LogFile) -> Iterator[bytes]:
    """Yield a file's content, decompressed."""
    with pa.OSFile(str(file.path)) as raw:
        if file.compression is None:
            while block := raw.read(HEAD_BYTES):
                yield bytes(block)
            return
        with pa.CompressedInputStream(raw, file.compression) as stream:
            while block := stream.read(HEAD_BYTES):
                yield bytes(block)
