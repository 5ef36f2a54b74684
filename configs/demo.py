"""The whole cascade at laptop size: 8 keyframes of 16x10 become 29 frames of 144x80, a quarter of the paper's sides.

Sample with the trained weights in `checkpoints/demo`:

  python sample.py --config configs/demo.py --prompt "a red circle moves right"

Hardware: any CPU. On two cores the first video takes half a minute, mostly compilation, and the next one 13 seconds.
Result: outputs/*/5_superres_latent.mp4, 29 frames of 144x80 at 8 frames a second. Of 100 videos of one object, 98 show
everything that the prompt asks for; of 100 videos of two objects, 94 (docs/demo.md).

Train a stage on the synthetic world of `show1_jax.data.synthetic.world`:

  python train.py --config configs/demo.py --stage keyframes --workdir runs/keyframes

Hardware: one CPU core; 1.1 to 6.8 hours for each network. Result: the validation losses of docs/demo.md, 0.0063 for the
keyframes. docs/demo.md has the commands of all stages, and the differences from the paper's recipe with their reasons.
"""

from pathlib import Path
from typing import Any

from show1_jax.config.config_dict import ConfigDict
from show1_jax.config.config_file import Config
from show1_jax.config.training import TRAINED_STAGES

PROMPTS = ("a red circle moves right",)

TEXT_DIM = 64
PIXEL_UNET: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": (32, 64),
    "layers_per_block": (1, 1),
    "attention_levels": (False, True),
    "down_head_dim": (8, 8),
    "mid_head_dim": 8,
    "up_head_dim": (8, 8),
    "cross_attention_dim": 64,
    "text_dim": TEXT_DIM,
    "text_embedding_heads": 4,
    "norm_num_groups": 8,  # with a group for each channel the last norm would remove flat colours
    "act_fn": "silu",
    "out_act_fn": "silu",
}
KEYFRAMES_UNET = PIXEL_UNET | {
    "position_channels": True,
    "down_head_dim": (32, 32),
    "mid_head_dim": 32,
    "up_head_dim": (32, 32),
    "temporal_heads": "channels",
}
INTERPOLATION_UNET = PIXEL_UNET | {"in_channels": 7}
SUPERRES_UNET = PIXEL_UNET | {
    "in_channels": 6,
    "block_out_channels": (16, 32, 64),
    "layers_per_block": (1, 1, 1),
    "attention_levels": (False, False, True),
    "down_head_dim": (8, 8, 8),
    "up_head_dim": (8, 8, 8),
    "only_cross_attention": (True, True, True),
    "mid_only_cross_attention": True,
    "noise_level_embedding": True,
    "norm_num_groups": 4,
    "time_embedding_dim": 128,
}
LATENT_CHANNELS = 8
LATENT_UNET = PIXEL_UNET | {
    "in_channels": LATENT_CHANNELS,
    "out_channels": LATENT_CHANNELS,
    "cross_attention_dim": TEXT_DIM,
    "text_dim": None,
    "text_embedding_heads": None,
    "attention": "transformer",
    "resampling": "conv",
    "temporal_heads": "channels",
    "transformer_in_head_dim": 8,
    "time_scale_shift": False,
}
VAE = {
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": LATENT_CHANNELS,
    "block_out_channels": (16, 32, 64, 64),
    "layers_per_block": 1,
    "scaling_factor": 1.0,  # until training measures it
    "norm_num_groups": 4,
}
T5 = {"vocab_size": 512, "d_model": TEXT_DIM, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4}
CLIP = {
    "vocab_size": 642,
    "hidden_size": TEXT_DIM,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}

DPM_SOLVER = {"_class_name": "DPMSolverMultistepScheduler", "prediction_type": "sample"}
PIXEL_SCHEDULE = {"beta_schedule": "squaredcos_cap_v2"}
CLIPPING = {"thresholding": True, "dynamic_thresholding_ratio": 0.995, "sample_max_value": 1.0}
PIXEL_DPM_SOLVER = DPM_SOLVER | PIXEL_SCHEDULE | CLIPPING
NOISING = {"_class_name": "DDPMScheduler"} | PIXEL_SCHEDULE
LATENT_DPM_SOLVER = DPM_SOLVER | {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
}

# Our choices, for small networks on a CPU. The learning rate is constant, so that a run can stop after any step. With
# AdamW's usual beta2 and clip_norm, an autoencoder diverged at step 1880: its gradients became small, then large again.
TRAINING = {"num_steps": 100_000, "batch_size": 4, "remat": "none"}
OPTIMIZER = {
    "kind": "muon",
    "learning_rate": 1e-3,
    "schedule": "constant",
    "warmup_steps": 100,
    "beta2": 0.99,
    "clip_norm": 0.5,
    "ema_decay": 0.999,
}


def get_config() -> ConfigDict:
    """Return the settings of `sample.py` and `train.py`."""
    shipped = Path(__file__).resolve().parents[1] / "checkpoints" / "demo"
    settings = Config(checkpoint=str(shipped), text_padding="zeros")
    config = ConfigDict(settings.to_dict() | {"prompts": PROMPTS})
    config.keyframes.update(num_steps=10, guidance_scale=1.5, height=10, width=16)
    config.interpolation.update(num_steps=4, guidance_scale=1.0)
    config.first_frame.update(num_steps=5, guidance_scale=1.0, noise_level=50, frames="window_starts")
    config.superres_pixel.update(num_steps=4, guidance_scale=1.0, noise_level=50)
    config.superres_latent.update(num_steps=8, strength=0.25, guidance_scale=1.0, height=80, width=144)
    config.architecture = {
        "keyframes": KEYFRAMES_UNET,
        "interpolation": INTERPOLATION_UNET,
        "first_frame": SUPERRES_UNET | {"temporal": False},
        "superres_pixel": SUPERRES_UNET,
        "superres_latent": LATENT_UNET,
        "vae": VAE,
        "text_t5": T5,
        "text_clip": CLIP,
    }
    config.schedulers = {
        "keyframes": {"scheduler": PIXEL_DPM_SOLVER},
        "interpolation": {"scheduler": PIXEL_DPM_SOLVER},
        "first_frame": {"scheduler": PIXEL_DPM_SOLVER, "image_noising_scheduler": NOISING},
        "superres_pixel": {"scheduler": PIXEL_DPM_SOLVER, "image_noising_scheduler": NOISING},
        "superres_latent": {"scheduler": LATENT_DPM_SOLVER},
    }
    config.train.data.update(name="synthetic", spread=0.25, pairs=0.6)
    config.train.update(log_every=20, evaluate_every=500, save_every=250, sample_every=1000, keep_every=500)
    for stage in TRAINED_STAGES:
        config.train[stage].update(TRAINING)
        config.train[stage].optimizer.update(OPTIMIZER)
    for name in ("first_frame", "superres_pixel"):
        config.train[name].max_noise_level = 200
    config.train.superres_pixel.batch_size = 2
    config.train.superres_latent.update(num_timesteps=600, num_frames=8)
    config.train.interpolation.batch_size = 8
    config.train.autoencoder.update(error="squared", kl_weight=1e-5, height=80, width=144)
    return config
