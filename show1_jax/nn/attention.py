"""Attention over pixels, frames and text."""

import jax.numpy as jnp
from einops import rearrange, repeat
from flax import nnx
from jaxtyping import Array, Float

from show1_jax.nn.layers import Layers, exact_gelu, flatten_pixels, per_frame
from show1_jax.ops.attention import attend, attend_to_shared

TokenFeatures = Float[Array, "b n c"]


def split_heads(x: Float[Array, "... c"], head_dim: int) -> Float[Array, "... heads {head_dim}"]:
    """Split channels into heads of `head_dim` channels."""
    return rearrange(x, "... (h d) -> ... h d", d=head_dim)


class Attention(nnx.Module):
    """Multi-head attention of tokens over themselves or over a context (Vaswani et al. 2017), without key biases."""

    def __init__(self, dim: int, num_heads: int, context_dim: int, make: Layers):
        self.head_dim = dim // num_heads
        self.to_q = make.linear(dim, dim, bias=False)
        self.to_k = make.linear(context_dim, dim, bias=False)
        self.to_v = make.linear(context_dim, dim, bias=False)
        self.to_out = make.linear(dim, dim)

    def __call__(self, x: TokenFeatures, context: Float[Array, "b m d"], num_frames: int = 1) -> TokenFeatures:
        q, k, v = (
            split_heads(project(y), self.head_dim)
            for project, y in ((self.to_q, x), (self.to_k, context), (self.to_v, context))
        )
        return self.to_out(rearrange(attend(q, k, v, num_frames), "b n h d -> b n (h d)"))


class FeedForward(nnx.Module):
    """Gated feed-forward layer of width 4 x dim: first half times gelu of the second (GEGLU, Shazeer 2020)."""

    def __init__(self, dim: int, make: Layers):
        self.proj_in = make.linear(dim, 8 * dim)
        self.proj_out = make.linear(4 * dim, dim)

    def __call__(self, x: TokenFeatures) -> TokenFeatures:
        value, gate = jnp.split(self.proj_in(x), 2, axis=-1)
        return self.proj_out(value * exact_gelu(gate))


class TransformerBlock(nnx.Module):
    """Self-attention, attention over a context (None: self-attention), feed-forward; each after a layer norm."""

    def __init__(self, dim: int, num_heads: int, context_dim: int | None, make: Layers):
        self.norm1 = make.layer_norm(dim)
        self.attn1 = Attention(dim, num_heads, dim, make)
        self.norm2 = make.layer_norm(dim)
        self.attn2 = Attention(dim, num_heads, context_dim or dim, make)
        self.norm3 = make.layer_norm(dim)
        self.ff = FeedForward(dim, make)

    def __call__(
        self, x: TokenFeatures, context: Float[Array, "b m d"] | None = None, num_frames: int = 1
    ) -> TokenFeatures:
        normed = self.norm1(x)
        x = x + self.attn1(normed, normed, num_frames)
        normed = self.norm2(x)
        x = x + self.attn2(normed, normed if context is None else context, num_frames)
        return x + self.ff(self.norm3(x))


class SpatialTransformer(nnx.Module):
    """A residual transformer block over the pixels of each frame and the text (Stable Diffusion)."""

    def __init__(self, channels: int, num_heads: int, text_dim: int, num_groups: int, make: Layers):
        self.norm = make.group_norm(channels, num_groups, 1e-6)
        self.proj_in = make.linear(channels, channels)
        self.transformer_blocks = nnx.List([TransformerBlock(channels, num_heads, text_dim, make)])
        self.proj_out = make.linear(channels, channels)

    def __call__(self, x: Float[Array, "b t h w c"], text: Float[Array, "b n d"]) -> Float[Array, "b t h w c"]:
        _, t, h, _, _ = x.shape
        y = self.proj_in(rearrange(flatten_pixels(per_frame(self.norm, x)), "b t p c -> (b t) p c"))
        context = repeat(text, "b n d -> (b t) n d", t=t)
        for block in self.transformer_blocks:
            y = block(y, context, t)
        return x + rearrange(self.proj_out(y), "(b t) (h w) c -> b t h w c", t=t, h=h)


class AddedKVAttention(nnx.Module):
    """Residual attention of each frame's pixels over the text and themselves in one softmax (DeepFloyd IF).

    With `only_cross`, the pixels attend to the text alone. Text keys come before pixel keys.
    """

    def __init__(
        self,
        channels: int,
        head_dim: int,
        text_dim: int,
        *,
        only_cross: bool,
        norm_text: bool,
        num_groups: int,
        make: Layers,
    ):
        self.head_dim = head_dim
        self.group_norm = make.group_norm(channels, num_groups, 1e-5)
        self.norm_cross = make.group_norm(text_dim, 32, 1e-5) if norm_text else None
        self.to_q = make.linear(channels, channels)
        self.add_k_proj = make.linear(text_dim, channels)
        self.add_v_proj = make.linear(text_dim, channels)
        self.to_k = None if only_cross else make.linear(channels, channels)
        self.to_v = None if only_cross else make.linear(channels, channels)
        self.to_out = make.linear(channels, channels)

    def __call__(self, x: Float[Array, "b t h w c"], text: Float[Array, "b n d"]) -> Float[Array, "b t h w c"]:
        _, t, h, _, _ = x.shape
        pixels = flatten_pixels(per_frame(self.group_norm, x))
        if self.norm_cross is not None:
            text = self.norm_cross(text)
        query = split_heads(self.to_q(pixels), self.head_dim)
        key, value = (split_heads(project(text), self.head_dim) for project in (self.add_k_proj, self.add_v_proj))
        if self.to_k is None or self.to_v is None:
            out = rearrange(attend_to_shared(query, key, value), "b t p h d -> b t p (h d)")
        else:
            key, value = (
                jnp.concatenate([repeat(of_text, "b n h d -> b t n h d", t=t), of_pixels], axis=2)
                for of_text, of_pixels in (
                    (key, split_heads(self.to_k(pixels), self.head_dim)),
                    (value, split_heads(self.to_v(pixels), self.head_dim)),
                )
            )
            query, key, value = (rearrange(y, "b t n h d -> (b t) n h d") for y in (query, key, value))
            out = rearrange(attend(query, key, value, t), "(b t) p h d -> b t p (h d)", t=t)
        return x + rearrange(self.to_out(out), "b t (h w) c -> b t h w c", h=h)
