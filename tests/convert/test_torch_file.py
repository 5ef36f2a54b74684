"""Reads of torch's zip of a pickle without torch: whole, strided and shared tensors, damage, and hostile pickles."""

import os
import pickle
import time
import zipfile
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from convert.mapped import TensorTable
from convert.torch_file import read_torch_file
from show1_jax.errors import UserError
from tests.helpers.weight_files import Hostile

NUMBERS = np.arange(24, dtype=np.float32)


def test_recorded_files_are_read(golden: Path) -> None:
    tensors = read_torch_file(golden / "checkpoints/show-1-base/unet/diffusion_pytorch_model.fp16.bin")
    assert len(tensors) == 431
    weight = tensors["conv_in.weight"].view()
    assert weight.shape == (32, 3, 3, 3)
    assert weight.dtype == np.float16
    assert np.isfinite(weight).all()
    assert weight.std() > 0


@pytest.mark.parametrize("dtype", [np.float16, np.float32, ml_dtypes.bfloat16, np.int64])
def test_values_of_every_type_and_shape(tmp_path: Path, by_hand: SimpleNamespace, dtype: type) -> None:
    arrays: dict[str, np.ndarray] = {
        "matrix": NUMBERS.reshape(4, 6).astype(dtype),
        "scalar": np.array(3, dtype),
        "empty": np.zeros((0, 4), dtype),
    }
    by_hand.state_dict(tmp_path / "a.bin", arrays)
    read = read_torch_file(tmp_path / "a.bin")
    for name, array in arrays.items():
        assert read[name].view().dtype == array.dtype
        np.testing.assert_array_equal(read[name].view(), array)


def test_strided_offset_and_shared_storages(tmp_path: Path, by_hand: SimpleNamespace) -> None:
    write = by_hand.Pickle({"0": NUMBERS})
    views = {
        "transposed": (by_hand.Tensor("0", 0, (6, 4), (1, 6)), NUMBERS.reshape(4, 6).T),
        "slice": (by_hand.Tensor("0", 7, (2, 3), (6, 2)), NUMBERS[7:19].reshape(2, 6)[:, ::2]),
        "last": (by_hand.Tensor("0", 23, (1,), (1,)), NUMBERS[23:]),
    }
    body = write.dict({name: write.tensor(tensor) for name, (tensor, _) in views.items()})
    by_hand.torch_zip(tmp_path / "a.bin", body, {"0": NUMBERS})
    read = read_torch_file(tmp_path / "a.bin")
    for name, (_, expected) in views.items():
        np.testing.assert_array_equal(read[name].view(), expected)


def test_parameters_memo_and_metadata_of_a_module(tmp_path: Path, by_hand: SimpleNamespace) -> None:
    write = by_hand.Pickle({"0": NUMBERS})
    tensor = write.tensor(by_hand.Tensor("0", 0, (24,), (1,)))
    hooks = write.name("collections", "OrderedDict") + b")R"
    parameter = write.name("torch._utils", "_rebuild_parameter") + write.tuple(tensor, b"\x88", hooks) + b"R"
    items = b"(" + write.text("a") + parameter + b"q\x05" + write.text("b") + b"h\x05" + b"u"
    metadata = write.dict({"_metadata": write.dict({})})
    by_hand.torch_zip(tmp_path / "a.bin", hooks + items + metadata + b"b", {"0": NUMBERS})
    read = read_torch_file(tmp_path / "a.bin")
    assert list(read) == ["a", "b"]
    np.testing.assert_array_equal(read["b"].view(), NUMBERS)


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [
        (0, (25,), (1,)),
        (1, (24,), (1,)),
        (0, (2, 2), (23, 1)),
        (25, (0,), (1,)),
        (0, (2**40,), (0,)),
        (0, (2**62, 2**62), (0, 0)),
        (-1, (2,), (1,)),
        (2, (2,), (-1,)),
        (0, (2, 2), (1,)),
        (0, (1,) * 9, (1,) * 9),
    ],
)
def test_no_tensor_reaches_outside_its_storage(
    tmp_path: Path, by_hand: SimpleNamespace, offset: int, size: tuple[int, ...], stride: tuple[int, ...]
) -> None:
    write = by_hand.Pickle({"0": NUMBERS})
    body = write.dict({"a": write.tensor(by_hand.Tensor("0", offset, size, stride))})
    by_hand.torch_zip(tmp_path / "a.bin", body, {"0": NUMBERS})
    with pytest.raises(UserError, match=r"a\.bin: a tensor (of|with)"):
        read_torch_file(tmp_path / "a.bin")


def test_storage_smaller_than_it_says(tmp_path: Path, by_hand: SimpleNamespace) -> None:
    write = by_hand.Pickle({"0": NUMBERS})
    body = write.dict({"a": write.tensor(by_hand.Tensor("0", 0, (24,), (1,)))})
    by_hand.torch_zip(tmp_path / "a.bin", body, {"0": NUMBERS[:20]})
    with pytest.raises(UserError, match=r"storage '0' has 80 bytes, not 24 of float32"):
        read_torch_file(tmp_path / "a.bin")
    by_hand.torch_zip(tmp_path / "a.bin", body, {})
    with pytest.raises(UserError, match=r"archive/data/0 is missing"):
        read_torch_file(tmp_path / "a.bin")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    ("function", "name"),
    [(os.system, f"{os.system.__module__}.system"), (eval, "eval"), (os.open, "open"), (getattr, "getattr")],
)
def test_a_hostile_pickle_is_refused_by_the_name_it_requests(
    tmp_path: Path, by_hand: SimpleNamespace, protocol: int, function: object, name: str
) -> None:
    trap = tmp_path / "trap"
    body = pickle.dumps({"a": Hostile(function, f"touch {trap}")}, protocol)
    with zipfile.ZipFile(tmp_path / "a.bin", "w") as archive:
        archive.writestr("archive/data.pkl", body)
    with pytest.raises(UserError, match=rf"a\.bin: its pickle asks for '[\w.]*{name}'|uses the instruction"):
        read_torch_file(tmp_path / "a.bin")
    assert not trap.exists()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"ctorch.nn\nLinear\n", r"asks for 'torch\.nn\.Linear'"),
        (b"\x8c\x05posix\x8c\x06system\x93", r"asks for 'posix\.system'"),
        (b"(iposix\nsystem\n", r"asks for 'posix\.system'"),
        (b"}" + b"\x94" + b"\x8c\x01a" + b"\x93", r"a name that is not text"),
        (b"ccollections\nOrderedDict\n(K\x01tR", r"a call that no state dict has"),
        (b"ccollections\nOrderedDict\n)\x81", r"instruction NEWOBJ"),
        (b"]", r"instruction EMPTY_LIST"),
        (b"}K\x01K\x02s", r"keys are not names"),
        (b"}\x8c\x01aK\x02s", r"'a' is not a tensor \(int\)"),
        (b"K\x01", r"no state dict"),
        (b"\x8c\x01xQ", r"a tensor without a storage"),
        (b"h\x07", r"truncated or damaged"),
        (b"", r"truncated or damaged"),
    ],
)
def test_only_a_state_dict_can_be_built(tmp_path: Path, by_hand: SimpleNamespace, body: bytes, message: str) -> None:
    by_hand.torch_zip(tmp_path / "a.bin", body, {})
    with pytest.raises(UserError, match=message):
        read_torch_file(tmp_path / "a.bin")


def test_other_formats_say_what_to_do(tmp_path: Path, by_hand: SimpleNamespace) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(pickle.dumps({"a": 1}, 2))
    with pytest.raises(UserError, match=r"a pickle that torch\.save did not write"):
        read_torch_file(path)
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(UserError, match="git lfs pull"):
        read_torch_file(path)
    path.write_bytes(b"")
    with pytest.raises(UserError, match="empty"):
        read_torch_file(path)
    path.write_bytes(b"<html>not found</html>")
    with pytest.raises(UserError, match=r"not a file that torch\.save wrote"):
        read_torch_file(path)
    with pytest.raises(UserError, match="no such file"):
        read_torch_file(tmp_path / "b.bin")
    by_hand.torch_zip(path, b"}", {}, byteorder=b"big")
    with pytest.raises(UserError, match="big-endian"):
        read_torch_file(path)
    by_hand.torch_zip(path, b"}", {}, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(UserError, match="compressed"):
        read_torch_file(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("word/document.xml", "")
    with pytest.raises(UserError, match=r"without one data\.pkl"):
        read_torch_file(path)


def whole(table: TensorTable) -> dict[str, np.ndarray]:
    return {name: tensor.view() for name, tensor in table.items()}


@pytest.fixture(params=["plain", "data descriptors", "zip64"])
def two_storages(request: pytest.FixtureRequest, tmp_path: Path, by_hand: SimpleNamespace) -> Path:
    """Write a file with two tensors; variants of the zip format store sizes and checksums in different places."""
    path = tmp_path / "two.bin"
    arrays = {"a": NUMBERS, "b": NUMBERS.astype(np.float16)}
    by_hand.state_dict(path, arrays)
    if request.param != "plain":
        with zipfile.ZipFile(path) as archive:
            contents = {name: archive.read(name) for name in archive.namelist()}
        with path.open("wb") as file:
            sink: Any = SimpleNamespace(write=file.write, flush=file.flush)  # cannot seek, so sizes follow the data
            is_zip64 = request.param == "zip64"
            with zipfile.ZipFile(file if is_zip64 else sink, "w") as archive:
                for name, content in contents.items():
                    with archive.open(name, "w", force_zip64=is_zip64) as entry:
                        entry.write(content)
    np.testing.assert_equal(whole(read_torch_file(path)), arrays)
    return path


def test_a_changed_bit_of_a_storage_is_found_when_its_tensor_is_used(two_storages: Path) -> None:
    raw = bytearray(two_storages.read_bytes())
    raw[raw.index(NUMBERS.tobytes()) + 7] ^= 1
    damaged = two_storages.with_name("damaged.bin")
    damaged.write_bytes(raw)
    table = read_torch_file(damaged)
    np.testing.assert_array_equal(table["b"].view(), NUMBERS.astype(np.float16))
    for _ in range(2):
        with pytest.raises(UserError, match=r"damaged\.bin: archive/data/0: damaged, its CRC-32 is \w{8}, not \w{8}"):
            table["a"].view()


def test_a_storage_is_compared_once_for_all_of_its_tensors(
    tmp_path: Path, by_hand: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = by_hand.Pickle({"0": NUMBERS})
    tensors = {name: write.tensor(by_hand.Tensor("0", at, (4,), (1,))) for at, name in enumerate("abc")}
    by_hand.torch_zip(tmp_path / "a.bin", write.dict(tensors), {"0": NUMBERS})
    table = read_torch_file(tmp_path / "a.bin")
    compared: list[int] = []
    crc32 = zlib.crc32

    def counted(data: bytes, start: int = 0) -> int:
        compared.append(len(data))
        return crc32(data, start)

    monkeypatch.setattr(zlib, "crc32", counted)
    whole(table)
    assert compared == [NUMBERS.nbytes]


def test_a_changed_pickle_is_found_at_once(tmp_path: Path, by_hand: SimpleNamespace) -> None:
    by_hand.state_dict(tmp_path / "a.bin", {"name": NUMBERS})
    raw = (tmp_path / "a.bin").read_bytes().replace(b"name", b"same", 1)
    (tmp_path / "b.bin").write_bytes(raw)
    with pytest.raises(UserError, match=r"b\.bin: archive/data\.pkl: damaged, its CRC-32"):
        read_torch_file(tmp_path / "b.bin")


def test_a_file_without_checksums_is_read(tmp_path: Path, by_hand: SimpleNamespace) -> None:
    """If torch is configured not to compute checksums, it writes 0 for each."""
    path = tmp_path / "a.bin"
    by_hand.state_dict(path, {"a": NUMBERS})
    raw = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            for at in (raw.index(entry.CRC.to_bytes(4, "little")), raw.rindex(entry.CRC.to_bytes(4, "little"))):
                raw[at : at + 4] = bytes(4)
    path.write_bytes(raw)
    np.testing.assert_array_equal(read_torch_file(path)["a"].view(), NUMBERS)


def test_entries_that_share_bytes_or_names_are_refused(tmp_path: Path, by_hand: SimpleNamespace) -> None:
    path = tmp_path / "a.bin"
    by_hand.state_dict(path, {"a": NUMBERS, "b": NUMBERS})
    raw = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        first, second = (archive.getinfo(f"archive/data/{key}") for key in "01")
    directory = raw.rindex(b"PK\1\2")
    assert raw[directory + 46 :].startswith(b"archive/data/1")
    moved = bytearray(raw)
    moved[directory + 42 : directory + 46] = first.header_offset.to_bytes(4, "little")
    path.write_bytes(moved)
    with pytest.raises(UserError, match=r"truncated or damaged at archive/data/1"):
        read_torch_file(path)
    moved = bytearray(raw)
    moved[directory + 46 + 13 : directory + 46 + 14] = b"0"
    moved[second.header_offset + 30 + 13 : second.header_offset + 30 + 14] = b"0"
    path.write_bytes(moved)
    with pytest.raises(UserError, match=r"two of its entries have one name; do not trust this file"):
        read_torch_file(path)
    inner = raw[second.header_offset : second.header_offset + 44 + NUMBERS.nbytes]
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"}.")
        archive.writestr("archive/data/0", inner)
    nested = bytearray(path.read_bytes())
    end = nested.rindex(b"PK\5\6")
    entry = bytearray(raw[directory : directory + 46 + 14])
    entry[42:46] = nested.index(inner).to_bytes(4, "little")
    count, size = 3, int.from_bytes(nested[end + 12 : end + 16], "little") + len(entry)
    nested[end + 8 : end + 16] = count.to_bytes(2, "little") * 2 + size.to_bytes(4, "little")
    nested[end:end] = entry
    path.write_bytes(nested)
    with pytest.raises(UserError, match=r"its entries overlap; do not trust this file"):
        read_torch_file(path)


def doubling_tuples(times: int) -> bytes:
    """Return instructions for nested tuples of two: 2 ** times leaves in a few bytes."""
    step = b"".join(b"q" + bytes([n % 256]) + b"h" + bytes([n % 256]) + b"\x86" for n in range(times))
    return b")" + step


@pytest.mark.parametrize(
    "bomb",
    [
        pytest.param(doubling_tuples(200), id="doubling tuples"),
        pytest.param(b"}\x8c\x01a" + doubling_tuples(200) + b"s", id="doubling tuples in a table"),
        pytest.param(doubling_tuples(200) + b"Q", id="doubling tuples as a storage"),
        pytest.param(b")" + b"\x85" * 500_000, id="deep tuples"),
        pytest.param(b"(" * 500_000, id="marks"),
        pytest.param(b"N0" * 1_100_000, id="instructions"),
        pytest.param(b"N" * (17 << 20), id="bytes"),
        pytest.param(b"\x8a\xff" + b"\xff" * 254 + b"\x7f" + b"\x85", id="a number of 255 bytes"),
        pytest.param(b"\x8b\xff\xff\xff\x7f" + b"1" * 1000, id="a number of 2 GB"),
        pytest.param(b"I" + b"9" * 100_000 + b"\n", id="a number of many digits"),
        pytest.param(b"X\xff\xff\xff\xff" + b"1" * 1000, id="a text of 4 GB"),
        pytest.param(b"r\xff\xff\xff\xff" + b"N", id="a place in the memo"),
        pytest.param(b"c" + b"x" * 10**6 + b"\ny\n", id="a long name"),
    ],
)
def test_pickles_that_grow_are_refused_in_a_short_line(tmp_path: Path, by_hand: SimpleNamespace, bomb: bytes) -> None:
    by_hand.torch_zip(tmp_path / "a.bin", bomb, {})
    start = time.process_time()
    with pytest.raises(UserError) as refusal:
        read_torch_file(tmp_path / "a.bin")
    assert time.process_time() - start < 5
    assert len(str(refusal.value)) < 1000


def test_tensors_of_doubling_tuples_are_refused_in_a_short_line(tmp_path: Path, by_hand: SimpleNamespace) -> None:
    write = by_hand.Pickle({"0": NUMBERS})
    tensor = write.tensor(by_hand.Tensor("0", 0, (24,), (1,)))
    size = write.tuple(write.integer(24))
    for body in (
        tensor.replace(size, doubling_tuples(100), 1),
        tensor.replace(size, b"(" + b"K\1" * 500_000 + b"t", 1),
    ):
        by_hand.torch_zip(tmp_path / "a.bin", b"}\x8c\x01a" + body + b"s", {"0": NUMBERS})
        with pytest.raises(UserError, match="a tensor with offset, size and stride") as refusal:
            read_torch_file(tmp_path / "a.bin")
        assert len(str(refusal.value)) < 1000


def test_a_zip_with_more_entries_than_any_network_is_refused_before_they_are_listed(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    entry = b"PK\1\2" + bytes(24) + (5).to_bytes(2, "little") + bytes(16) + b"names"
    directory = entry * ((9 << 20) // len(entry))
    size, start = len(directory).to_bytes(4, "little"), (4).to_bytes(4, "little")
    path.write_bytes(b"PK\3\4" + directory + b"PK\5\6" + bytes(8) + size + start + bytes(2))
    with pytest.raises(UserError, match="more entries than any state dict has"):
        read_torch_file(path)


@pytest.fixture(scope="module")
def small_file(tmp_path_factory: pytest.TempPathFactory, by_hand: SimpleNamespace) -> Path:
    path = tmp_path_factory.mktemp("fuzz") / "small.bin"
    by_hand.state_dict(path, {"a": NUMBERS, "b": NUMBERS.reshape(4, 6).astype(np.float16)})
    return path


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_gives_one_line_or_tensors_inside_the_file(small_file: Path, data: st.DataObject) -> None:
    raw = bytearray(small_file.read_bytes())
    if data.draw(st.booleans(), "truncate"):
        del raw[data.draw(st.integers(0, len(raw) - 1), "length") :]
    for _ in range(data.draw(st.integers(0, 4), "flips")):
        if raw:
            raw[data.draw(st.integers(0, len(raw) - 1), "at")] ^= 1 << data.draw(st.integers(0, 7), "bit")
    damaged = small_file.with_name("damaged.bin")
    damaged.unlink(missing_ok=True)
    damaged.write_bytes(raw)
    message = ""
    try:
        for tensor in read_torch_file(damaged).values():
            tensor.view().tobytes()
    except UserError as error:
        message = str(error)
    assert "\n" not in message


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.binary(max_size=60))
def test_any_program_gives_one_line_or_a_table(tmp_path: Path, by_hand: SimpleNamespace, body: bytes) -> None:
    by_hand.torch_zip(tmp_path / "a.bin", body, {"0": NUMBERS})
    message = ""
    try:
        read_torch_file(tmp_path / "a.bin")
    except UserError as error:
        message = str(error)
    assert "\n" not in message
