"""Every error that crossfeed raises on purpose.

CrossfeedError
├── ConfigError             a setting is unknown, of the wrong type or out of range
├── OutputError             an output exists already, or cannot be written
├── LogError                a behaviour log cannot be used
│   └── QuarantineError     too large a share of its rows cannot be read
├── DatasetError            a prepared dataset is missing, damaged or of another version
├── RunError                a run is missing, damaged, or does not fit the request
├── TrainingError           training cannot continue
│   ├── NonFiniteLossError  a loss or its gradient became infinite or not a number
│   └── WorkerLostError     one of several processes died
├── BundleError             a bundle is missing, damaged, tampered with or of another version
│   └── UnknownVersionError the version is not in the folder of bundles
├── RequestError            a request for recommendations is not valid
│   └── UnknownDomainError  the domain is not one of the model's
├── HistoryStoreError       the history store cannot be reached or written
└── MissingExtraError       an optional dependency is not installed
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from crossfeed.installing import install_hint

__all__ = [
    "BundleError",
    "ConfigError",
    "CrossfeedError",
    "DatasetError",
    "HistoryStoreError",
    "LogError",
    "MissingExtraError",
    "NonFiniteLossError",
    "OutputError",
    "QuarantineError",
    "RequestError",
    "RunError",
    "TrainingError",
    "UnknownDomainError",
    "UnknownVersionError",
    "WorkerLostError",
    "require_type",
]


class CrossfeedError(Exception):
    """Base of all errors that a user can cause; `hint` says what to do about it."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\nhint: {self.hint}" if self.hint else self.message


class ConfigError(CrossfeedError):
    """A setting is unknown, of the wrong type or out of range."""


class OutputError(CrossfeedError):
    """An output exists already, or cannot be written."""


class LogError(CrossfeedError):
    """A behaviour log cannot be used."""


class QuarantineError(LogError):
    """Too large a share of a log's rows cannot be read."""


class DatasetError(CrossfeedError):
    """A prepared dataset is missing, damaged or of another version."""


class RunError(CrossfeedError):
    """A run is missing, damaged, or does not fit the request."""


class TrainingError(CrossfeedError):
    """Training cannot continue."""


class NonFiniteLossError(TrainingError):
    """A loss or its gradient is infinite or not a number; the weights are unchanged."""

    def __init__(self, *, what: str, value: float, epoch: int, step: int, domain: str) -> None:
        super().__init__(
            f"the {what} became {value} in epoch {epoch}, step {step}, domain '{domain}'",
            hint="lower train.learning_rate, or resume from the last checkpoint with --resume",
        )
        self.what, self.value, self.epoch, self.step, self.domain = what, value, epoch, step, domain


class WorkerLostError(TrainingError):
    """One of the processes of a training died; the others cannot continue without it."""

    def __init__(self, lost: str) -> None:
        super().__init__(
            f"lost {lost}; the run is in the state of its last checkpoint",
            hint="continue with the same command and --resume, with any number of processes; a "
            "process that was killed without a message often had no memory left",
        )


class BundleError(CrossfeedError):
    """A bundle is missing, damaged, tampered with or of another version."""


class UnknownVersionError(BundleError):
    """A folder of bundles does not hold the version."""


class RequestError(CrossfeedError):
    """A request for recommendations is not valid."""

    def __init__(
        self, message: str, *, field: str, value: object, allowed: str, hint: str | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.field, self.value, self.allowed = field, value, allowed


class UnknownDomainError(RequestError):
    """The domain is not one of the model's."""

    def __init__(self, domain: object, domains: Sequence[str], *, field: str = "domain") -> None:
        allowed = ", ".join(domains)
        super().__init__(
            f"domain '{domain}' is unknown; it is one of: {allowed}",
            field=field,
            value=domain,
            allowed=allowed,
        )


class HistoryStoreError(CrossfeedError):
    """The history store cannot be reached or written."""


class MissingExtraError(CrossfeedError):
    """An optional dependency is not installed."""

    def __init__(self, *, package: str, extra: str) -> None:
        super().__init__(
            f"this needs the package '{package}', which is not installed",
            hint=install_hint(extra),
        )


def require_type(value: object, wanted: type, name: str, *, hint: str) -> None:
    """Check an argument from Python.

    Args:
        value: the argument.
        wanted: its class.
        name: the name of its parameter.
        hint: the way to an object of that class.

    Raises:
        ConfigError: it is of another class.
    """
    if not isinstance(value, wanted):
        shown = f"'{value}'" if isinstance(value, str | Path) else f"of type {type(value).__name__}"
        raise ConfigError(f"{name} must be of type {wanted.__name__}; it is {shown}", hint=hint)
