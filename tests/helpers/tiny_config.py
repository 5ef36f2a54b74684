"""The config of the smallest cascade with every component. It compiles in seconds.

UNets have one level, and stages take one or two sampling steps. Like the released pixel UNets, and unlike the demo's,
its pixel UNets predict noise and a variance.
"""

from typing import Any

from show1_jax.config.config_dict import ConfigDict
from show1_jax.config.config_file import Config
from show1_jax.config.training import TRAINED_STAGES

TEXT_DIM = 32
UNET: dict[str, Any] = {
    "out_channels": 6,  # noise and a variance
    "block_out_channels": (32,),
    "layers_per_block": (1,),
    "attention_levels": (False,),  # the middle block has every kind of attention
    "down_head_dim": (16,),
    "mid_head_dim": 16,
    "up_head_dim": (16,),
    "cross_attention_dim": 64,
    "text_dim": TEXT_DIM,
    "text_embedding_heads": 4,
}
SUPERRES_UNET = UNET | {
    "in_channels": 6,
    "only_cross_attention": (True,),
    "mid_only_cross_attention": True,
    "noise_level_embedding": True,
}
LATENT_UNET = UNET | {
    "in_channels": 4,
    "out_channels": 4,
    "cross_attention_dim": TEXT_DIM,
    "text_dim": None,
    "text_embedding_heads": None,
    "attention": "transformer",
    "resampling": "conv",
    "temporal_heads": "channels",
    "transformer_in_head_dim": 16,
    "act_fn": "silu",
    "out_act_fn": "silu",
    "time_scale_shift": False,
}
VAE = {
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "block_out_channels": (32, 32),
    "layers_per_block": 1,
    "scaling_factor": 0.18215,
}
T5 = {"vocab_size": 384, "d_model": TEXT_DIM, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
CLIP = {
    "vocab_size": 514,
    "hidden_size": TEXT_DIM,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}

PIXEL_SCHEDULE = {"beta_schedule": "squaredcos_cap_v2", "variance_type": "learned_range"}
THRESHOLDING = {"thresholding": True, "dynamic_thresholding_ratio": 0.95, "sample_max_value": 1.5}
DPM_SOLVER = {"_class_name": "DPMSolverMultistepScheduler", **PIXEL_SCHEDULE, **THRESHOLDING}
DDPM = {"_class_name": "DDPMScheduler", **PIXEL_SCHEDULE, **THRESHOLDING}
NOISING = {"_class_name": "DDPMScheduler", "beta_schedule": "squaredcos_cap_v2"}
LATENT_DPM_SOLVER = {
    "_class_name": "DPMSolverMultistepScheduler",
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
}


def get_config() -> ConfigDict:
    """Return the config of the smallest cascade, with random weights."""
    settings = Config(checkpoint="checkpoints/tiny-random", random_weights=True, compilation_cache="")
    config = ConfigDict(settings.to_dict())
    config.keyframes.update(num_steps=1, num_frames=3, height=8, width=8)
    config.interpolation.update(num_steps=1, num_between=1)
    config.first_frame.update(num_steps=2, scale=2)
    config.superres_pixel.update(num_steps=1, window=4, stride=3)
    config.superres_latent.update(num_steps=2, height=24, width=24)
    config.architecture = {
        "keyframes": UNET | {"in_channels": 3},
        "interpolation": UNET | {"in_channels": 7},
        "first_frame": SUPERRES_UNET | {"temporal": False},
        "superres_pixel": SUPERRES_UNET,
        "superres_latent": LATENT_UNET,
        "vae": VAE,
        "text_t5": T5,
        "text_clip": CLIP,
    }
    config.schedulers = {
        "keyframes": {"scheduler": DPM_SOLVER},
        "interpolation": {"scheduler": DPM_SOLVER},
        "first_frame": {"scheduler": DDPM, "image_noising_scheduler": NOISING},
        "superres_pixel": {"scheduler": DPM_SOLVER, "image_noising_scheduler": NOISING},
        "superres_latent": {"scheduler": LATENT_DPM_SOLVER},
    }
    config.train.data.update(name="synthetic", num_synthetic=8, num_validation=1)
    config.train.update(log_every=2, evaluate_every=0, save_every=100, sample_every=0)
    for stage in TRAINED_STAGES:
        config.train[stage].update(num_steps=4, batch_size=8, remat="none")
        config.train[stage].optimizer.update(learning_rate=1e-3, ema_decay=0.999, schedule="constant", warmup_steps=0)
    config.train.superres_latent.num_frames = 3
    config.train.autoencoder.update(height=16, width=16)
    return config


def settings() -> Config:
    """Return the same config as dataclasses."""
    return Config.from_dict(get_config().to_dict())
