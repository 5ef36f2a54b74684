"""The autoencoder of the latent stage (AutoencoderKL; Rombach et al. 2022)."""

import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float

from show1_jax.nn.blocks import ResnetBlock, Upsample
from show1_jax.nn.config import VAEConfig
from show1_jax.nn.layers import Layers, flatten_pixels, per_frame, rematerialised, silu
from show1_jax.ops.attention import attend
from show1_jax.parallel import constrain_activation

_NORM_EPSILON = 1e-6


def _resnets(config: VAEConfig, in_channels: int, out_channels: int, count: int, make: Layers) -> nnx.List:
    return nnx.List(
        [
            ResnetBlock(
                in_channels if index == 0 else out_channels,
                out_channels,
                embedding_dim=None,
                act_fn=config.act_fn,
                num_groups=config.norm_num_groups,
                epsilon=_NORM_EPSILON,
                make=make,
            )
            for index in range(count)
        ]
    )


class PixelAttention(nnx.Module):
    """Residual self-attention of each frame's pixels, with one head."""

    def __init__(self, channels: int, num_groups: int, make: Layers):
        self.group_norm = make.group_norm(channels, num_groups, _NORM_EPSILON)
        self.to_q = make.linear(channels, channels)
        self.to_k = make.linear(channels, channels)
        self.to_v = make.linear(channels, channels)
        self.to_out = make.linear(channels, channels)

    def __call__(self, x: Float[Array, "b t h w c"]) -> Float[Array, "b t h w c"]:
        _, t, h, _, _ = x.shape
        pixels = rearrange(flatten_pixels(per_frame(self.group_norm, x)), "b t p c -> (b t) p 1 c")
        out = attend(self.to_q(pixels), self.to_k(pixels), self.to_v(pixels), t)
        return x + rearrange(self.to_out(out), "(b t) (h w) 1 c -> b t h w c", t=t, h=h)


class AutoencoderMidBlock(nnx.Module):
    """The coarsest level's middle: resnet, attention, resnet."""

    def __init__(self, config: VAEConfig, make: Layers):
        channels = config.block_out_channels[-1]
        self.resnets = _resnets(config, channels, channels, 2, make)
        self.attentions = nnx.List([PixelAttention(channels, config.norm_num_groups, make)])

    def __call__(self, x: Float[Array, "b t h w c"]) -> Float[Array, "b t h w c"]:
        return self.resnets[1](self.attentions[0](self.resnets[0](x)))


class PadRightDownsample(nnx.Module):
    """A strided convolution that halves height and width, padded at the right and the bottom only."""

    def __init__(self, channels: int, make: Layers):
        self.conv = make.conv(channels, channels, 3, stride=2, padding=((0, 1), (0, 1)))

    def __call__(self, x: Float[Array, "b t h w c"]) -> Float[Array, "b t h//2 w//2 c"]:
        return self.conv(x)


class CoderBlock(nnx.Module):
    """One level of the encoder or decoder: resnets, then resampling if another level follows."""

    def __init__(self, resnets: nnx.List, downsampler: nnx.Module | None = None, upsampler: nnx.Module | None = None):
        self.resnets = resnets
        self.downsamplers = nnx.List([downsampler] if downsampler else [])
        self.upsamplers = nnx.List([upsampler] if upsampler else [])

    def __call__(self, x: Float[Array, "b t h w c"]) -> Float[Array, "b t _ _ _"]:
        for layer in (*self.resnets, *self.downsamplers, *self.upsamplers):
            x = layer(x)
        return x


class Encoder(nnx.Module):
    """The network from pixels to mean and log variance of latents, before the quantising convolution."""

    def __init__(self, config: VAEConfig, make: Layers):
        widths = config.block_out_channels
        self.conv_in = make.conv(config.in_channels, widths[0], 3)
        self.down_blocks = nnx.List(
            [
                CoderBlock(
                    _resnets(config, widths[max(level - 1, 0)], width, config.layers_per_block, make),
                    downsampler=PadRightDownsample(width, make) if level < len(widths) - 1 else None,
                )
                for level, width in enumerate(widths)
            ]
        )
        self.mid_block = AutoencoderMidBlock(config, make)
        self.conv_norm_out = make.group_norm(widths[-1], config.norm_num_groups, _NORM_EPSILON)
        self.conv_out = make.conv(widths[-1], 2 * config.latent_channels, 3)
        self.remat = make.remat

    def __call__(self, x: Float[Array, "b t h w c"]) -> Float[Array, "b t _ _ _"]:
        x = self.conv_in(x)
        for block in (*self.down_blocks, self.mid_block):
            x = rematerialised(block.__call__, self.remat)(constrain_activation(x))
        return self.conv_out(silu(per_frame(self.conv_norm_out, x)))


class Decoder(nnx.Module):
    """The network from latents, after the second quantising convolution, to pixels."""

    def __init__(self, config: VAEConfig, make: Layers):
        widths = config.block_out_channels[::-1]
        self.conv_in = make.conv(config.latent_channels, widths[0], 3)
        self.mid_block = AutoencoderMidBlock(config, make)
        self.up_blocks = nnx.List(
            [
                CoderBlock(
                    _resnets(config, widths[max(level - 1, 0)], width, config.layers_per_block + 1, make),
                    upsampler=Upsample(width, make) if level < len(widths) - 1 else None,
                )
                for level, width in enumerate(widths)
            ]
        )
        self.conv_norm_out = make.group_norm(widths[-1], config.norm_num_groups, _NORM_EPSILON)
        self.conv_out = make.conv(widths[-1], config.out_channels, 3)
        self.remat = make.remat

    def __call__(self, z: Float[Array, "b t h w z"]) -> Float[Array, "b t _ _ c"]:
        x = self.conv_in(z)
        for block in (self.mid_block, *self.up_blocks):
            x = rematerialised(block.__call__, self.remat)(constrain_activation(x))
        return self.conv_out(silu(per_frame(self.conv_norm_out, x)))


class Autoencoder(nnx.Module):
    """The autoencoder: frames to a Gaussian over latents and back, each frame independently."""

    def __init__(self, config: VAEConfig, make: Layers):
        self.encoder = Encoder(config, make)
        self.quant_conv = make.conv(2 * config.latent_channels, 2 * config.latent_channels, 1)
        self.post_quant_conv = make.conv(config.latent_channels, config.latent_channels, 1)
        self.decoder = Decoder(config, make)
        self.config = config
        self.dtype = make.dtype

    def encode(self, video: Float[Array, "b t h w c"]) -> tuple[Float[Array, "b t _ _ z"], Float[Array, "b t _ _ z"]]:
        """Encode a video in [-1, 1].

        Returns:
            Mean and log variance, clipped to [-30, 20], of the unscaled latents, in float32.
        """
        moments = self.quant_conv(self.encoder(video.astype(self.dtype))).astype(jnp.float32)
        mean, logvar = jnp.split(moments, 2, axis=-1)
        return mean, jnp.clip(logvar, -30.0, 20.0)

    def decode(self, latents: Float[Array, "b t h w z"]) -> Float[Array, "b t _ _ c"]:
        """Decode unscaled latents to a video, about [-1, 1] but not clamped, in float32."""
        return self.decoder(self.post_quant_conv(latents.astype(self.dtype))).astype(jnp.float32)
