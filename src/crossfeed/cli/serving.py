"""Commands from a bundle to recommendations."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from crossfeed.cli import output
from crossfeed.cli.options import Json, Overwrite

__all__ = ["export_histories", "forget_user", "load_histories", "recommend", "serve"]

BundleFolder = Annotated[Path, typer.Argument(metavar="BUNDLE", help="A folder of export.")]


def recommend(bundle: BundleFolder) -> None:
    pass


def serve(bundle: BundleFolder) -> None:
    pass


def load_histories(bundle: BundleFolder) -> None:
    pass


def export_histories(bundle: BundleFolder) -> None:
    pass


def forget_user(bundle: BundleFolder) -> None:
    pass
