"""Scaled dot-product attention, softmax(Q K^T / sqrt(d)) V (Vaswani et al. 2017, equation 1)."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, Final

import jax
import jax.numpy as jnp
from einops import rearrange
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

from show1_jax.ops.choice import AttentionShape, AttentionVariant, attention_variant
from show1_jax.ops.target import current_target
from show1_jax.parallel import activation_axes, shards_of

Queries = Float[Array, "rows n h d"]
Keys = Float[Array, "rows m h d"]


def attend(query: Queries, key: Keys, value: Keys, num_frames: int = 1) -> Queries:
    """Apply attention to every row of the batch, by the fastest variant; the softmax is in float32.

    Args:
        query: a row is one frame of one video, videos first; n tokens, h heads, d channels a head.
        key: m tokens for each row.
        value: as `key`.
        num_frames: frames of each video; divides the number of rows.

    Returns:
        A weighted mean of the values for every query.
    """
    variant = attention_variant(current_target(), attention_shape(query, key, num_frames))
    return VARIANTS[variant](query, key, value, num_frames)


def attend_to_shared(
    query: Float[Array, "b t n h d"], key: Float[Array, "b m h d"], value: Float[Array, "b m h d"]
) -> Float[Array, "b t n h d"]:
    """Apply attention of all frames of a video to the same keys, by the fastest variant; see `attend`."""
    folded = rearrange(query, "b t n h d -> b (t n) h d")
    if attention_variant(current_target(), attention_shape(folded, key)) == "cudnn":
        return rearrange(cudnn(folded, key, value), "b (t n) h d -> b t n h d", t=query.shape[1])
    # Frames and pixels stay two axes: folded into one, the pixels could not be sharded over devices.
    return jax.vmap(plain, in_axes=(1, None, None), out_axes=1)(query, key, value)


def attention_shape(query: Queries, key: Keys, num_frames: int = 1) -> AttentionShape:
    """Return the shape for `show1_jax.ops.choice` of arguments of `attend`, with the mesh that is set."""
    rows, queries, heads, width = query.shape
    videos = rows // num_frames
    shards = shards_of(activation_axes(videos)[1])
    return AttentionShape(query.dtype, videos, num_frames, queries, key.shape[1], heads, width, shards)


def plain(query: Queries, key: Keys, value: Keys, num_frames: int = 1) -> Queries:
    """Apply attention as XLA compiles it, with all logits in memory."""
    return jax.nn.dot_product_attention(query, key, value)


def by_frame(query: Queries, key: Keys, value: Keys, num_frames: int = 1) -> Queries:
    """Apply attention as XLA compiles it, to a few frames of all videos at a time, which limits the logits' memory.

    Splitting over frames and not over videos leaves videos that are sharded over devices in place.
    """
    at_once = attention_shape(query, key, num_frames).frames_at_once
    parts = tuple(rearrange(x, "(b t) n h d -> t b n h d", t=num_frames) for x in (query, key, value))
    out = jax.lax.map(lambda frames: jax.nn.dot_product_attention(*frames), parts, batch_size=at_once)
    return rearrange(out, "t b n h d -> (b t) n h d")


def elementwise(query: Queries, key: Keys, value: Keys, num_frames: int = 1) -> Queries:
    """Apply attention by products and sums in float32, without matrix products, whose tiles few frames leave empty.

    The softmax and the mean are written out for every key: XLA does not fuse sums over an axis with what follows them.
    """
    q, k, v = (x.astype(jnp.float32) for x in (query, key, value))
    logits = (q[:, :, None] * k[:, None]).sum(axis=-1) * query.shape[-1] ** -0.5  # rows, n, m, h
    per_key = [logits[:, :, number] for number in range(key.shape[1])]
    largest = functools.reduce(jnp.maximum, per_key)
    weights = [jnp.exp(each - largest) for each in per_key]
    weighted = (weight[..., None] * v[:, None, number] for number, weight in enumerate(weights))
    return (sum(weighted, start=jnp.float32(0)) / sum(weights, start=jnp.float32(0))[..., None]).astype(query.dtype)


def padded(query: Queries, key: Keys, value: Keys, num_frames: int = 1) -> Queries:
    """Apply attention as XLA compiles it, to tokens that are padded to a multiple of 8.

    Matrix products in half precision need such sizes on GPUs. XLA would pad every operand of both products by a kernel
    of its own; this padding is a part of the transposition that an operand needs anyway.
    """
    lengths = jnp.full(len(query), key.shape[1], jnp.int32)
    inputs = _pad_tokens(8, query, key, value)
    return jax.nn.dot_product_attention(*inputs, key_value_seq_lengths=lengths)[:, : query.shape[1]]


def _pad_tokens(multiple: int, *inputs: Float[Array, "rows _ h d"]) -> list[Float[Array, "rows _ h d"]]:
    """Return queries, keys or values with zeros after their last tokens, up to a multiple of their number."""
    return [jnp.pad(x, ((0, 0), (0, -x.shape[1] % multiple), (0, 0), (0, 0))) for x in inputs]


@jax.custom_vjp
def _cudnn(query: Queries, key: Keys, value: Keys) -> Queries:
    return jax.nn.dot_product_attention(query, key, value, implementation="cudnn")


def _cudnn_forward(query: Queries, key: Keys, value: Keys) -> tuple[Queries, Any]:
    return jax.vjp(_cudnn_of_even_lengths, query, key, value)


def _cudnn_backward(pull_back: Any, cotangent: Queries) -> tuple[Queries, Keys, Keys]:
    gradients: tuple[Queries, Keys, Keys] = pull_back(cotangent)
    return gradients


_cudnn.defvjp(_cudnn_forward, _cudnn_backward)


def _cudnn_of_even_lengths(query: Queries, key: Keys, value: Keys) -> Queries:
    """Apply cuDNN's attention where JAX has a gradient of it: for even numbers of queries and of keys."""
    rows, num_queries, num_keys = len(query), query.shape[1], key.shape[1]
    if num_queries % 2 == num_keys % 2 == 0:
        return jax.nn.dot_product_attention(query, key, value, implementation="cudnn")
    out = jax.nn.dot_product_attention(
        *_pad_tokens(2, query, key, value),
        query_seq_lengths=jnp.full(rows, num_queries, jnp.int32),
        key_value_seq_lengths=jnp.full(rows, num_keys, jnp.int32),
        implementation="cudnn",
    )
    return out[:, :num_queries]


def cudnn(query: Queries, key: Keys, value: Keys, num_frames: int = 1) -> Queries:
    """Apply cuDNN's fused attention (as Dao et al. 2022, arXiv 2205.14135), which writes no logits to memory.

    It takes bfloat16 and float16, and heads of a multiple of 8 channels, at most 128. Over several devices, videos and
    heads are sharded, of queries, keys and values alike. JAX's own rules would take over the shardings of its arguments
    and refuse those that differ.
    """
    batch, _ = activation_axes(len(query) // num_frames)
    heads = ("tensor",) if query.shape[2] % shards_of(("tensor",)) == 0 else ()
    if shards_of((*batch, *heads)) == 1:
        return _cudnn(query, key, value)
    spec = PartitionSpec(batch, None, heads)
    return jax.shard_map(_cudnn, in_specs=spec, out_specs=spec)(query, key, value)


VARIANTS: Final[Mapping[AttentionVariant, Callable[..., Queries]]] = {
    "plain": plain,
    "by_frame": by_frame,
    "padded": padded,
    "elementwise": elementwise,
    "cudnn": cudnn,
}
"""The variants, with the arguments of `attend`. `plain` is the reference of the others."""
