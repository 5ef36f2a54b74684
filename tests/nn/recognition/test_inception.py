"""Inception v3 at full size, as shapes, and the pools that tell FID's network from torchvision's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from show1_jax.errors import UserError
from show1_jax.nn.layers import Layers
from show1_jax.nn.recognition.inception import Conv, InceptionBlock, InceptionV3, InceptionV3Config, Pool
from show1_jax.parallel.weights import to_state, to_weights


def test_features_of_the_published_network_have_the_right_shape() -> None:
    graph, state = nnx.split(InceptionV3(InceptionV3Config(), Layers()))
    frames = jax.ShapeDtypeStruct((3, 299, 299, 3), jnp.float32)
    features = jax.eval_shape(lambda state, frames: nnx.merge(graph, state)(frames), state, frames)
    assert features.shape == (3, 2048)


@pytest.mark.parametrize(("pool", "expected"), [("average", (1 + 2 + 4 + 5) / 4), ("max", 5.0)])
def test_pools_leave_out_the_padding(pool: Pool, expected: float) -> None:
    graph, state = nnx.split(InceptionBlock(1, {"branch_pool": (Conv(1),)}, pool, 1, Layers()))
    identity = {"kernel": 1.0, "var": 1 - 1e-3, "scale": 1.0, "mean": 0.0, "bias": 0.0}
    weights = {path: jnp.full(leaf.shape, identity[path[-1]]) for path, leaf in to_weights(state).items()}
    x = jnp.arange(1.0, 10).reshape(1, 3, 3, 1)
    np.testing.assert_allclose(nnx.merge(graph, to_state(state, weights))(x)[0, 0, 0, 0], expected, rtol=1e-6)


def test_channels_that_do_not_divide_are_refused() -> None:
    with pytest.raises(UserError, match="channel_divisor=3 does not divide 16"):
        InceptionV3Config(channel_divisor=3)
