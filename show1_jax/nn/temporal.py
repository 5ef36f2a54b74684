"""Layers along time, which turn an image UNet into a video UNet."""

import jax
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float

from show1_jax.nn.attention import TransformerBlock
from show1_jax.nn.config import temporal_groups
from show1_jax.nn.layers import Layers, flatten_pixels, silu


class TemporalConvStep(nnx.Module):
    """Group norm over all frames, SiLU and a convolution over three frames."""

    def __init__(self, channels: int, make: Layers):
        self.norm = make.group_norm(channels, temporal_groups(channels), 1e-5)
        # A 2-D convolution over (time, pixels): backends run it much faster than a 3-D one.
        self.conv = make.conv(channels, channels, (3, 1))

    def __call__(self, x: Float[Array, "b t p c"]) -> Float[Array, "b t p c"]:
        return self.conv(silu(self.norm(x)))


class TemporalConv(nnx.Module):
    """Four residual norm-SiLU-convolution steps along time (ModelScope); initialised as the identity.

    The original's dropout is omitted: it acts in training only (and in the original's keyframe stage by accident).
    """

    def __init__(self, channels: int, make: Layers):
        self.conv1 = TemporalConvStep(channels, make)
        self.conv2 = TemporalConvStep(channels, make)
        self.conv3 = TemporalConvStep(channels, make)
        self.conv4 = TemporalConvStep(channels, make)

    def __call__(self, x: Float[Array, "b t h w c"]) -> Float[Array, "b t h w c"]:
        y = flatten_pixels(x)
        y = self.conv4(self.conv3(self.conv2(self.conv1(y))))
        return x + rearrange(y, "b t (h w) c -> b t h w c", h=x.shape[2])


class TemporalTransformer(nnx.Module):
    """A residual transformer block over the frames of each pixel; both attentions are self-attention over frames.

    Initialised as the identity, so that a video UNet inflated from an image UNet starts as that UNet (Show-1, section
    3.3).
    """

    def __init__(self, channels: int, num_heads: int, head_dim: int, num_groups: int, make: Layers):
        inner = num_heads * head_dim
        self.norm = make.group_norm(channels, num_groups, 1e-6)
        self.proj_in = make.linear(channels, inner)
        self.transformer_blocks = nnx.List([TransformerBlock(inner, num_heads, None, make)])
        self.proj_out = make.linear(inner, channels)

    def __call__(self, x: Float[Array, "b t h w c"]) -> Float[Array, "b t h w c"]:
        y = rearrange(self.proj_in(flatten_pixels(self.norm(x))), "b t p c -> b p t c")
        for block in self.transformer_blocks:
            # Videos and pixels stay two axes: folded into one, they could not both be sharded over devices.
            y = jax.vmap(block)(y)
        return x + rearrange(self.proj_out(y), "b (h w) t c -> b t h w c", h=x.shape[2])
