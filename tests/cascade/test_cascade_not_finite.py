"""Values that are not finite end a run with one line that names their origin."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import Array

from show1_jax.cascade.cascade import Cascade
from show1_jax.cascade.noise import Draw, SeededNoise
from show1_jax.cascade.spec import CascadeSpec
from show1_jax.checkpoints.checkpoint_set import CheckpointSet
from show1_jax.checkpoints.networks import LoadedNetwork
from show1_jax.config.sampling import Stage
from show1_jax.errors import UserError
from show1_jax.parallel.weights import WeightPath
from tests.helpers import tiny_config


def refusal(checkpoint: Path, broken: str = "", noise: Any = None) -> tuple[str, list[Stage]]:
    """Return the error of sampling with a component of NaN weights, and the stages that were finished before it."""
    checkpoints = CheckpointSet.open(checkpoint)

    def load(component: str, mesh: Mesh, dtype: DTypeLike, part: WeightPath = (), formats: Any = None) -> LoadedNetwork:
        network = checkpoints.load(component, mesh, dtype, part, formats)
        if component != broken:
            return network
        return network._replace(weights=jax.tree.map(lambda leaf: leaf * jnp.nan, network.weights))

    spec = CascadeSpec.of(tiny_config.settings(), checkpoints.manifest, jax.devices()[:1])
    cascade = Cascade(spec, load, checkpoints.tokenizer)
    finished: list[Stage] = []
    draws = noise and noise(cascade.spec.mesh)
    with pytest.raises(UserError) as refused:
        cascade.sample(["x"], noise=draws, on_stage=lambda stage, _: finished.append(stage))
    assert "\n" not in str(refused.value)
    return str(refused.value), finished


@pytest.mark.parametrize(
    ("component", "said", "num_finished"),
    [
        ("text_t5", "the text encoder text_t5 gave values that are NaN", 0),
        ("text_clip", "the text encoder text_clip gave values", 0),
        ("interpolation", "stage interpolation, step 1 of 1 (timestep 999) gave", 1),
        ("first_frame", "stage first_frame, step 1 of 2 (timestep 500) gave", 2),
        ("vae", "stage superres_latent: the autoencoder's encoder gave", 4),
    ],
)
def test_a_network_with_nan(tiny_checkpoint: Path, component: str, said: str, num_finished: int) -> None:
    line, finished = refusal(tiny_checkpoint, component)
    assert line.startswith(said)
    assert len(finished) == num_finished


@pytest.mark.parametrize(
    ("draw", "said"),
    [
        (Draw("first_frame", "step", 0), "stage first_frame, step 1 of 2 (timestep 500) gave"),
        (
            Draw("superres_pixel", "initial", 0, 1),
            "stage superres_pixel, window 2 of 2, step 1 of 1 (timestep 999) gave",
        ),
        (Draw("superres_latent", "posterior"), "stage superres_latent: the autoencoder's encoder gave"),
    ],
)
def test_one_infinite_draw(tiny_checkpoint: Path, draw: Draw, said: str) -> None:
    class Noise(SeededNoise):
        def __call__(self, asked: Draw, shape: tuple[int, ...]) -> Array:
            noise = super().__call__(asked, shape)
            return noise.at[0, 0, 0, 0, 0].set(jnp.nan) if asked == draw else noise

    line, _ = refusal(tiny_checkpoint, noise=lambda mesh: Noise([1], mesh))
    assert line.startswith(said)
