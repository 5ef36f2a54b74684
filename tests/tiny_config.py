"""A config of the smallest cascade that has every part: one level, one step a stage. It compiles in seconds."""

from ml_collections import ConfigDict

from configs import demo
from show1_jax.request import SampleConfig

ONE_LEVEL = {
    "block_out_channels": (32,),
    "layers_per_block": (1,),
    "attention_levels": (True,),
    "down_head_dim": (16,),
    "up_head_dim": (16,),
}


def get_config() -> ConfigDict:
    """The demo's config with shallower networks, fewer frames and steps."""
    config = demo.get_config()
    for name, fields in config.architecture.items():
        if "layers_per_block" in fields and name != "vae":
            fields.update(ONE_LEVEL)
            if fields.get("only_cross_attention"):
                fields.only_cross_attention = (True,)
    config.architecture.vae.block_out_channels = (32, 32)
    config.keyframes.update(num_steps=1, num_frames=3, height=8, width=8)
    config.interpolation.update(num_steps=1, num_between=1)
    config.first_frame.update(num_steps=2, scale=2)
    config.superres_pixel.update(num_steps=1, window=4, stride=3)
    config.superres_latent.update(num_steps=2, height=24, width=24)
    config.compilation_cache = ""
    return config


def settings() -> SampleConfig:
    """The same as dataclasses."""
    return SampleConfig.from_dict(get_config().to_dict())
