"""Settings as frozen, validated dataclasses, and the architectures: what a network is, not how it is run."""

import dataclasses
import difflib
import types
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, TypeVar, Union, get_args, get_origin

from show1_jax.bounds import MAX_BLOCK_LAYERS, MAX_LEVELS, bounds
from show1_jax.errors import UserError, shown

Activation = Literal["silu", "gelu"]
Remat = Literal["none", "dots", "full"]

S = TypeVar("S", bound="Settings")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Base of all settings: to and from the plain dictionaries that configs, checkpoints and run records hold.

    Every field's type and every number's bounds (`show1_jax.bounds`) are checked when one is made.

    Raises:
        UserError: a field has a value of the wrong type, or a number outside its bounds.
    """

    __no_type_check__: ClassVar[bool] = True
    """Runtime type checkers leave the constructors alone: these check their fields, in lines for users."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not _is_of(field.type, value):
                self._require(False, f"{field.name}={shown(value)} {_wanted(field.type)}")
            self._check_bounds(field.name, value)

    def to_dict(self) -> dict[str, Any]:
        """Every field by name; tuples become lists, so that a trip through JSON changes nothing."""
        plain = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {
            name: value.to_dict() if isinstance(value, Settings) else list(value) if isinstance(value, tuple) else value
            for name, value in plain.items()
        }

    @classmethod
    def from_dict(cls: type[S], values: Any) -> S:
        """Build from `to_dict`'s form.

        Raises:
            UserError: it is no mapping; a field is unknown (the line has the nearest name) or missing, has a value of
                the wrong type, or is a number outside its bounds.
        """
        if not isinstance(values, Mapping) or not all(isinstance(name, str) for name in values):
            raise UserError(f"{cls.__name__}: {shown(values)} must be settings by name")
        fields = {field.name: field for field in dataclasses.fields(cls)}
        for name in values:
            if name not in fields:
                close = difflib.get_close_matches(name[:100], fields, n=1)
                unknown = f"{cls.__name__} has no field {shown(name)}"
                raise UserError(unknown + (f"; did you mean {close[0]!r}?" if close else ""))
        required = {name for name, field in fields.items() if _is_required(field)}
        if missing := sorted(required - values.keys()):
            raise UserError(f"{cls.__name__} lacks {', '.join(missing)}")
        return cls(**{name: _plain_to_typed(fields[name].type, value) for name, value in values.items()})

    def _check_bounds(self, name: str, value: Any) -> None:
        if isinstance(value, tuple):
            is_text = bool(value) and isinstance(value[0], str)
            self._require(is_text or len(value) <= MAX_LEVELS, f"{name} has more than {MAX_LEVELS} entries")
            for item in value:
                self._check_bounds(name, item)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            low, high = bounds(type(self), name)
            self._require(low <= value <= high, f"{name}={shown(value)} must be from {low:.12g} to {high:.12g}")

    def _require(self, condition: bool, what: str) -> None:
        if not condition:
            raise UserError(f"{type(self).__name__}: {what}")


def _plain_to_typed(kind: Any, value: Any) -> Any:
    """Convert what JSON and config files know to a field's type, where it can be; the rest is for the type check."""
    if isinstance(kind, type) and issubclass(kind, Settings):
        return value if isinstance(value, kind) else kind.from_dict(value)
    if kind is float and type(value) is int and abs(value) < 2**1000:  # a larger one overflows; its bounds refuse it
        return float(value)
    return tuple(value) if isinstance(value, list) else value


def _is_of(kind: Any, value: Any) -> bool:
    """Return whether a value is of an annotated type, with a whole number for a float but no bool for a number."""
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return True
    if origin is Literal:
        return isinstance(value, str) and value in arguments
    if origin in (Union, types.UnionType):
        return any(_is_of(argument, value) for argument in arguments)
    if origin is tuple:
        return isinstance(value, tuple) and all(_is_of(arguments[0], item) for item in value)
    if origin is dict:
        of_key, of_value = arguments
        return isinstance(value, dict) and all(_is_of(of_key, k) and _is_of(of_value, v) for k, v in value.items())
    if kind in (bool, int, str, float):
        return type(value) is kind or (kind is float and type(value) is int)
    return isinstance(value, kind)


_KINDS = {
    bool: ("true or false", "true or false"),
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    str: ("a string", "strings"),
    types.NoneType: ("none", "none"),
}
"""Types in words: of one value, and of those of a list."""
_BY_NAME = ("settings by name",) * 2


def _wanted(kind: Any) -> str:
    """Return what a value of an annotated type must be, for the line that refuses another."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return f"is none of {', '.join(map(repr, arguments))}"
    if origin is tuple:
        return f"must be a list of {_KINDS.get(arguments[0], _BY_NAME)[1]}"
    alternatives = arguments if origin in (Union, types.UnionType) else (kind,)
    return "must be " + " or ".join(_KINDS.get(each, _BY_NAME)[0] for each in alternatives)


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as one dictionary with dotted names."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat


def _is_required(field: "dataclasses.Field[Any]") -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


@dataclasses.dataclass(frozen=True)
class Architecture(Settings):
    """Base of what a checkpoint records of a network."""


def temporal_groups(channels: int) -> int:
    """Groups of the norms of temporal convolutions and of the first transformer: 32, or one for each channel."""
    return min(32, channels)


@dataclasses.dataclass(frozen=True)
class UNetConfig(Architecture):
    """One UNet; its settings give the pixel 3-D UNets, the latent 3-D UNet and the 2-D image UNet.

    Tuples have one entry a level, from the finest: `down_*` in the order of the down blocks, `up_*` in the order of
    the up blocks (coarsest first).
    """

    in_channels: int
    out_channels: int
    block_out_channels: tuple[int, ...]
    layers_per_block: tuple[int, ...]
    attention_levels: tuple[bool, ...]
    """Which levels have spatial attention (and, with `temporal`, temporal attention)."""
    down_head_dim: tuple[int, ...]
    mid_head_dim: int
    up_head_dim: tuple[int, ...]
    cross_attention_dim: int
    temporal: bool = True
    """Temporal convolutions and transformers after every spatial layer; without them this is an image UNet."""
    attention: Literal["added_kv", "transformer"] = "added_kv"
    """Spatial attention: pixels and text in one softmax (DeepFloyd IF), or transformer blocks (Stable Diffusion)."""
    resampling: Literal["resnet", "conv"] = "resnet"
    """Between levels: a resnet that averages or repeats pixels (IF), or a strided convolution (Stable Diffusion)."""
    temporal_heads: Literal["head_dim", "channels"] = "head_dim"
    """`head_dim`: the head size names the *number* of temporal heads (the pixel UNets swap the two names);
    `channels`: channels / head size heads, each of that size (the latent UNet)."""
    transformer_in_head_dim: int | None = None
    """Head size of a temporal transformer with 8 heads after the first convolution; None: there is none."""
    only_cross_attention: tuple[bool, ...] = ()
    """For each level: attention looks at the text alone. Empty: nowhere. (`added_kv` only.)"""
    mid_only_cross_attention: bool = False
    cross_attention_norm: bool = False
    """Group norm on the projected text in front of the keys and values. (`added_kv` only.)"""
    text_dim: int | None = None
    """Width of the text states where they are projected to `cross_attention_dim` first; None: they are that wide."""
    text_embedding_heads: int | None = None
    """Heads of the attention pooling that adds a text term to the timestep embedding; None: no such term."""
    position_channels: bool = False
    """Each pixel's place in time, height and width, from -1 to 1, is appended to the sample (CoordConv, arXiv
    1807.03247). The released networks have no such channels."""
    noise_level_embedding: bool = False
    """The network is told the noise level of its low-resolution condition."""
    act_fn: Activation = "gelu"
    out_act_fn: Activation = "gelu"
    time_embedding_act_fn: Activation | None = None
    time_embedding_dim: int | None = None
    """Width of the timestep embedding; None: four times the first level's channels."""
    time_scale_shift: bool = True
    """Resnets scale and shift their second norm by the timestep embedding; without it they add it before."""
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
                    f"temporal layers have 32 groups, or one for each of fewer channels; {channels} do not divide",
                )
        frequencies = self.block_out_channels[0] // 2
        self._require(
            frequencies > self.freq_shift, f"freq_shift={self.freq_shift} leaves none of {frequencies} sinusoids"
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
        """Width of the timestep embedding that every resnet sees."""
        return self.time_embedding_dim or 4 * self.block_out_channels[0]

    @property
    def raw_text_dim(self) -> int:
        """Width of the text states that the network is called with."""
        return self.text_dim or self.cross_attention_dim

    @property
    def size_multiple(self) -> int:
        """Heights and widths must be multiples of this: resnets halve exactly, strided convolutions round up."""
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
    """Latents are multiplied by it, so that the diffusion model sees unit variance."""
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
        """Pixels a latent pixel stands for, along each side; heights and widths must be multiples of it."""
        return 2 ** (len(self.block_out_channels) - 1)
