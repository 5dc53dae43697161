"""The commands that repeat a run, and its settings that are not defaults."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from crossfeed.config import Config
from crossfeed.config.differences import differences
from crossfeed.data.logs.places.finding import find_files
from crossfeed.errors import LogError
from crossfeed.evaluation.report.contents import Setting
from crossfeed.run import Run

__all__ = ["changed_settings", "commands"]

Json = Mapping[str, Any]  # Any: JSON


def changed_settings(config: Config) -> tuple[Setting, ...]:
    """Return the settings that differ from the defaults, by section.key."""
    return tuple(
        Setting(name=one.name, value=_toml(one.here), default=_toml(one.there))
        for one in differences(config, Config())
    )


def commands(run: Run, *, manifest: Json, results: Json | None, transfer: bool) -> tuple[str, ...]:
    """Return the commands that lead from the log to the report, in order.

    Args:
        run: the run.
        manifest: of its dataset; `inputs` and `source` name the log.
        results: of its last evaluation, if any.
        transfer: whether transfer was measured.
    """
    dataset = str(run.facts["dataset"])
    folder = str(run.path)
    prepared = [*_log(manifest), *_source(manifest), "--out", dataset]
    refit = ["--refit"] if run.refitted else []
    lines = [
        ["prepare", *prepared, *_settings(run.config, "data")],
        ["train", dataset, "--out", folder, *refit, *_settings(run.config, "model", "train")],
    ]
    if results is not None:
        baselines = ["--baselines", ",".join(results["baselines"])]
        part = [] if results["part"] == "test" else ["--part", results["part"]]
        wanted = ["--transfer"] if transfer else []
        lines.append(["evaluate", folder, *baselines, *part, *wanted])
    lines.append(["report", folder])
    return tuple(shlex.join(["crossfeed", *line]) for line in lines)


def _settings(config: Config, *sections: str) -> list[str]:
    """Return the options that set the non-default settings of some sections."""
    return [
        word
        for one in differences(config, Config())
        if one.name.partition(".")[0] in sections
        for setting in _assignments(one.name, one.here)
        for word in ("--set", setting)
    ]


def _assignments(name: str, value: object) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, own in value.items():
            yield f"{name}.{key}={_toml(own)}"
    else:
        yield f"{name}={_toml(value)}"


def _toml(value: object) -> str:
    """Return a value as `--set` reads it; for settings, JSON is valid TOML."""
    return "none" if value is None else json.dumps(value, ensure_ascii=False)


def _log(manifest: Json) -> list[str]:
    """Return the inputs; their folder instead of several files, if it holds no others."""
    names = [str(one["name"]) for one in manifest["inputs"]]
    if len(names) > 1:
        with suppress(ValueError, LogError):  # relative and absolute paths; files that are gone
            folder = Path(os.path.commonpath(names))
            if [file.name for file in find_files([folder]).files] == names:
                return [str(folder)]
    return names


def _source(manifest: Json) -> list[str]:
    return ["--source", manifest["source"]] if manifest["source"] else []
