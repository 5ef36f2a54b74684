"""Inception's pool3 of frames by both preprocessings, against pytorch-fid and TensorFlow's resizing."""

from pathlib import Path

import numpy as np

import convert.recognition.inception
from show1_jax.evaluation.features.inception import INCEPTION, preprocess_as_pytorch_fid, preprocess_as_tensorflow
from tests.helpers.recorded import relative_error
from tests.helpers.small_networks import (
    INCEPTION_SMALL,
    compiled,
    convert_small,
    features,
    video,
    write_inception,
)

SIZES = ((64, 80), (320, 400))


def test_features_are_those_of_the_references(tmp_path: Path, recordings: dict[str, np.ndarray]) -> None:
    source = write_inception(tmp_path / "weights.pth")
    row = convert.recognition.inception.INCEPTION
    checkpoint, module = convert_small(row, source, tmp_path / "out", INCEPTION_SMALL)
    clips, compute = [video(2, *size) for size in SIZES], compiled(INCEPTION, module)
    for preprocessing in INCEPTION.options["preprocessing"]:
        pooled = features(INCEPTION, checkpoint, compute, clips, preprocessing=preprocessing)
        assert pooled.shape == (2, 2, 2048 // INCEPTION_SMALL.channel_divisor)
        assert relative_error(pooled, recordings[f"inception_v3/{preprocessing}"]) < 3e-5
    different = relative_error(recordings["inception_v3/tensorflow"], recordings["inception_v3/pytorch-fid"])
    assert different > 1e-3


def test_ranges_of_both_references() -> None:
    clip = np.stack([np.full((30, 40, 3), value, np.uint8) for value in (0, 128, 255)])
    np.testing.assert_allclose(preprocess_as_pytorch_fid(clip)[:, 7, 9, 0], [-1, 1 / 255, 1], atol=1e-6)
    np.testing.assert_allclose(preprocess_as_tensorflow(clip)[:, 7, 9, 0], [-1, 0, 127 / 128], atol=1e-6)
