"""Reads of `.npz` files: arrays as NumPy wrote them, compressed or not, and nothing else."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

import convert.numpy_archive
from convert.numpy_archive import read_npz
from show1_jax.errors import UserError


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_arrays_are_read(tmp_path: Path, write: object) -> None:
    assert callable(write)
    arrays = {
        "fc6/W": np.arange(6, dtype=np.float32).reshape(2, 3),
        "order": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "scalar": np.array(3),
        "empty": np.zeros((0, 4), np.float16),
    }
    write(tmp_path / "a.npz", **arrays)
    read = read_npz(tmp_path / "a.npz")
    assert list(read) == list(arrays)
    for name, array in arrays.items():
        assert read[name].dtype == array.dtype
        np.testing.assert_array_equal(read[name], array)


def entry(header: bytes, content: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + content


HUGE = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000, 1000000), }\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.npy", entry(HUGE), r"'a\.npy' has \d+ bytes, not 4000000000000"),
        ("a.npy", entry(b"__import__('os').system('true')\n"), "truncated or damaged"),
        ("a.npy", entry(b"x" * 20_000), "truncated or damaged"),
        ("a.npy", entry(HUGE.replace(b"<f4", b"|O")), r"'a\.npy' is of 'object', not of numbers"),
        ("a.npy", b"text", "truncated or damaged"),
        ("a.npy", b"", "truncated or damaged"),
        ("a.txt", b"text", r"'a\.txt' is not an array"),
    ],
)
def test_other_contents_are_refused(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr(name, content)
    with pytest.raises(UserError, match=rf"a\.npz: {message}"):
        read_npz(tmp_path / "a.npz")


def test_pickles_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", a=np.array([{"b": 1}], dtype=object))
    with pytest.raises(UserError, match="is of 'object', not of numbers"):
        read_npz(tmp_path / "a.npz")


def test_a_bomb_and_other_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, a=np.zeros(1000), b=np.zeros(1000))
    with monkeypatch.context() as patch:
        patch.setattr(convert.numpy_archive, "_MAX_BYTES", 10_000)
        with pytest.raises(UserError, match="has more than any published network"):
            read_npz(path)
    path.write_bytes(b"<html>")
    with pytest.raises(UserError, match=r"a\.npz: truncated or damaged"):
        read_npz(path)
    with pytest.raises(UserError, match=r"b\.npz: cannot be read \(No such file"):
        read_npz(tmp_path / "b.npz")
    content = io.BytesIO()
    np.save(content, np.zeros(3))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", content.getvalue())
        archive.writestr("a", content.getvalue())
    with pytest.raises(UserError, match="is not an array"):
        read_npz(path)
