"""Draws do not depend on the settings of JAX."""

import contextlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import show1_jax
from show1_jax.cascade.cascade import Cascade
from show1_jax.config.bounds import MAX_SEED
from show1_jax.diffusion import random_keys
from show1_jax.diffusion.random_keys import bernoulli, fold_in, new_key, normal, numbered_keys, randint
from tests.helpers import tiny_config, tiny_runs

PACKAGE = Path(show1_jax.__file__).parent
SETTINGS: list[dict[str, Any]] = [
    {"jax_default_prng_impl": "rbg"},
    {"jax_default_prng_impl": "unsafe_rbg"},
    {"jax_threefry_partitionable": False},
    {"jax_random_seed_offset": 5},
    {"jax_enable_x64": True},
]
ALL_AT_ONCE = SETTINGS[0] | SETTINGS[2] | SETTINGS[3] | SETTINGS[4]
each_setting = pytest.mark.parametrize("jax_settings", SETTINGS, ids=str)


@contextlib.contextmanager
def changed_jax(jax_settings: dict[str, Any]) -> Iterator[None]:
    """Change settings of JAX while the block lasts, as its environment variables do."""
    before = {name: getattr(jax.config, name) for name in jax_settings}
    try:
        for name, value in jax_settings.items():
            jax.config.update(name, value)
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


def draws() -> list[np.ndarray]:
    """Draw with every function, alone and in a batch."""
    keys = numbered_keys(fold_in(new_key(7), 3), 5)
    draws_of_one_key: list[Callable[[Any], Any]] = [
        lambda key: normal(key, (3, 5)),
        lambda key: randint(key, 1000),
        lambda key: bernoulli(key, 0.3),
        jax.random.key_data,
    ]
    return [
        np.asarray(f(x)) for draw in draws_of_one_key for f, x in ((jax.jit(jax.vmap(draw)), keys), (draw, keys[2]))
    ]


@each_setting
def test_draws_do_not_depend_on_jax_settings(jax_settings: dict[str, Any]) -> None:
    expected = draws()
    with changed_jax(jax_settings):
        found = draws()
    for ours, others in zip(found, expected, strict=True):
        assert ours.dtype == others.dtype
        np.testing.assert_array_equal(ours, others)


@given(seed=st.integers(0, MAX_SEED), number=st.integers(0, MAX_SEED))
def test_keys_and_draws_are_those_of_jax_by_default(seed: int, number: int) -> None:
    theirs = jax.random.fold_in(jax.random.key(np.uint32(seed)), np.uint32(number))
    ours = fold_in(new_key(np.uint32(seed)), np.uint32(number))
    assert (jax.random.key_data(ours) == jax.random.key_data(theirs)).all()
    np.testing.assert_array_equal(normal(ours, (4,)), jax.random.normal(theirs, (4,), jnp.float32))
    assert randint(ours, 1000) == jax.random.randint(theirs, (), 0, 1000, jnp.int32)
    assert bernoulli(ours, 0.3) == jax.random.bernoulli(theirs, 0.3)


def test_no_other_module_draws_random_numbers_with_jax() -> None:
    draws_with_jax = re.compile(r"(?<!\w)jax\.random\b|from jax import .*\brandom\b|\bRngs\b")
    files = [path for path in PACKAGE.rglob("*.py") if draws_with_jax.search(path.read_text())]
    assert files == [Path(random_keys.__file__)]


def test_a_video_is_the_same_alone_and_in_a_batch(tiny_checkpoint: Path) -> None:
    cascade = Cascade.load(tiny_checkpoint, tiny_config.settings(), jax.devices()[:1])

    def sample(seeds: list[int]) -> np.ndarray:
        return cascade.sample(["x"] * len(seeds), seeds, stages=["keyframes"])["keyframes"]

    expected = sample([3, 4])
    with changed_jax(ALL_AT_ONCE):
        np.testing.assert_allclose(sample([4])[0], expected[1], atol=1e-4)
        np.testing.assert_allclose(sample([3, 4]), expected, atol=1e-4)


def test_training_draws_do_not_depend_on_jax_settings(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Compare the first loss of a stage that uses every kind of draw."""

    def loss(folder: str) -> list[float]:
        config = tiny_runs.settings(tiny_checkpoint, "first_frame")
        return tiny_runs.advance(tiny_runs.run_of(config, "first_frame", tmp_path / folder), 1)

    expected = loss("default")
    with changed_jax(ALL_AT_ONCE):
        np.testing.assert_allclose(loss("changed"), expected, rtol=1e-5)
