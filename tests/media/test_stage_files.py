"""Stage files: every bit is restored, and a damaged or foreign file is refused in one line."""

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra import numpy as hnp

from show1_jax.errors import UserError
from show1_jax.media.stage_files import load_stage, read_start, save_stage


@given(hnp.arrays(np.float32, hnp.array_shapes(min_dims=4, max_dims=4, max_side=4)))
@settings(max_examples=30)
def test_stage_files_keep_every_bit(tmp_path_factory: pytest.TempPathFactory, clip: np.ndarray) -> None:
    path = tmp_path_factory.mktemp("stage") / "keyframes.safetensors"
    save_stage(path, clip, "keyframes")
    loaded = load_stage(path, "keyframes")
    assert loaded.dtype == np.float32
    assert loaded.shape == clip.shape
    np.testing.assert_array_equal(loaded.view(np.uint32), clip.view(np.uint32))


def test_stage_files_keep_transposed_views(tmp_path: Path) -> None:
    clip = np.moveaxis(np.arange(48, dtype=np.float32).reshape(2, 3, 2, 4), 1, -1)
    save_stage(tmp_path / "stage.safetensors", clip, "interpolation")
    np.testing.assert_array_equal(load_stage(tmp_path / "stage.safetensors"), clip)


def test_a_stage_file_has_metadata(tmp_path: Path) -> None:
    from safetensors import safe_open

    save_stage(tmp_path / "stage.safetensors", np.zeros((2, 8, 16, 3), np.float32), "first_frame")
    with safe_open(tmp_path / "stage.safetensors", "numpy") as file:
        metadata = file.metadata()
    assert metadata["stage"] == "first_frame"
    assert metadata["layout"] == "time height width channel"
    assert metadata["shape"] == "2 8 16 3"


@pytest.mark.parametrize("start", [{}, {"image": "ab"}, {"edit": {"stage": "keyframes", "strength": 0.5}}])
def test_a_stage_file_states_what_it_started_from(tmp_path: Path, start: dict[str, Any]) -> None:
    path = tmp_path / "stage.safetensors"
    save_stage(path, np.zeros((1, 2, 2, 3), np.float32), "keyframes", start)
    assert read_start(path) == start
    load_stage(path)
    path.write_bytes(path.read_bytes()[:20])
    assert read_start(path) == {}
    assert read_start(tmp_path / "none.safetensors") == {}


@pytest.mark.parametrize("array", [np.zeros((2, 8, 16, 3)), np.zeros((8, 16, 3), np.float32)], ids=["float64", "3-D"])
def test_only_float32_videos_are_stages(tmp_path: Path, array: np.ndarray) -> None:
    with pytest.raises(UserError, match="a stage must be float32"):
        inspect.unwrap(save_stage)(tmp_path / "stage.safetensors", array, "keyframes")
    assert not list(tmp_path.iterdir())


def flip_last_byte(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (flip_last_byte, "damaged"),
        (lambda data: data[:-7], "cannot read stage file"),
        (lambda data: data[:10], "cannot read stage file"),
        (lambda data: data + b"0", "cannot read stage file"),
        (lambda data: b"", "cannot read stage file"),
        (lambda data: b"\xff" * 100, "cannot read stage file"),
        (lambda data: data.replace(b"show1_jax.stage.v1", b"show1_jax.stage.v9"), "not a stage file"),
    ],
    ids=["bit", "truncated", "ten bytes", "longer", "empty", "garbage", "format"],
)
def test_a_damaged_stage_file_is_refused(tmp_path: Path, damage: Callable[[bytes], bytes], says: str) -> None:
    path = tmp_path / "stage.safetensors"
    save_stage(path, np.ones((2, 8, 16, 3), np.float32), "keyframes")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=says) as refusal:
        load_stage(path)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("dtype", "shape"), [("BF16", [2, 16, 16, 3]), ("F8_E4M3", [2, 32, 16, 3]), ("I32", [2, 8, 16, 3]), ("F32", [768])]
)
def test_a_stage_file_of_another_type_or_shape_is_refused(tmp_path: Path, dtype: str, shape: list[int]) -> None:
    path = tmp_path / "stage.safetensors"
    save_stage(path, np.ones((2, 8, 16, 3), np.float32), "keyframes")
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header["video"] |= {"dtype": dtype, "shape": shape}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])
    with pytest.raises(UserError, match="not a stage file"):
        load_stage(path)


def test_a_foreign_or_missing_stage_file_is_refused(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"video": np.zeros(3, np.float32)}, tmp_path / "weights.safetensors")
    with pytest.raises(UserError, match="not a stage file"):
        load_stage(tmp_path / "weights.safetensors")
    with pytest.raises(UserError, match="cannot read stage file"):
        load_stage(tmp_path / "missing.safetensors")


def test_the_file_of_another_stage_is_refused(tmp_path: Path) -> None:
    save_stage(tmp_path / "stage.safetensors", np.zeros((2, 8, 16, 3), np.float32), "keyframes")
    with pytest.raises(UserError, match="holds the stage keyframes, not interpolation"):
        load_stage(tmp_path / "stage.safetensors", "interpolation")
