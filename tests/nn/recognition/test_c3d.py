"""C3D at full size, as shapes, and the crops of its mean clip."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from show1_jax.nn.layers import Layers
from show1_jax.nn.recognition.c3d import C3D, C3DConfig
from show1_jax.parallel.weights import to_state, to_weights
from tests.helpers.small_networks import C3D_SMALL


def test_logits_of_the_published_network_have_the_right_shape() -> None:
    graph, state = nnx.split(C3D(C3DConfig(), Layers()))
    clips = jax.ShapeDtypeStruct((2, 16, 112, 112, 3), jnp.float32)
    logits = jax.eval_shape(lambda state, clips: nnx.merge(graph, state)(clips), state, clips)
    assert logits.shape == (2, 101)


def test_each_clip_has_its_crop_of_the_mean_clip() -> None:
    graph, state = nnx.split(C3D(C3D_SMALL, Layers()))
    weights = {path: jnp.zeros(leaf.shape) for path, leaf in to_weights(state).items()}
    mean = np.random.default_rng(0).random((16, 128, 171, 3), np.float32)
    network = nnx.merge(graph, to_state(state, weights | {("mean",): jnp.asarray(mean)}))
    crops = network.mean_clips(jnp.asarray([[8, 8], [8, 29]]))
    np.testing.assert_array_equal(crops[0], mean[:, 8:120, 8:120])
    np.testing.assert_array_equal(crops[1], mean[:, 8:120, 29:141])
