"""Which files a log consists of, and whether each is what its name says."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from crossfeed.errors import LogError

__all__ = ["HEAD_BYTES", "Format", "LogFile", "check_content", "find_files", "read_head"]

Format = Literal["Parquet", "CSV", "JSONL"]
Compression = Literal["gzip", "zstd"]

HEAD_BYTES = 1 << 20
"""How much of a text file is looked at before it is read."""

_FORMATS: dict[str, Format] = {
    ".parquet": "Parquet",
    ".pq": "Parquet",
    ".csv": "CSV",
    ".tsv": "CSV",
    ".jsonl": "JSONL",
    ".ndjson": "JSONL",
}
_COMPRESSIONS: dict[str, Compression] = {".gz": "gzip", ".zst": "zstd"}
_ALLOWED = ".parquet, .csv, .tsv or .jsonl; the text formats also with .gz or .zst"
_MAGIC = {
    b"PAR1": "Parquet",
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PK\x03\x04": "a zip archive",
    b"\xff\xfe": "text in UTF-16",
    b"\xfe\xff": "text in UTF-16",
}


@dataclass(frozen=True)
class LogFile:
    """One file of a log, with the format that its name promises."""

    path: Path
    format: Format
    compression: Compression | None

    @property
    def name(self) -> str:
        """Return the path as messages and the quarantine show it."""
        return str(self.path)


def find_files(logs: Sequence[str | Path]) -> list[LogFile]:
    """Resolve files, folders and globs to the files of a log, in their order.

    The files of a folder or glob come sorted by path; hidden files, names that begin with `_`
    and, in a folder, files of other formats are left out.

    Raises:
        LogError: naming every path that does not exist, matches nothing or is no log.
    """
    files: list[LogFile] = []
    problems: list[str] = []
    for log in logs:
        try:
            files.extend(_resolve(log))
        except LogError as error:
            problems.append(error.message)
    if not logs:
        problems.append("no log was given")
    formats = sorted({file.format for file in files})
    if len(formats) > 1:
        problems.append(f"the files of one log have one format; these are {', '.join(formats)}")
    paths = [os.path.realpath(file.path) for file in files]
    problems += [f"'{path}' is given twice" for path in sorted(set(paths)) if paths.count(path) > 1]
    _raise(problems, hint=f"a log is one file, a folder or a glob of files that end in {_ALLOWED}")
    return files


def check_content(files: Sequence[LogFile]) -> None:
    """Look into every file: is it complete, and is it what its name says?

    Raises:
        LogError: naming every file that is not.
    """
    problems = []
    for file in files:
        problem = _content_problem(file)
        if problem:
            problems.append(f"'{file.name}' {problem}")
    _raise(problems, hint="rename the file by its format, or fetch it again if it was cut short")


def read_head(file: LogFile) -> str:
    """Return the beginning of a text file, decompressed; bytes that are not UTF-8 are replaced."""
    return _head_bytes(file).decode("utf-8-sig", errors="replace")


def _resolve(log: str | Path) -> list[LogFile]:
    path = Path(log)
    if path.is_dir():
        return _folder_files(path)
    if path.exists():
        return [_log_file(path)]
    if glob.has_magic(str(log)):
        matches = [Path(match) for match in sorted(glob.glob(str(log), recursive=True))]
        files = [match for match in matches if match.is_file() and not _hidden(match)]
        if not files:
            raise LogError(f"no file matches '{log}'")
        return [_log_file(file) for file in files]
    raise LogError(f"there is no file '{log}'")


def _folder_files(folder: Path) -> list[LogFile]:
    found = sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and not any(map(_hidden, _below(folder, path)))
    )
    files = [_log_file(path) for path in found if _format_of(path)]
    if not files:
        others = ", ".join(path.name for path in found[:5]) or "nothing"
        raise LogError(f"the folder '{folder}' holds no log; it holds: {others}")
    return files


def _below(folder: Path, path: Path) -> list[Path]:
    return [Path(part) for part in path.relative_to(folder).parts]


def _hidden(path: Path) -> bool:
    return path.name.startswith((".", "_"))


def _format_of(path: Path) -> tuple[Format, Compression | None] | None:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    compression = _COMPRESSIONS.get(suffixes[-1]) if suffixes else None
    if compression:
        suffixes.pop()
    format_ = _FORMATS.get(suffixes[-1]) if suffixes else None
    if format_ is None or (format_ == "Parquet" and compression):
        return None
    return format_, compression


def _log_file(path: Path) -> LogFile:
    shown = os.fsencode(path).decode(errors="replace")
    if shown != str(path):
        raise LogError(f"the name of '{shown}' is not UTF-8: rename the file")
    known = _format_of(path)
    if known is None:
        raise LogError(f"'{path}' is not a log by its name, which must end in {_ALLOWED}")
    return LogFile(path, known[0], known[1])


def _content_problem(file: LogFile) -> str | None:
    try:
        with file.path.open("rb") as stream:
            start = stream.read(4)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if not start:
        return "is empty"
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
        with pa.CompressedInputStream(pa.OSFile(str(file.path)), file.compression) as stream:
            while stream.read(HEAD_BYTES):
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
        return "is empty"
    if file.format == "CSV" and text.startswith("{"):
        return "is named as CSV, but its content is JSON"
    if file.format == "JSONL" and text.startswith("["):
        return "is one JSON array; JSONL has one object per line"
    if file.format == "JSONL" and not text.startswith("{"):
        return "is named as JSONL, but its first line is no JSON object"
    return None


def _head_bytes(file: LogFile) -> bytes:
    if file.compression is None:
        with file.path.open("rb") as stream:
            return stream.read(HEAD_BYTES)
    with pa.CompressedInputStream(pa.OSFile(str(file.path)), file.compression) as stream:
        return bytes(stream.read(HEAD_BYTES))


def _raise(problems: Sequence[str], *, hint: str) -> None:
    if problems:
        raise LogError("\n".join(problems), hint=hint)
