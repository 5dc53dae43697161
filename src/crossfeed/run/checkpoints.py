"""A checkpoint's file: written as a whole or not at all, verified when it is read.

It holds only tensors and plain values, and the settings of the training.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError  # damaged checkpoints raise it; nothing is unpickled freely
from typing import Any
from zipfile import BadZipFile, ZipFile

import torch

from crossfeed.config import Config, parse_config
from crossfeed.config.differences import RUNNING, differences
from crossfeed.errors import ConfigError, RunError
from crossfeed.files import atomic_path

__all__ = ["CHECKPOINT_VERSION", "Checkpoint", "read_checkpoint", "write_checkpoint"]

CHECKPOINT_VERSION = 3

Checkpoint = dict[str, Any]  # Any: tensors and the plain values that weights_only loading allows

_DAMAGES = (
    *(RuntimeError, ValueError, LookupError, TypeError, AttributeError, EOFError, OSError),
    *(UnpicklingError, BadZipFile, zlib.error),
)
"""Errors that a damaged file may raise."""


def write_checkpoint(file: Path, checkpoint: Mapping[str, Any], config: Config) -> None:
    """Write a checkpoint; the one before stays until the new one is complete.

    Raises:
        OutputError: the disk is full or the folder cannot be written.
    """
    settings = config.model_dump(mode="json", include={"model", "train"})
    whole = {"format_version": CHECKPOINT_VERSION, "settings": settings, **checkpoint}
    with atomic_path(file) as temporary, temporary.open("wb") as opened:
        try:
            torch.save(whole, opened)
        except RuntimeError as error:  # torch hides the error of the disk in it
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def read_checkpoint(file: Path, config: Config) -> Checkpoint:
    """Read a checkpoint that was written under the same settings.

    Raises:
        RunError: it is damaged, of another format version or made by other settings.
    """
    try:
        _compare_checksums(file)
        checkpoint = torch.load(file, map_location="cpu", weights_only=True)
        version = checkpoint.pop("format_version")
        settings = checkpoint.pop("settings", {})
    except _DAMAGES as error:
        told = (str(error) or "it ends too early").splitlines()[0]
        raise RunError(
            f"the checkpoint '{file}' is damaged: {told}",
            hint="train again with --overwrite",
        ) from error
    if version != CHECKPOINT_VERSION:
        raise RunError(
            f"the checkpoint '{file}' has format version {version}; this crossfeed reads "
            f"{CHECKPOINT_VERSION}",
            hint="train again with --overwrite",
        )
    _require_settings(file, settings, config)
    return dict(checkpoint)


def _compare_checksums(file: Path) -> None:
    """Compare each part of a checkpoint with its checksum, which torch.load does not."""
    with ZipFile(file) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise BadZipFile(f"the checksum of its part '{damaged}' differs")


def _require_settings(file: Path, settings: Mapping[str, object], config: Config) -> None:
    try:
        made_by = parse_config(settings)
    except ConfigError as error:
        raise RunError(
            f"the checkpoint '{file}' was made by settings that this crossfeed does not know: "
            f"{error.message}",
            hint="read it with the version that wrote it, or train again with --overwrite",
        ) from None
    differing = [
        f"{one.name} = {json.dumps(one.here)}, config.json has {json.dumps(one.there)}"
        for one in differences(made_by, config)
        if one.name not in RUNNING and not one.name.startswith("data.")
    ]
    if differing:
        raise RunError(
            f"the checkpoint '{file}' was made by other settings than the run's: "
            f"{'; '.join(differing)}",
            hint="put the run's own files back, or train again with --overwrite",
        )
