"""Reads of pickled NumPy arrays without running the pickle: published layouts, damage, and hostile pickles."""

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from convert.numpy_pickle import read_numpy_pickle
from convert.pickle_machine import MalformedError, named_errors
from show1_jax.errors import UserError
from tests.helpers.weight_files import Hostile

NUMBERS = np.arange(24, dtype=np.float32)
TABLE = {"params": {"a/b": {"kernel": NUMBERS.reshape(2, 3, 4), "bias": NUMBERS[:4].copy()}}, "scale": NUMBERS}


def read(program: bytes) -> dict[str, np.ndarray]:
    with named_errors(Path("a.ckpt")):
        return read_numpy_pickle(program)


def refusal(program: bytes) -> str:
    with pytest.raises(UserError) as caught:
        read(program)
    line = str(caught.value)
    assert line.startswith("a.ckpt: ")
    assert "\n" not in line
    assert len(line) < 1000
    return line


def outcome(program: bytes) -> str:
    """Return the refusal of a pickle, empty if it is read. Every other exception is an error of the reader."""
    try:
        for array in read(program).values():
            array.tobytes()
    except UserError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("protocol", [3, 4])
@pytest.mark.parametrize("module", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_nested_arrays_are_read_by_dotted_name(protocol: int, module: str) -> None:
    program = pickle.dumps(TABLE, protocol)
    ours = "numpy._core.multiarray"
    assert ours.encode() in program
    old, new = (text.encode() for text in (ours, module))
    if protocol == 4:  # a name with its length before it
        old, new = (b"\x8c" + bytes([len(text)]) + text for text in (old, new))
        frame = program.index(b"\x95") + 1
        size = int.from_bytes(program[frame : frame + 8], "little") + len(new) - len(old)
        program = program[:frame] + size.to_bytes(8, "little") + program[frame + 8 :]
    arrays = read(program.replace(old, new))
    assert list(arrays) == ["params.a/b.kernel", "params.a/b.bias", "scale"]
    np.testing.assert_array_equal(arrays["params.a/b.kernel"], NUMBERS.reshape(2, 3, 4))
    np.testing.assert_array_equal(arrays["scale"], NUMBERS)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int32, np.int64])
def test_values_of_every_type_and_order(dtype: type) -> None:
    arrays: dict[str, np.ndarray] = {
        "matrix": NUMBERS.reshape(4, 6).astype(dtype),
        "fortran": np.asfortranarray(NUMBERS.reshape(4, 6).astype(dtype)),
        "scalar": np.array(3, dtype),
        "empty": np.zeros((0, 4), dtype),
    }
    found = read(pickle.dumps(arrays, 4))
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("function", [os.system, eval, getattr, np.load, np.frombuffer])
def test_a_hostile_pickle_is_refused_by_the_name_it_requests(tmp_path: Path, protocol: int, function: Any) -> None:
    trap = tmp_path / "trap"
    line = refusal(pickle.dumps({"a": NUMBERS, "b": Hostile(function, f"touch {trap}")}, protocol))
    # Old protocols have no bytes, and NumPy's arrays request an encoder; in the newest they request `_frombuffer`.
    known = (f".{function.__name__}'", "asks for '_codecs.encode'", "numeric._frombuffer'", "uses the instruction")
    assert any(part in line for part in known)
    assert not trap.exists()


def test_objects_and_other_contents_are_refused() -> None:
    for value, message in [
        ({"a": 1}, r"'a' is not an array (int)"),
        ({"a": {"b": "text"}}, r"'a.b' is not an array (str)"),
        ({1: NUMBERS}, "keys are not names"),
        ({"a": NUMBERS.astype(">f4")}, "dtype '>f4'; only little-endian"),
        ({"a": NUMBERS.astype(np.complex64)}, "dtype '<c8'"),
        (NUMBERS, "holds no table of arrays"),
        ({"a": [NUMBERS]}, "instruction EMPTY_LIST"),
        ({"a": {"b": NUMBERS}, "a.b": NUMBERS}, "'a.b' twice"),
    ]:
        assert message in refusal(pickle.dumps(value, 4))


def test_tables_in_each_other_are_refused() -> None:
    loop: dict[str, Any] = {}
    loop["a"] = loop
    deep: dict[str, Any] = {"a": NUMBERS}
    for _ in range(20):
        deep = {"a": deep}
    wide: dict[str, Any] = {"a": NUMBERS}
    for _ in range(40):
        wide = {"a": wide, "b": wide}
    for table in (loop, deep, wide):
        assert "nested in each other" in refusal(pickle.dumps(table, 4))


def array_state(*, shape: bytes = b"K\x18\x85", dtype: bytes = b"f4", content: bytes = bytes(96)) -> bytes:
    """Return instructions for one array in a table, with a state that NumPy would not write."""
    empty = b"cnumpy._core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85C\1b\x87R"
    kind = b"cnumpy\ndtype\n\x8c" + bytes([len(dtype)]) + dtype + b"\x89\x88\x87R"
    order = b"(K\3\x8c\1<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"
    data = b"B" + len(content).to_bytes(4, "little") + content
    return b"\x80\4}\x8c\1a" + empty + b"(K\1" + shape + kind + order + b"\x89" + data + b"tbs."


def test_no_array_reaches_outside_its_bytes() -> None:
    np.testing.assert_array_equal(read(array_state())["a"], np.zeros(24))
    for shape in (b"K\x19\x85", b"K\x17\x85", b"K\5K\5\x86", b"J\xff\xff\xff\xff\x85", b"\x8a\x05\0\0\0\0\1\x85"):
        assert "an array of shape" in refusal(array_state(shape=shape))
    assert "an array of shape" in refusal(array_state(shape=b"(" + b"K\1" * 9 + b"t", content=bytes(4)))
    assert "dtype '<O'" in refusal(array_state(dtype=b"O"))
    assert "sets what no table of arrays has" in refusal(array_state(shape=b"K\x18"))


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (b"\x80\4cnumpy\nndarray\nK\0\x85R.", "makes a call that no table of arrays has"),
        (b"\x80\4cnumpy\ndtype\nK\0\x85R.", "makes a call that no table of arrays has"),
        (b"\x80\4}\x8c\1aQ.", "refers to other data"),
        (b"\x80\4}N.", "holds no table"),
        (b"\x80\4}}b.", "sets what no table of arrays has"),
        (
            b"\x80\4}\x8c\1acnumpy._core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85C\1b\x87Rs.",
            "is not an array",
        ),
        (b"\x80\4}", "truncated or damaged"),
        (b"", "truncated or damaged"),
        (b"\x80\4" + b"N" * 1_000_001 + b".", "more instructions than any table of arrays"),
        (b"\x80\4)" + b"\x85" * 50_000 + b".", "holds no table"),
        (b"\x80\4" + b")" + b"q\0h\0\x86" * 200 + b".", "holds no table"),
        (b"\x80\4B\xff\xff\xff\xff" + bytes(100), "truncated or damaged"),
        (b"\x80\4\x8e" + b"\xff" * 8 + bytes(100), "truncated or damaged"),
    ],
)
def test_only_arrays_can_be_built(program: bytes, message: str) -> None:
    assert message in refusal(program)


@settings(max_examples=200)
@given(data=st.data())
def test_damage_gives_one_line_or_arrays(data: st.DataObject) -> None:
    raw = bytearray(pickle.dumps(TABLE, 4))
    if data.draw(st.booleans(), "truncate"):
        del raw[data.draw(st.integers(0, len(raw) - 1), "length") :]
    for _ in range(data.draw(st.integers(0, 4), "flips")):
        if raw:
            raw[data.draw(st.integers(0, len(raw) - 1), "at")] ^= 1 << data.draw(st.integers(0, 7), "bit")
    assert "\n" not in outcome(bytes(raw))


@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(body=st.binary(max_size=60))
def test_any_program_gives_one_line_or_arrays(body: bytes) -> None:
    assert "\n" not in outcome(b"\x80\4}" + body + b".")


def test_problems_have_no_file_name_of_their_own() -> None:
    with pytest.raises(MalformedError, match=r"^holds no table of arrays; use the published file$"):
        read_numpy_pickle(pickle.dumps(1, 4))
