from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossfeed.config import PRESETS, Config, load_config, parse_config
from crossfeed.config.removed import REMOVED
from crossfeed.errors import ConfigError


def write(folder: Path, text: str) -> Path:
    file = folder / "settings.toml"
    file.write_text(text, "utf-8")
    return file


def test_nothing_given_is_the_defaults() -> None:
    assert load_config() == Config()


def test_later_sources_win(tmp_path: Path) -> None:
    file = write(tmp_path, "[train]\ngap_weight = 0.25\nseed = 3\n[model]\nwidth = 32\n")
    config = load_config(file, preset="claims", overrides=["train.seed=9"])
    assert config.model.fuse == "residual"  # preset over default
    assert config.train.gap_weight == 0.25  # file over preset
    assert config.train.seed == 9  # override over file
    assert config.model.width == 32


def test_every_problem_is_named_at_once(tmp_path: Path) -> None:
    file = write(
        tmp_path, "[train]\nepoch = 3\nseed = -1\n[modle]\nwidth = 1\n[data]\nsplit = 'x'\n"
    )
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    message = caught.value.message
    assert message.startswith(f"4 settings are not valid in '{file}'")
    assert "train.epoch is unknown; did you mean train.epochs?; known here: seed, epochs" in message
    assert "train.seed = -1: input should be greater than or equal to 0" in message
    assert "modle is unknown; known here: data, model, train" in message
    assert "data.split = 'x': input should be 'temporal', 'last-out' or 'new-in-domain'" in message


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("model.heads=3", r"model\.heads=3 must divide model\.width=64"),
        ("train.warmup_epochs=31", r"train\.warmup_epochs=31 exceeds train\.epochs=30"),
        ("train.seed=18446744073709551616", r"train\.seed = 18446744073709551616: .* less than"),
        ("train.epochs=many", r"train\.epochs = 'many': input should be a valid integer"),
        ("train.proposal_share=1", r"train\.proposal_share = 1: input should be less than 1"),
        ("data.columns.colour='c'", r"data\.columns\.colour.*'user_id', 'item_id'"),
    ],
)
def test_a_bad_value_is_named_with_what_is_allowed(override: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        load_config(overrides=[override])


def test_the_whole_pool_has_no_residual() -> None:
    with pytest.raises(ConfigError, match=r"'full-softmax' does not go with model\.fuse"):
        load_config(overrides=["train.objective=full-softmax", "model.fuse=residual"])


@pytest.mark.parametrize("text", ["train.epochs", "epochs=5", "=5", ".epochs=5", "train.=5"])
def test_an_override_must_name_section_key_and_value(text: str) -> None:
    with pytest.raises(ConfigError, match="is not a setting") as caught:
        load_config(overrides=[text])
    assert caught.value.hint == "write it as section.key=value: train.epochs=5"


def test_overrides_are_written_as_in_toml_and_bare_words_are_strings() -> None:
    config = load_config(
        overrides=[
            "train.gap=kl",
            'data.positive="rating >= 4"',
            "train.expand_domains=['books', 'films']",
            "data.columns.user_id=uid",
            "data.columns.item_id=iid",
        ]
    )
    assert config.train.gap == "kl"
    assert config.data.positive == "rating >= 4"
    assert config.train.expand_domains == ("books", "films")
    assert config.data.columns == {"user_id": "uid", "item_id": "iid"}


@given(value=st.floats(min_value=0, max_value=1, exclude_max=True))
def test_a_number_comes_through_an_override_unchanged(value: float) -> None:
    text = format(value, ".17f")
    assert load_config(overrides=[f"model.dropout={text}"]).model.dropout == float(text)


@given(text=st.text())
def test_any_override_is_a_setting_or_a_clear_error(text: str) -> None:
    try:
        config = load_config(overrides=[text])
    except ConfigError as error:
        assert error.message
    else:
        assert isinstance(config, Config)


def test_a_setting_of_former_versions_is_read_with_the_value_that_it_always_has() -> None:
    former = {"train": {**{name.partition(".")[2]: value for name, value in REMOVED.items()}}}
    assert parse_config(former) == Config()


def test_a_setting_of_former_versions_with_another_value_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(overrides=["train.gap_scale=2.0", "train.compile=true", "train.seed=-1"])
    assert caught.value.message.startswith("3 settings are not valid")
    assert "train.gap_scale = 2.0: this setting was removed, its value is always 1.0" in str(
        caught.value
    )
    assert "train.compile = True: this setting was removed, its value is always False" in str(
        caught.value
    )


def test_toml_errors_name_the_file_and_the_place(tmp_path: Path) -> None:
    file = write(tmp_path, "[train\nseed = 1\n")
    with pytest.raises(ConfigError, match=r"settings\.toml' is not valid TOML: .*line 1"):
        load_config(file)


def test_bytes_that_are_no_text_are_not_valid_toml(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="is not valid TOML"):
        load_config(file)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml' does not exist"):
        load_config(tmp_path / "nowhere.toml")


def test_a_folder_is_no_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read the configuration"):
        load_config(tmp_path)


def test_a_value_outside_a_section_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'train' must be a section, such as \[train\]"):
        load_config(write(tmp_path, "train = 3\n"))


def test_an_unknown_preset_lists_the_presets() -> None:
    with pytest.raises(ConfigError, match="preset 'clams' is unknown; it is one of: claims"):
        load_config(preset="clams")


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_valid(name: str) -> None:
    assert load_config(preset=name) != Config()


def test_the_claims_preset_weighs_every_term() -> None:
    train = load_config(preset="claims").train
    assert train.gap != "none"
    assert min(train.gap_weight, train.reward_weight, train.proposal_share) > 0


def test_settings_cannot_be_changed_after_they_were_read() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Config().train.seed = 1  # type: ignore[misc]


def test_settings_survive_json() -> None:
    config = load_config(
        overrides=["train.expand_domains=['a']", "data.time_range=['1990','2000']"]
    )
    assert parse_config(config.model_dump(mode="json")) == config


def test_a_file_may_begin_with_a_byte_order_mark_and_be_named_by_text(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_bytes(b"\xef\xbb\xbf[train]\nepochs = 3\n")
    assert load_config(str(file)).train.epochs == 3


@pytest.mark.parametrize(
    ("override", "meant"),
    [
        ("train.epoch=3", "train.epochs"),
        ("train.learningrate=0.1", "train.learning_rate"),
        ("data.min_user_event=1", "data.min_user_events"),
        ("train.colour=1", None),
    ],
)
def test_a_setting_that_is_nearly_one_is_told(override: str, meant: str | None) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(overrides=[override])
    asked = [f"did you mean {meant}?"] if meant else []
    assert [part for part in caught.value.message.split("; ") if "did you" in part] == asked
