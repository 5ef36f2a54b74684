"""A text encoder block by block, for devices that cannot hold all of its weights: one block's are there at a time.

These are the parts of T5's encoder; a row of `show1_jax.text.encoders` says of an encoder that it has them (`streams`).
"""

import functools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Float32, Int

from show1_jax.config.sampling import TextPadding
from show1_jax.parallel.weights import WeightPath
from show1_jax.text.encoding import pad_states
from show1_jax.text.tokenizers import Tokens

EMBEDDING: Final = ("shared",)
FINAL_NORM: Final = ("final_layer_norm",)


@runtime_checkable
class Part(Protocol):
    """A module of the encoder with its weights on the devices, as pure functions take it."""

    @property
    def graph(self) -> Any:
        """Its structure (`nnx.split`)."""

    @property
    def weights(self) -> Any:
        """Its parameters."""


LoadPart = Callable[[WeightPath], AbstractContextManager[Part]]
"""Gives the module at a path of the encoder, and takes its weights off the devices when the block ends."""


def block_path(index: int) -> WeightPath:
    """Where block number `index` of the encoder is."""
    return ("block", str(index))


def encode_by_blocks(
    load: LoadPart, num_layers: int, batches: Sequence[Tokens], padding: TextPadding, dtype: DTypeLike
) -> list[Float[Array, "b n d"]]:
    """What `encode_text` gives for each of the batches, every block being read once for all of them.

    Args:
        load: what gives a part of the encoder.
        num_layers: blocks of the encoder.
        batches: of texts, arrays on the devices, all with as many positions.
        padding: see `encode_text`.
        dtype: of the states.
    """
    masks = [batch.mask[:, None, :] > 0 for batch in batches]
    with load(EMBEDDING) as part:
        states = [embed_tokens(part.graph, part.weights, batch.ids) for batch in batches]
    for index in range(num_layers):
        with load(block_path(index)) as part:
            if index == 0:
                bias = _position_bias(part.graph, part.weights, batches[0].ids.shape[1])
            states = [run_block(part.graph, part.weights, x, bias, mask) for x, mask in zip(states, masks, strict=True)]
            jax.block_until_ready(states)  # or the next block would be loaded beside this one
    with load(FINAL_NORM) as part:
        return [
            _finish(part.graph, part.weights, x, batch.mask, padding, dtype)
            for x, batch in zip(states, batches, strict=True)
        ]


@functools.partial(jax.jit, static_argnums=0)
def embed_tokens(graph: Any, weights: Any, ids: Int[Array, "b n"]) -> Float32[Array, "b n d"]:
    """What the first block is given."""
    return nnx.merge(graph, weights)(ids).astype(jnp.float32)


@functools.partial(jax.jit, static_argnums=(0, 2))
def _position_bias(graph: Any, weights: Any, length: int) -> Float[Array, "h n n"]:
    return nnx.merge(graph, weights).position_bias(length)


@functools.partial(jax.jit, static_argnums=0)
def run_block(
    graph: Any, weights: Any, x: Float32[Array, "b n d"], bias: Float[Array, "h n n"], mask: Bool[Array, "b 1 n"]
) -> Float32[Array, "b n d"]:
    """One block of the encoder, as `show1_jax.nn.t5.Block` is called."""
    return nnx.merge(graph, weights)(x, bias, mask)


@functools.partial(jax.jit, static_argnums=(0, 4, 5))
def _finish(
    graph: Any, weights: Any, x: Float32[Array, "b n d"], mask: Int[Array, "b n"], padding: TextPadding, dtype: Any
) -> Float[Array, "b n d"]:
    return pad_states(nnx.merge(graph, weights)(x).astype(dtype), mask, padding)
