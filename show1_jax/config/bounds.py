"""The smallest and the largest value of every number in a config, a checkpoint or a run's record.

The ranges are wider than any real model needs. A number outside of them is a mistake or an attack, and is refused
before a network is built or memory is allocated. Settings inside the ranges can be computed, are refused because of
their size, or fail with one line for lack of memory.
"""

from collections.abc import Mapping
from typing import Final

MAX_SEED: Final = 2**32 - 1
MAX_LEVELS: Final = 16
"""Maximum number of entries of a tuple with one number for each level."""
MAX_BLOCK_LAYERS: Final = 128
"""Maximum number of layers of all levels together, in one direction (down or up); released networks have up to 17."""
MAX_VIDEO_PIXELS: Final = 2**32
"""Maximum number of pixels of all frames of a video together: 29 frames of 8K have a quarter of it."""
MAX_TIMESTEPS: Final = 100_000

_CHANNELS: Final = (1, 65_536)
_SIDE: Final = (1, 16_384)
_STEPS: Final = (1, 10**9)
_SHARE: Final = (0, 1)
_BELOW_ONE: Final = (0, 0.999_999_999)
_WEIGHT: Final = (0, 1e6)
_NORM_EPSILON: Final = (1e-30, 1)
_AXIS: Final = (-1, 10**6)

BOUNDS: Final[Mapping[str, tuple[float, float]]] = {
    # UNet and autoencoder
    "in_channels": _CHANNELS,
    "out_channels": _CHANNELS,
    "latent_channels": _CHANNELS,
    "block_out_channels": _CHANNELS,
    "layers_per_block": (1, 64),
    "down_head_dim": _CHANNELS,
    "mid_head_dim": _CHANNELS,
    "up_head_dim": _CHANNELS,
    "cross_attention_dim": _CHANNELS,
    "text_dim": _CHANNELS,
    "time_embedding_dim": _CHANNELS,
    "text_embedding_heads": (1, 4096),
    "transformer_in_head_dim": _CHANNELS,
    "norm_num_groups": _CHANNELS,
    "norm_eps": (0, 1),
    "freq_shift": (0, 1),
    "conv_in_kernel": (1, 31),
    "conv_out_kernel": (1, 31),
    "out_scale_factor": (1e-6, 1e6),
    "mid_scale_factor": (1e-6, 1e6),
    "scaling_factor": (1e-9, 1e9),
    # text encoders
    "vocab_size": (1, 10_000_000),
    "d_model": _CHANNELS,
    "d_kv": _CHANNELS,
    "d_ff": (1, 1_048_576),
    "hidden_size": _CHANNELS,
    "intermediate_size": (1, 1_048_576),
    "num_layers": (1, 256),
    "num_hidden_layers": (1, 256),
    "num_heads": (1, 4096),
    "num_attention_heads": (1, 4096),
    "max_position_embeddings": (1, 65_536),
    "relative_attention_num_buckets": (4, 65_536),
    "relative_attention_max_distance": (1, 1_048_576),
    "projection_dim": _CHANNELS,
    "image_size": (1, 1024),
    "patch_size": (1, 1024),
    "eos_token_id": (0, 10_000_000),
    "layer_norm_eps": _NORM_EPSILON,
    "layer_norm_epsilon": _NORM_EPSILON,
    # networks that recognise
    "num_classes": (1, 1_000_000),
    "stem_channels": _CHANNELS,
    **dict.fromkeys(("branch_0", "branch_1a", "branch_1b", "branch_2a", "branch_2b", "branch_3b"), _CHANNELS),
    "channels": _CHANNELS,
    "channel_divisor": (1, 16),
    # caches of text states
    "num_captions": (1, 10**9),
    "captions_per_file": (0, 10**9),
    "positions": (1, 1024),
    # sampling
    "num_steps": (1, MAX_TIMESTEPS),
    "guidance_scale": (-10_000, 10_000),
    "guidance_min_timestep": (0, MAX_TIMESTEPS - 1),
    "guidance_max_timestep": (0, MAX_TIMESTEPS - 1),
    "deep_every": (1, MAX_TIMESTEPS),
    "image_passes": (1, 1000),
    "fine_levels": (1, MAX_LEVELS),
    "num_frames": (1, 10_000),
    "height": _SIDE,
    "width": _SIDE,
    "num_between": (1, 1000),
    "noise_level": (0, MAX_TIMESTEPS - 1),
    "scale": (1, 64),
    "window": (1, 10_000),
    "stride": (1, 10_000),
    "strength": _SHARE,
    "memory_limit_gb": (0, 1e6),
    "seed": (0, MAX_SEED),
    "keyframes_fps": (0.1, 50),  # the highest rate of a GIF
    "fps": (0.1, 50),
    # meshes
    "data": _AXIS,
    "fsdp": _AXIS,
    "tensor": _AXIS,
    "guidance": (1, 2),
    "SamplingMeshConfig.height": _AXIS,
    # training
    "StageTrainingConfig.num_steps": _STEPS,
    "batch_size": (1, 10**7),
    "num_microbatches": (1, 10**6),
    "learning_rate": (0, 1e6),
    "warmup_steps": (0, 10**9),
    "final_share": _SHARE,
    "beta1": _BELOW_ONE,
    "beta2": _BELOW_ONE,
    "ema_decay": _BELOW_ONE,
    "epsilon": (1e-30, 1e9),
    "weight_decay": _WEIGHT,
    "clip_norm": _WEIGHT,
    "text_dropout": _SHARE,
    "num_timesteps": (1, MAX_TIMESTEPS),
    "rank": (1, 65_536),
    "AdapterConfig.rank": (0, 65_536),
    "alpha": (1e-6, 1e6),
    "num_bands": (1, 1000),
    "variational_weight": _WEIGHT,
    "max_noise_level": (0, MAX_TIMESTEPS),
    "SuperresPixelTrainingConfig.max_noise_level": (1, MAX_TIMESTEPS),
    "max_contrast": (1.0, 100.0),
    "kl_weight": _WEIGHT,
    "num_synthetic": (1, 10**9),
    "num_validation": (0, 10**6),
    "spread": _SHARE,
    "pan": _SHARE,
    "zoom": _SHARE,
    "jitter": _SHARE,
    "pairs": _SHARE,
    "same_color": _SHARE,
    "num_workers": (0, 4096),
    "max_failed_share": _SHARE,
    "log_every": _STEPS,
    "evaluate_every": (0, 10**9),
    "save_every": _STEPS,
    "sample_every": (0, 10**9),
    "keep": (1, 10**6),
    "keep_every": (0, 10**9),
    # records of runs
    "step": (0, 10**9),
    "next_batch": (0, 10**9),
    "num_read": (0, 10**18),
    "num_failed": (0, 10**18),
    "processes": (1, 10**6),
}
"""Smallest and largest allowed value by field name, or by class and field name where a class differs."""


def bounds(cls: type, field: str) -> tuple[float, float]:
    """Return the smallest and the largest value of a numeric field.

    Args:
        cls: class of settings that has the field.
        field: name of the field.

    Raises:
        KeyError: the field has no bounds.
    """
    for base in cls.__mro__:
        if (found := BOUNDS.get(f"{base.__name__}.{field}")) is not None:
            return found
    return BOUNDS[field]
