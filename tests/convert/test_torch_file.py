"""torch's zip of a pickle, read without torch: whole, strided and shared tensors, damage, and hostile pickles."""

import os
import pickle
import zipfile
from pathlib import Path
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from convert.torch_file import read_torch_zip
from show1_jax.errors import UserError

NUMBERS = np.arange(24, dtype=np.float32)


def test_recorded_files_read_like_their_safetensors_twin_would(golden: Path) -> None:
    tensors = read_torch_zip(golden / "checkpoints/show-1-base/unet/diffusion_pytorch_model.fp16.bin")
    assert len(tensors) == 431
    weight = tensors["conv_in.weight"].view()
    assert weight.shape == (32, 3, 3, 3)
    assert weight.dtype == np.float16
    assert np.isfinite(weight).all()
    assert weight.std() > 0


@pytest.mark.parametrize("dtype", [np.float16, np.float32, ml_dtypes.bfloat16, np.int64])
def test_values_of_every_type_and_shape(tmp_path: Path, by_hand: SimpleNamespace, dtype: type) -> None:
    arrays = {
        "matrix": NUMBERS.reshape(4, 6).astype(dtype),
        "scalar": np.array(3, dtype),
        "empty": np.zeros((0, 4), dtype),
    }
    by_hand.state_dict(tmp_path / "a.bin", arrays)
    read = read_torch_zip(tmp_path / "a.bin")
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
    read = read_torch_zip(tmp_path / "a.bin")
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
    read = read_torch_zip(tmp_path / "a.bin")
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
        read_torch_zip(tmp_path / "a.bin")


def test_storage_smaller_than_it_says(tmp_path: Path, by_hand: SimpleNamespace) -> None:
    write = by_hand.Pickle({"0": NUMBERS})
    body = write.dict({"a": write.tensor(by_hand.Tensor("0", 0, (24,), (1,)))})
    by_hand.torch_zip(tmp_path / "a.bin", body, {"0": NUMBERS[:20]})
    with pytest.raises(UserError, match=r"storage '0' has 80 bytes, not 24 of float32"):
        read_torch_zip(tmp_path / "a.bin")
    by_hand.torch_zip(tmp_path / "a.bin", body, {})
    with pytest.raises(UserError, match=r"archive/data/0 is missing"):
        read_torch_zip(tmp_path / "a.bin")


class Hostile:
    def __init__(self, function: object, *arguments: object) -> None:
        self._reduced = (function, arguments)

    def __reduce__(self) -> object:
        return self._reduced


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    ("function", "name"),
    [(os.system, f"{os.system.__module__}.system"), (eval, "eval"), (os.open, "open"), (getattr, "getattr")],
)
def test_a_hostile_pickle_is_refused_by_the_name_it_asks_for(
    tmp_path: Path, by_hand: SimpleNamespace, protocol: int, function: object, name: str
) -> None:
    trap = tmp_path / "trap"
    body = pickle.dumps({"a": Hostile(function, f"touch {trap}")}, protocol)
    with zipfile.ZipFile(tmp_path / "a.bin", "w") as archive:
        archive.writestr("archive/data.pkl", body)
    with pytest.raises(UserError, match=rf"a\.bin: its pickle asks for '[\w.]*{name}'|uses the instruction"):
        read_torch_zip(tmp_path / "a.bin")
    assert not trap.exists()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"ctorch.nn\nLinear\n", r"asks for 'torch\.nn\.Linear'"),
        (b"\x8c\x05posix\x8c\x06system\x93", r"asks for 'posix\.system'"),
        (b"(iposix\nsystem\n", r"asks for 'posix\.system'"),
        (b"}" + b"\x94" + b"\x8c\x01a" + b"\x93", r"a name that is no text"),
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
        read_torch_zip(tmp_path / "a.bin")


def test_other_formats_say_what_to_do(tmp_path: Path, by_hand: SimpleNamespace) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.")
    with pytest.raises(UserError, match=r"old format.*torch\.save\(torch\.load\(f\), f\)"):
        read_torch_zip(path)
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(UserError, match="git lfs pull"):
        read_torch_zip(path)
    path.write_bytes(b"")
    with pytest.raises(UserError, match="empty"):
        read_torch_zip(path)
    path.write_bytes(b"<html>not found</html>")
    with pytest.raises(UserError, match=r"not a file that torch\.save wrote"):
        read_torch_zip(path)
    with pytest.raises(UserError, match="no such file"):
        read_torch_zip(tmp_path / "b.bin")
    by_hand.torch_zip(path, b"}", {}, byteorder=b"big")
    with pytest.raises(UserError, match="big-endian"):
        read_torch_zip(path)
    by_hand.torch_zip(path, b"}", {}, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(UserError, match="compressed"):
        read_torch_zip(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("word/document.xml", "")
    with pytest.raises(UserError, match=r"without one data\.pkl"):
        read_torch_zip(path)


@pytest.fixture(scope="module")
def small_file(tmp_path_factory: pytest.TempPathFactory, by_hand: SimpleNamespace) -> Path:
    path = tmp_path_factory.mktemp("fuzz") / "small.bin"
    by_hand.state_dict(path, {"a": NUMBERS, "b": NUMBERS.reshape(4, 6).astype(np.float16)})
    return path


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
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
        for tensor in read_torch_zip(damaged).values():
            tensor.view().tobytes()
    except UserError as error:
        message = str(error)
    assert "\n" not in message


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.binary(max_size=60))
def test_any_program_gives_one_line_or_a_table(tmp_path: Path, by_hand: SimpleNamespace, body: bytes) -> None:
    by_hand.torch_zip(tmp_path / "a.bin", body, {"0": NUMBERS})
    message = ""
    try:
        read_torch_zip(tmp_path / "a.bin")
    except UserError as error:
        message = str(error)
    assert "\n" not in message
