"""From texts to the states that the networks see: one way for sampling, for training and for the cache of states."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from show1_jax.sampling_config import TextPadding
from show1_jax.text.t5 import T5Encoder
from show1_jax.text.tokenizers import load_clip_tokenizer, load_t5_tokenizer, tokenize_clip, tokenize_t5


class Tokens(NamedTuple):
    """A batch of texts as an encoder takes it, on the host or on the devices.

    Attributes:
        ids: of the tokens, int32 (batch, positions).
        mask: 1 for tokens, 0 for padding, int32 (batch, positions).
    """

    ids: Any
    mask: Any


Tokenize = Callable[[Sequence[str]], Tokens]


def load_tokenize(kind: str, folder: Path) -> Tokenize:
    """What makes tokens of texts for an encoder of that kind ("t5" or "clip").

    Args:
        kind: of the encoder, as its component's record says.
        folder: of the tokenizer's files.

    Raises:
        UserError: a file is missing or cannot be read.
    """
    if kind == "t5":
        t5 = load_t5_tokenizer(folder)
        return lambda texts: Tokens(*tokenize_t5(t5, texts))
    clip = load_clip_tokenizer(folder)

    def tokenize(texts: Sequence[str]) -> Tokens:
        ids = tokenize_clip(clip, texts)
        return Tokens(ids, mask_after_end(ids, clip.eos_token_id))

    return tokenize


def mask_after_end(ids: Int[np.ndarray, "b n"], end: int) -> Int[np.ndarray, "b n"]:
    """1 up to and with the first end token of each row, 0 after it: CLIP's padding may be its end token as well."""
    is_end = ids == end
    ends_before = np.cumsum(is_end, axis=1) - is_end
    return (ends_before == 0).astype(np.int32)


def encode_text(
    graph: "nnx.GraphDef[nnx.Module]", weights: nnx.State, tokens: Tokens, padding: TextPadding
) -> Float[Array, "b n d"]:
    """The last states of a text encoder; pure, for use in a jitted function.

    Args:
        graph: of a T5 or CLIP encoder, from `nnx.split`.
        weights: its parameters.
        tokens: arrays on the devices.
        padding: `encoded` leaves at padding what the encoder gives there, as the original; `zeros` puts zeros.
    """
    encoder: Any = nnx.merge(graph, weights)
    states = encoder(*tokens) if isinstance(encoder, T5Encoder) else encoder(tokens.ids)
    return pad_states(states, tokens.mask, padding)


def pad_states(states: Float[Array, "b n d"], mask: Int[Array, "b n"], padding: TextPadding) -> Float[Array, "b n d"]:
    """States with what `padding` asks for where `mask` is 0; see `encode_text`."""
    return states if padding == "encoded" else jnp.where(mask[..., None] > 0, states, 0)


encode_text_jit = jax.jit(encode_text, static_argnums=(0, 3))
"""`encode_text`, compiled."""
