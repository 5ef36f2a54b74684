"""Random weights for measurements: made in seconds, of the same distribution as initial ones, and harmless."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.random_cascade import random_cascade
from show1_jax.config.sampling import Stage
from show1_jax.nn.init import initial_weight, random_weight
from show1_jax.parallel.weights import WeightPath
from tests.helpers import tiny_config


def weight(path: WeightPath, *shape: int, dtype: Any = jnp.float32) -> np.ndarray:
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    made = random_weight(path, jax.ShapeDtypeStruct(shape, dtype, sharding=sharding))
    assert made.dtype == dtype
    return np.asarray(made, np.float32)


@pytest.mark.parametrize(
    ("path", "shape"),
    [
        (("resnets", "0", "conv1", "kernel"), (3, 3, 640, 320)),  # more elements than the buffer has
        (("attentions", "0", "to_q", "kernel"), (256, 64)),
        (("shared", "embedding"), (64, 256)),
        (("pool", "positional_embedding"), (1, 4096)),
        (("norm", "scale"), (32,)),
        (("norm", "bias"), (32,)),
        (("norm", "mean"), (32,)),
        (("norm", "var"), (32,)),
    ],
)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_distribution(path: WeightPath, shape: tuple[int, ...], dtype: Any) -> None:
    made, reference = weight(path, *shape, dtype=dtype), initial_weight(path, shape)
    assert abs(made.mean() - reference.mean()) <= 0.05 * reference.std()
    assert abs(made.std() - reference.std()) <= 0.05 * reference.std()
    assert np.abs(made).max() <= max(6 * reference.std(), reference.max(), 0)


def test_weights_differ_by_path_and_row() -> None:
    kernel = weight(("a", "kernel"), 3, 3, 640, 320).reshape(-1, 320)
    assert len(np.unique(kernel, axis=0)) == len(kernel)
    assert (weight(("a", "kernel"), 64, 64) != weight(("b", "kernel"), 64, 64)).mean() > 0.99
    np.testing.assert_array_equal(weight(("a", "kernel"), 64, 64), weight(("a", "kernel"), 64, 64))


def test_no_value_grows_over_the_steps() -> None:
    """Through the first frame's learned variance, and the latent stage's guidance of 15 without a threshold."""
    steps = {"first_frame": 70, "superres_latent": 5}
    config = tiny_config.settings()
    changed: dict[str, Any] = {
        stage: dataclasses.replace(getattr(config, stage), num_steps=count) for stage, count in steps.items()
    }
    changed["superres_latent"] = dataclasses.replace(changed["superres_latent"], height=16, width=16)
    config = dataclasses.replace(config, **changed)
    assert config.superres_latent.guidance_scale == 15
    assert config.first_frame.guidance_scale == 4
    low, high = (np.random.default_rng(0).uniform(-1, 1, (1, 2, side, side, 3)).astype(np.float32) for side in (8, 16))
    given: dict[Stage, np.ndarray] = {"interpolation": low, "superres_pixel": high}
    videos = random_cascade(config).sample(["a dog"], [0], stages=("first_frame", "superres_latent"), given=given)
    for stage, video in videos.items():
        assert 0.05 < video.std() < 2, stage
        assert np.abs(video).max() < 10, stage
