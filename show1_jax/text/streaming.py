"""A text encoder block by block, for devices that cannot hold all of its weights: one block is loaded at a time.

The parts are those of T5's encoder; `streams` in a row of `show1_jax.text.encoders` states that an encoder has them.
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
class EncoderPart(Protocol):
    """A module of the encoder with its weights on the devices, split for pure functions."""

    @property
    def graph(self) -> Any:
        """The module's structure (`nnx.split`)."""

    @property
    def weights(self) -> Any:
        """The module's parameters."""


LoadEncoderPart = Callable[[WeightPath], AbstractContextManager[EncoderPart]]
"""A context manager with the module at a path of the encoder; its weights leave the devices when the block ends."""


def block_path(index: int) -> WeightPath:
    """Return the path of block number `index` of the encoder."""
    return ("block", str(index))


def encode_by_blocks(
    load: LoadEncoderPart, num_layers: int, batches: Sequence[Tokens], padding: TextPadding, dtype: DTypeLike
) -> list[Float[Array, "b n d"]]:
    """Return the states of `encode_text` for each of the batches; every block is read once for all of them.

    Args:
        load: loads a part of the encoder.
        num_layers: number of blocks of the encoder.
        batches: tokens of the texts, arrays on the devices, all with the same number of positions.
        padding: see `encode_text`.
        dtype: dtype of the states.
    """
    masks = [batch.mask[:, None, :] > 0 for batch in batches]
    with load(EMBEDDING) as part:
        states = [embed_tokens(part.graph, part.weights, batch.ids) for batch in batches]
    for index in range(num_layers):
        with load(block_path(index)) as part:
            if index == 0:
                bias = _position_bias(part.graph, part.weights, batches[0].ids.shape[1])
            states = [run_block(part.graph, part.weights, x, bias, mask) for x, mask in zip(states, masks, strict=True)]
            jax.block_until_ready(states)  # otherwise the next block would be loaded beside this one
    with load(FINAL_NORM) as part:
        return [
            _final_states(part.graph, part.weights, x, batch.mask, padding, dtype)
            for x, batch in zip(states, batches, strict=True)
        ]


@functools.partial(jax.jit, static_argnums=0)
def embed_tokens(graph: Any, weights: Any, ids: Int[Array, "b n"]) -> Float32[Array, "b n d"]:
    """Return the input of the first block: the embeddings of the tokens."""
    return nnx.merge(graph, weights)(ids).astype(jnp.float32)


@functools.partial(jax.jit, static_argnums=(0, 2))
def _position_bias(graph: Any, weights: Any, length: int) -> Float[Array, "h n n"]:
    return nnx.merge(graph, weights).position_bias(length)


@functools.partial(jax.jit, static_argnums=0)
def run_block(
    graph: Any, weights: Any, x: Float32[Array, "b n d"], bias: Float[Array, "h n n"], mask: Bool[Array, "b 1 n"]
) -> Float32[Array, "b n d"]:
    """Run one block of the encoder; see `show1_jax.nn.t5.T5Block`."""
    return nnx.merge(graph, weights)(x, bias, mask)


@functools.partial(jax.jit, static_argnums=(0, 4, 5))
def _final_states(
    graph: Any, weights: Any, x: Float32[Array, "b n d"], mask: Int[Array, "b n"], padding: TextPadding, dtype: Any
) -> Float[Array, "b n d"]:
    return pad_states(nnx.merge(graph, weights)(x).astype(dtype), mask, padding)
