"""From tokens to the text states that condition the UNets, for sampling, training and the cache of states."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from show1_jax.config.sampling import TextPadding
from show1_jax.text.encoders import TextEncoder
from show1_jax.text.tokenizers import Tokens


def encode_text(
    encoder: TextEncoder,
    graph: "nnx.GraphDef[nnx.Module]",
    weights: nnx.State,
    tokens: Tokens,
    padding: TextPadding,
) -> Float[Array, "b n d"]:
    """Return the last states of a text encoder. Pure, for use in a jitted function.

    Args:
        encoder: row of the encoder.
        graph: structure of its network, from `nnx.split`.
        weights: its parameters.
        tokens: arrays on the devices.
        padding: `encoded` keeps the encoder's states of the padding, as in the original; `zeros` sets them to 0.
    """
    network: Any = nnx.merge(graph, weights)
    states = network(*tokens) if encoder.takes_mask else network(tokens.ids)
    return pad_states(states, tokens.mask, padding)


def pad_states(states: Float[Array, "b n d"], mask: Int[Array, "b n"], padding: TextPadding) -> Float[Array, "b n d"]:
    """Return the states, set to 0 where `mask` is 0 if `padding` is `zeros`; see `encode_text`."""
    return states if padding == "encoded" else jnp.where(mask[..., None] > 0, states, 0)


encode_text_jit = jax.jit(encode_text, static_argnums=(0, 1, 4))
"""`encode_text`, compiled."""
