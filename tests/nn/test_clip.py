"""The CLIP text encoder's activations and refused settings."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from show1_jax.errors import UserError
from show1_jax.nn.clip import CLIPFeedForward, CLIPTextConfig
from show1_jax.nn.layers import Layers
from show1_jax.parallel.weights import to_state, to_weights
from tests.helpers.encoders import CLIP_FOLDER, clip_settings, encode, encoder


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # Values of the original's functions of these names at -2, -0.5, 0.7, 3, in float64.
        ("gelu", [-0.04550026, -0.15426877, 0.53062544, 2.99595031]),
        ("gelu_new", [-0.04540231, -0.15428599, 0.53057013, 2.99636261]),
        ("quick_gelu", [-0.06434138, -0.14961156, 0.53689395, 2.98192869]),
    ],
)
def test_clip_activations(name: str, expected: list[float]) -> None:
    config = CLIPTextConfig(9, 4, 4, 1, 1, hidden_act=name)
    graph, state = nnx.split(CLIPFeedForward(config, Layers()))
    weights = {path: np.eye(4) if path[-1] == "kernel" else np.zeros(4) for path in to_weights(state)}
    layer = nnx.merge(graph, to_state(state, {path: jnp.float32(weight) for path, weight in weights.items()}))
    np.testing.assert_allclose(layer(jnp.asarray([[[-2.0, -0.5, 0.7, 3.0]]]))[0, 0], expected, atol=1e-6)


def test_clip_refuses_more_tokens_than_positions(golden: Path) -> None:
    with pytest.raises(UserError, match=r"78 tokens.*77 positions"):
        encode(encoder(golden / CLIP_FOLDER, "clip"), np.zeros((1, 78), int))


@pytest.mark.parametrize(("name", "value"), [("hidden_act", "swish"), ("num_attention_heads", 3), ("hidden_size", -8)])
def test_clip_config_refuses_by_field_and_value(name: str, value: object) -> None:
    with pytest.raises(UserError, match=f"{name}={value!r}"):
        CLIPTextConfig.from_json(clip_settings(**{name: value}))
