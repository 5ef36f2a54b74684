"""Reads of the weights of a component folder: variants, shards, and every kind of damage."""

import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load as safetensors_load

from convert.reader import open_weights
from convert.safetensors_file import read_safetensors
from show1_jax.errors import UserError

ONE = {"a": np.arange(6, dtype=np.float16).reshape(2, 3)}
TWO = {"b": np.arange(4, dtype=np.float32).astype(ml_dtypes.bfloat16)}
Kind = tuple[str, Callable[[Path, Mapping[str, np.ndarray]], None]]


def sharded(folder: Path, kind: Kind, variant: str = "") -> Path:
    """Write two shards with their index, with the names that the libraries use."""
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


NAMES = {
    "transformers, and diffusers but 0.30": ("{stem}.{variant}{number}.{kind}", "{stem}.{kind}.index.{variant}.json"),
    "diffusers 0.30": ("{stem}{number}.{variant}.{kind}", "{stem}.{kind}.{variant}.index.json"),
}


@pytest.mark.parametrize("stem", ["diffusion_pytorch_model", "model", "pytorch_model"])
@pytest.mark.parametrize("writer", NAMES)
@pytest.mark.parametrize("variant", ["fp16", "non_ema", "non-ema"])
def test_shards_of_variants_as_each_release_names_them(
    tmp_path: Path, kind: Kind, stem: str, writer: str, variant: str
) -> None:
    extension, write = kind
    shard, index = NAMES[writer]
    names = {"stem": stem, "variant": variant, "kind": extension}
    shards = [shard.format(number=f"-0000{number}-of-00002", **names) for number in (1, 2)]
    write(tmp_path / shards[0], ONE)
    write(tmp_path / shards[1], TWO)
    with pytest.raises(UserError, match=r"shards of weights but no \*\.index\.json"):
        open_weights(tmp_path)
    weight_map = {"a": shards[0], "b": shards[1]}
    (tmp_path / index.format(**names)).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    for asked in (None, variant, "another"):
        if asked == "another":
            write(tmp_path / f"{stem}.{extension}", TWO)
        weights = open_weights(tmp_path, asked)
        assert weights.variant == (None if asked == "another" else variant)
        assert list(weights) == (["b"] if asked == "another" else ["a", "b"])
        np.testing.assert_array_equal(weights["b"], TWO["b"])


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
    no_indices: tuple[object, ...] = ({}, [], {"a": 1}, "x")
    for broken in no_indices:
        with pytest.raises(UserError, match="not an index"):
            opened_with(broken)
    index.write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        open_weights(tmp_path)
    index.write_text("[" * 100_000)
    with pytest.raises(UserError, match="not valid JSON"):
        open_weights(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "model.bin", "model.safetensors.index.json"])
@pytest.mark.parametrize("what", ["fifo", "folder", "device"])
def test_only_regular_files_are_read(tmp_path: Path, name: str, what: str) -> None:
    path = tmp_path / name
    {"fifo": os.mkfifo, "folder": os.mkdir, "device": lambda path: path.symlink_to("/dev/zero")}[what](path)
    with pytest.raises(UserError, match=r"not a regular file|leads out of"):
        open_weights(tmp_path)


def test_links_lead_no_further_than_the_folder(tmp_path: Path, kind: Kind) -> None:
    extension, write = kind
    write(tmp_path / "elsewhere", ONE)
    folder = tmp_path / "unet"
    folder.mkdir()
    path = folder / f"model.{extension}"
    for target in ("../elsewhere", tmp_path / "elsewhere", path.name, "nowhere/at/all", "../unet2/x"):
        path.unlink(missing_ok=True)
        path.symlink_to(target)
        with pytest.raises(UserError, match=rf"model\.{extension}: (leads out of|a link that leads|no such file)"):
            open_weights(folder)
    (tmp_path / "elsewhere").rename(folder / "inside")
    path.unlink()
    path.symlink_to("inside")
    np.testing.assert_array_equal(open_weights(folder)["a"], ONE["a"])


def test_shards_that_are_links_lead_no_further_than_the_folder(tmp_path: Path, kind: Kind) -> None:
    (tmp_path / "unet").mkdir()
    sharded(tmp_path / "unet", kind)
    shard = tmp_path / "unet" / f"model-00001-of-00002.{kind[0]}"
    shard.rename(tmp_path / "elsewhere")
    shard.symlink_to("../elsewhere")
    with pytest.raises(UserError, match=r"model-00001-of-00002.* leads out of .*unet by a link"):
        open_weights(tmp_path / "unet")


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
        ({"dtype": "F32", "shape": [4.0], "data_offsets": [0, 16]}, "damaged header entry"),
        ({"dtype": "F32", "shape": [True, 4], "data_offsets": [0, 16]}, "damaged header entry"),
        ({"dtype": "F32", "shape": [2**64, 0], "data_offsets": [0, 0]}, "damaged header entry"),
        ({"dtype": "F32", "shape": [10**400], "data_offsets": [0, 16]}, "damaged header entry"),
        ({"dtype": "F32", "shape": [1] * 10**5, "data_offsets": [0, 4]}, "damaged header entry"),
        ({"dtype": "x" * 10**6, "shape": [4], "data_offsets": [0, 16]}, "element type 'x"),
        ({"dtype": "F32", "shape": [4], "data_offsets": [0, 16], "x": float("nan")}, "NaN is not a number in JSON"),
        ({"dtype": "F32", "shape": [3], "data_offsets": [0, 12]}, "4 bytes behind its last tensor"),
        ({"dtype": "F32", "shape": [2], "data_offsets": [8, 16]}, "'a' leaves 8 bytes behind the header"),
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
    with pytest.raises(UserError, match="twice in one object"):
        read_safetensors(tmp_path / "a.safetensors")


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
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


def with_header(path: Path, header: object, size: int) -> None:
    blob = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(blob).to_bytes(8, "little") + blob + bytes(size))


def entry(begin: int, end: int) -> dict[str, object]:
    return {"dtype": "U8", "shape": [end - begin], "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("header", "size", "message"),
    [
        ({"a": entry(0, 8), "b": entry(4, 12)}, 12, "'b' overlaps 'a'; do not trust this file"),
        ({"a": entry(0, 8), "b": entry(0, 8)}, 8, "'b' overlaps 'a'"),
        ({"a": entry(0, 8), "b": entry(2, 4)}, 8, "'b' overlaps 'a'"),
        ({"a": entry(0, 8), "b": entry(9, 12)}, 12, "'b' leaves 1 bytes behind 'a'"),
        ({"a": entry(1, 8)}, 8, "'a' leaves 1 bytes behind the header"),
        ({"a": entry(0, 8)}, 9, "1 bytes behind its last tensor"),
        ({}, 1, "1 bytes behind its last tensor"),
        ({"a\nb": entry(1, 8)}, 8, r"'a\\nb' leaves 1 bytes"),
        ({"__metadata__": {"a": 1}, "a": entry(0, 8)}, 8, "__metadata__ is not a table of texts"),
        ({"__metadata__": [], "a": entry(0, 8)}, 8, "__metadata__ is not a table of texts"),
        (b'{"a": 1, "a": 2}', 0, "the header is damaged .the name 'a' twice in one object."),
        (b'{"\\ud800": 1}', 0, "not valid Unicode"),
        ("{}".encode("utf-16"), 0, "the header is damaged"),
        (b"[" * 100_000, 0, "the header is damaged"),
        (b'{"a":' * 1000 + b"1" + b"}" * 1000, 0, "the header is damaged"),
        (b" " * ((16 << 20) + 1), 0, "a header of 16,777,217 bytes"),
    ],
)
def test_headers_that_the_library_refuses_are_refused(tmp_path: Path, header: object, size: int, message: str) -> None:
    with_header(tmp_path / "a.safetensors", header, size)
    with pytest.raises(UserError, match=message) as refusal:
        read_safetensors(tmp_path / "a.safetensors")
    assert "\n" not in str(refusal.value)


def test_a_header_that_claims_to_be_larger_than_the_file_is_refused_at_once(tmp_path: Path) -> None:
    for length in (9, 10**8, 2**63, 2**64 - 1):
        (tmp_path / "a.safetensors").write_bytes(length.to_bytes(8, "little") + b"{}")
        with pytest.raises(UserError, match="truncated inside the header"):
            read_safetensors(tmp_path / "a.safetensors")


numbers = st.integers(0, 12)
headers = st.dictionaries(
    st.sampled_from(["a", "b", "c", "__metadata__"]) | st.text(max_size=2),
    st.one_of(
        st.builds(
            lambda dtype, shape, begin, slack: {
                "dtype": dtype,
                "shape": shape,
                "data_offsets": [begin, begin + math.prod(shape) * {"U8": 1, "F16": 2, "F32": 4}[dtype] + slack],
            },
            st.sampled_from(["U8", "F16", "F32"]),
            st.lists(st.integers(0, 4), max_size=2),
            numbers,
            st.sampled_from([0, 0, 0, 1]),
        ),
        st.dictionaries(st.text(max_size=2), st.text(max_size=2), max_size=1),
    ),
    max_size=4,
)


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(header=headers, packed=st.booleans(), size=st.integers(-1, 2))
def test_the_library_and_we_accept_the_same_files(
    tmp_path: Path, header: dict[str, Any], packed: bool, size: int
) -> None:
    end = 0
    for described in header.values() if packed else ():
        if "data_offsets" in described:
            begin, stop = described["data_offsets"]
            described["data_offsets"], end = [end, end + stop - begin], end + stop - begin
    ends = [described["data_offsets"][1] for described in header.values() if "data_offsets" in described]
    path = tmp_path / "a.safetensors"
    path.unlink(missing_ok=True)
    with_header(path, header, max(0, max(ends, default=0) + (0 if size == 2 else size)))
    try:
        theirs: dict[str, np.ndarray] | None = safetensors_load(path.read_bytes())
    except Exception:
        theirs = None
    try:
        ours: dict[str, np.ndarray] | None = {name: each.view() for name, each in read_safetensors(path).items()}
    except UserError:
        ours = None
    assert (ours is None) == (theirs is None)
    if ours is not None and theirs is not None:
        np.testing.assert_equal(ours, theirs)
