"""Conversion of our architecture dataclasses to `config.json` files, for networks that were never released.

This is the reverse of `convert.architectures`. Every setting that it reads is written, so that no class's default
matters. Released classes cannot express everything that our dataclasses can: a written config is read again, and
refused if it describes another network.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Final

from show1_jax.errors import UserError
from show1_jax.nn.clip import CLIPTextConfig
from show1_jax.nn.config import UNetConfig, VAEConfig
from show1_jax.nn.t5 import T5Config

from .architectures import unet_config, vae_config

_DIFFUSERS: Final = {"_diffusers_version": "0.19.3"}


def unet_json(architecture: UNetConfig) -> dict[str, Any]:
    """Return the `config.json` of a UNet, for the class that the original uses for it.

    Raises:
        UserError: no class of the original can represent the network; the message names the fields.
    """
    config = _latent_unet(architecture) if architecture.attention == "transformer" else _pixel_unet(architecture)
    try:
        read = unet_config(config)
    except UserError as error:
        raise UserError(f"cannot be written as a diffusers folder: {error}") from None
    wanted, written = (
        with_explicit_levels(architecture).to_dict(),
        with_explicit_levels(read).to_dict(),
    )
    if differing := [f"{name}={value!r}" for name, value in wanted.items() if written[name] != value]:
        raise UserError(f"cannot be written as a diffusers folder, whose UNets have no {', '.join(differing)}")
    return config


def with_explicit_levels(architecture: UNetConfig) -> UNetConfig:
    """Return the same architecture with a value of `only_cross_attention` for every level."""
    nowhere = (False,) * len(architecture.block_out_channels)
    return dataclasses.replace(architecture, only_cross_attention=architecture.only_cross_attention or nowhere)


def _pixel_unet(architecture: UNetConfig) -> dict[str, Any]:
    rank = "3D" if architecture.temporal else "2D"
    blocks = {False: f"ResnetDownsampleBlock{rank}", True: f"SimpleCrossAttnDownBlock{rank}"}
    config = {
        "_class_name": "UNet3DConditionModel" if architecture.temporal else "UNet2DConditionModel",
        **_DIFFUSERS,
        **_levels([blocks[attends] for attends in architecture.attention_levels]),
        "mid_block_type": f"UNetMidBlock{rank}SimpleCrossAttn",
        "in_channels": architecture.in_channels,
        "out_channels": architecture.out_channels,
        "block_out_channels": list(architecture.block_out_channels),
        "layers_per_block": _one_or_each(architecture.layers_per_block),
        "attention_head_dim": _one_or_each(architecture.down_head_dim),
        "cross_attention_dim": architecture.cross_attention_dim,
        "cross_attention_norm": "group_norm" if architecture.cross_attention_norm else None,
        "only_cross_attention": _one_or_each(architecture.only_cross_attention or (False,)),
        "mid_block_only_cross_attention": architecture.mid_only_cross_attention,
        "encoder_hid_dim": architecture.text_dim,
        "encoder_hid_dim_type": "text_proj" if architecture.text_dim else None,
        "addition_embed_type": "text" if architecture.text_embedding_heads else None,
        "addition_embed_type_num_heads": architecture.text_embedding_heads or 64,
        "class_embed_type": "timestep" if architecture.noise_level_embedding else None,
        "act_fn": architecture.act_fn,
        "time_embedding_type": "positional",
        "time_embedding_act_fn": architecture.time_embedding_act_fn,
        "time_embedding_dim": architecture.time_embedding_dim,
        "resnet_time_scale_shift": "scale_shift" if architecture.time_scale_shift else "default",
        "resnet_skip_time_act": architecture.skip_time_act,
        "resnet_out_scale_factor": architecture.out_scale_factor,
        "mid_block_scale_factor": architecture.mid_scale_factor,
        "norm_num_groups": architecture.norm_num_groups,
        "norm_eps": architecture.norm_eps,
        "flip_sin_to_cos": architecture.flip_sin_to_cos,
        "freq_shift": architecture.freq_shift,
        "conv_in_kernel": architecture.conv_in_kernel,
        "conv_out_kernel": architecture.conv_out_kernel,
    }
    if architecture.temporal:
        config["transfromer_in_opt"] = architecture.transformer_in_head_dim is not None
    return config


def _latent_unet(architecture: UNetConfig) -> dict[str, Any]:
    blocks = {False: "DownBlock3D", True: "CrossAttnDownBlock3D"}
    return {
        "_class_name": "UNet3DConditionModel",
        **_DIFFUSERS,
        **_levels([blocks[attends] for attends in architecture.attention_levels]),
        "in_channels": architecture.in_channels,
        "out_channels": architecture.out_channels,
        "block_out_channels": list(architecture.block_out_channels),
        "layers_per_block": architecture.layers_per_block[0],
        "attention_head_dim": architecture.mid_head_dim,
        "cross_attention_dim": architecture.cross_attention_dim,
        "downsample_padding": 1,
        "act_fn": architecture.act_fn,
        "mid_block_scale_factor": architecture.mid_scale_factor,
        "norm_num_groups": architecture.norm_num_groups,
        "norm_eps": architecture.norm_eps,
    }


def _levels(down: Sequence[str]) -> dict[str, list[str]]:
    return {
        "down_block_types": list(down),
        "up_block_types": [name.replace("Down", "Up", 1) for name in reversed(down)],
    }


def _one_or_each(values: Sequence[Any]) -> Any:
    return values[0] if len(set(values)) == 1 else list(values)


def vae_json(architecture: VAEConfig) -> dict[str, Any]:
    """Return the `config.json` of an autoencoder."""
    levels = len(architecture.block_out_channels)
    config = {
        "_class_name": "AutoencoderKL",
        **_DIFFUSERS,
        **architecture.to_dict(),
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
    }
    assert vae_config(config) == architecture
    return config


def t5_json(architecture: T5Config) -> dict[str, Any]:
    """Return the `config.json` of a T5 v1.1 encoder."""
    return {
        "architectures": ["T5EncoderModel"],
        "model_type": "t5",
        **architecture.to_dict(),
        "feed_forward_proj": "gated-gelu",
        "is_gated_act": True,
        "dense_act_fn": "gelu_new",
        "is_encoder_decoder": True,
        "tie_word_embeddings": False,
        "pad_token_id": 0,
        "eos_token_id": 1,
    }


def clip_json(architecture: CLIPTextConfig) -> dict[str, Any]:
    """Return the `config.json` of a CLIP text encoder."""
    return {"architectures": ["CLIPTextModel"], "model_type": "clip_text_model", **architecture.to_dict()}
