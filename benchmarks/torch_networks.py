"""The cascade's networks in PyTorch as its users would run them, with which `benchmarks.reference` compares ours.

Show-1's pixel UNets are plain modules here. The latent UNet and the autoencoder are those of diffusers, the text
encoders those of transformers. State dicts have the names of the released weights, so that these load unchanged.

Inside the pixel UNet, frames are batch items, (batch * time, channel, height, width); only temporal layers have
(batch, channel, time, height, width), as in the original. Unlike the original, texts and timesteps are projected once
for each video and not for each frame, which makes PyTorch's network faster and the comparison stricter.
"""

import importlib.util
import math
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal

import torch
from torch import nn
from torch.nn import functional

from convert.config_files import clip_json, t5_json, unet_json, vae_json
from show1_jax.errors import UserError
from show1_jax.nn.clip import CLIPTextConfig
from show1_jax.nn.config import Activation, Architecture, UNetConfig, VAEConfig, temporal_groups
from show1_jax.nn.t5 import T5Config
from show1_jax.nn.text_architecture import TextArchitecture

_ACTIVATIONS: dict[Activation, Callable[[], Any]] = {"silu": nn.SiLU, "gelu": nn.GELU}


def make_network(architecture: Architecture) -> Any:
    """Return a network of an architecture with random weights, in float32, on PyTorch's default device.

    Raises:
        UserError: the library of the network is not installed, or has no such network.
    """
    if isinstance(architecture, UNetConfig) and architecture.attention == "added_kv":
        return PixelUNet(architecture)
    if isinstance(architecture, TextArchitecture):
        return _TEXT_ENCODERS[type(architecture)](architecture)
    if importlib.util.find_spec("diffusers") is None:
        raise UserError("diffusers is not installed")
    import diffusers

    diffusers.utils.logging.set_verbosity_error()  # it warns of every change of dtype
    if isinstance(architecture, UNetConfig):
        return diffusers.UNet3DConditionModel.from_config(unet_json(architecture))
    assert isinstance(architecture, VAEConfig)
    return diffusers.AutoencoderKL.from_config(vae_json(architecture))


def _t5(architecture: T5Config) -> Any:
    import transformers

    return transformers.T5EncoderModel(transformers.T5Config(**t5_json(architecture)))


def _clip(architecture: CLIPTextConfig) -> Any:
    import transformers

    ends = {"bos_token_id": architecture.vocab_size - 2, "eos_token_id": architecture.vocab_size - 1}
    encoder = transformers.CLIPTextModel(transformers.CLIPTextConfig(**(clip_json(architecture) | ends)))
    return nn.ModuleDict({"text_model": encoder})  # the prefix of the released names


_TEXT_ENCODERS: Final[Mapping[type[TextArchitecture], Callable[[Any], Any]]] = {T5Config: _t5, CLIPTextConfig: _clip}


def call_network(network: Any, *inputs: Any) -> Any:
    """Return a UNet's output, a text encoder's last states, or an image encoded and decoded."""
    if isinstance(network, PixelUNet):
        return network(*inputs)
    if isinstance(network, nn.ModuleDict):
        return network["text_model"](*inputs)[0]
    if hasattr(network, "decode"):
        return network.decode(network.encode(*inputs).latent_dist.mean).sample
    return network(*inputs)[0]


class PixelUNet(nn.Module):
    """The pixel UNet for videos, or for images if the architecture has no temporal layers."""

    def __init__(self, config: UNetConfig):
        super().__init__()
        first, levels, dim = config.block_out_channels[0], range(len(config.block_out_channels)), config.embedding_dim
        self.config = config
        self.conv_in = _conv(config.in_channels + 3 * config.position_channels, first, config.conv_in_kernel)
        if config.transformer_in_head_dim:
            self.transformer_in = TemporalTransformer(first, 8, config.transformer_in_head_dim, temporal_groups(first))
        self.time_embedding = TimestepEmbedding(first, dim, config.act_fn)
        if config.noise_level_embedding:
            self.class_embedding = TimestepEmbedding(first, dim, config.act_fn)
        if config.text_embedding_heads:
            self.add_embedding = TextTimeEmbedding(config.raw_text_dim, dim, config.text_embedding_heads)
        if config.text_dim:
            self.encoder_hid_proj = nn.Linear(config.text_dim, config.cross_attention_dim)
        self.down_blocks = nn.ModuleList([DownBlock(config, level) for level in levels])
        self.mid_block = MidBlock(config)
        self.up_blocks = nn.ModuleList([UpBlock(config, level) for level in levels])
        self.conv_norm_out = nn.GroupNorm(config.norm_num_groups, first, config.norm_eps)
        self.conv_act = _ACTIVATIONS[config.out_act_fn]()
        self.conv_out = _conv(first, config.out_channels, config.conv_out_kernel)
        self.embedding_act = (
            _ACTIVATIONS[config.time_embedding_act_fn]() if config.time_embedding_act_fn else nn.Identity()
        )

    def forward(self, sample: Any, timestep: Any, text: Any, noise_level: Any = None) -> Any:
        """Predict as `show1_jax.nn.unet.UNet`, from and to (b, c, t, h, w), or (b, c, h, w) without a time axis."""
        embedding = self.time_embedding(self._sinusoids(timestep).to(sample.dtype))
        if noise_level is not None:
            embedding = embedding + self.class_embedding(self._sinusoids(noise_level).to(sample.dtype))
        if self.config.text_embedding_heads:
            embedding = embedding + self.add_embedding(text)
        embedding = self.embedding_act(embedding)
        if self.config.text_dim:
            text = self.encoder_hid_proj(text)

        video = sample if self.config.temporal else sample.unsqueeze(2)
        if self.config.position_channels:
            video = torch.cat([video, _positions(video)], dim=1)
        x = self.conv_in(video.transpose(1, 2).flatten(0, 1))
        if self.config.transformer_in_head_dim:
            x = self.transformer_in(x, video.shape[2])
        skips = [x]
        for down_block in self.down_blocks:
            x, block_skips = down_block(x, embedding, text)
            skips += block_skips
        x = self.mid_block(x, embedding, text)
        for up_block in self.up_blocks:
            x = up_block(x, skips, embedding, text)
        x = self.conv_out(self.conv_act(self.conv_norm_out(x)))
        return x.unflatten(0, (len(sample), -1)).transpose(1, 2) if self.config.temporal else x

    def _sinusoids(self, values: Any) -> Any:
        half = self.config.block_out_channels[0] // 2
        exponent = -math.log(10000.0) * torch.arange(half, device=values.device) / (half - self.config.freq_shift)
        angle = values[:, None].float() * torch.exp(exponent)
        parts = (angle.cos(), angle.sin()) if self.config.flip_sin_to_cos else (angle.sin(), angle.cos())
        return torch.cat(parts, dim=-1)


class Level(nn.Module):
    """Layers of one level; see `show1_jax.nn.blocks.Level`."""

    def __init__(
        self, config: UNetConfig, channels: list[int], out_channels: int, attention: bool, head_dim: int, level: int
    ):
        super().__init__()
        only_cross = bool(config.only_cross_attention) and config.only_cross_attention[level]
        temporal, factor = config.temporal, config.out_scale_factor
        self.resnets = nn.ModuleList([ResnetBlock(config, c, out_channels, factor) for c in channels])
        self.temp_convs = nn.ModuleList([TemporalConv(out_channels) for _ in channels if temporal])
        self.attentions = nn.ModuleList(
            [AddedKVAttention(config, out_channels, head_dim, only_cross) for _ in channels if attention]
        )
        self.temp_attentions = nn.ModuleList(
            [_temporal_attention(config, out_channels, head_dim) for _ in channels if attention and temporal]
        )

    def layer(self, index: int, x: Any, embedding: Any, text: Any) -> Any:
        """Run one layer."""
        frames = len(x) // len(text)
        x = self.resnets[index](x, embedding)
        if self.temp_convs:
            x = self.temp_convs[index](x, frames)
        if self.attentions:
            x = self.attentions[index](x, text)
        if self.temp_attentions:
            x = self.temp_attentions[index](x, frames)
        return x


class DownBlock(Level):
    """Layers, then a resnet that halves the sides, except in the last level."""

    def __init__(self, config: UNetConfig, level: int):
        widths = config.block_out_channels
        channels = [widths[max(level - 1, 0)]] + [widths[level]] * (config.layers_per_block[level] - 1)
        attention, head_dim = config.attention_levels[level], config.down_head_dim[level]
        super().__init__(config, channels, widths[level], attention, head_dim, level)
        resampled = [widths[level]] if level < len(widths) - 1 else []
        self.downsamplers = nn.ModuleList(
            [ResnetBlock(config, c, c, config.out_scale_factor, "down") for c in resampled]
        )

    def forward(self, x: Any, embedding: Any, text: Any) -> tuple[Any, list[Any]]:
        """Return the input of the next level, and the skips."""
        skips = []
        for index in range(len(self.resnets)):
            x = self.layer(index, x, embedding, text)
            skips.append(x)
        for downsampler in self.downsamplers:
            x = downsampler(x, embedding)
            skips.append(x)
        return x, skips


class MidBlock(nn.Module):
    """Resnet, temporal convolution, attentions, resnet, temporal convolution."""

    def __init__(self, config: UNetConfig):
        super().__init__()
        channels, head_dim = config.block_out_channels[-1], config.mid_head_dim
        self.resnets = nn.ModuleList(
            [ResnetBlock(config, channels, channels, config.mid_scale_factor) for _ in range(2)]
        )
        self.attentions = nn.ModuleList([AddedKVAttention(config, channels, head_dim, config.mid_only_cross_attention)])
        self.temporal = config.temporal
        if config.temporal:
            self.temp_convs = nn.ModuleList([TemporalConv(channels) for _ in range(2)])
            self.temp_attentions = nn.ModuleList([_temporal_attention(config, channels, head_dim)])

    def forward(self, x: Any, embedding: Any, text: Any) -> Any:
        """Return the output of the coarsest level."""
        frames = len(x) // len(text)
        x = self.resnets[0](x, embedding)
        if self.temporal:
            x = self.temp_convs[0](x, frames)
        x = self.attentions[0](x, text)
        if self.temporal:
            x = self.temp_attentions[0](x, frames)
        x = self.resnets[1](x, embedding)
        return self.temp_convs[1](x, frames) if self.temporal else x


class UpBlock(Level):
    """Layers that read the skips, last first, then a resnet that doubles the sides, except in the finest level."""

    def __init__(self, config: UNetConfig, level: int):
        widths = config.block_out_channels[::-1]
        last = len(widths) - 1
        layers, width = config.layers_per_block[last - level] + 1, widths[level]
        inputs = [widths[max(level - 1, 0)]] + [width] * (layers - 1)
        skips = [width] * (layers - 1) + [widths[min(level + 1, last)]]
        channels = [x + skip for x, skip in zip(inputs, skips, strict=True)]
        attention, head_dim = config.attention_levels[last - level], config.up_head_dim[level]
        super().__init__(config, channels, width, attention, head_dim, last - level)
        resampled = [width] if level < last else []
        self.upsamplers = nn.ModuleList([ResnetBlock(config, c, c, config.out_scale_factor, "up") for c in resampled])

    def forward(self, x: Any, skips: list[Any], embedding: Any, text: Any) -> Any:
        """Return the input of the next level; remove this level's skips from the end of `skips`."""
        for index in range(len(self.resnets)):
            x = self.layer(index, torch.cat([x, skips.pop()], dim=1), embedding, text)
        for upsampler in self.upsamplers:
            x = upsampler(x, embedding)
        return x


class ResnetBlock(nn.Module):
    """Norm, activation and convolution, twice, with a residual connection; resamples after the first activation."""

    def __init__(
        self,
        config: UNetConfig,
        in_channels: int,
        out_channels: int,
        scale_factor: float,
        resample: Literal["down", "up"] | None = None,
    ):
        super().__init__()
        self.norm1 = nn.GroupNorm(config.norm_num_groups, in_channels, config.norm_eps)
        self.conv1 = _conv(in_channels, out_channels, 3)
        self.time_emb_proj = nn.Linear(config.embedding_dim, (1 + config.time_scale_shift) * out_channels)
        self.norm2 = nn.GroupNorm(config.norm_num_groups, out_channels, config.norm_eps)
        self.conv2 = _conv(out_channels, out_channels, 3)
        self.conv_shortcut = _conv(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()
        self.act = _ACTIVATIONS[config.act_fn]()
        self.embedding_act = nn.Identity() if config.skip_time_act else self.act
        self.time_scale_shift = config.time_scale_shift
        self.scale_factor = scale_factor
        self.resample = {"down": nn.AvgPool2d(2), "up": nn.Upsample(scale_factor=2), None: nn.Identity()}[resample]

    def forward(self, x: Any, embedding: Any) -> Any:
        """Apply to frames of any number of videos, with one embedding for each video."""
        y = self.resample(self.act(self.norm1(x)))
        x = self.resample(x)
        y = self.conv1(y)
        term = self.time_emb_proj(self.embedding_act(embedding))
        term = term.repeat_interleave(len(x) // len(term), dim=0)[:, :, None, None]
        if self.time_scale_shift:
            scale, shift = term.chunk(2, dim=1)
            y = self.norm2(y) * (1 + scale) + shift
        else:
            y = self.norm2(y + term)
        y = self.conv2(self.act(y))
        return (self.conv_shortcut(x) + y) / self.scale_factor


class AddedKVAttention(nn.Module):
    """Attention of each frame's pixels to the text and themselves, or to the text only, with a residual connection."""

    def __init__(self, config: UNetConfig, channels: int, head_dim: int, only_cross: bool):
        super().__init__()
        text_dim = config.cross_attention_dim
        self.heads = channels // head_dim
        self.only_cross = only_cross
        self.group_norm = nn.GroupNorm(config.norm_num_groups, channels, 1e-5)
        if config.cross_attention_norm:
            self.norm_cross = nn.GroupNorm(32, text_dim, 1e-5)
        self.norm_text = config.cross_attention_norm
        self.to_q = nn.Linear(channels, channels)
        self.add_k_proj = nn.Linear(text_dim, channels)
        self.add_v_proj = nn.Linear(text_dim, channels)
        if not only_cross:
            self.to_k = nn.Linear(channels, channels)
            self.to_v = nn.Linear(channels, channels)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x: Any, text: Any) -> Any:
        """Apply to frames of any number of videos, with one text for each video."""
        pixels = self.group_norm(x).flatten(2).transpose(1, 2)
        if self.norm_text:
            text = self.norm_cross(text.transpose(1, 2)).transpose(1, 2)
        frames = len(x) // len(text)
        key, value = (project(text).repeat_interleave(frames, dim=0) for project in (self.add_k_proj, self.add_v_proj))
        if not self.only_cross:
            key = torch.cat([key, self.to_k(pixels)], dim=1)
            value = torch.cat([value, self.to_v(pixels)], dim=1)
        out = self.to_out[0](_attend(self.to_q(pixels), key, value, self.heads))
        return x + out.transpose(1, 2).reshape(x.shape)


class TemporalConv(nn.Module):
    """Four times norm, SiLU and convolution along time, with a residual connection; dropout acts in training only."""

    def __init__(self, channels: int):
        super().__init__()
        for number in range(1, 5):
            dropout = [nn.Dropout(0.1)] if number > 1 else []
            norm = nn.GroupNorm(temporal_groups(channels), channels)
            conv = nn.Conv3d(channels, channels, (3, 1, 1), padding=(1, 0, 0))
            setattr(self, f"conv{number}", nn.Sequential(norm, nn.SiLU(), *dropout, conv))

    def forward(self, x: Any, frames: int) -> Any:
        """Apply to frames of any number of videos of `frames` frames each."""
        video = x.unflatten(0, (-1, frames)).transpose(1, 2)
        video = video + self.conv4(self.conv3(self.conv2(self.conv1(video))))
        return video.transpose(1, 2).flatten(0, 1)


class TemporalTransformer(nn.Module):
    """A transformer block over the frames of each pixel, with a residual connection."""

    def __init__(self, channels: int, heads: int, head_dim: int, groups: int):
        super().__init__()
        inner = heads * head_dim
        self.norm = nn.GroupNorm(groups, channels, 1e-6)
        self.proj_in = nn.Linear(channels, inner)
        self.transformer_blocks = nn.ModuleList([TransformerBlock(inner, heads)])
        self.proj_out = nn.Linear(inner, channels)

    def forward(self, x: Any, frames: int) -> Any:
        """Apply to frames of any number of videos of `frames` frames each."""
        video = x.unflatten(0, (-1, frames)).transpose(1, 2)
        videos, channels, _, height, width = video.shape
        tokens = self.norm(video).permute(0, 3, 4, 2, 1).reshape(-1, frames, channels)
        tokens = self.proj_in(tokens)
        for block in self.transformer_blocks:
            tokens = block(tokens)
        out = self.proj_out(tokens).reshape(videos, height, width, frames, channels)
        return x + out.permute(0, 3, 4, 1, 2).reshape(x.shape)


class TransformerBlock(nn.Module):
    """Self attention, twice, and a feed-forward layer, each with a layer norm before and a residual connection."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn1 = SelfAttention(dim, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.attn2 = SelfAttention(dim, heads)
        self.norm3 = nn.LayerNorm(dim)
        self.ff = FeedForward(dim)

    def forward(self, x: Any) -> Any:
        """Map tokens to tokens."""
        x = x + self.attn1(self.norm1(x))
        x = x + self.attn2(self.norm2(x))
        return x + self.ff(self.norm3(x))


class SelfAttention(nn.Module):
    """Multi-head attention without biases on queries, keys and values."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(dim, dim, bias=False)
        self.to_k = nn.Linear(dim, dim, bias=False)
        self.to_v = nn.Linear(dim, dim, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(dim, dim)])

    def forward(self, x: Any) -> Any:
        """Map tokens to tokens."""
        return self.to_out[0](_attend(self.to_q(x), self.to_k(x), self.to_v(x), self.heads))


class GEGLU(nn.Module):
    """A linear layer; the GELU of the second half of its output gates the first half."""

    def __init__(self, dim: int, inner: int):
        super().__init__()
        self.proj = nn.Linear(dim, 2 * inner)

    def forward(self, x: Any) -> Any:
        """Map tokens to wider tokens."""
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * functional.gelu(gate)


class FeedForward(nn.Module):
    """A gated feed-forward layer of four times the width."""

    def __init__(self, dim: int):
        super().__init__()
        self.net = nn.Sequential(GEGLU(dim, 4 * dim), nn.Dropout(0.0), nn.Linear(4 * dim, dim))

    def forward(self, x: Any) -> Any:
        """Map tokens to tokens."""
        return self.net(x)


class TimestepEmbedding(nn.Module):
    """Two linear layers over a sinusoidal embedding."""

    def __init__(self, in_dim: int, out_dim: int, act_fn: Activation):
        super().__init__()
        self.linear_1 = nn.Linear(in_dim, out_dim)
        self.act = _ACTIVATIONS[act_fn]()
        self.linear_2 = nn.Linear(out_dim, out_dim)

    def forward(self, sinusoids: Any) -> Any:
        """Map sinusoids to an embedding."""
        return self.linear_2(self.act(self.linear_1(sinusoids)))


class TextTimeEmbedding(nn.Module):
    """The text's contribution to the timestep embedding."""

    def __init__(self, text_dim: int, out_dim: int, heads: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(text_dim)
        self.pool = AttentionPooling(text_dim, heads)
        self.proj = nn.Linear(text_dim, out_dim)
        self.norm2 = nn.LayerNorm(out_dim)

    def forward(self, text: Any) -> Any:
        """Map text states to an embedding."""
        return self.norm2(self.proj(self.pool(self.norm1(text))))


class AttentionPooling(nn.Module):
    """Attention with one query, the mean token plus a learned vector, over that token and all others."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.positional_embedding = nn.Parameter(torch.randn(1, dim) / dim**0.5)
        self.q_proj = nn.Linear(dim, dim)
        self.k_proj = nn.Linear(dim, dim)
        self.v_proj = nn.Linear(dim, dim)

    def forward(self, tokens: Any) -> Any:
        """Map tokens to one token."""
        query = tokens.mean(dim=1, keepdim=True) + self.positional_embedding
        tokens = torch.cat([query, tokens], dim=1)
        return _attend(self.q_proj(query), self.k_proj(tokens), self.v_proj(tokens), self.heads).squeeze(1)


def _positions(video: Any) -> Any:
    sides = video.shape[2:]
    lines = (torch.linspace(-1, 1, side, device=video.device, dtype=video.dtype) for side in sides)
    return torch.stack(torch.meshgrid(*lines, indexing="ij")).expand(len(video), 3, *sides)


def _conv(in_channels: int, out_channels: int, kernel: int) -> Any:
    return nn.Conv2d(in_channels, out_channels, kernel, padding=(kernel - 1) // 2)


def _temporal_attention(config: UNetConfig, channels: int, head_dim: int) -> TemporalTransformer:
    width = channels // head_dim
    heads, width = (head_dim, width) if config.temporal_heads == "head_dim" else (width, head_dim)
    return TemporalTransformer(channels, heads, width, config.norm_num_groups)


def _attend(query: Any, key: Any, value: Any, heads: int) -> Any:
    split = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, key, value))
    return functional.scaled_dot_product_attention(*split).transpose(1, 2).flatten(2)
