"""Small networks of metrics: their sizes, weights and inputs, the same for the recordings of the references and for tests.

Weights are drawn from their names, so that no file stores them. `RandomState` never changes its draws.
"""

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from show1_jax.nn.recognition.c3d import C3DConfig
from show1_jax.nn.recognition.inception import InceptionV3Config

C3D_SMALL = C3DConfig(channels=(8, 8, 12, 12, 16, 16, 16, 16), hidden_size=24, num_classes=7)
INCEPTION_SMALL = InceptionV3Config(num_classes=13, channel_divisor=16)
CLIP_TOWER = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
CAPTIONS = ("a red ball rolls over the grass", "two dogs " * 60)
"""The second caption has more than 77 tokens."""


def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return a released weight of that name, float32: of unit gain for kernels, around 1 for scales and variances."""
    rng = np.random.RandomState(zlib.crc32(name.encode()))
    if name.endswith("running_var") or (name.endswith((".weight", "/W")) and len(shape) == 1):
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    scale = np.sqrt(2 / np.prod(shape[1:])) if len(shape) > 1 else 0.3
    if "embedding" in name:
        scale = 0.3
    return np.asarray(scale * rng.standard_normal(shape), np.float32)


def draw_all(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    return {name: draw(name, shape) for name, shape in shapes.items()}


def mean_clip() -> np.ndarray:
    """Return a mean clip as `mean2.npz` has it: channels (BGR), frames, height, width."""
    return np.random.RandomState(5).uniform(80, 120, (3, 16, 128, 171)).astype(np.float32)


def video(frames: int, height: int, width: int) -> np.ndarray:
    """Return a video of moving waves with noise, uint8 RGB."""
    rng = np.random.RandomState(frames + height)
    t, y, x, c = np.meshgrid(*(np.arange(size) for size in (frames, height, width, 3)), indexing="ij")
    waves = np.sin(0.3 * t + 0.11 * y * (1 + c) / 3) * np.cos(0.07 * x + c - 0.2 * t)
    return np.clip(127.5 + 90 * waves + 25 * rng.standard_normal(waves.shape), 0, 255).astype(np.uint8)


def clip_json(vocab_size: int, **changes: Any) -> dict[str, Any]:
    """Return the `config.json` of a small CLIP."""
    return {
        "model_type": "clip",
        "projection_dim": 20,
        "text_config": {**CLIP_TOWER, "model_type": "clip_text_model", "vocab_size": vocab_size, "eos_token_id": 2},
        "vision_config": {**CLIP_TOWER, "model_type": "clip_vision_model", "image_size": 224, "patch_size": 32},
        **changes,
    }
