"""The choice of a variant for a device, a dtype and a shape; the only place where it is made.

Choices are functions of plain values, so that those for an accelerator are tested on a CPU. A variant is chosen where
it runs, and was measured to be faster than the reference, or starts fewer kernels that move fewer bytes, as counted in
the compiled program; benchmarks/README.md has both.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

import jax.numpy as jnp
from jax.typing import DTypeLike

from show1_jax.ops.target import Target

AttentionVariant = Literal["plain", "by_frame", "padded", "elementwise", "cudnn"]
NormVariant = Literal["two_pass", "one_pass"]
QuantileVariant = Literal["counted", "sorted"]

MAX_LOGITS_BYTES: Final = 2**28
"""Upper bound of the logits in memory at once, in bytes. At full size, those of a latent layer's pixels are 10 GB."""

_SHORT: Final = 8
"""Largest number of frames whose attention is faster elementwise: 2 to 13 times with 5 and 8 frames; with 29 slower."""
_NARROW: Final = 32
"""Largest width of a head for the same. Measured from 10 to 18; the cascade's are 5 to 20, or 64 with 29 frames."""
_CUDNN_MIN_QUERIES: Final = 128
"""Fewest queries for cuDNN, of the size of its tiles. Measured from 180 to 2880: 3.3 to 5.9 times as fast."""
_CUDNN_MIN_KEYS: Final = 64
"""Fewest keys for the same. Measured from 77 to 2880."""
_CUDNN_MAX_WIDTH: Final = 128
"""Largest width of a head in cuDNN on all its GPUs. Widths are multiples of 8."""
_CUDNN_MIN_CHANNELS: Final = 8
"""Fewest channels in half precision that cuDNN's convolutions read as one aligned word of 16 bytes."""


@dataclass(frozen=True)
class AttentionShape:
    """The shape of an attention.

    Attributes:
        dtype: dtype of queries, keys and values.
        videos: number of videos.
        frames: frames of each video; every frame attends independently.
        queries: tokens of a frame.
        keys: tokens that these attend to.
        heads: number of heads.
        width: channels of a head.
        query_shards: number of devices that the queries of a frame are sharded over.
    """

    dtype: DTypeLike
    videos: int
    frames: int
    queries: int
    keys: int
    heads: int
    width: int
    query_shards: int = 1

    @property
    def frames_at_once(self) -> int:
        """Number of frames, of all videos, whose logits fit in `MAX_LOGITS_BYTES`; at least one."""
        logits = self.videos * self.heads * self.queries * self.keys
        return max(1, MAX_LOGITS_BYTES // (logits * jnp.dtype(jnp.float32).itemsize))


def attention_variant(target: Target, shape: AttentionShape) -> AttentionVariant:
    """Return the fastest known variant of attention: the first row of the table below whose condition holds."""
    return next(variant for variant, is_faster in _ATTENTION if is_faster(target, shape))


def runs_cudnn(target: Target, shape: AttentionShape) -> bool:
    """Return whether cuDNN's attention runs. Its rules for sharding allow videos and heads, but not queries."""
    fits = shape.width % 8 == 0 and shape.width <= _CUDNN_MAX_WIDTH
    return target.has_cudnn and _is_half(shape.dtype) and fits and shape.query_shards == 1


def _is_elementwise_faster(target: Target, shape: AttentionShape) -> bool:
    return target.platform == "gpu" and max(shape.queries, shape.keys) <= _SHORT and shape.width <= _NARROW


def _is_cudnn_faster(target: Target, shape: AttentionShape) -> bool:
    is_long = shape.queries >= _CUDNN_MIN_QUERIES and shape.keys >= _CUDNN_MIN_KEYS
    return is_long and runs_cudnn(target, shape)


def _is_padded_faster(target: Target, shape: AttentionShape) -> bool:
    has_odd_length = bool(shape.queries % 8 or shape.keys % 8)
    return target.platform == "gpu" and _is_half(shape.dtype) and has_odd_length and shape.query_shards == 1


def _is_half(dtype: DTypeLike) -> bool:
    return dtype in (jnp.bfloat16, jnp.float16)


_ATTENTION: Final[tuple[tuple[AttentionVariant, Callable[[Target, AttentionShape], bool]], ...]] = (
    ("elementwise", _is_elementwise_faster),
    ("cudnn", _is_cudnn_faster),
    ("by_frame", lambda target, shape: shape.frames_at_once < shape.frames),
    ("padded", _is_padded_faster),
    ("plain", lambda target, shape: True),
)


def norm_variant(target: Target, dtype: DTypeLike, pixel_shards: int = 1) -> NormVariant:
    """Return the fastest known variant of a group norm.

    On CPUs XLA fuses the passes, and sums a channel first gain nothing.

    Args:
        target: kind of device.
        dtype: dtype of the features.
        pixel_shards: number of devices that the pixels of a frame are sharded over.
    """
    is_faster = target.platform == "gpu" and _is_half(dtype) and pixel_shards == 1
    return "one_pass" if is_faster else "two_pass"


def num_input_channels(target: Target, dtype: DTypeLike, channels: int) -> int:
    """Return the number of input channels for the fastest convolution; those beyond `channels` are zero.

    With 4 channels, cuDNN takes 3 ms on an H200 for the first convolution of latent super-resolution, and 0.3 ms for
    other ones of that size.
    """
    is_faster = target.platform == "gpu" and _is_half(dtype)
    return max(channels, _CUDNN_MIN_CHANNELS) if is_faster else channels


def quantile_variant(target: Target, pixel_shards: int = 1) -> QuantileVariant:
    """Return the fastest known variant of the quantile; sorting on a CPU takes twenty times as long as counting.

    Args:
        target: kind of device.
        pixel_shards: number of devices that the pixels of a frame may be sharded over; sorting would gather them.
    """
    return "sorted" if target.platform == "gpu" and pixel_shards == 1 else "counted"
