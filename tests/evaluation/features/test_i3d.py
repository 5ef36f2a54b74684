"""I3D's inputs as the reference implementation of FVD makes them, and its features from a checkpoint."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from show1_jax.checkpoints.checkpoint_set import CheckpointSet
from show1_jax.config.sampling import MeshConfig
from show1_jax.evaluation.features.i3d import I3D, i3d_input
from show1_jax.evaluation.features.resize import RESIZE_RULES, ResizeRule, resize_bilinear
from show1_jax.parallel.mesh import make_mesh
from tests.helpers.recognition import THIN_I3D, write_thin_i3d


def test_black_is_minus_one_and_white_is_one() -> None:
    clip = np.stack([np.zeros((64, 48, 3), np.uint8), np.full((64, 48, 3), 255, np.uint8)])
    video = i3d_input(clip, "asymmetric")
    assert video.shape == (2, 224, 224, 3)
    assert video.dtype == np.float32
    assert (video[0] == -1).all()
    assert (video[1] == 1).all()


@pytest.mark.parametrize("rule", RESIZE_RULES)
def test_frames_are_stretched_by_the_chosen_rule(rule: ResizeRule) -> None:
    clip = np.random.RandomState(0).randint(0, 256, (2, 40, 64, 3)).astype(np.uint8)
    expected = 2 * resize_bilinear(clip, 224, 224, rule).astype(np.float64) / 255 - 1
    np.testing.assert_allclose(i3d_input(clip, rule), expected, atol=2e-7)
    assert I3D.options["resize"][0] == "asymmetric"


def test_features_of_a_checkpoint_are_its_networks_logits(golden: Path, tmp_path: Path) -> None:
    checkpoints = CheckpointSet.open(write_thin_i3d(golden, tmp_path / "i3d"))
    network = checkpoints.load(I3D.kind, make_mesh(MeshConfig(), jax.devices()[:1]), jnp.float32)
    prepare = I3D.prepare(checkpoints, {"resize": "half_pixel"})
    clips = np.random.RandomState(1).randint(0, 256, (2, 9, 32, 32, 3)).astype(np.uint8)
    inputs = {"video": np.stack([prepare(clip, "")["video"] for clip in clips])}
    features = jax.jit(lambda weights, batch: I3D.features(network._replace(weights=weights).module, batch))
    rows = np.asarray(features(network.weights, inputs))
    assert rows.shape == (2, 1, THIN_I3D.num_classes)
    swapped = np.asarray(features(network.weights, {"video": inputs["video"][::-1]}))
    np.testing.assert_allclose(swapped[::-1], rows, rtol=1e-5, atol=1e-5)
    assert np.abs(rows[0] - rows[1]).max() > 0.01
