"""Blocks of the UNet: resnets, layers (resnet, temporal convolution, attentions), and levels of layers."""

import functools
from collections.abc import Sequence
from typing import Any, Literal

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from show1_jax.nn.array_types import TextStates
from show1_jax.nn.attention import AddedKVAttention, SpatialTransformer
from show1_jax.nn.config import Activation, UNetConfig
from show1_jax.nn.layers import Layers, activation, average_2x2, per_frame, rematerialised, repeat_2x2, resize_nearest
from show1_jax.nn.temporal import TemporalConv, TemporalTransformer

Features = Float[Array, "b t h w c"]
Output = Float[Array, "b t _ _ _"]
"""A block's output: its channels may differ from the input's; after resampling, height and width too."""
Embedding = Float[Array, "b e"]
Skip = Float[Array, "b t h w skip"]


def _identity(x: Features) -> Features:
    return x


class ResnetBlock(nnx.Module):
    """A residual block: norm, activation, convolution, twice.

    It resamples between the first activation and the first convolution. `embedding_dim` is the width of the timestep
    embedding, or None for a block without one (the autoencoder's).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        embedding_dim: int | None,
        act_fn: Activation,
        num_groups: int,
        epsilon: float,
        time_scale_shift: bool = False,
        skip_time_act: bool = False,
        scale_factor: float = 1.0,
        resample: Literal["down", "up"] | None = None,
        make: Layers,
    ):
        self.norm1 = make.group_norm(in_channels, num_groups, epsilon)
        self.conv1 = make.conv(in_channels, out_channels, 3)
        if embedding_dim is not None:
            self.time_emb_proj = make.linear(embedding_dim, (1 + time_scale_shift) * out_channels)
        self.norm2 = make.group_norm(out_channels, num_groups, epsilon)
        self.conv2 = make.conv(out_channels, out_channels, 3)
        self.conv_shortcut = make.conv(in_channels, out_channels, 1) if in_channels != out_channels else None
        self.act = activation(act_fn)
        self.time_scale_shift = time_scale_shift
        self.skip_time_act = skip_time_act
        self.scale_factor = scale_factor
        self.resample = {"down": average_2x2, "up": repeat_2x2, None: _identity}[resample]

    def __call__(self, x: Features, embedding: Embedding | None = None) -> Output:
        y = self.resample(self.act(per_frame(self.norm1, x)))
        x = self.resample(x)
        y = self.conv1(y)
        if embedding is None:
            y = per_frame(self.norm2, y)
        else:
            term = self.time_emb_proj(embedding if self.skip_time_act else self.act(embedding))
            term = term[:, None, None, None]
            if self.time_scale_shift:
                scale, shift = jnp.split(term, 2, axis=-1)
                y = per_frame(self.norm2, y) * (1 + scale) + shift
            else:
                y = per_frame(self.norm2, y + term)
        y = self.conv2(self.act(y))
        if self.conv_shortcut is not None:
            x = self.conv_shortcut(x)
        return (x + y) / self.scale_factor


class Downsample(nnx.Module):
    """A strided convolution that halves height and width, rounded up."""

    def __init__(self, channels: int, make: Layers):
        self.conv = make.conv(channels, channels, 3, stride=2)

    def __call__(self, x: Features, embedding: Embedding | None = None) -> Float[Array, "b t (h+1)//2 (w+1)//2 c"]:
        return self.conv(x)


class Upsample(nnx.Module):
    """Nearest-neighbour resizing to a size (None: twice the input's), then a convolution."""

    def __init__(self, channels: int, make: Layers):
        self.conv = make.conv(channels, channels, 3)

    def __call__(self, x: Features, size: tuple[int, int] | None = None) -> Output:
        return self.conv(resize_nearest(x, *(size or (2 * x.shape[2], 2 * x.shape[3]))))


def unet_resnet(
    config: UNetConfig,
    in_channels: int,
    out_channels: int,
    make: Layers,
    *,
    scale_factor: float,
    resample: Literal["down", "up"] | None = None,
) -> ResnetBlock:
    """Make a resnet with the UNet's settings."""
    return ResnetBlock(
        in_channels,
        out_channels,
        embedding_dim=config.embedding_dim,
        act_fn=config.act_fn,
        num_groups=config.norm_num_groups,
        epsilon=config.norm_eps,
        time_scale_shift=config.time_scale_shift,
        skip_time_act=config.skip_time_act,
        scale_factor=scale_factor,
        resample=resample,
        make=make,
    )


def spatial_attention(
    config: UNetConfig, channels: int, head_dim: int, only_cross: bool, make: Layers
) -> AddedKVAttention | SpatialTransformer:
    """Make spatial attention of the kind that the UNet's settings name."""
    if config.attention == "transformer":
        heads = channels // head_dim
        return SpatialTransformer(channels, heads, config.cross_attention_dim, config.norm_num_groups, make)
    return AddedKVAttention(
        channels,
        head_dim,
        config.cross_attention_dim,
        only_cross=only_cross,
        norm_text=config.cross_attention_norm,
        num_groups=config.norm_num_groups,
        make=make,
    )


def temporal_attention(config: UNetConfig, channels: int, head_dim: int, make: Layers) -> TemporalTransformer:
    """Make temporal attention; the pixel UNets' head size is its number of heads (see `UNetConfig.temporal_heads`)."""
    width = channels // head_dim
    heads, width = (head_dim, width) if config.temporal_heads == "head_dim" else (width, head_dim)
    return TemporalTransformer(channels, heads, width, config.norm_num_groups, make)


class Level(nnx.Module):
    """The layers of one level, each a resnet, a temporal convolution, a spatial and a temporal attention.

    All but the resnet are optional: see `UNetConfig.temporal` and `UNetConfig.attention_levels`. `channels` lists the
    input channels of every layer; the output of each has `out_channels`.
    """

    def __init__(
        self,
        config: UNetConfig,
        channels: Sequence[int],
        out_channels: int,
        *,
        attention: bool,
        head_dim: int,
        only_cross: bool,
        make: Layers,
    ):
        layers = range(len(channels))
        self.resnets = nnx.List(
            [unet_resnet(config, c, out_channels, make, scale_factor=config.out_scale_factor) for c in channels]
        )
        if config.temporal:
            self.temp_convs = nnx.List([TemporalConv(out_channels, make) for _ in layers])
        if attention:
            self.attentions = nnx.List(
                [spatial_attention(config, out_channels, head_dim, only_cross, make) for _ in layers]
            )
        if attention and config.temporal:
            self.temp_attentions = nnx.List([temporal_attention(config, out_channels, head_dim, make) for _ in layers])
        self.temporal = config.temporal
        self.attention = attention
        self.remat = make.remat

    def layer(
        self, index: int, x: Features, embedding: Embedding, text: TextStates, skip: Skip | None = None
    ) -> Output:
        """Run one layer; the channels of a skip are concatenated after those of the input."""

        def run(x: Features, embedding: Embedding, text: TextStates, skip: Skip | None) -> Output:
            x = self.resnets[index](x if skip is None else jnp.concatenate([x, skip], axis=-1), embedding)
            if self.temporal:
                x = self.temp_convs[index](x)
            if self.attention:
                x = self.attentions[index](x, text)
            if self.attention and self.temporal:
                x = self.temp_attentions[index](x)
            return x

        return rematerialised(run, self.remat)(x, embedding, text, skip)


class DownBlock(Level):
    """A level of the down path: layers, and resampling to the next level if there is one."""

    def __init__(self, config: UNetConfig, level: int, make: Layers):
        out_channels = config.block_out_channels[level]
        in_channels = config.block_out_channels[max(level - 1, 0)]
        super().__init__(
            config,
            [in_channels] + [out_channels] * (config.layers_per_block[level] - 1),
            out_channels,
            attention=config.attention_levels[level],
            head_dim=config.down_head_dim[level],
            only_cross=bool(config.only_cross_attention) and config.only_cross_attention[level],
            make=make,
        )
        self.downsamplers: nnx.List = nnx.List([])
        if level < len(config.block_out_channels) - 1:
            self.downsamplers.append(
                Downsample(out_channels, make)
                if config.resampling == "conv"
                else unet_resnet(
                    config,
                    out_channels,
                    out_channels,
                    make,
                    scale_factor=config.out_scale_factor,
                    resample="down",
                )
            )

    def __call__(self, x: Features, embedding: Embedding, text: TextStates) -> list[Output]:
        """Return the output of every layer; all are skips."""
        outputs = []
        for index in range(len(self.resnets)):
            x = self.layer(index, x, embedding, text)
            outputs.append(x)
        return outputs

    def downsample(self, x: Features, embedding: Embedding) -> Output:
        """Return the input of the next level, which is a skip as well."""
        (downsampler,) = self.downsamplers
        return rematerialised(downsampler.__call__, self.remat)(x, embedding)


class MidBlock(nnx.Module):
    """The coarsest level's middle: resnet, temporal convolution, attentions, resnet, temporal convolution."""

    def __init__(self, config: UNetConfig, make: Layers):
        channels, head_dim = config.block_out_channels[-1], config.mid_head_dim
        self.resnets = nnx.List(
            [unet_resnet(config, channels, channels, make, scale_factor=config.mid_scale_factor) for _ in range(2)]
        )
        self.attentions = nnx.List(
            [spatial_attention(config, channels, head_dim, config.mid_only_cross_attention, make)]
        )
        if config.temporal:
            self.temp_convs = nnx.List([TemporalConv(channels, make) for _ in range(2)])
            self.temp_attentions = nnx.List([temporal_attention(config, channels, head_dim, make)])
        self.temporal = config.temporal
        self.remat = make.remat

    def __call__(self, x: Features, embedding: Embedding, text: TextStates) -> Features:
        return rematerialised(self._run, self.remat)(x, embedding, text)

    def _run(self, x: Features, embedding: Embedding, text: TextStates) -> Features:
        x = self.resnets[0](x, embedding)
        if self.temporal:
            x = self.temp_convs[0](x)
        x = self.attentions[0](x, text)
        if self.temporal:
            x = self.temp_attentions[0](x)
        x = self.resnets[1](x, embedding)
        return self.temp_convs[1](x) if self.temporal else x


class UpBlock(Level):
    """A level of the up path: layers that consume the skips, last first, then resampling if there is a finer level.

    `level` counts from the coarsest. It has one layer more than its level of the down path.
    """

    def __init__(self, config: UNetConfig, level: int, make: Layers):
        last = len(config.block_out_channels) - 1
        widths = config.block_out_channels[::-1]
        out_channels, below, finer = widths[level], widths[max(level - 1, 0)], widths[min(level + 1, last)]
        num_layers = config.layers_per_block[last - level] + 1
        inputs = [below] + [out_channels] * (num_layers - 1)
        skips = [out_channels] * (num_layers - 1) + [finer]
        super().__init__(
            config,
            [x + skip for x, skip in zip(inputs, skips, strict=True)],
            out_channels,
            attention=config.attention_levels[last - level],
            head_dim=config.up_head_dim[level],
            only_cross=bool(config.only_cross_attention) and config.only_cross_attention[last - level],
            make=make,
        )
        self.upsamplers: nnx.List = nnx.List([])
        self.resampling = config.resampling
        if level < last:
            self.upsamplers.append(
                Upsample(out_channels, make)
                if config.resampling == "conv"
                else unet_resnet(
                    config, out_channels, out_channels, make, scale_factor=config.out_scale_factor, resample="up"
                )
            )

    def __call__(self, x: Features, skips: list[Output], embedding: Embedding, text: TextStates) -> Output:
        """Run the level. It pops its skips from the end of `skips`, which is changed in place."""
        for index in range(len(self.resnets)):
            x = self.layer(index, x, embedding, text, skips.pop())
        for upsampler in self.upsamplers:
            # The next skip has the finer level's size, which is odd where a strided convolution rounded up.
            size_or_embedding = skips[-1].shape[2:4] if self.resampling == "conv" else embedding
            x = rematerialised(functools.partial(_upsample, upsampler, size_or_embedding), self.remat)(x)
        return x


def _upsample(upsampler: Any, size_or_embedding: tuple[int, ...] | Embedding, x: Features) -> Output:
    return upsampler(x, size_or_embedding)
