"""Architectures: the settings that decide a network's layers and the shapes of its weights."""

import dataclasses
from typing import Literal

from show1_jax.config.bounds import MAX_BLOCK_LAYERS
from show1_jax.config.settings import Settings

Activation = Literal["silu", "gelu"]


@dataclasses.dataclass(frozen=True)
class Architecture(Settings):
    """Base of the architectures that a checkpoint records."""


def temporal_groups(channels: int) -> int:
    """Return the groups of the norms in temporal convolutions and the first transformer: 32, or one a channel."""
    return min(32, channels)


@dataclasses.dataclass(frozen=True)
class UNetConfig(Architecture):
    """The architecture of a UNet: the pixel 3-D UNets, the latent 3-D UNet or the 2-D image UNet.

    Tuples have one entry for each level, from the finest to the coarsest, in the order of the down blocks. Only `up_*`
    begin with the coarsest level, in the order of the up blocks.
    """

    in_channels: int
    out_channels: int
    block_out_channels: tuple[int, ...]
    layers_per_block: tuple[int, ...]
    attention_levels: tuple[bool, ...]
    """True for levels with spatial attention (and, with `temporal`, temporal attention)."""
    down_head_dim: tuple[int, ...]
    mid_head_dim: int
    up_head_dim: tuple[int, ...]
    cross_attention_dim: int
    temporal: bool = True
    """Temporal convolutions and transformers follow every spatial layer; without them this is an image UNet."""
    attention: Literal["added_kv", "transformer"] = "added_kv"
    """Kind of spatial attention: pixels and text in one softmax (IF), or transformer blocks (Stable Diffusion)."""
    resampling: Literal["resnet", "conv"] = "resnet"
    """Between levels: a resnet that averages or repeats pixels (IF), or a strided convolution (Stable Diffusion)."""
    temporal_heads: Literal["head_dim", "channels"] = "head_dim"
    """Meaning of the head size in temporal attention. `head_dim`: it is the *number* of heads (the pixel UNets swap the
    two names); `channels`: it is the size of each of channels / head size heads (the latent UNet)."""
    transformer_in_head_dim: int | None = None
    """Head size of a temporal transformer with 8 heads after the first convolution; None: no such transformer."""
    only_cross_attention: tuple[bool, ...] = ()
    """True for levels whose attention is over the text alone. Empty: no level. (`added_kv` only.)"""
    mid_only_cross_attention: bool = False
    cross_attention_norm: bool = False
    """Group norm on the projected text before the keys and values. (`added_kv` only.)"""
    text_dim: int | None = None
    """Width of text states that are projected to `cross_attention_dim`; None: they have that width already."""
    text_embedding_heads: int | None = None
    """Heads of the attention pooling that adds a text term to the timestep embedding; None: no such term."""
    position_channels: bool = False
    """Position of each pixel in time, height and width, from -1 to 1, appended to the sample (CoordConv, arXiv
    1807.03247). The released networks have no such channels."""
    noise_level_embedding: bool = False
    """The network is conditioned on the noise level of its low-resolution condition."""
    act_fn: Activation = "gelu"
    out_act_fn: Activation = "gelu"
    time_embedding_act_fn: Activation | None = None
    time_embedding_dim: int | None = None
    """Width of the timestep embedding; None: four times the first level's channels."""
    time_scale_shift: bool = True
    """The timestep embedding scales and shifts the second norm of resnets; if False, it is added before that norm."""
    skip_time_act: bool = False
    out_scale_factor: float = 1.0
    mid_scale_factor: float = 1.0
    norm_num_groups: int = 32
    norm_eps: float = 1e-5
    flip_sin_to_cos: bool = True
    freq_shift: int = 0
    conv_in_kernel: int = 3
    conv_out_kernel: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        levels = len(self.block_out_channels)
        self._require(levels > 0, "block_out_channels is empty")
        for name in ("layers_per_block", "attention_levels", "down_head_dim", "up_head_dim"):
            length = len(getattr(self, name))
            self._require(length == levels, f"{name} has {length} entries for {levels} levels")
        self._require(len(self.only_cross_attention) in (0, levels), "only_cross_attention needs one entry a level")
        layers = sum(self.layers_per_block)
        self._require(layers <= MAX_BLOCK_LAYERS, f"layers_per_block adds up to {layers}, more than {MAX_BLOCK_LAYERS}")
        for channels in self.block_out_channels:
            self._require(
                channels % self.norm_num_groups == 0,
                f"{channels} channels do not divide into norm_num_groups={self.norm_num_groups}",
            )
            if self.temporal:
                self._require(
                    channels % temporal_groups(channels) == 0,
                    f"temporal layers have 32 groups, or one a channel below 32; {channels} channels do not divide",
                )
        frequencies = self.block_out_channels[0] // 2
        self._require(
            frequencies > self.freq_shift, f"freq_shift={self.freq_shift} leaves no sinusoid of {frequencies}"
        )
        used = [(self.block_out_channels[-1], self.mid_head_dim)]
        for level, channels in enumerate(self.block_out_channels):
            if self.attention_levels[level]:
                used += [(channels, self.down_head_dim[level]), (channels, self.up_head_dim[levels - 1 - level])]
        for channels, head_dim in used:
            self._require(channels % head_dim == 0, f"heads of {head_dim} do not divide {channels} channels")
        if self.cross_attention_norm:
            dim = self.cross_attention_dim
            self._require(dim % 32 == 0, f"cross_attention_norm needs text in multiples of 32 channels, not {dim}")
        if heads := self.text_embedding_heads:
            width = self.raw_text_dim
            self._require(width % heads == 0, f"{heads} heads do not divide text states of {width}")

    @property
    def embedding_dim(self) -> int:
        """Width of the timestep embedding, which conditions every resnet."""
        return self.time_embedding_dim or 4 * self.block_out_channels[0]

    @property
    def raw_text_dim(self) -> int:
        """Width of the text states that the network is called with."""
        return self.text_dim or self.cross_attention_dim

    @property
    def size_multiple(self) -> int:
        """Required divisor of heights and widths: resnets halve exactly, strided convolutions round up."""
        return 2 ** (len(self.block_out_channels) - 1) if self.resampling == "resnet" else 1


@dataclasses.dataclass(frozen=True)
class VAEConfig(Architecture):
    """A KL autoencoder (AutoencoderKL of Stable Diffusion)."""

    in_channels: int
    out_channels: int
    latent_channels: int
    block_out_channels: tuple[int, ...]
    layers_per_block: int
    scaling_factor: float
    """Factor of the latents, which gives them unit variance for the diffusion model."""
    norm_num_groups: int = 32
    act_fn: Activation = "silu"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(len(self.block_out_channels) > 0, "block_out_channels is empty")
        for channels in self.block_out_channels:
            self._require(
                channels % self.norm_num_groups == 0,
                f"{channels} channels do not divide into norm_num_groups={self.norm_num_groups}",
            )

    @property
    def size_multiple(self) -> int:
        """Pixels for each latent pixel along height and width, which must be multiples of it."""
        return 2 ** (len(self.block_out_channels) - 1)
