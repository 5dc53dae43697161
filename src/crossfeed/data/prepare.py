"""From a log to a prepared dataset."""

from __future__ import annotations

from pathlib import Path

from crossfeed.config import DataConfig
from crossfeed.data.dataset import FORMAT_VERSION, Dataset
from crossfeed.data.engine import open_engine
from crossfeed.data.split import SPLITS, SplitInput
from crossfeed.data.tables import encode, index
from crossfeed.data.writing import write_tables
from crossfeed.files import atomic_folder, write_json

__all__ = ["prepare"]


def prepare(
    logs: Path | str,
    *,
    out: Path,
    config: DataConfig = DataConfig(),  # noqa: B008
    source: str | None = None,
    overwrite: bool = False,
) -> Dataset:
    """Prepare a log as a dataset in the folder `out`."""
    with atomic_folder(out, overwrite=overwrite) as folder, open_engine(folder / "s") as engine:
        engine.connection.execute(
            "create table clicks as select user_id, item_id, domain, timestamp * 1000 as time, "
            f"row_number() over () as position from read_parquet('{logs}')"
        )
        coded = encode(engine, engine.table("clicks"))
        split = SPLITS[config.split](
            engine, SplitInput(coded.clicks, coded.users, coded.domains), config
        )
        tables = index(engine, coded, split.events, min_item_events=config.min_item_events)
        write_tables(engine, tables, folder)
        write_json(
            folder / "manifest.json",
            {
                "format_version": FORMAT_VERSION,
                "config": config.model_dump(mode="json"),
                "dropped": split.dropped,
                "domains": engine.records(tables.domains),
            },
        )
    return Dataset.load(out)
