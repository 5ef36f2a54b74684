"""CLIP's similarity of each frame and the caption, for CLIPSIM and the CLIPScore."""

import threading
from collections.abc import Mapping
from typing import Any, Final

import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Float, UInt8
from PIL import Image

from show1_jax.checkpoints.arrays import tokenizer_folder
from show1_jax.checkpoints.checkpoint_set import CheckpointSet
from show1_jax.checkpoints.networks import architecture_of
from show1_jax.errors import UserError
from show1_jax.evaluation.features.network import Clip, FeatureNetwork, Prepare
from show1_jax.nn.recognition.clip import CLIPModelConfig
from show1_jax.text.tokenizers import load_clip_tokenizer

KIND: Final = "clip_model"

MEAN: Final = (0.48145466, 0.4578275, 0.40821073)
DEVIATION: Final = (0.26862954, 0.26130258, 0.27577711)
"""Mean and standard deviation of each channel, of values in [0, 1], with which CLIP was trained."""


def _prepare(checkpoint: CheckpointSet, options: Mapping[str, str]) -> Prepare:
    architecture = architecture_of(checkpoint.component(KIND))
    assert isinstance(architecture, CLIPModelConfig)
    side = architecture.image.image_size
    tokenizer = load_clip_tokenizer(tokenizer_folder(checkpoint.path(KIND), KIND))
    one_at_a_time = threading.Lock()  # the library's tokenizers fail if two threads use one

    def prepare(clip: Clip, caption: str) -> dict[str, np.ndarray]:
        if not caption:
            raise UserError("CLIP compares frames with captions, but this video has none; give captions")
        with one_at_a_time:
            ids = tokenizer([caption]).ids[0]
        return {"frames": crop_frames(clip, side), "ids": ids}

    return prepare


def crop_frames(clip: Clip, side: int) -> UInt8[np.ndarray, "t {side} {side} 3"]:
    """Return frames whose shorter side has `side` pixels, by Pillow's bicubic filter, cropped to their centre.

    These are the steps of `CLIPImageProcessor`; for an odd number of pixels to crop, OpenAI's code may shift the crop
    by a pixel.
    """
    height, width = clip.shape[1:3]
    short, long = sorted((height, width))
    scaled = int(side * long / short)
    new_height, new_width = (side, scaled) if height <= width else (scaled, side)
    top, left = (new_height - side) // 2, (new_width - side) // 2
    frames = [Image.fromarray(frame).resize((new_width, new_height), Image.Resampling.BICUBIC) for frame in clip]
    return np.stack([np.asarray(frame)[top : top + side, left : left + side] for frame in frames])


def normalise(frames: UInt8[Array, "*n h w 3"]) -> Float[Array, "*n h w 3"]:
    """Return the input of CLIP's image encoder."""
    mean, deviation = (jnp.asarray(values, jnp.float32) for values in (MEAN, DEVIATION))
    return (frames.astype(jnp.float32) / 255 - mean) / deviation


def _features(network: Any, inputs: Mapping[str, Array]) -> Float[Array, "b rows width"]:
    frames = inputs["frames"]
    images = _unit(network.image(normalise(rearrange(frames, "b t h w c -> (b t) h w c"))))
    images = rearrange(images, "(b t) d -> b t d", b=len(frames))
    texts = _unit(network.text(inputs["ids"]))
    return jnp.einsum("btd,bd->bt", images, texts, precision="highest")[..., None]


def _unit(vectors: Float[Array, "n d"]) -> Float[Array, "n d"]:
    vectors = vectors.astype(jnp.float32)
    return vectors / jnp.linalg.norm(vectors, axis=-1, keepdims=True)


def _describe(checkpoints: CheckpointSet) -> dict[str, Any]:
    """Return which CLIP it is, e.g. "ViT-B/32": its width names B and L, its patches the number."""
    architecture = architecture_of(checkpoints.component(KIND))
    assert isinstance(architecture, CLIPModelConfig)
    image = architecture.image
    size = {768: "B", 1024: "L", 1280: "H"}.get(image.hidden_size, f"{image.hidden_size}x{image.num_hidden_layers}")
    return {"model": f"ViT-{size}/{image.patch_size}"}


CLIP: Final = FeatureNetwork(
    kind=KIND,
    settings={
        "network": "CLIP, both towers",
        "layer": "cosine of the projected vectors of each frame and of the caption",
        "input": "all frames of a clip, RGB, shorter side resized by Pillow's bicubic filter, centre crop; captions "
        "cut off at 77 tokens, the end token kept",
    },
    prepare=_prepare,
    features=_features,
    describe=_describe,
)
"""Cosine of each frame and the caption: one row of one number a frame. CLIPSIM is their mean."""
