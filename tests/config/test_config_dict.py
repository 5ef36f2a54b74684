"""Without ml_collections a config file states the same settings."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from show1_jax.config.config_dict import PlainConfigDict
from show1_jax.config.running import run_config_file

ROOT = Path(__file__).parents[2]
CONFIGS = [*sorted((ROOT / "configs").glob("[!_]*.py")), ROOT / "tests" / "helpers" / "tiny_config.py"]


STATE = """
import json, sys
sys.modules["ml_collections"] = None
from show1_jax.config.running import run_config_file
settings = [run_config_file(path) for path in sys.argv[1:]]
assert {type(config).__name__ for config in settings} == {"PlainConfigDict"}
print(json.dumps([config.to_dict() for config in settings]))
"""


def test_config_files_state_the_same() -> None:
    paths = [str(path) for path in CONFIGS]
    done = subprocess.run(
        [sys.executable, "-c", STATE, *paths], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    )
    stated = [run_config_file(path).to_dict() for path in paths]
    assert json.loads(done.stdout) == json.loads(json.dumps(stated))


def test_update_keeps_what_it_does_not_name() -> None:
    config: Any = PlainConfigDict({"a": {"b": 1, "c": {"d": (2, 3)}}})
    config.a.update(b=4)
    config.update({"a": {"c": {"e": 5}}})
    assert config.to_dict() == {"a": {"b": 4, "c": {"d": (2, 3), "e": 5}}}
    config.a = {"f": 6}
    assert config.a.f == 6
    with pytest.raises(AttributeError, match="no setting 'g'"):
        _ = config.g
