"""The names that the package offers, and their use in Python."""

import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import show1_jax
from show1_jax import Cascade, load_config

ROOT = Path(__file__).parent.parent
DEMO = ROOT / "checkpoints" / "demo"


@pytest.mark.parametrize("name", show1_jax.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(show1_jax, name).__name__ == name


def test_other_names_are_not() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        show1_jax.nothing  # noqa: B018


def test_settings_are_loaded_with_overrides() -> None:
    config = load_config(str(ROOT / "configs" / "demo.py"), ["--config.keyframes.num_steps=3"])
    assert isinstance(config, show1_jax.Config)
    assert config.keyframes.num_steps == 3


def test_a_config_can_be_a_path() -> None:
    assert load_config(ROOT / "configs" / "demo.py").keyframes.height == 10


def test_importing_the_package_and_a_config_needs_no_jax() -> None:
    code = "import sys, show1_jax; show1_jax.load_config('configs/full.py'); assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_a_network_is_loaded_and_called() -> None:
    cascade = Cascade.load(DEMO, devices=jax.devices()[:1])
    (text,) = cascade.encode_texts("text_t5", [["a red circle moves right"]])
    with cascade.network("keyframes") as network:
        sample = jnp.zeros((1, 8, 10, 16, 3), jnp.float32)
        output = np.asarray(network.module(sample, jnp.array([500]), text))
    assert output.shape == (1, 8, 10, 16, 3)
    assert cascade.encode_texts("text_t5", []) == []
    (none,) = cascade.encode_texts("text_t5", [[]])
    assert none.shape == (0, 77, 64)
    assert np.isfinite(output).all()
