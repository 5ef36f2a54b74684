"""Reads of torch's format from before 1.6: a file of torch, strided and shared tensors, damage, and hostile pickles."""

import os
import pickle
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from convert.torch_file import read_torch_file
from show1_jax.errors import UserError

NUMBERS = np.arange(24, dtype=np.float32)


def test_a_file_of_torch_is_read(golden: Path) -> None:
    read = read_torch_file(golden / "recognition/legacy.pth")
    weight = NUMBERS.reshape(4, 6)
    expected: dict[str, np.ndarray] = {
        "weight": weight,
        "transposed": weight.T,
        "half": np.linspace(-1, 1, 5).astype(np.float16),
        "count": np.array(7),
    }
    assert list(read) == list(expected)
    for name, array in expected.items():
        assert read[name].view().dtype == array.dtype
        np.testing.assert_array_equal(read[name].view(), array)


def test_strided_offset_and_shared_storages(tmp_path: Path, by_hand: SimpleNamespace) -> None:
    write = by_hand.Pickle({"7": NUMBERS, "x": NUMBERS[:3]}, is_legacy=True)
    views = {
        "slice": (by_hand.Tensor("7", 7, (2, 3), (6, 2)), NUMBERS[7:19].reshape(2, 6)[:, ::2]),
        "other": (by_hand.Tensor("x", 0, (3,), (1,)), NUMBERS[:3]),
        "last": (by_hand.Tensor("7", 23, (1,), (1,)), NUMBERS[23:]),
    }
    body = write.dict({name: write.tensor(tensor) for name, (tensor, _) in views.items()})
    by_hand.torch_legacy(tmp_path / "a.pth", body, {"x": NUMBERS[:3], "7": NUMBERS})
    read = read_torch_file(tmp_path / "a.pth")
    for name, (_, expected) in views.items():
        np.testing.assert_array_equal(read[name].view(), expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 1000}, "torch's format 1000, not 1001"),
        ({"is_little_endian": False}, "saved on a big-endian machine"),
        ({"keys": ["0"]}, "its list of storages is not that of its tensors"),
        ({"keys": ["0", "1", "1"]}, "its list of storages is not that of its tensors"),
        ({"keys": ["1", "0"]}, "storage '1' has 24 elements, not 5"),
        ({"keys": ["0", "2"]}, "its list of storages is not that of its tensors"),
    ],
)
def test_parts_that_do_not_fit(tmp_path: Path, by_hand: SimpleNamespace, changes: dict, message: str) -> None:
    body, storages = by_hand.whole_tensors({"a": NUMBERS, "b": NUMBERS[:5]}, is_legacy=True)
    by_hand.torch_legacy(tmp_path / "a.pth", body, storages, **changes)
    with pytest.raises(UserError, match=rf"a\.pth: {message}"):
        read_torch_file(tmp_path / "a.pth")


@pytest.mark.parametrize(
    ("offset", "size", "stride"), [(0, (25,), (1,)), (25, (0,), (1,)), (0, (2**40,), (0,)), (-1, (2,), (1,))]
)
def test_no_tensor_reaches_outside_its_storage(
    tmp_path: Path, by_hand: SimpleNamespace, offset: int, size: tuple[int, ...], stride: tuple[int, ...]
) -> None:
    write = by_hand.Pickle({"0": NUMBERS}, is_legacy=True)
    body = write.dict({"a": write.tensor(by_hand.Tensor("0", offset, size, stride))})
    by_hand.torch_legacy(tmp_path / "a.pth", body, {"0": NUMBERS})
    with pytest.raises(UserError, match=r"a\.pth: a tensor (of|with)"):
        read_torch_file(tmp_path / "a.pth")


def test_a_part_of_a_storage_and_a_storage_of_two_sizes_are_refused(tmp_path: Path, by_hand: SimpleNamespace) -> None:
    write = by_hand.Pickle({"0": NUMBERS}, is_legacy=True)
    whole = write.tensor(by_hand.Tensor("0", 0, (3,), (1,)))
    view = whole.replace(
        b"Ntq" if b"Ntq" in whole else b"Nt", write.tuple(write.text("v"), b"K\x00", b"K\x03") + b"t", 1
    )
    by_hand.torch_legacy(tmp_path / "a.pth", write.dict({"a": view}), {"0": NUMBERS})
    with pytest.raises(UserError, match="a tensor without a storage"):
        read_torch_file(tmp_path / "a.pth")
    smaller = by_hand.Pickle({"0": NUMBERS[:3]}, is_legacy=True).tensor(by_hand.Tensor("0", 0, (3,), (1,)))
    by_hand.torch_legacy(tmp_path / "a.pth", write.dict({"a": whole, "b": smaller}), {"0": NUMBERS})
    with pytest.raises(UserError, match="storage '0' has several sizes or types"):
        read_torch_file(tmp_path / "a.pth")


class Hostile:
    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("touch trap",)


@pytest.mark.parametrize("place", ["magic", "machine", "state", "keys"])
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_hostile_pickle_is_refused_in_every_place(
    tmp_path: Path, by_hand: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, place: str, protocol: int
) -> None:
    monkeypatch.chdir(tmp_path)
    hostile = pickle.dumps([Hostile()] if place == "keys" else {"a": Hostile()}, protocol)
    parts = {
        "magic": b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.",
        "version": b"\x80\x02M\xe9\x03.",
        "machine": b"\x80\x02" + by_hand.Pickle().dict({"little_endian": b"\x88"}) + b".",
        "state": b"\x80\x02}.",
        "keys": b"\x80\x02].",
    }
    Path("a.pth").write_bytes(b"".join((parts | {place: hostile}).values()))
    with pytest.raises(UserError, match=r"a\.pth: (its (pickle|list of storages)|not a file that torch\.save wrote)"):
        read_torch_file(Path("a.pth"))
    assert not Path("trap").exists()


@pytest.mark.parametrize(
    ("place", "bomb"),
    [("state", b"N0" * 500_001), ("state", b"(" * 300_000), ("keys", b"]" + b"(" * 1_000_001), ("keys", b"N" * 10)],
)
def test_pickles_that_grow_are_refused_in_a_short_line(
    tmp_path: Path, by_hand: SimpleNamespace, bomb: bytes, place: str
) -> None:
    path = tmp_path / "a.pth"
    by_hand.torch_legacy(path, bomb if place == "state" else b"}", {})
    if place == "keys":
        path.write_bytes(path.read_bytes().replace(b"](e", bomb))
    start = time.process_time()
    with pytest.raises(UserError) as refusal:
        read_torch_file(path)
    assert time.process_time() - start < 20
    assert len(str(refusal.value)) < 1000


def test_truncated_and_prolonged_files(tmp_path: Path, by_hand: SimpleNamespace) -> None:
    path = tmp_path / "a.pth"
    body, storages = by_hand.whole_tensors({"a": NUMBERS, "b": NUMBERS[:5]}, is_legacy=True)
    by_hand.torch_legacy(path, body, storages)
    content = path.read_bytes()
    for size in range(1, len(content), 7):
        path.write_bytes(content[:size])
        with pytest.raises(UserError, match=r"a\.pth: "):
            read_torch_file(path)
    path.write_bytes(content + b"more")
    with pytest.raises(UserError, match="has 4 bytes behind its storages"):
        read_torch_file(path)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_changed_bytes_are_refused_or_change_only_values(
    tmp_path: Path, by_hand: SimpleNamespace, data: st.DataObject
) -> None:
    path = tmp_path / "a.pth"
    by_hand.torch_legacy(path, *by_hand.whole_tensors({"a": NUMBERS, "b": NUMBERS[:5]}, is_legacy=True))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    problem, tensors = "", {}
    try:
        tensors = dict(read_torch_file(path))
    except UserError as error:
        problem = str(error)
    assert len(problem) < 1000
    assert all(tensor.view().nbytes <= len(content) for tensor in tensors.values())
