from __future__ import annotations

from pathlib import Path

import pytest

from training.config import FitConfig, check_same, read_option, read_toml, validated
from training.errors import ConfigError

REQUIRED = {"data": "digits", "name": "x"}


def test_flags_and_toml_write_lists_their_own_way():
    flag = validated(FitConfig, {**REQUIRED, "hidden": "64, 32", "ignore": "a,b"}, "setting")
    toml = validated(FitConfig, {**REQUIRED, "hidden": [64, 32], "ignore": ["a", "b"]}, "setting")
    assert flag == toml
    assert flag.hidden == (64, 32)
    assert flag.ignore == ("a", "b")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"epoch": 3}, "unknown setting 'epoch' (did you mean epochs?)"),
        ({"epochs": 0}, "'epochs'"),
        ({"epochs": "many"}, "'epochs'"),
        ({"learning_rate": "inf"}, "'learning_rate'"),
        ({"learning_rate": -1}, "'learning_rate'"),
        ({"false_alarm_rate": 1}, "'false_alarm_rate'"),
        ({"hidden": "64,0"}, "'hidden'"),
        ({"network": "rnn"}, "'network'"),
        ({"name": "Big Name"}, "not a model name"),
        ({"name": "../x"}, "not a model name"),
        ({"seed": -1}, "'seed'"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(settings: dict[str, object], says: str):
    with pytest.raises(ConfigError) as error:
        validated(FitConfig, {**REQUIRED, **settings}, "setting")
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_setting_is_named():
    with pytest.raises(ConfigError, match="'data' is required"):
        validated(FitConfig, {"name": "x"}, "setting")


@pytest.mark.parametrize(
    ("text", "option"),
    [
        ("level=0.5", ("level", 0.5)),
        ("on=true", ("on", True)),
        ("noise=gaussian", ("noise", "gaussian")),
        ("widths=[1, 2]", ("widths", [1, 2])),
        ("expression=a=b", ("expression", "a=b")),
        ("name='quoted'", ("name", "quoted")),
    ],
)
def test_options_are_toml_values_or_else_words(text: str, option: tuple[str, object]):
    assert read_option(text) == option


@pytest.mark.parametrize("text", ["level", "=3"])
def test_an_option_without_key_or_value_is_refused(text: str):
    with pytest.raises(ConfigError, match="KEY=VALUE"):
        read_option(text)


def test_toml_files(tmp_path: Path):
    file = tmp_path / "fit.toml"
    file.write_text('epochs = 3\n[options]\nnoise = "gaussian"\n')
    assert read_toml(file) == {"epochs": 3, "options": {"noise": "gaussian"}}
    with pytest.raises(ConfigError, match="No such file"):
        read_toml(tmp_path / "absent.toml")
    file.write_text("epochs 3")
    with pytest.raises(ConfigError, match=r"not TOML.*line 1"):
        read_toml(file)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="UTF-8"):
        read_toml(file)


def test_a_resumed_run_takes_its_own_settings_only():
    config = validated(FitConfig, {**REQUIRED, "epochs": 3}, "setting")
    check_same(config, {"epochs": "3", "data": "digits"}, "runs/x")
    with pytest.raises(ConfigError, match=r"'epochs': 5 is not what runs/x began with \(3\)"):
        check_same(config, {"epochs": "5"}, "runs/x")
    with pytest.raises(ConfigError, match="did you mean epochs"):
        check_same(config, {"epoch": "3"}, "runs/x")
