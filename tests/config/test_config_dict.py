"""Without ml_collections a config file states the same settings."""

import runpy
from pathlib import Path
from typing import Any

import pytest

from show1_jax.config import config_dict
from show1_jax.config.config_dict import PlainConfigDict
from show1_jax.config.config_file import Config

ROOT = Path(__file__).parents[2]
CONFIGS = [*sorted((ROOT / "configs").glob("*.py")), ROOT / "tests" / "helpers" / "tiny_config.py"]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_files_state_the_same(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stated = runpy.run_path(str(path))["get_config"]().to_dict()
    monkeypatch.setattr(config_dict, "ConfigDict", PlainConfigDict)
    for imported in ("full", "demo"):  # by fast.py and latent_keyframes.py
        monkeypatch.setattr(f"configs.{imported}.ConfigDict", PlainConfigDict)
    plain = runpy.run_path(str(path))["get_config"]()
    assert type(plain) is PlainConfigDict
    assert plain.to_dict() == stated
    assert Config.from_dict(plain.to_dict()) == Config.from_dict(stated)


def test_update_keeps_what_it_does_not_name() -> None:
    config: Any = PlainConfigDict({"a": {"b": 1, "c": {"d": (2, 3)}}})
    config.a.update(b=4)
    config.update({"a": {"c": {"e": 5}}})
    assert config.to_dict() == {"a": {"b": 4, "c": {"d": (2, 3), "e": 5}}}
    config.a = {"f": 6}
    assert config.a.f == 6
    with pytest.raises(AttributeError, match="no setting 'g'"):
        _ = config.g
