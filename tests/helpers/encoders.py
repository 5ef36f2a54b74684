"""Text encoders of the recorded run, and `config.json` files of small ones in the released format."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from convert.reader import open_weights
from convert.rules import match_weights
from convert.tables import KINDS
from show1_jax.nn.clip import CLIPTextEncoder
from show1_jax.nn.layers import Layers
from show1_jax.nn.t5 import T5Encoder

NETWORKS = {"t5": T5Encoder, "clip": CLIPTextEncoder}


T5_FOLDER = "checkpoints/show-1-base"


CLIP_FOLDER = "checkpoints/show-1-sr2"


def encoder(folder: Path, kind: str, dtype: DTypeLike = jnp.float32) -> nnx.Module:
    """Load a recorded encoder through the production converter's tables."""
    config = KINDS[kind].read_config(json.loads((folder / "text_encoder/config.json").read_text()))
    network = NETWORKS[kind](config, Layers(dtype, dtype))
    state = nnx.state(network, nnx.Param)
    weights = match_weights(open_weights(folder / "text_encoder"), state, KINDS[kind].table, where=kind)
    for path, variable in nnx.to_flat_state(state):
        variable.set_value(jnp.asarray(weights[tuple(map(str, path))], dtype))
    nnx.update(network, state)
    return network


@nnx.jit
def encode(network: nnx.Module, *args: np.ndarray) -> jax.Array:
    """Call an encoder, compiled."""
    return network(*(jnp.asarray(array, jnp.int32) for array in args))


def relative_error(actual: jax.Array, expected: np.ndarray) -> float:
    """Return the norm of the difference over the norm of the expected values."""
    return float(np.linalg.norm(np.asarray(actual, np.float32) - expected) / np.linalg.norm(expected))


def t5_settings(**changes: object) -> dict[str, object]:
    """Return a T5 `config.json` like the first released ones, without the keys that were added later."""
    sizes = {"vocab_size": 9, "d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2}
    return {**sizes, "feed_forward_proj": "gated-gelu", "dropout_rate": 0.1, "output_past": True, **changes}


def clip_settings(**changes: object) -> dict[str, object]:
    """Return a CLIP `config.json` that contains only sizes."""
    sizes = {"vocab_size": 9, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    return {**sizes, "num_attention_heads": 2, "projection_dim": 4, "attention_dropout": 0.0, **changes}
