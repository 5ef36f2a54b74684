"""C3D's logits of clips of 16 frames, for the Inception Score on UCF-101."""

from collections.abc import Callable, Mapping
from typing import Any, Final

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32

from show1_jax.checkpoints.checkpoint_set import CheckpointSet
from show1_jax.errors import UserError
from show1_jax.evaluation.features.network import Clip, FeatureNetwork, Prepare
from show1_jax.evaluation.features.resize import resize_bilinear, resize_cubic
from show1_jax.nn.recognition.c3d import MEAN_SIZE, NUM_FRAMES, SIDE

TGAN2: Final = "tgan2"
TGAN: Final = "tgan"

Frames = Float32[np.ndarray, "16 112 112 3"]

_MARGIN: Final = 8
"""Rows and columns that both implementations crop from the top left: 8 + 112 + 8 are 128."""
_TGAN_COLUMN: Final = 21
"""Column of the mean clip at which TGAN crops it to 128 columns; the crop to 112 follows."""


def _prepare(checkpoint: CheckpointSet, options: Mapping[str, str]) -> Prepare:
    preprocess, corner = _PREPROCESSING[options["preprocessing"]]

    def prepare(clip: Clip, caption: str) -> dict[str, np.ndarray]:
        if len(clip) != NUM_FRAMES:
            raise UserError(f"C3D takes clips of {NUM_FRAMES} frames, not {len(clip)}; choose clips of {NUM_FRAMES}")
        return {"frames": preprocess(clip), "corner": np.array(corner, np.int32)}

    return prepare


def preprocess_as_tgan2(clip: Clip) -> Frames:
    """Return frames, BGR from 0 to 255, resized to 112x112 bilinearly with aligned corners, as TGANv2 does.

    Chainer's `resize_images` has this rule.
    """
    return resize_bilinear(clip[..., ::-1], SIDE, SIDE, "align_corners")


def preprocess_as_tgan(clip: Clip) -> Frames:
    """Return frames, BGR from about 0 to 255, resized to 128x128 by OpenCV's cubic rule and cropped, as TGAN does."""
    kept = slice(_MARGIN, _MARGIN + SIDE)
    return resize_cubic(clip[..., ::-1], MEAN_SIZE[0], MEAN_SIZE[0])[:, kept, kept]


_PREPROCESSING: Final[Mapping[str, tuple[Callable[[Clip], Frames], tuple[int, int]]]] = {
    TGAN2: (preprocess_as_tgan2, (_MARGIN, _MARGIN)),
    TGAN: (preprocess_as_tgan, (_MARGIN, _TGAN_COLUMN + _MARGIN)),
}
"""For each choice, its resizing of frames, and the row and the column of the mean clip that belong to it."""


def _features(network: Any, inputs: Mapping[str, Array]) -> Float[Array, "b rows width"]:
    means = network.mean_clips(inputs["corner"]).astype(jnp.float32)
    logits = network(inputs["frames"] - means)
    return logits[:, None]


C3D: Final = FeatureNetwork(
    kind="c3d",
    settings={
        "network": "C3D, pre-trained on Sports-1M and fine-tuned on UCF-101 (TGAN's conv3d_deepnetA_ucf.npz)",
        "layer": "fc8, 101 logits of each clip",
        "input": f"{NUM_FRAMES} frames, BGR from 0 to 255 minus the mean clip, {SIDE}x{SIDE}, aspect ratio not kept",
    },
    prepare=_prepare,
    features=_features,
    options={"preprocessing": (TGAN2, TGAN)},
)
"""Logits of the 101 classes of UCF-101: one row a clip."""
