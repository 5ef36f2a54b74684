"""The whole cascade at laptop size: 8 keyframes of 16x10 become 29 frames of 144x80, a quarter of the paper's sides.

Its networks are a few layers each: a minute or two on two CPU cores, most of it compilation, which is kept for the
next time. Until trained weights ship they are random: noise is what they give.
"""

from typing import Any

from ml_collections import ConfigDict

from show1_jax.request import SampleConfig
from show1_jax.training_config import TRAINED_STAGES

PROMPTS = ("A burning lamborghini driving on rainbow.",)

TEXT_DIM = 32
LEVELS = (32, 64)
UNET: dict[str, Any] = {
    "out_channels": 6,  # noise and its variance
    "block_out_channels": LEVELS,
    "layers_per_block": (1, 1),
    "attention_levels": (False, True),
    "down_head_dim": (16, 16),
    "mid_head_dim": 16,
    "up_head_dim": (16, 16),
    "cross_attention_dim": 64,
    "text_dim": TEXT_DIM,
    "text_embedding_heads": 4,
}
SUPERRES_UNET = UNET | {
    "in_channels": 6,
    "only_cross_attention": (True, True),
    "mid_only_cross_attention": True,
    "noise_level_embedding": True,
}
LATENT_UNET = UNET | {
    "in_channels": 4,
    "out_channels": 4,
    "attention_levels": (True, False),
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
    "block_out_channels": (32, 32, 32, 32),
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


# Ours, for short runs of small networks.
TRAINING = {"num_steps": 2000, "batch_size": 16, "remat": "none"}
OPTIMIZER = {"learning_rate": 1e-3, "warmup_steps": 100, "ema_decay": 0.999}


def get_config() -> ConfigDict:
    """The settings of `sample.py` and `train.py`, and what a checkpoint is made from where there is none."""
    settings = SampleConfig(checkpoint="checkpoints/demo-random", random_weights=True)
    config = ConfigDict(settings.to_dict() | {"prompts": PROMPTS})
    config.keyframes.update(num_steps=8, height=10, width=16)
    config.interpolation.num_steps = 4
    config.first_frame.num_steps = 8
    config.superres_pixel.num_steps = 3
    config.superres_latent.update(num_steps=5, height=80, width=144)
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
    config.train.data.name = "synthetic"
    config.train.update(log_every=10, evaluate_every=200, save_every=200, sample_every=1000)
    for stage in TRAINED_STAGES:
        config.train[stage].update(TRAINING)
        config.train[stage].optimizer.update(OPTIMIZER)
    config.train.superres_latent.num_frames = 8
    config.train.autoencoder.update(height=80, width=144)
    return config
