"""What the networks are told of captions while they train: tokens for a frozen encoder, or states from a cache.

Both are a `TextSource`: the host prepares arrays for a batch of captions, the step makes states of them. Neither knows
which of the two it is.
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
from jaxtyping import Array, Float, Key

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
"""A batch of captions as `prepare` gives it; all arrays have the batch as their leading axis."""
DeviceText = tuple[Array, ...]
"""The same on the devices."""


@runtime_checkable
class TextSource(Protocol):
    """Where the text states of a training step come from."""

    @property
    def weights(self) -> nnx.State:
        """The frozen encoder's parameters, spread over the mesh; an argument of the step. A cache has none."""

    def prepare(self, captions: Sequence[str]) -> HostText:
        """On the host: what goes to the devices for these captions."""

    def encode(self, weights: nnx.State, text: DeviceText) -> Float[Array, "b n d"]:
        """In the step, and pure: the states that the network listens to."""


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
    """A `TextSource` that reads bfloat16 states from a cache; the network casts them to what it computes in."""

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
    """The text source that a config names.

    Args:
        config: encoder or cache.
        checkpoint: one or several, see `CheckpointSet`, with the text encoder. With a cache there need be none, but if
            there is, its encoder must be the cache's.
        component: the text encoder, of `TEXT_ENCODERS`.
        padding: see `CascadeConfig.text_padding`.
        mesh: the encoder's weights are spread over it.
        dtype: the encoder computes in it.

    Raises:
        UserError: no checkpoint or text encoder there, or no cache of it.
    """
    if config.source == "cache":
        encoder = None
        with contextlib.suppress(UserError):
            encoder = CheckpointSet.open(checkpoint).manifest.digest(component)
        return StoredStates(TextCache.open(config.cache, component, padding, encoder))
    checkpoints = CheckpointSet.open(checkpoint)
    return FrozenEncoder(
        encoder_of_kind(checkpoints.component(component).kind),
        checkpoints.load(component, mesh, dtype),
        checkpoints.tokenizer(component),
        padding,
    )


def empty_caption(source: TextSource) -> HostText:
    """What stands for a caption that is dropped: the empty one, as `prepare` gives it but without the batch axis."""
    return tuple(array[0] for array in source.prepare([""]))


def drop_captions(text: DeviceText, empty: HostText, keys: Key[Array, " b"], rate: float) -> DeviceText:
    """Put the empty caption in place of some, for classifier-free guidance (arXiv 2207.12598); pure.

    Args:
        text: of a batch.
        empty: of `empty_caption`.
        keys: one an example, so that its draw is the same on any mesh.
        rate: share of captions that are dropped, from 0 to 1.
    """
    dropped = jax.vmap(lambda key: bernoulli(key, rate))(keys)

    def choose(array: Array, of_empty: np.ndarray) -> Array:
        return jnp.where(dropped.reshape(-1, *(1,) * (array.ndim - 1)), jnp.asarray(of_empty), array)

    return tuple(choose(*pair) for pair in zip(text, empty, strict=True))
