"""Finding and reading the weights of a component folder: variants, shards, and every kind of damage."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from convert.reader import open_weights
from convert.safetensors_file import read_safetensors
from show1_jax.errors import UserError

ONE = {"a": np.arange(6, dtype=np.float16).reshape(2, 3)}
TWO = {"b": np.arange(4, dtype=np.float32).astype(ml_dtypes.bfloat16)}
Kind = tuple[str, Callable[[Path, Mapping[str, np.ndarray]], None]]


def sharded(folder: Path, kind: Kind, variant: str = "") -> Path:
    """Two shards with their index, named as the libraries name them."""
    extension, write = kind
    names = [f"model{variant}-0000{number}-of-00002.{extension}" for number in (1, 2)]
    write(folder / names[0], ONE)
    write(folder / names[1], TWO)
    index = folder / f"model.{extension}.index{variant}.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": {"a": names[0], "b": names[1]}}))
    return index


@pytest.mark.parametrize("stem", ["diffusion_pytorch_model", "model", "pytorch_model"])
@pytest.mark.parametrize("variant", [None, "fp16", "non_ema"])
def test_whole_files_of_every_name(tmp_path: Path, kind: Kind, stem: str, variant: str | None) -> None:
    extension, write = kind
    write(tmp_path / (f"{stem}.{variant}.{extension}" if variant else f"{stem}.{extension}"), ONE | TWO)
    for asked in (None, variant):
        weights = open_weights(tmp_path, asked)
        assert weights.variant == variant
        assert list(weights) == ["a", "b"]
        np.testing.assert_array_equal(weights["a"], ONE["a"])
        np.testing.assert_array_equal(weights["b"], TWO["b"])
    weights.release()
    np.testing.assert_array_equal(weights["a"], ONE["a"])


@pytest.mark.parametrize("variant", ["", ".fp16"])
def test_shards(tmp_path: Path, kind: Kind, variant: str) -> None:
    index = sharded(tmp_path, kind, variant)
    weights = open_weights(tmp_path)
    assert weights.variant == (variant.removeprefix(".") or None)
    assert weights.files[0] == index
    assert len(weights.files) == 3
    np.testing.assert_array_equal(weights["a"], ONE["a"])
    np.testing.assert_array_equal(weights["b"], TWO["b"])


def test_arrays_are_read_only_views(tmp_path: Path, kind: Kind) -> None:
    kind[1](tmp_path / f"model.{kind[0]}", ONE)
    array = open_weights(tmp_path)["a"]
    assert not array.flags.owndata
    assert not array.flags.writeable


def test_preferences(tmp_path: Path, by_hand: SimpleNamespace) -> None:
    by_hand.state_dict(tmp_path / "pytorch_model.bin", ONE)
    by_hand.state_dict(tmp_path / "pytorch_model.fp16.bin", ONE)
    assert open_weights(tmp_path).files[0].name == "pytorch_model.bin"
    assert open_weights(tmp_path, "fp16").files[0].name == "pytorch_model.fp16.bin"
    by_hand.safetensors(tmp_path / "model.safetensors", ONE)
    assert open_weights(tmp_path).files[0].name == "model.safetensors"
    assert open_weights(tmp_path, "bf16").variant is None
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "pytorch_model.bin").unlink()
    by_hand.safetensors(tmp_path / "model.ema.safetensors", ONE)
    with pytest.raises(UserError, match=r"several variants \(ema, fp16\); choose one with --variant"):
        open_weights(tmp_path)
    with pytest.raises(UserError, match=r"no variant 'bf16'; there is ema, fp16"):
        open_weights(tmp_path, "bf16")


def test_missing_folders_files_and_indices(tmp_path: Path, kind: Kind) -> None:
    with pytest.raises(UserError, match="no such folder"):
        open_weights(tmp_path / "unet")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="no weights"):
        open_weights(tmp_path)
    sharded(tmp_path, kind).unlink()
    with pytest.raises(UserError, match=r"no \*\.index\.json"):
        open_weights(tmp_path)


def test_an_index_that_does_not_agree_with_its_shards(tmp_path: Path, kind: Kind) -> None:
    index = sharded(tmp_path, kind)
    good = json.loads(index.read_text())["weight_map"]

    def opened_with(weight_map: object) -> None:
        index.write_text(json.dumps({"weight_map": weight_map}))
        open_weights(tmp_path)

    with pytest.raises(UserError, match=f"shards that are not there: model-3.{kind[0]};"):
        opened_with(good | {"c": f"model-3.{kind[0]}"})
    with pytest.raises(UserError, match=r"about 1 tensors: c in"):
        opened_with(good | {"c": good["a"]})
    kind[1](tmp_path / good["a"], ONE | {"extra": ONE["a"]})
    with pytest.raises(UserError, match=r"about 1 tensors: extra in"):
        opened_with(good)
    for hostile in (f"../{good['a']}", "/etc/passwd", "model.pkl"):
        with pytest.raises(UserError, match="names the shard"):
            opened_with(good | {"a": hostile})
    for broken in ({}, [], {"a": 1}, "x"):
        with pytest.raises(UserError, match="not an index"):
            opened_with(broken)
    index.write_text("{")
    with pytest.raises(UserError, match="not an index"):
        open_weights(tmp_path)


def header_of(path: Path, entry: object) -> None:
    blob = json.dumps({"a": entry}).encode()
    path.write_bytes(len(blob).to_bytes(8, "little") + blob + bytes(16))


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"dtype": "F32", "shape": [5], "data_offsets": [0, 20]}, "truncated, 'a' ends at byte"),
        ({"dtype": "F32", "shape": [5], "data_offsets": [0, 16]}, "16 bytes, which do not fit its shape"),
        ({"dtype": "F32", "shape": [-1], "data_offsets": [0, 16]}, "damaged header entry"),
        ({"dtype": "F32", "shape": [4], "data_offsets": [-16, 0]}, "damaged header entry"),
        ({"dtype": "F32", "shape": [4]}, "damaged header entry"),
        ({"dtype": "F32", "shape": "4", "data_offsets": [0, 16]}, "damaged header entry"),
        ([], "damaged header entry"),
        ({"dtype": "F8_E4M3", "shape": [16], "data_offsets": [0, 16]}, "element type 'F8_E4M3'"),
        ({"dtype": ["F32"], "shape": [4], "data_offsets": [0, 16]}, "damaged header entry"),
    ],
)
def test_damaged_safetensors_headers(tmp_path: Path, entry: object, message: str) -> None:
    header_of(tmp_path / "a.safetensors", entry)
    with pytest.raises(UserError, match=message):
        read_safetensors(tmp_path / "a.safetensors")


def test_a_name_twice_is_refused(tmp_path: Path) -> None:
    entry = json.dumps({"dtype": "F32", "shape": [4], "data_offsets": [0, 16]})
    blob = f'{{"a": {entry}, "a": {entry}}}'.encode()
    (tmp_path / "a.safetensors").write_bytes(len(blob).to_bytes(8, "little") + blob + bytes(16))
    with pytest.raises(UserError, match="a name twice"):
        read_safetensors(tmp_path / "a.safetensors")


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_safetensors_give_one_line_or_tensors_inside_the_file(
    tmp_path: Path, by_hand: SimpleNamespace, data: st.DataObject
) -> None:
    path = tmp_path / "a.safetensors"
    path.unlink(missing_ok=True)
    by_hand.safetensors(path, ONE | TWO)
    raw = bytearray(path.read_bytes())
    del raw[data.draw(st.integers(0, len(raw)), "length") :]
    for _ in range(data.draw(st.integers(0, 4), "flips")):
        if raw:
            raw[data.draw(st.integers(0, len(raw) - 1), "at")] ^= 1 << data.draw(st.integers(0, 7), "bit")
    path.unlink()
    path.write_bytes(raw)
    message = ""
    try:
        for tensor in read_safetensors(path).values():
            tensor.view().tobytes()
    except UserError as error:
        message = str(error)
    assert "\n" not in message
