"""Text conditions while training: captions are encoded by a frozen encoder, or their states are read from a cache.

Both are a `TextSource`: the host prepares arrays for a batch of captions, and the step computes states from them. Host
and step do not know which of the two it is.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Float32, Key

from show1_jax.checkpoints.checkpoint_set import CheckpointSet
from show1_jax.checkpoints.networks import LoadedNetwork
from show1_jax.config.sampling import TextPadding
from show1_jax.config.training import TextConfig
from show1_jax.data.text_cache import TextCache
from show1_jax.diffusion.random_keys import bernoulli
from show1_jax.errors import UserError
from show1_jax.text.encoders import TextEncoder, encoder_of_kind
from show1_jax.text.encoding import encode_text
from show1_jax.text.tokenizers import TextTokenizer, Tokens

HostText = tuple[np.ndarray, ...]
"""A batch of captions as returned by `TextSource.prepare`; the leading axis of every array is the batch."""
DeviceText = tuple[Array, ...]
"""The arrays of a `HostText` on the devices."""


@runtime_checkable
class TextSource(Protocol):
    """The source of the text states of a training step."""

    @property
    def weights(self) -> nnx.State:
        """Parameters of the frozen encoder, sharded over the mesh; an argument of the step. Empty for a cache."""

    def prepare(self, captions: Sequence[str]) -> HostText:
        """Return the arrays to put on the devices for these captions. Runs on the host."""

    def encode(self, weights: nnx.State, text: DeviceText) -> Float[Array, "b n d"]:
        """Return the states that the network is conditioned on. Runs inside the compiled step; pure."""


@dataclass(frozen=True)
class FrozenEncoder:
    """A `TextSource` that runs the text encoder in every step."""

    encoder: TextEncoder
    network: LoadedNetwork
    tokenizer: TextTokenizer
    padding: TextPadding

    @property
    def weights(self) -> nnx.State:
        return self.network.weights

    def prepare(self, captions: Sequence[str]) -> HostText:
        return tuple(self.tokenizer(captions))

    def encode(self, weights: nnx.State, text: DeviceText) -> Float[Array, "b n d"]:
        frozen = jax.lax.stop_gradient(weights)
        return encode_text(self.encoder, self.network.graph, frozen, Tokens(*text), self.padding)


@dataclass(frozen=True)
class StoredStates:
    """A `TextSource` that reads bfloat16 states from a cache; the network casts them to its compute dtype."""

    cache: TextCache

    @property
    def weights(self) -> nnx.State:
        return nnx.State({})

    def prepare(self, captions: Sequence[str]) -> HostText:
        return (self.cache.read(captions),)

    def encode(self, weights: nnx.State, text: DeviceText) -> Float[Array, "b n d"]:
        (states,) = text
        return states


def load_text_source(
    config: TextConfig, checkpoint: str | Path, component: str, *, padding: TextPadding, mesh: Mesh, dtype: DTypeLike
) -> TextSource:
    """Load the text source that a config names.

    Args:
        config: selects encoder or cache.
        checkpoint: one or several checkpoints, see `CheckpointSet`, with the text encoder. A cache does not require
            one; if it exists, the cache must be made with its encoder.
        component: name of the text encoder's component, a key of `TEXT_ENCODERS`.
        padding: see `CascadeConfig.text_padding`.
        mesh: devices over which the encoder's weights are sharded.
        dtype: compute dtype of the encoder.

    Raises:
        UserError: the checkpoint or its text encoder is missing, or the cache is missing or made with another encoder.
    """
    if config.source == "cache":
        encoder = None
        with contextlib.suppress(UserError):
            encoder = CheckpointSet.open(checkpoint).manifest.digest(component)
        return StoredStates(TextCache.open(config.cache, component, padding, encoder, config.local_copies))
    checkpoints = CheckpointSet.open(checkpoint)
    return FrozenEncoder(
        encoder_of_kind(checkpoints.component(component).kind),
        checkpoints.load(component, mesh, dtype),
        checkpoints.tokenizer(component),
        padding,
    )


def empty_caption(source: TextSource) -> HostText:
    """Return the empty caption, which replaces dropped ones: the arrays of `prepare` without the batch axis."""
    return tuple(array[0] for array in source.prepare([""]))


def drop_captions(
    text: DeviceText, empty: HostText, keys: Key[Array, " b"], rate: float | Float32[Array, ""]
) -> DeviceText:
    """Replace random captions by the empty one, for classifier-free guidance (arXiv 2207.12598). Pure.

    Args:
        text: arrays of a batch of captions.
        empty: arrays of the empty caption, see `empty_caption`.
        keys: one random key per example, so that its draw is the same on any mesh.
        rate: probability that a caption is dropped, from 0 to 1.
    """
    dropped = jax.vmap(lambda key: bernoulli(key, rate))(keys)

    def replace_dropped(array: Array, empty_array: np.ndarray) -> Array:
        return jnp.where(dropped.reshape(-1, *(1,) * (array.ndim - 1)), jnp.asarray(empty_array), array)

    return tuple(replace_dropped(*pair) for pair in zip(text, empty, strict=True))
