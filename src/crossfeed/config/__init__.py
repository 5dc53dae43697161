"""Settings: their sections, reading them, and differences between two configurations."""

from crossfeed.config.loading import load_config, parse_config, setting_names
from crossfeed.config.sections import (
    PRESETS,
    Config,
    DataConfig,
    ModelConfig,
    TrainConfig,
    parse_time,
)

__all__ = [
    "PRESETS",
    "Config",
    "DataConfig",
    "ModelConfig",
    "TrainConfig",
    "load_config",
    "parse_config",
    "parse_time",
    "setting_names",
]
