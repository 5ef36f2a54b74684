"""A config of the smallest cascade that has every part: one level, one step a stage. It compiles in seconds."""

from ml_collections import ConfigDict

from configs import demo
from show1_jax.request import SampleConfig
from show1_jax.training_config import TRAINED_STAGES

ONE_LEVEL = {
    "block_out_channels": (32,),
    "layers_per_block": (1,),
    "attention_levels": (False,),  # the middle has attention of every kind
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
    config.train.data.update(name="synthetic", num_synthetic=8, num_validation=1)
    config.train.update(log_every=2, evaluate_every=0, save_every=100, sample_every=0)
    for stage in TRAINED_STAGES:
        config.train[stage].update(num_steps=4, batch_size=8)
        config.train[stage].optimizer.update(schedule="constant", warmup_steps=0)
    config.train.superres_latent.num_frames = 3
    config.train.autoencoder.update(height=16, width=16)
    return config


def settings() -> SampleConfig:
    """The same as dataclasses."""
    return SampleConfig.from_dict(get_config().to_dict())
