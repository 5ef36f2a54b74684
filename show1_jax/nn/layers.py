"""Layers that the networks share: activations, norms, resampling and the embeddings of timestep and text."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange, reduce, repeat
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from show1_jax.config.settings import Remat
from show1_jax.nn.config import Activation
from show1_jax.ops.attention import attend
from show1_jax.ops.convolution import convolve
from show1_jax.ops.group_norm import group_norm
from show1_jax.parallel import constrain_activation


class _NoRngs:
    """A placeholder for the random streams that NNX layers require; it draws nothing."""

    def params(self) -> None:
        return None


def _shape_only(key: None, shape: tuple[int, ...], dtype: DTypeLike) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


@dataclass(frozen=True)
class Layers:
    """A factory of the layers that have parameters, with the conventions that all networks share.

    Every parameter is a shape and a dtype and nothing is computed: a full-size network is built in a second, whereas
    tracing thousands of initialisers takes minutes. Weights come from a checkpoint or `show1_jax.nn.init`.
    """

    dtype: DTypeLike = jnp.float32
    """Compute dtype; norm statistics and softmax are float32 always."""
    param_dtype: DTypeLike = jnp.float32
    remat: Remat = "none"
    """Saved activations of a network's blocks for the backward pass; see `rematerialised`."""

    def _options(self, *parameters: str) -> dict[str, Any]:
        options = {"dtype": self.dtype, "param_dtype": self.param_dtype, "rngs": _NoRngs()}
        return options | {f"{name}_init": _shape_only for name in parameters}

    def param(self, shape: tuple[int, ...]) -> nnx.Param:
        """Make a parameter without a layer."""
        return nnx.Param(jax.ShapeDtypeStruct(shape, self.param_dtype))

    def linear(self, in_dim: int, out_dim: int, *, bias: bool = True) -> nnx.Linear:
        """Make a linear layer."""
        return nnx.Linear(in_dim, out_dim, use_bias=bias, **self._options("kernel", "bias"))

    def conv(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int | tuple[int, int],
        *,
        stride: int = 1,
        padding: Sequence[tuple[int, int]] | None = None,
        bias: bool = True,
    ) -> nnx.Conv:
        """Make a 2-D convolution; all leading axes of its input are batch axes.

        Args:
            in_channels: channels of the input.
            out_channels: channels of the output.
            kernel: height and width of the kernel, or one number for both.
            stride: step of the kernel, along both axes.
            padding: zeros before and after the rows and the columns; None pads by half the kernel.
            bias: add a bias to each channel.
        """
        height, width = kernel if isinstance(kernel, tuple) else (kernel, kernel)
        padding = padding or tuple(((size - 1) // 2, (size - 1) // 2) for size in (height, width))
        options = self._options("kernel", "bias") | {"conv_general_dilated": convolve}
        sizes = (height, width)
        return nnx.Conv(in_channels, out_channels, sizes, stride, padding=padding, use_bias=bias, **options)

    def conv3d(
        self, in_channels: int, out_channels: int, kernel: int, *, stride: int = 1, bias: bool = True
    ) -> nnx.Conv:
        """Make a convolution over time, height and width, padded as TensorFlow's `SAME`.

        An output has ceil(size / stride) positions along each axis; of an odd number of zeros, the last side has one
        more than the first.

        Args:
            in_channels: channels of the input.
            out_channels: channels of the output.
            kernel: size of the kernel, along each axis.
            stride: step of the kernel, along each axis.
            bias: add a bias to each channel.
        """
        options = self._options("kernel", "bias")
        sizes = (kernel,) * 3
        return nnx.Conv(in_channels, out_channels, sizes, stride, padding="SAME", use_bias=bias, **options)

    def batch_norm(self, channels: int, epsilon: float, *, scale: bool = True) -> "BatchNorm":
        """Make a batch norm with the statistics of training, in float32."""
        return BatchNorm(channels, epsilon, scale, self)

    def group_norm(self, channels: int, groups: int, epsilon: float) -> "GroupNorm":
        """Make a group norm over all axes but the leading one, with float32 statistics."""
        return GroupNorm(channels, groups, epsilon, self)

    def layer_norm(self, channels: int, epsilon: float = 1e-5) -> nnx.LayerNorm:
        """Make a layer norm over channels, with two-pass float32 statistics."""
        options = self._options("scale", "bias")
        return nnx.LayerNorm(channels, epsilon=epsilon, use_fast_variance=False, **options)

    def rms_norm(self, channels: int, epsilon: float) -> nnx.RMSNorm:
        """Make a root-mean-square norm over channels, with float32 statistics."""
        return nnx.RMSNorm(channels, epsilon=epsilon, **self._options("scale"))

    def embed(self, count: int, dim: int) -> nnx.Embed:
        """Make an embedding table of `count` vectors."""
        return nnx.Embed(count, dim, **self._options("embedding"))


class BatchNorm(nnx.Module):
    """A batch norm for inference: mean and variance are weights (in `nnx.BatchNorm` they are no parameters)."""

    def __init__(self, channels: int, epsilon: float, scale: bool, make: Layers):
        self.mean = make.param((channels,))
        self.var = make.param((channels,))
        self.bias = make.param((channels,))
        self.scale = make.param((channels,)) if scale else None
        self.epsilon = epsilon

    def __call__(self, x: Float[Array, "*batch c"]) -> Float[Array, "*batch c"]:
        mean, var, bias = (weight[...].astype(jnp.float32) for weight in (self.mean, self.var, self.bias))
        factor = jax.lax.rsqrt(var + self.epsilon)
        if self.scale is not None:
            factor = factor * self.scale[...].astype(jnp.float32)
        return ((x.astype(jnp.float32) - mean) * factor + bias).astype(x.dtype)


class GroupNorm(nnx.Module):
    """A group norm by the implementation that is the fastest on the device, which `nnx.GroupNorm` cannot choose."""

    def __init__(self, channels: int, num_groups: int, epsilon: float, make: Layers):
        self.scale = make.param((channels,))
        self.bias = make.param((channels,))
        self.num_groups = num_groups
        self.epsilon = epsilon
        self.dtype = make.dtype

    def __call__(self, x: Float[Array, "n *pixels c"]) -> Float[Array, "n *pixels c"]:
        x, scale, bias = (y.astype(self.dtype) for y in (x, self.scale[...], self.bias[...]))
        return group_norm(x, scale, bias, self.num_groups, self.epsilon)


def rematerialised(block: Callable[..., Array], remat: Remat) -> Callable[..., Array]:
    """Return the block with a choice of saved activations (Chen et al. 2016, arXiv 1604.06174).

    The backward pass recomputes the activations that are not saved.

    Args:
        block: its inputs are always saved.
        remat: `none` saves all activations; `dots` the results of matrix products, but neither attention's nor
            convolutions'; `full` none.
    """
    if remat == "none":
        return block
    policies = jax.checkpoint_policies
    return jax.checkpoint(block, policy=policies.dots_with_no_batch_dims_saveable if remat == "dots" else None)


def exact_gelu(x: Array) -> Array:
    """Apply the exact GELU, computed with erf in float32, as in PyTorch.

    Its error is below 1e-6, as PyTorch's. `jax.nn.gelu` uses erfc, which is exact to the last digit where GELU is close
    to 0, but costs an exponential and three polynomials in XLA; erf costs one polynomial.
    """
    wide = x.astype(jnp.float32)
    return (0.5 * wide * (1 + jax.lax.erf(math.sqrt(0.5) * wide))).astype(x.dtype)


def silu(x: Array) -> Array:
    """Apply SiLU, computed in float32: more exact in bfloat16 than `jax.nn.silu`, and faster on GPUs.

    GPUs have no exponential in bfloat16, so that its rounding there costs more than its single precision.
    """
    return jax.nn.silu(x.astype(jnp.float32)).astype(x.dtype)


def activation(name: Activation) -> Callable[[Array], Array]:
    """Return the activation function of that name."""
    return {"silu": silu, "gelu": exact_gelu}[name]


def per_frame(norm: GroupNorm, x: Float[Array, "b t h w c"]) -> Float[Array, "b t h w c"]:
    """Apply a group norm to each frame independently."""
    return rearrange(norm(rearrange(x, "b t h w c -> (b t) h w c")), "(b t) h w c -> b t h w c", b=x.shape[0])


def flatten_pixels(x: Float[Array, "b t h w c"]) -> Float[Array, "b t h*w c"]:
    """Flatten each frame's pixels row by row; they are sharded over devices as the rows are."""
    return constrain_activation(rearrange(x, "b t h w c -> b t (h w) c"))


def average_2x2(x: Float[Array, "b t h w c"]) -> Float[Array, "b t h//2 w//2 c"]:
    """Halve height and width by averaging."""
    return reduce(x, "b t (h i) (w j) c -> b t h w c", "mean", i=2, j=2)


def repeat_2x2(x: Float[Array, "b t h w c"]) -> Float[Array, "b t 2*h 2*w c"]:
    """Double height and width by repeating pixels."""
    return repeat(x, "b t h w c -> b t (h i) (w j) c", i=2, j=2)


def resize_nearest(x: Float[Array, "b t h w c"], height: int, width: int) -> Float[Array, "b t {height} {width} c"]:
    """Resize by the nearest pixel at or before: output i is input floor(i * in / out), as PyTorch's `nearest`."""
    rows = jnp.arange(height) * x.shape[2] // height
    columns = jnp.arange(width) * x.shape[3] // width
    return x[:, :, rows][:, :, :, columns]


def pixel_positions(x: Float[Array, "b t h w c"]) -> Float[Array, "b t h w 3"]:
    """Return each pixel's position in time, height and width, from -1 (the first) to 1 (the last)."""
    sides = x.shape[1:4]
    positions = jnp.meshgrid(*(jnp.linspace(-1, 1, side, dtype=x.dtype) for side in sides), indexing="ij")
    return jnp.broadcast_to(jnp.stack(positions, axis=-1), (len(x), *sides, 3))


def sinusoidal_embedding(
    timestep: Int[Array, " b"] | Float[Array, " b"], dim: int, *, flip_sin_to_cos: bool, freq_shift: int
) -> Float[Array, "b {dim}"]:
    """Return sinusoids of a timestep or noise level, in float32 (Ho et al. 2020; Vaswani et al. 2017, section 3.5).

    Frequencies are 10000^(-i / (dim/2 - freq_shift)); sines come first unless `flip_sin_to_cos`.
    """
    half = dim // 2
    exponent = -math.log(10000.0) * jnp.arange(half, dtype=jnp.float32) / (half - freq_shift)
    angle = timestep[:, None].astype(jnp.float32) * jnp.exp(exponent)
    parts = (jnp.cos(angle), jnp.sin(angle)) if flip_sin_to_cos else (jnp.sin(angle), jnp.cos(angle))
    return jnp.pad(jnp.concatenate(parts, axis=-1), ((0, 0), (0, dim % 2)))


class TimestepEmbedding(nnx.Module):
    """Two linear layers over a sinusoidal embedding."""

    def __init__(self, in_dim: int, out_dim: int, act_fn: Activation, make: Layers):
        self.linear_1 = make.linear(in_dim, out_dim)
        self.linear_2 = make.linear(out_dim, out_dim)
        self.act = activation(act_fn)

    def __call__(self, embedding: Float[Array, "b d"]) -> Float[Array, "b e"]:
        return self.linear_2(self.act(self.linear_1(embedding)))


class AttentionPooling(nnx.Module):
    """Attention with one query, the mean token plus a learned vector, over that token and all others (DeepFloyd IF)."""

    def __init__(self, dim: int, num_heads: int, make: Layers):
        self.positional_embedding = make.param((1, dim))
        self.q_proj = make.linear(dim, dim)
        self.k_proj = make.linear(dim, dim)
        self.v_proj = make.linear(dim, dim)
        self.num_heads = num_heads

    def __call__(self, tokens: Float[Array, "b n d"]) -> Float[Array, "b d"]:
        query = tokens.mean(axis=1, keepdims=True) + self.positional_embedding[...].astype(tokens.dtype)
        tokens = jnp.concatenate([query, tokens], axis=1)
        q, k, v = (
            rearrange(project(x), "b n (h d) -> b n h d", h=self.num_heads)
            for project, x in ((self.q_proj, query), (self.k_proj, tokens), (self.v_proj, tokens))
        )
        return rearrange(attend(q, k, v), "b 1 h d -> b (h d)")


class TextTimeEmbedding(nnx.Module):
    """The text term of the timestep embedding: norm, attention pooling, projection, norm (DeepFloyd IF)."""

    def __init__(self, text_dim: int, out_dim: int, num_heads: int, make: Layers):
        self.norm1 = make.layer_norm(text_dim)
        self.pool = AttentionPooling(text_dim, num_heads, make)
        self.proj = make.linear(text_dim, out_dim)
        self.norm2 = make.layer_norm(out_dim)

    def __call__(self, text: Float[Array, "b n d"]) -> Float[Array, "b e"]:
        return self.norm2(self.proj(self.pool(self.norm1(text))))
