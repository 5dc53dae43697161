"""What may be searched, and what is said of a space that may not."""

from __future__ import annotations

from pathlib import Path

import pytest

from crossfeed.config import Config
from crossfeed.errors import ConfigError
from crossfeed.studies.space import (
    SPACE,
    Choices,
    Range,
    Space,
    read_space,
    require_allowed,
    with_settings,
)


def space_of(text: str, folder: Path) -> Space:
    file = folder / "space.toml"
    file.write_text(text, "utf-8")
    return read_space(file)


def test_a_file_names_ranges_and_choices(tmp_path: Path) -> None:
    text = """
    [train]
    learning_rate = {low = 0.001, high = 0.01, log = true}
    [model]
    width = {low = 16, high = 64}
    discriminator = {choices = ["mmoe", "star"]}
    """
    assert space_of(text, tmp_path) == {
        "train.learning_rate": Range(low=0.001, high=0.01, log=True),
        "model.width": Range(low=16, high=64),
        "model.discriminator": Choices(choices=("mmoe", "star")),
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "names no setting"),
        ("[train", "is not TOML"),
        ("[data]\nsplit = {choices = ['temporal']}", "'data' in the space .* is not searched"),
        ("train = 3", "'train' in the space .* is not searched"),
        ("[train]\nepochs = 3", r"train\.epochs = 3 in the space .* is not a range"),
        ("[train]\nepochs = {low = 3}", r"train\.epochs = .* is not a range"),
        ("[train]\nepochs = {choices = []}", r"train\.epochs = .* is not a range"),
        ("[train]\nepochs = {low = 1, high = '2'}", r"train\.epochs = .* is not a range"),
    ],
)
def test_a_file_that_is_no_space_is_refused(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        space_of(text, tmp_path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the space '.*none\.toml': No such file"):
        read_space(tmp_path / "none.toml")


def test_the_space_that_ships_is_allowed() -> None:
    require_allowed(SPACE, Config())


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"train.epoch": Range(low=1, high=2)}, r"train\.epoch is unknown; did you mean"),
        ({"model.dropout": Range(low=0.1, high=1.0)}, r"model\.dropout = 1\.0: input should be"),
        ({"model.width": Choices(choices=(8, 2))}, r"model\.width = 2: input should be"),
        ({"train.seed": Range(low=3, high=3)}, "low 3 must be below its high 3"),
        ({"train.gap_weight": Range(low=0, high=1, log=True)}, "begins above 0, not at 0"),
    ],
)
def test_what_a_setting_may_not_be_is_found_before_any_training(space: Space, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        require_allowed(space, Config())


def test_settings_are_replaced_and_checked() -> None:
    changed = with_settings(Config(), {"model.width": 32, "train.gap": "kl"})
    assert (changed.model.width, changed.train.gap) == (32, "kl")
    assert changed.train.learning_rate == Config().train.learning_rate
    with pytest.raises(ConfigError, match=r"model\.heads=4 must divide model\.width=30"):
        with_settings(Config(), {"model.width": 30})
