"""CLIP's cosines of frames and captions, against transformers; frames against Pillow, exactly."""

import functools
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

import convert.recognition.clip
from show1_jax.errors import UserError
from show1_jax.evaluation.features.clip import CLIP, crop_frames, normalise
from tests.helpers.recorded import relative_error
from tests.helpers.small_networks import convert_small, features, video, write_clip

SIZES = ((64, 80), (301, 240))


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


@pytest.mark.parametrize("end", ["argmax", "eos"])
def test_cosines_are_those_of_the_reference(tmp_path: Path, recordings: dict[str, np.ndarray], end: str) -> None:
    (tmp_path / "clip").mkdir()
    folder = write_clip(tmp_path / "clip", end=end)
    checkpoint, module = convert_small(convert.recognition.clip.CLIP, folder, tmp_path / "out")
    clips = [video(2, *size) for size in SIZES]
    images = np.stack([recordings[f"clip_model/image/{height}"] for height, _ in SIZES])
    texts = recordings[f"clip_model/text/{end}"]
    graph, state = nnx.split(module)

    @jax.jit
    def compute(state: nnx.State, batch: Mapping[str, jax.Array]) -> tuple[jax.Array, ...]:
        network = nnx.merge(graph, state)
        frames = normalise(batch["frames"].reshape(-1, 224, 224, 3))
        return CLIP.features(network, batch), network.image(frames), network.text(batch["ids"])

    cosines, image, text = features(CLIP, checkpoint, functools.partial(compute, state), clips)
    assert relative_error(image, images.reshape(4, -1)) < 3e-5
    assert relative_error(text, texts) < 3e-5
    assert cosines.shape == (2, 2, 1)
    np.testing.assert_allclose(cosines[..., 0], np.einsum("btd,bd->bt", unit(images), unit(texts)), atol=3e-6)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_frames_are_exactly_those_of_the_processor(recordings: dict[str, np.ndarray], height: int, width: int) -> None:
    frames = crop_frames(video(2, height, width), 224)
    expected = recordings[f"clip_model/frames/{height}"]
    np.testing.assert_array_equal(frames[:1, ::16, ::16].transpose(0, 3, 1, 2), expected)


@settings(max_examples=30)
@given(st.integers(1, 90), st.integers(1, 90))
def test_frames_of_any_shape_are_cropped_to_their_centre(height: int, width: int) -> None:
    clip = np.zeros((2, height, width, 3), np.uint8)
    clip[:, height // 2 :, width // 2 :] = 255
    frames = crop_frames(clip, 32)
    assert frames.shape == (2, 32, 32, 3)
    assert frames[0, -1, -1, 0] > 127


def test_a_video_without_a_caption_is_refused(tmp_path: Path) -> None:
    (tmp_path / "clip").mkdir()
    checkpoint, _ = convert_small(convert.recognition.clip.CLIP, write_clip(tmp_path / "clip"), tmp_path / "out")
    with pytest.raises(UserError, match="this video has none; give captions"):
        CLIP.prepare(checkpoint, {})(video(1, 64, 64), "")
