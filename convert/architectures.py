"""Conversion of released `config.json` files to our architecture dataclasses.

A field that is absent has the default of its class in diffusers 0.19.3, the version of the original. A value that is
not supported is refused by field and value; one without effect in its class (`show1_jax.config.without_effect`) is
ignored.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from show1_jax.config.without_effect import LATENT_UNET, PIXEL_UNET, VAE, refused_fields
from show1_jax.errors import UserError, shown, shown_name
from show1_jax.nn.config import Activation, UNetConfig, VAEConfig

_IMAGE_BLOCKS: Final = ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D")
_VIDEO_BLOCKS: Final = ("ResnetDownsampleBlock3D", "SimpleCrossAttnDownBlock3D")
_LATENT_BLOCKS: Final = ("DownBlock3D", "CrossAttnDownBlock3D")
_LARGEST_FLOAT: Final = 2**1000  # larger whole numbers stay int: float() overflows at 2**1024
_MAX_LISTED_FIELDS: Final = 20
_ACTIVATIONS: Final[Mapping[str, Activation]] = {"silu": "silu", "swish": "silu", "gelu": "gelu"}


class _ConfigFields:
    """The fields of a config file, read one by one, so that the unread ones can be refused."""

    def __init__(self, kind: str, config: Mapping[str, Any]):
        self.kind = kind
        self.config = config
        self.rest = dict(config)
        self.class_name = shown_name(str(config.get("_class_name")))

    def unsupported(self, name: str, value: Any, supported: str) -> UserError:
        return UserError(f"{self.class_name}: {name}={shown(value)} is not supported, only {supported}")

    def take(self, name: str, default: Any = None) -> Any:
        """Return a field's value, or the default of its class. Null means false where the default is false."""
        value = self.rest.pop(name, default)
        return False if value is None and default is False else value

    def only(self, name: str, *supported: Any, default: Any = None) -> Any:
        """Return the element of `supported` that equals the field's value: false for 0, as JSON writers differ."""
        value = self.take(name, default)
        for other in supported:
            if value == other:
                return other
        raise self.unsupported(name, value, " or ".join(repr(other) for other in supported))

    def number(self, name: str, default: Any, kind: type[int] | type[float], least: float) -> Any:
        """Return the field's value, a number of at least `least`; the architecture checks the upper limit."""
        value = self.take(name, default)
        allowed = (int,) if kind is int else (int, float)
        if isinstance(value, bool) or not isinstance(value, allowed) or not least <= value < math.inf:
            expected = "a whole number" if kind is int else "a number"
            raise self.unsupported(name, value, f"{expected} of at least {least}")
        return value if kind is int or value > _LARGEST_FLOAT else float(value)

    def width(self, name: str) -> int | None:
        """Return the field's value, a number of channels, or None if it is absent or null."""
        return None if self.rest.get(name) is None else self.number(name, None, int, 1)

    def names(self, name: str, default: Sequence[str]) -> tuple[str, ...]:
        """Return the field's value, a list of names."""
        value = self.take(name, default)
        if not isinstance(value, (list, tuple)) or not all(isinstance(item, str) for item in value):
            raise self.unsupported(name, value, "a list of names")
        return tuple(value)

    def each_level(self, name: str, levels: int, default: Any, kind: type) -> tuple[Any, ...]:
        """Return one value for each level; a single value is used for all."""
        value = self.take(name, default)
        values = tuple(value) if isinstance(value, (list, tuple)) else (value,) * levels
        if len(values) != levels or any(type(v) is not kind for v in values) or (kind is int and min(values) < 1):
            raise self.unsupported(name, value, f"{kind.__name__} or a list of {levels}")
        return values

    def activation(self, name: str, default: str | None = None) -> Activation:
        """Return the field's value, the name of a supported activation."""
        return _ACTIVATIONS[self.only(name, *_ACTIVATIONS, default=default)]

    def finish(self) -> None:
        """Refuse the fields that were not read, unless their values have no effect."""
        if problems := list(refused_fields(self.kind, self.rest, self.config)):
            listed = "; ".join(problems[:_MAX_LISTED_FIELDS]) + ("; ..." if len(problems) > _MAX_LISTED_FIELDS else "")
            raise UserError(f"{self.class_name}: {listed}")


def _attention_levels(fields: _ConfigFields, blocks: tuple[str, str], default: Sequence[str]) -> tuple[bool, ...]:
    """Return for each level whether it has attention, from the block types; the up blocks must mirror the down blocks.

    Args:
        fields: the fields of the config file.
        blocks: the down block types without and with attention.
        default: the down block types of the class.
    """
    plain, attending = blocks
    down = fields.names("down_block_types", default)
    if set(down) - set(blocks) or not down:
        raise fields.unsupported("down_block_types", list(down), f"{plain} and {attending}")
    mirrored = [name.replace("Down", "Up", 1) for name in reversed(down)]
    up = list(fields.names("up_block_types", mirrored))
    if up != mirrored:
        raise fields.unsupported("up_block_types", up, f"the mirror of down_block_types, {shown(mirrored)}")
    return tuple(name == attending for name in down)


def unet_config(config: Mapping[str, Any]) -> UNetConfig:
    """Return the architecture that a released UNet's `config.json` describes.

    Class and block types distinguish pixel 3-D UNets (Show-1's class), 2-D image UNets (UNet2DConditionModel) and
    latent 3-D UNets (diffusers' own UNet3DConditionModel, which has the same name as Show-1's).

    Raises:
        UserError: the class, a field's value or an unknown field is not supported; the message names it.
    """
    class_name, down = config.get("_class_name"), config.get("down_block_types", _LATENT_BLOCKS)
    if class_name == "UNet2DConditionModel":
        return _pixel_unet_config(config, _IMAGE_BLOCKS)
    if class_name == "UNet3DConditionModel":
        is_latent = isinstance(down, (list, tuple)) and any(name in down for name in _LATENT_BLOCKS)
        return _latent_unet_config(config) if is_latent else _pixel_unet_config(config, _VIDEO_BLOCKS)
    raise UserError(f"_class_name={shown(class_name)} is neither UNet3DConditionModel nor UNet2DConditionModel")


def _pixel_unet_config(config: Mapping[str, Any], blocks: tuple[str, str]) -> UNetConfig:
    fields = _ConfigFields(PIXEL_UNET, config)
    temporal = blocks is _VIDEO_BLOCKS
    attention_levels = _attention_levels(fields, blocks, ())
    levels = len(attention_levels)
    fields.only("mid_block_type", f"UNetMidBlock{'3D' if temporal else '2D'}SimpleCrossAttn")
    for name in ("class_embeddings_concat", "center_input_sample"):
        fields.only(name, False, default=False)
    for name in ("num_attention_heads", "timestep_post_act", "time_cond_proj_dim"):
        fields.only(name, None)
    fields.only("time_embedding_type", "positional", default="positional")
    noise_level = fields.only("class_embed_type", None, "timestep") == "timestep"
    text_dim = fields.width("encoder_hid_dim")
    fields.only("encoder_hid_dim_type", *(("text_proj", None) if text_dim else (None,)))
    text_heads = fields.number("addition_embed_type_num_heads", 64, int, 1)
    adds_text = fields.only("addition_embed_type", None, "text") == "text"
    one_value = isinstance(only_cross := config.get("only_cross_attention", False), bool)
    head_dim = fields.each_level("attention_head_dim", levels, 8, int)
    mid_only_cross = fields.only("mid_block_only_cross_attention", None, True, False)
    act_fn = fields.activation("act_fn", "silu")
    result = UNetConfig(
        in_channels=fields.number("in_channels", 4, int, 1),
        out_channels=fields.number("out_channels", 4, int, 1),
        block_out_channels=fields.each_level("block_out_channels", levels, (320, 640, 1280, 1280), int),
        layers_per_block=fields.each_level("layers_per_block", levels, 2, int),
        attention_levels=attention_levels,
        down_head_dim=head_dim,
        mid_head_dim=head_dim[-1],
        up_head_dim=head_dim,  # the original reads it in the order of the down blocks for the up blocks, too
        cross_attention_dim=fields.number("cross_attention_dim", 1280, int, 1),
        temporal=temporal,
        attention="added_kv",
        resampling="resnet",
        temporal_heads="head_dim",
        transformer_in_head_dim=64 if fields.only("transfromer_in_opt", True, False, default=False) else None,
        only_cross_attention=fields.each_level("only_cross_attention", levels, False, bool),
        mid_only_cross_attention=(one_value and only_cross) if mid_only_cross is None else mid_only_cross,
        cross_attention_norm=fields.only("cross_attention_norm", None, "group_norm") == "group_norm",
        text_dim=text_dim,
        text_embedding_heads=text_heads if adds_text else None,
        noise_level_embedding=noise_level,
        act_fn=act_fn,
        out_act_fn=act_fn,
        time_embedding_act_fn=fields.activation("time_embedding_act_fn")
        if config.get("time_embedding_act_fn")
        else None,
        time_embedding_dim=fields.width("time_embedding_dim"),
        time_scale_shift=fields.only("resnet_time_scale_shift", "default", "scale_shift", default="default")
        == "scale_shift",
        skip_time_act=fields.only("resnet_skip_time_act", True, False, default=False),
        out_scale_factor=fields.number("resnet_out_scale_factor", 1.0, float, 1e-6),
        mid_scale_factor=fields.number("mid_block_scale_factor", 1.0, float, 1e-6),
        norm_num_groups=fields.number("norm_num_groups", 32, int, 1),
        norm_eps=fields.number("norm_eps", 1e-5, float, 0.0),
        flip_sin_to_cos=fields.only("flip_sin_to_cos", True, False, default=True),
        freq_shift=fields.number("freq_shift", 0, int, 0),
        conv_in_kernel=fields.number("conv_in_kernel", 3, int, 1),
        conv_out_kernel=fields.number("conv_out_kernel", 3, int, 1),
    )
    fields.finish()
    return result


def _latent_unet_config(config: Mapping[str, Any]) -> UNetConfig:
    fields = _ConfigFields(LATENT_UNET, config)
    plain, attending = _LATENT_BLOCKS
    attention_levels = _attention_levels(fields, _LATENT_BLOCKS, (attending, attending, attending, plain))
    levels = len(attention_levels)
    fields.only("num_attention_heads", None)
    fields.only("downsample_padding", 1, default=1)
    # This class has no setting for its middle block and linear projections; some files of Show-1's class have them.
    fields.only("mid_block_type", "UNetMidBlock3DCrossAttn", default="UNetMidBlock3DCrossAttn")
    head_dim = fields.number("attention_head_dim", 64, int, 1)
    result = UNetConfig(
        in_channels=fields.number("in_channels", 4, int, 1),
        out_channels=fields.number("out_channels", 4, int, 1),
        block_out_channels=fields.each_level("block_out_channels", levels, (320, 640, 1280, 1280), int),
        layers_per_block=(fields.number("layers_per_block", 2, int, 1),) * levels,
        attention_levels=attention_levels,
        down_head_dim=(head_dim,) * levels,
        mid_head_dim=head_dim,
        up_head_dim=(head_dim,) * levels,
        cross_attention_dim=fields.number("cross_attention_dim", 1024, int, 1),
        attention="transformer",
        resampling="conv",
        temporal_heads="channels",
        transformer_in_head_dim=head_dim,
        act_fn=fields.activation("act_fn", "silu"),
        out_act_fn="silu",
        time_scale_shift=False,
        mid_scale_factor=fields.number("mid_block_scale_factor", 1.0, float, 1e-6),
        norm_num_groups=fields.number("norm_num_groups", 32, int, 1),
        norm_eps=fields.number("norm_eps", 1e-5, float, 0.0),
    )
    fields.finish()
    return result


def vae_config(config: Mapping[str, Any]) -> VAEConfig:
    """Return the architecture that a released AutoencoderKL's `config.json` describes.

    Raises:
        UserError: the class, a field's value or an unknown field is not supported; the message names it.
    """
    if config.get("_class_name") != "AutoencoderKL":
        raise UserError(f"_class_name={shown(config.get('_class_name'))} is not an AutoencoderKL")
    fields = _ConfigFields(VAE, config)
    down = fields.names("down_block_types", ("DownEncoderBlock2D",))
    up = fields.names("up_block_types", ("UpDecoderBlock2D",))
    if set(down) != {"DownEncoderBlock2D"}:
        raise fields.unsupported("down_block_types", list(down), "DownEncoderBlock2D")
    if set(up) != {"UpDecoderBlock2D"} or len(up) != len(down):
        raise fields.unsupported("up_block_types", list(up), f"{len(down)} times UpDecoderBlock2D")
    result = VAEConfig(
        in_channels=fields.number("in_channels", 3, int, 1),
        out_channels=fields.number("out_channels", 3, int, 1),
        latent_channels=fields.number("latent_channels", 4, int, 1),
        block_out_channels=fields.each_level("block_out_channels", len(down), (64,), int),
        layers_per_block=fields.number("layers_per_block", 1, int, 1),
        scaling_factor=fields.number("scaling_factor", 0.18215, float, 1e-9),
        norm_num_groups=fields.number("norm_num_groups", 32, int, 1),
        act_fn=fields.activation("act_fn", "silu"),
    )
    fields.finish()
    return result
