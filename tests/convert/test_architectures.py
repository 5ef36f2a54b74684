"""Reads of released `config.json` files: every setting's place, the defaults of absent keys, and refused values."""

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convert.architectures import unet_config, vae_config
from show1_jax.errors import UserError
from show1_jax.nn.config import UNetConfig, VAEConfig


def blocks(*names: str) -> dict[str, list[str]]:
    """Return the down block types, and their mirror as up block types."""
    return {
        "down_block_types": list(names),
        "up_block_types": [name.replace("Down", "Up", 1) for name in reversed(names)],
    }


PIXEL = {
    "_class_name": "UNet3DConditionModel",
    "mid_block_type": "UNetMidBlock3DSimpleCrossAttn",
    "block_out_channels": [32, 64, 96],
    **blocks("ResnetDownsampleBlock3D", "SimpleCrossAttnDownBlock3D", "SimpleCrossAttnDownBlock3D"),
}
IMAGE = {
    "_class_name": "UNet2DConditionModel",
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    "block_out_channels": [32, 64],
    **blocks("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
}
LATENT = {"_class_name": "UNet3DConditionModel"}
VAE = {"_class_name": "AutoencoderKL"}


def test_absent_keys_of_a_pixel_unet_mean_its_class_s_defaults() -> None:
    assert unet_config(PIXEL) == UNetConfig(
        in_channels=4,
        out_channels=4,
        block_out_channels=(32, 64, 96),
        layers_per_block=(2, 2, 2),
        attention_levels=(False, True, True),
        down_head_dim=(8, 8, 8),
        mid_head_dim=8,
        up_head_dim=(8, 8, 8),
        cross_attention_dim=1280,
        only_cross_attention=(False, False, False),
        act_fn="silu",
        out_act_fn="silu",
        time_scale_shift=False,
    )


def test_absent_keys_of_an_image_unet_mean_its_class_s_defaults() -> None:
    config = unet_config(IMAGE)
    assert not config.temporal
    assert config.attention_levels == (False, True)
    assert (config.attention, config.resampling, config.act_fn) == ("added_kv", "resnet", "silu")
    assert not config.time_scale_shift


def test_absent_keys_of_a_latent_unet_mean_its_class_s_defaults() -> None:
    assert unet_config(LATENT) == UNetConfig(
        in_channels=4,
        out_channels=4,
        block_out_channels=(320, 640, 1280, 1280),
        layers_per_block=(2, 2, 2, 2),
        attention_levels=(True, True, True, False),
        down_head_dim=(64,) * 4,
        mid_head_dim=64,
        up_head_dim=(64,) * 4,
        cross_attention_dim=1024,
        attention="transformer",
        resampling="conv",
        temporal_heads="channels",
        transformer_in_head_dim=64,
        act_fn="silu",
        out_act_fn="silu",
        time_scale_shift=False,
    )


def test_absent_keys_of_an_autoencoder_mean_its_class_s_defaults() -> None:
    assert vae_config(VAE) == VAEConfig(3, 3, 4, (64,), 1, 0.18215)


def test_every_setting_of_a_pixel_unet_has_its_place() -> None:
    released = PIXEL | {
        "in_channels": 6,
        "out_channels": 6,
        "layers_per_block": [1, 2, 3],
        "attention_head_dim": [8, 16, 32],
        "cross_attention_dim": 64,
        "cross_attention_norm": "group_norm",
        "only_cross_attention": [False, True, False],
        "encoder_hid_dim": 48,
        "encoder_hid_dim_type": "text_proj",
        "addition_embed_type": "text",
        "addition_embed_type_num_heads": 6,
        "class_embed_type": "timestep",
        "transfromer_in_opt": True,
        "act_fn": "gelu",
        "time_embedding_act_fn": "swish",
        "time_embedding_dim": 160,
        "resnet_time_scale_shift": "scale_shift",
        "resnet_skip_time_act": True,
        "resnet_out_scale_factor": 1.3,
        "mid_block_scale_factor": 1.5,
        "norm_num_groups": 16,
        "norm_eps": 1e-6,
        "flip_sin_to_cos": False,
        "freq_shift": 1,
        "conv_in_kernel": 5,
        "conv_out_kernel": 1,
    }
    assert unet_config(released) == UNetConfig(
        in_channels=6,
        out_channels=6,
        block_out_channels=(32, 64, 96),
        layers_per_block=(1, 2, 3),
        attention_levels=(False, True, True),
        down_head_dim=(8, 16, 32),
        mid_head_dim=32,
        up_head_dim=(8, 16, 32),  # in the order of the down blocks, as in the original
        cross_attention_dim=64,
        transformer_in_head_dim=64,
        only_cross_attention=(False, True, False),
        cross_attention_norm=True,
        text_dim=48,
        text_embedding_heads=6,
        noise_level_embedding=True,
        act_fn="gelu",
        out_act_fn="gelu",
        time_embedding_act_fn="silu",
        time_embedding_dim=160,
        time_scale_shift=True,
        skip_time_act=True,
        out_scale_factor=1.3,
        mid_scale_factor=1.5,
        norm_num_groups=16,
        norm_eps=1e-6,
        flip_sin_to_cos=False,
        freq_shift=1,
        conv_in_kernel=5,
        conv_out_kernel=1,
    )


@pytest.mark.parametrize(
    ("only_cross", "mid", "levels", "middle"),
    [
        (True, None, (True, True, True), True),
        (True, False, (True, True, True), False),
        (False, True, (False, False, False), True),
        (False, 0, (False, False, False), False),
        ([True, True, True], None, (True, True, True), False),
        ([False, True, False], True, (False, True, False), True),
    ],
)
def test_one_value_for_text_only_attention_covers_the_middle(
    only_cross: Any, mid: Any, levels: tuple[bool, ...], middle: bool
) -> None:
    config = unet_config(PIXEL | {"only_cross_attention": only_cross, "mid_block_only_cross_attention": mid})
    assert config.only_cross_attention == levels
    assert config.mid_only_cross_attention is middle


def test_the_latent_unet_has_its_own_fixed_settings() -> None:
    config = unet_config(LATENT | {"act_fn": "gelu", "attention_head_dim": 32, "mid_block_scale_factor": 2})
    assert config.down_head_dim == (32,) * 4
    assert config.transformer_in_head_dim == 32
    assert (config.act_fn, config.out_act_fn) == ("gelu", "silu")
    assert (config.flip_sin_to_cos, config.freq_shift, config.out_scale_factor) == (True, 0, 1.0)
    assert config.mid_scale_factor == 2.0


@pytest.mark.parametrize(
    ("base", "field", "value"),
    [
        (PIXEL, "_class_name", "StableDiffusionPipeline"),
        (PIXEL, "down_block_types", ["AttnDownBlock2D"]),
        (PIXEL, "down_block_types", 3),
        (PIXEL, "down_block_types", [["a"]]),
        (PIXEL, "up_block_types", ["ResnetUpsampleBlock3D"] * 3),
        (PIXEL, "up_block_types", 3),
        (PIXEL, "mid_block_type", "UNetMidBlock3DCrossAttn"),
        (PIXEL, "act_fn", "mish"),
        (PIXEL, "time_embedding_act_fn", "relu"),
        (PIXEL, "cross_attention_norm", "layer_norm"),
        (PIXEL, "resnet_time_scale_shift", "ada_group"),
        (PIXEL, "class_embed_type", "projection"),
        (PIXEL, "addition_embed_type", "text_image"),
        (PIXEL, "encoder_hid_dim_type", "image_proj"),
        (PIXEL, "encoder_hid_dim", "wide"),
        (PIXEL, "encoder_hid_dim", 0),
        (PIXEL, "time_embedding_dim", -4),
        (PIXEL, "time_embedding_type", "fourier"),
        (PIXEL, "attention_head_dim", [8, 16]),
        (PIXEL, "attention_head_dim", 0),
        (PIXEL, "layers_per_block", 1.5),
        (PIXEL, "only_cross_attention", [True, 1, False]),
        (PIXEL, "block_out_channels", [32, 64]),
        (PIXEL, "num_attention_heads", 8),
        (PIXEL, "norm_num_groups", None),
        (PIXEL, "norm_eps", float("nan")),
        (PIXEL, "a_new_setting", "on"),
        (IMAGE, "transfromer_in_opt", "yes"),
        (LATENT, "attention_head_dim", [64, 64, 64, 64]),
        (LATENT, "downsample_padding", 0),
        (LATENT, "resnet_time_scale_shift", "scale_shift"),
        (VAE, "_class_name", "VQModel"),
        (VAE, "down_block_types", ["DownEncoderBlock2D", "AttnDownEncoderBlock2D"]),
        (VAE, "down_block_types", None),
        (VAE, "up_block_types", ["UpDecoderBlock2D"] * 2),
        (VAE, "scaling_factor", 0),
        (VAE, "latent_channels", True),
    ],
)
def test_unsupported_values_are_refused_by_field_and_value(base: dict[str, Any], field: str, value: Any) -> None:
    read = vae_config if base is VAE else unet_config
    with pytest.raises(UserError) as refusal:
        read(base | {field: value})
    assert field in str(refusal.value)
    assert repr(value) in str(refusal.value)
    assert "\n" not in str(refusal.value)


EMA = {"decay": 0.9999, "inv_gamma": 1.0, "min_decay": 0.0, "optimization_step": 5, "power": 0.75}
EMA |= {"update_after_step": 0, "use_ema_warmup": True}


@pytest.mark.parametrize(
    ("base", "later"),
    [
        (PIXEL, {"dropout": 0.0, "attention_type": "default", "reverse_transformer_layers_per_block": None}),
        (PIXEL, {"transformer_layers_per_block": [1, 2, 3], "addition_time_embed_dim": 256, "upcast_attention": True}),
        (PIXEL | {"class_embed_type": "timestep"}, {"num_class_embeds": 10}),
        (IMAGE, {"dropout": 0.0, "attention_type": "default", "addition_time_embed_dim": None}),
        (IMAGE, {"reverse_transformer_layers_per_block": [[1], [2]], "_commit_hash": "0123"}),
        (LATENT, {"time_cond_proj_dim": None, "num_attention_heads": None, "dropout": 0}),
        (VAE, {"use_quant_conv": True, "use_post_quant_conv": True, "mid_block_add_attention": True}),
        (VAE, {"shift_factor": None, "latents_mean": None, "latents_std": None, "force_upcast": False}),
        (VAE, {"shift_factor": 0.0}),
    ],
)
def test_fields_of_later_releases_without_effect_are_ignored(base: dict[str, Any], later: dict[str, Any]) -> None:
    read: Any = vae_config if base is VAE else unet_config
    assert read(base | later | EMA | {"_diffusers_version": "0.36.0"}) == read(base)


@pytest.mark.parametrize(
    ("base", "field", "value", "reason"),
    [
        (PIXEL, "attention_type", "gated", "other values add GLIGEN's layers"),
        (PIXEL, "dropout", 0.1, "it changes training"),
        (PIXEL, "num_class_embeds", 10, "it adds a table of classes"),
        (PIXEL, "quantization_config", {"bits": 4}, "of this field only null and false are"),
        (LATENT, "time_cond_proj_dim", 256, "of this field only null and false are"),
        (LATENT, "conv_in_kernel", 5, "the class's only size"),
        (VAE, "use_quant_conv", False, "only true keeps all layers"),
        (VAE, "use_post_quant_conv", None, "only true keeps all layers"),
        (VAE, "mid_block_add_attention", False, "only true keeps all layers"),
        (VAE, "shift_factor", 0.1159, "only 0 leaves the latents unshifted"),
        (VAE, "latents_mean", [0.1], "of this field only null and false are"),
    ],
)
def test_fields_of_later_releases_with_an_effect_are_refused(
    base: dict[str, Any], field: str, value: Any, reason: str
) -> None:
    read: Any = vae_config if base is VAE else unet_config
    with pytest.raises(UserError, match=re.escape(f"{field} = {value!r} is not supported: {reason}")):
        read(base | {field: value})


@pytest.mark.parametrize("base", [PIXEL, IMAGE, LATENT, VAE])
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("block_out_channels", [2**40] * 3),
        ("block_out_channels", [32] * 10_000),
        ("down_block_types", ["SimpleCrossAttnDownBlock3D"] * 10_000),
        ("down_block_types", ["DownEncoderBlock2D"] * 10_000),
        ("up_block_types", ["x" * 10**6]),
        ("layers_per_block", 10**9),
        ("in_channels", 10**400),
        ("out_channels", 2**63),
        ("norm_num_groups", 10**30),
        ("norm_eps", 10**400),
        ("scaling_factor", 10**400),
        ("mid_block_scale_factor", 10**400),
        ("attention_head_dim", 2**40),
        ("cross_attention_dim", 2**40),
        ("unheard_of", 10**400),
        ("_class_name", "x" * 10**6),
    ],
)
def test_numbers_that_no_network_has_are_refused_at_once(base: dict[str, Any], field: str, value: Any) -> None:
    read: Any = vae_config if base is VAE else unet_config
    start = time.process_time()
    with pytest.raises(UserError) as refusal:
        read(base | {field: value})
    assert time.process_time() - start < 1
    assert len(str(refusal.value)) < 1000
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention_head_dim": [8, 16, 64]}, "heads of 64 do not divide 96 channels"),
        ({"block_out_channels": [32, 48, 96]}, "48 channels do not divide into norm_num_groups=32"),
        ({"block_out_channels": [32, 48, 96], "norm_num_groups": 16}, "48 channels do not divide"),
        ({"cross_attention_norm": "group_norm", "cross_attention_dim": 48}, "multiples of 32 channels, not 48"),
        (
            {"addition_embed_type": "text", "encoder_hid_dim": 48, "encoder_hid_dim_type": "text_proj"},
            "64 heads do not divide text states of 48",
        ),
    ],
)
def test_widths_that_do_not_divide_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        unet_config(PIXEL | changes)


def recorded(kind: str) -> list[dict[str, Any]]:
    checkpoints = Path(__file__).parent.parent / "golden" / "checkpoints"
    return [json.loads(path.read_text()) for path in sorted(checkpoints.glob(f"*/{kind}/config.json"))]


values = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 100) | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@given(data=st.data())
def test_any_config_is_read_or_refused_in_one_line(data: st.DataObject) -> None:
    read, known = data.draw(st.sampled_from([(unet_config, recorded("unet")), (vae_config, recorded("vae"))]))
    config = dict(data.draw(st.sampled_from(known)))
    for field in data.draw(st.lists(st.sampled_from(sorted(config)) | st.text(max_size=5), min_size=1, max_size=3)):
        config[field] = data.draw(values)
    try:
        result = read(config)
    except UserError as refusal:
        lines = str(refusal).splitlines()
    else:
        lines = ["read"]
        assert type(result).from_dict(json.loads(json.dumps(result.to_dict()))) == result
    assert len(lines) == 1


def test_settings_without_effect_are_ignored() -> None:
    """A latent UNet saved by Show-1's class, nulls for false, and fields of later releases of diffusers."""
    latent = {"_class_name": "UNet3DConditionModel", "block_out_channels": [32, 32, 32, 32], "attention_head_dim": 8}
    superset = {
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "conv_in_kernel": 3,
        "time_embedding_type": "positional",
        "resnet_time_scale_shift": "default",
        "resnet_out_scale_factor": 1.0,
        "addition_embed_type_num_heads": 64,
        "use_linear_projection": True,
        "class_embeddings_concat": None,
        "attention_type": "default",
    }
    assert unet_config(latent | superset) == unet_config(latent)
    with pytest.raises(UserError, match="resnet_out_scale_factor"):
        unet_config(latent | {"resnet_out_scale_factor": 1.5})
    vae = {"_class_name": "AutoencoderKL", "block_out_channels": [32]}
    assert vae_config(vae | {"use_quant_conv": True, "mid_block_add_attention": True}) == vae_config(vae)
