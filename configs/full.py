"""The paper's cascade with the released settings: 8 keyframes of 64x40 become 29 frames of 576x320.

Convert the released weights once, then sample:

  python -m convert --out checkpoints/show1
  python sample.py --config configs/full.py --prompt "a burning lamborghini driving on a rainbow"

Hardware: one GPU or TPU, or several (`--config.mesh`, README.md). A video takes 38.5 PFLOP. `--dry_run` prints the
memory of each device, `--config.memory_limit_gb` reduces it.
Result: outputs/*/5_superres_latent.mp4, 29 frames of 576x320 at 8 frames a second. They equal the original code's up to
rounding (README.md has the differences). On an NVIDIA H200 a video takes 90 s, after the first one of a
process, measured with random weights (benchmarks/README.md). TPUs: not measured.

Train a stage on captioned videos:

  python -m show1_jax.data build --videos DIR --out datasets/videos
  python train.py --config configs/full.py --stage keyframes --workdir runs/keyframes --checkpoint checkpoints/show1

Hardware: the keyframe stage needs 21.9 GB of each of 8 devices, or 3.4 GB of each of 64 (docs/training.md). The paper
trained it on 48 A100 of 40 GB in three days. Result: not measured, for lack of accelerators.

Every setting and its default is documented in one place: `show1_jax.config.sampling` for sampling,
`show1_jax.config.training` for training. The networks and schedules below are those of the released weights. They are
read only when a network is trained from scratch; a checkpoint has its own.
"""

from typing import Any

from show1_jax.config.config_dict import ConfigDict
from show1_jax.config.config_file import Config

PROMPTS = (
    "A burning lamborghini driving on rainbow.",
    "A red fox trots through fresh snow at dawn, its breath visible.",
    "A paper boat sails down a rainy city gutter, close-up.",
    "Time-lapse of a sunflower opening on a hillside above the sea.",
    "An astronaut waters tomato plants in a greenhouse on Mars.",
)

RESNET_SCALE = 1.4142271248762552  # as released: not quite the square root of two
PIXEL_UNET: dict[str, Any] = {
    "out_channels": 6,  # noise and its variance
    "mid_head_dim": 64,
    "text_dim": 4096,
    "text_embedding_heads": 64,
    "cross_attention_norm": True,
    "time_embedding_act_fn": "gelu",
    "skip_time_act": True,
    "out_scale_factor": RESNET_SCALE,
    "mid_scale_factor": RESNET_SCALE,
}
KEYFRAMES_UNET = PIXEL_UNET | {
    "block_out_channels": (320, 640, 960, 1280),
    "layers_per_block": (3,) * 4,
    "attention_levels": (False, True, True, True),
    "down_head_dim": (64,) * 4,
    "up_head_dim": (64,) * 4,
    "cross_attention_dim": 1280,
}
SUPERRES_UNET = PIXEL_UNET | {
    "in_channels": 6,
    "block_out_channels": (192, 384, 768, 1152, 1152),
    "layers_per_block": (2, 2, 3, 5, 5),
    "attention_levels": (False, False, False, True, True),
    "down_head_dim": (64,) * 5,
    "up_head_dim": (64,) * 5,
    "cross_attention_dim": 1152,
    "only_cross_attention": (True,) * 5,
    "mid_only_cross_attention": True,
    "noise_level_embedding": True,
    "time_embedding_dim": 1152,
}
LATENT_UNET = {
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": (2,) * 4,
    "attention_levels": (True, True, True, False),
    "down_head_dim": (64,) * 4,
    "mid_head_dim": 64,
    "up_head_dim": (64,) * 4,
    "cross_attention_dim": 1024,
    "attention": "transformer",
    "resampling": "conv",
    "temporal_heads": "channels",
    "transformer_in_head_dim": 64,
    "act_fn": "silu",
    "out_act_fn": "silu",
    "time_scale_shift": False,
}
VAE = {
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "scaling_factor": 0.18215,
}
T5 = {"vocab_size": 32128, "d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64}
CLIP = {
    "vocab_size": 49408,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 23,
    "num_attention_heads": 16,
    "hidden_act": "gelu",
}

PIXEL_SCHEDULE = {
    "beta_schedule": "squaredcos_cap_v2",
    "variance_type": "learned_range",
    "thresholding": True,
    "dynamic_thresholding_ratio": 0.95,
    "sample_max_value": 1.5,
}
SUPERRES_SCHEDULE = PIXEL_SCHEDULE | {"sample_max_value": 1.0}
DPM_SOLVER = {"_class_name": "DPMSolverMultistepScheduler"}
DDPM = {"_class_name": "DDPMScheduler"}
NOISING = {"_class_name": "DDPMScheduler", "beta_schedule": "squaredcos_cap_v2"}
LATENT_DPM_SOLVER = {
    "_class_name": "DPMSolverMultistepScheduler",
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
}


def get_config() -> ConfigDict:
    """Return the settings of `sample.py` and `train.py`."""
    config = ConfigDict(Config(checkpoint="checkpoints/show1").to_dict() | {"prompts": PROMPTS})
    config.architecture = {
        "keyframes": KEYFRAMES_UNET | {"in_channels": 3},
        "interpolation": KEYFRAMES_UNET | {"in_channels": 7},
        "first_frame": SUPERRES_UNET | {"temporal": False},
        "superres_pixel": SUPERRES_UNET,
        "superres_latent": LATENT_UNET,
        "vae": VAE,
        "text_t5": T5,
        "text_clip": CLIP,
    }
    config.schedulers = {
        "keyframes": {"scheduler": DPM_SOLVER | PIXEL_SCHEDULE},
        "interpolation": {"scheduler": DPM_SOLVER | PIXEL_SCHEDULE},
        "first_frame": {"scheduler": DDPM | SUPERRES_SCHEDULE, "image_noising_scheduler": NOISING},
        "superres_pixel": {"scheduler": DPM_SOLVER | SUPERRES_SCHEDULE, "image_noising_scheduler": NOISING},
        "superres_latent": {"scheduler": LATENT_DPM_SOLVER},
    }
    return config
