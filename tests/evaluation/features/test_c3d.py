"""C3D's logits of videos by both preprocessings, against TGAN's definition and OpenCV."""

from pathlib import Path

import numpy as np
import pytest

import convert.recognition.c3d
from show1_jax.errors import UserError
from show1_jax.evaluation.features.c3d import C3D, preprocess_as_tgan, preprocess_as_tgan2
from tests.helpers.recorded import relative_error
from tests.helpers.small_networks import C3D_SMALL, compiled, convert_small, features, video, write_c3d

SIZES = ((64, 64), (144, 176))


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_c3d(tmp_path_factory.mktemp("c3d"))


def test_logits_are_those_of_the_reference(published: Path, tmp_path: Path, recordings: dict[str, np.ndarray]) -> None:
    checkpoint, module = convert_small(convert.recognition.c3d.C3D, published, tmp_path / "out", C3D_SMALL)
    clips, compute = [video(16, *size) for size in SIZES], compiled(C3D, module)
    for preprocessing in C3D.options["preprocessing"]:
        logits = features(C3D, checkpoint, compute, clips, preprocessing=preprocessing)
        assert logits.shape == (2, 1, C3D_SMALL.num_classes)
        assert relative_error(logits[:, 0], recordings[f"c3d/{preprocessing}"]) < 3e-5
    different = relative_error(recordings["c3d/tgan"], recordings["c3d/tgan2"])
    assert different > 1e-3  # so that this test could tell one from the other


@pytest.mark.parametrize("preprocess", [preprocess_as_tgan2, preprocess_as_tgan])
def test_channels_are_bgr_and_the_range_is_kept(preprocess: object) -> None:
    assert callable(preprocess)
    clip = np.zeros((16, 60, 90, 3), np.uint8)
    clip[..., 0] = 255
    np.testing.assert_allclose(preprocess(clip), np.broadcast_to([0, 0, 255], (16, 112, 112, 3)), atol=1e-3)


def test_frames_of_112_are_not_changed() -> None:
    clip = video(16, 112, 112)
    np.testing.assert_array_equal(preprocess_as_tgan2(clip), clip[..., ::-1])


def test_clips_of_another_length_are_refused(published: Path, tmp_path: Path) -> None:
    checkpoint, _ = convert_small(convert.recognition.c3d.C3D, published, tmp_path / "out", C3D_SMALL)
    prepare = C3D.prepare(checkpoint, {"preprocessing": "tgan2"})
    with pytest.raises(UserError, match="clips of 16 frames, not 15"):
        prepare(video(15, 64, 64), "")
