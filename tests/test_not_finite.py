"""Values that are not finite end a run where they arise, with one line that says where."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jaxtyping import Array

from show1_jax.cascade import Cascade
from show1_jax.checkpoint_set import CheckpointSet
from show1_jax.errors import UserError
from show1_jax.models import LoadedNetwork
from show1_jax.noise import Draw, SeededNoise
from show1_jax.sampling_config import Stage
from tests import tiny_config


class WithBroken(CheckpointSet):
    """A checkpoint of which one component's weights are all NaN."""

    broken = ""

    def load(self, component: str, *arguments: Any) -> LoadedNetwork:
        network = super().load(component, *arguments)
        if component != self.broken:
            return network
        return network._replace(weights=jax.tree.map(lambda leaf: leaf * jnp.nan, network.weights))


def refusal(checkpoint: Path, broken: str = "", noise: Any = None) -> tuple[str, list[Stage]]:
    """The line that sampling ends with, and the stages that were finished before."""
    networks = WithBroken.open(checkpoint)
    networks.broken = broken
    cascade = Cascade.of(networks, tiny_config.settings(), jax.devices()[:1])
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
