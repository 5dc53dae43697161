"""MLflow: a server, or without one an SQLite file in the run's folder."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Mapping

from crossfeed.config.differences import flat
from crossfeed.files import write_json
from crossfeed.run import Run

__all__ = ["MlflowTracker"]


class MlflowTracker:
    """Writes to the server of MLFLOW_TRACKING_URI, or to RUN/mlflow.sqlite."""

    def __init__(self, run: Run, stage: str) -> None:
        # By default MLflow reports its use to its makers.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow import MlflowClient

        logging.getLogger("mlflow").setLevel(logging.WARNING)  # it reports each table it makes
        default = f"sqlite:///{(run.path / 'mlflow.sqlite').resolve()}"
        self._uri = os.environ.get("MLFLOW_TRACKING_URI", default)
        self._client = MlflowClient(tracking_uri=self._uri)
        self._prefix = "" if stage == "train" else f"{stage}/"
        self._id = self._former(run) or self._new(run)
        self._client.update_run(self._id, status="RUNNING")
        history = self._client.get_metric_history(self._id, f"{self._prefix}epoch_seconds")
        self._told = {metric.step for metric in history}

    def epoch(self, number: int, figures: Mapping[str, float]) -> None:
        """Log an epoch's figures, unless they are there already."""
        from mlflow.entities import Metric

        if number in self._told:
            return
        now = int(time.time() * 1000)
        metrics = [
            Metric(f"{self._prefix}{name}", value, now, number) for name, value in figures.items()
        ]
        self._client.log_batch(self._id, metrics=metrics)
        self._told.add(number)

    def close(self, *, finished: bool) -> None:
        """Give the run its end."""
        self._client.set_terminated(self._id, "FINISHED" if finished else "KILLED")

    def _former(self, run: Run) -> str | None:
        """Return the run's id on the same server, if it is known there."""
        file = run.path / "mlflow.json"
        if not file.exists():
            return None
        kept = json.loads(file.read_text("utf-8"))
        return str(kept["run_id"]) if kept["tracking_uri"] == self._uri else None

    def _new(self, run: Run) -> str:
        from mlflow.entities import Param

        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "crossfeed")
        experiment = self._client.get_experiment_by_name(name)
        tags = {"dataset": run.facts["dataset"], "dataset_hash": run.facts["dataset_hash"]}
        made = self._client.create_run(
            experiment.experiment_id if experiment else self._client.create_experiment(name),
            run_name=run.path.resolve().name,
            tags={**tags, "crossfeed": run.facts["crossfeed"]},
        )
        settings = [Param(name, value) for name, value in flat(run.config).items()]
        self._client.log_batch(made.info.run_id, params=settings)
        kept = {"tracking_uri": self._uri, "run_id": made.info.run_id}
        write_json(run.path / "mlflow.json", kept)
        return str(made.info.run_id)
