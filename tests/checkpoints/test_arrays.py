"""Checkpoint weights: they are read as written, directly to the devices; damaged or wrong files give one line."""

import asyncio
import contextlib
import errno
import gc
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.experimental.layout import Format, Layout
from jax.sharding import NamedSharding, PartitionSpec, SingleDeviceSharding

from show1_jax.checkpoints import arrays as checkpoints
from show1_jax.checkpoints import reading
from show1_jax.checkpoints.arrays import (
    load_weights,
    new_checkpoint,
    tokenizer_folder,
    weight_shapes,
)
from show1_jax.checkpoints.manifest import Component, read_manifest, verify_files
from show1_jax.checkpoints.reading import move_to_layouts
from show1_jax.errors import UserError
from show1_jax.parallel.weights import weight_path

WEIGHTS: dict[tuple[str, ...], np.ndarray] = {
    ("blocks", "0", "kernel"): np.arange(64, dtype=np.float16).reshape(8, 8).T / 8,
    ("blocks", "1", "kernel"): np.arange(128, dtype=np.float16).reshape(8, 16) / 8,
    ("norm", "scale"): np.arange(8, dtype=np.float16),
}
COMPONENT = Component(
    kind="unet",
    architecture={"block_out_channels": [8]},
    dtype="float16",
    schedulers={"scheduler": {"lambda_min_clipped": -np.inf, "num_train_timesteps": 1000}},
    config={"_class_name": "Toy"},
    provenance={"source": "here", "revision": None, "files": {"a": "b"}, "licence": "none", "tool": "test"},
)


class Toy(nnx.Module):
    def __init__(self) -> None:
        self.blocks = nnx.List(
            [nnx.Dict(kernel=nnx.Param(jax.ShapeDtypeStruct((8, width), jnp.float32))) for width in (8, 16)]
        )
        self.norm = nnx.Dict(scale=nnx.Param(jax.ShapeDtypeStruct((8,), jnp.float32)))


@pytest.fixture
def abstract() -> nnx.State:
    return nnx.state(Toy(), nnx.Param)


def write(directory: Path, dtype: Any = np.float16, **options: Any) -> Path:
    with new_checkpoint(directory, **options) as writer:
        writer.add("keyframes", COMPONENT, WEIGHTS, dict.fromkeys(WEIGHTS, np.dtype(dtype)))
    return directory


@pytest.fixture
def written(tmp_path: Path) -> Path:
    return write(tmp_path / "checkpoint")


def values(state: nnx.State) -> dict[tuple[str, ...], jax.Array]:
    return {weight_path(path): variable.get_value() for path, variable in nnx.to_flat_state(state)}


def test_weights_are_loaded_in_the_structure_of_the_state(written: Path, abstract: nnx.State) -> None:
    state = load_weights(written, "keyframes", abstract)
    assert nnx.to_flat_state(state).paths == nnx.to_flat_state(abstract).paths
    for path, array in values(state).items():
        assert array.dtype == jnp.float32
        assert array.sharding == SingleDeviceSharding(jax.devices()[0])
        np.testing.assert_array_equal(array, WEIGHTS[path].astype(np.float32))


@pytest.mark.parametrize("stored", [np.float16, np.float32, ml_dtypes.bfloat16])
@pytest.mark.parametrize("loaded", [jnp.float16, jnp.float32, jnp.bfloat16])
def test_dtypes_are_cast_when_writing_and_reading(
    tmp_path: Path, abstract: nnx.State, stored: Any, loaded: Any
) -> None:
    directory = write(tmp_path / "checkpoint", stored)
    assert {leaf.dtype for leaf in weight_shapes(directory, "keyframes").values()} == {np.dtype(stored)}
    for path, array in values(load_weights(directory, "keyframes", abstract, dtype=loaded)).items():
        assert array.dtype == loaded
        np.testing.assert_array_equal(array, WEIGHTS[path].astype(stored).astype(loaded))


def test_weights_are_placed_as_their_shardings_say(written: Path, abstract: nnx.State) -> None:
    mesh = jax.make_mesh((8,), ("fsdp",))
    split, whole = NamedSharding(mesh, PartitionSpec(None, "fsdp")), NamedSharding(mesh, PartitionSpec())
    one = values(load_weights(written, "keyframes", abstract, whole))
    shardings = jax.tree.map(lambda leaf: split if leaf.ndim == 2 else whole, abstract)
    each = values(load_weights(written, "keyframes", abstract, shardings))
    for path, array in each.items():
        assert one[path].sharding == whole
        assert array.sharding == (split if array.ndim == 2 else whole)
        assert array.addressable_shards[0].data.size == array.size // (8 if array.ndim == 2 else 1)
        np.testing.assert_array_equal(array, WEIGHTS[path].astype(np.float32))


def test_the_manifest_has_the_record_and_all_hashes(written: Path) -> None:
    manifest = read_manifest(written)
    assert manifest.component("keyframes") == COMPONENT
    verify_files(written)
    assert all(len(file["sha256"]) == 64 for file in manifest.files.values())
    with pytest.raises(UserError, match="no component 'vae', only keyframes"):
        manifest.component("vae")


def test_no_file_contains_the_path_where_it_was_made(written: Path, tmp_path: Path) -> None:
    found = [file for file in written.rglob("*") if file.is_file() and str(tmp_path).encode() in file.read_bytes()]
    assert found == []


def test_a_checkpoint_may_be_moved(written: Path, abstract: nnx.State, tmp_path: Path) -> None:
    moved = written.rename(tmp_path / "elsewhere")
    verify_files(moved)
    load_weights(moved, "keyframes", abstract)


def test_a_path_that_is_not_utf_8_is_one_line(written: Path, abstract: nnx.State, tmp_path: Path) -> None:
    """Orbax fails on it with thousands of lines."""
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    with pytest.raises(UserError, match="is not UTF-8; rename the folder"):
        write(folder)
    assert not folder.exists()
    with pytest.raises(UserError, match="is not UTF-8; rename the folder"):
        load_weights(written.rename(folder), "keyframes", abstract)


def test_no_checkpoint_gives_the_command_that_makes_one(tmp_path: Path) -> None:
    for directory in (tmp_path, tmp_path / "missing"):
        with pytest.raises(UserError, match=rf"no checkpoint; make one with `python -m convert --out {directory}`"):
            read_manifest(directory)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"components": {}}', '{"components": {"a": {"b": 1}}}'])
def test_damaged_manifests(written: Path, text: str) -> None:
    (written / "manifest.json").write_text(text)
    with pytest.raises(UserError, match=r"manifest\.json: (damaged|not valid JSON) \(.*\); convert again"):
        read_manifest(written)


def test_a_manifest_of_another_version(written: Path) -> None:
    manifest = json.loads((written / "manifest.json").read_text()) | {"format_version": 1}
    (written / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="format version 1, this program reads 2 and 3; convert again"):
        read_manifest(written)


def test_every_changed_missing_and_extra_file_is_named(written: Path) -> None:
    names = sorted(read_manifest(written).files)
    (written / names[0]).unlink()
    raw = bytearray((written / names[1]).read_bytes())
    raw[-1] ^= 1
    (written / names[1]).write_bytes(raw)
    (written / "notes.txt").write_text("")
    with pytest.raises(UserError, match=rf"missing {names[0]}, extra notes\.txt, changed {names[1]};"):
        verify_files(written)


def test_missing_and_truncated_weights_are_found_before_loading(written: Path, abstract: nnx.State) -> None:
    largest = max((written / "keyframes/weights").rglob("*"), key=lambda path: path.is_file() and path.stat().st_size)
    whole = largest.read_bytes()
    largest.write_bytes(whole[:-1])
    with pytest.raises(UserError, match=f"{largest.name}: missing or truncated"):
        load_weights(written, "keyframes", abstract)
    largest.unlink()
    with pytest.raises(UserError, match=f"{largest.name}: missing or truncated"):
        load_weights(written, "keyframes", abstract)


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint; a test that changes it must restore it."""
    return write(tmp_path_factory.mktemp("fuzzed") / "checkpoint")


SHARES = st.floats(0, 1, exclude_max=True)


@settings(max_examples=100)
@given(which=SHARES, where=SHARES, mask=st.integers(1, 255))
def test_a_flipped_byte_never_gives_other_weights(fuzzed: Path, which: float, where: float, mask: int) -> None:
    files = sorted(path for path in fuzzed.rglob("*") if path.is_file() and path.stat().st_size)
    path = files[int(which * len(files))]
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[int(where * len(whole))] ^= mask
    path.write_bytes(flipped)
    try:
        component = read_manifest(fuzzed).component("keyframes")
        state = load_weights(fuzzed, "keyframes", nnx.state(Toy(), nnx.Param))
    except UserError:
        return
    finally:
        path.write_bytes(whole)
    assert component == COMPONENT
    for name, array in values(state).items():
        np.testing.assert_array_equal(array, WEIGHTS[name].astype(np.float32))


def test_a_manifest_with_a_flipped_byte_is_equal_or_refused(written: Path) -> None:
    path, manifest = written / "manifest.json", read_manifest(written)
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    for offset, mask in enumerate(rng.integers(1, 256, len(whole))):
        path.write_bytes(whole[:offset] + bytes([whole[offset] ^ mask]) + whole[offset + 1 :])
        with contextlib.suppress(UserError):
            assert read_manifest(written) == manifest


def flip_a_byte(checkpoint: Path) -> str:
    """Flip a byte of the largest file of the weights; return the file's name."""
    files = (checkpoint / "keyframes/weights").rglob("*")
    largest = max(files, key=lambda path: path.is_file() and path.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 1
    largest.write_bytes(data)
    return largest.name


def test_a_flipped_byte_is_found_before_weights_are_used(written: Path, abstract: nnx.State) -> None:
    """Orbax itself loads most of such files without an error."""
    name = flip_a_byte(written)
    with pytest.raises(UserError, match=rf"missing or changed: .*{name}; convert again"):
        load_weights(written, "keyframes", abstract)


@pytest.mark.parametrize("placed", ["one device", "sharded"])
def test_weights_are_loaded_in_the_layouts_of_their_formats(written: Path, abstract: nnx.State, placed: str) -> None:
    mesh = jax.make_mesh((8,), ("fsdp",))
    sharding: jax.sharding.Sharding = NamedSharding(mesh, PartitionSpec(None, "fsdp"))
    if placed == "one device":
        sharding = SingleDeviceSharding(jax.devices()[1])
    columns = Format(Layout(major_to_minor=(1, 0)), sharding)
    whole = NamedSharding(mesh, PartitionSpec())
    formats = jax.tree.map(lambda leaf: columns if leaf.ndim == 2 else whole, abstract)
    for path, array in values(load_weights(written, "keyframes", abstract, formats)).items():
        layout = cast(Any, array).format.layout
        assert layout.major_to_minor == ((1, 0) if array.ndim == 2 else (0,))
        assert array.sharding == (sharding if array.ndim == 2 else whole)
        np.testing.assert_array_equal(array, WEIGHTS[path].astype(np.float32))


def test_the_original_of_an_array_in_another_layout_is_deleted() -> None:
    device = SingleDeviceSharding(jax.devices()[0])
    arrays = {name: jax.device_put(np.arange(6, dtype=np.float32).reshape(2, 3), device) for name in "abc"}
    formats = {"a": Format(Layout((1, 0)), device), "b": Format(Layout((0, 1)), device), "c": None}
    moved = move_to_layouts(arrays, formats)
    assert [arrays[name].is_deleted() for name in "abc"] == [True, False, False]
    assert (moved["b"], moved["c"]) == (arrays["b"], arrays["c"])
    np.testing.assert_array_equal(moved["a"], arrays["b"])


def test_a_cpu_device_uses_the_memory_into_which_weights_are_read(
    written: Path, abstract: nnx.State, monkeypatch: pytest.MonkeyPatch
) -> None:
    allocate, starts = reading._aligned_array, set()

    def recording(*arguments: Any) -> np.ndarray:
        array = allocate(*arguments)
        starts.add(array.ctypes.data)
        return array

    monkeypatch.setattr(reading, "_aligned_array", recording)
    arrays = values(load_weights(written, "keyframes", abstract)).values()
    assert {array.unsafe_buffer_pointer() for array in arrays} == starts


def test_threads_load_while_others_compute(written: Path, abstract: nnx.State) -> None:
    double = jax.jit(lambda x: x * 2)
    with ThreadPoolExecutor(2) as pool:
        loading = [pool.submit(load_weights, written, "keyframes", abstract) for _ in range(4)]
        while not all(load.done() for load in loading):
            np.testing.assert_array_equal(double(np.ones(3)), 2)
        for load in loading:
            for path, array in values(load.result()).items():
                np.testing.assert_array_equal(array, WEIGHTS[path].astype(np.float32))


@pytest.mark.filterwarnings("error")
def test_damaged_metadata_is_refused_before_orbax_reads_it(written: Path, abstract: nnx.State) -> None:
    path = written / "keyframes/weights/_METADATA"
    path.write_bytes(path.read_bytes().replace(b"np.ndarray", b"np.mdarray"))
    with pytest.raises(UserError, match=r"missing or changed: keyframes/weights/_METADATA; convert again"):
        load_weights(written, "keyframes", abstract)
    gc.collect()


def test_changed_files_are_reported_whatever_reading_them_raises(
    written: Path, abstract: nnx.State, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("damaged")

    monkeypatch.setattr(checkpoints, "load_arrays", fail)
    with pytest.raises(RuntimeError, match="damaged"):
        load_weights(written, "keyframes", abstract)
    name = flip_a_byte(written)
    with pytest.raises(UserError, match=rf"missing or changed: .*{name}; convert again"):
        load_weights(written, "keyframes", abstract)


@pytest.mark.parametrize("name", ["_METADATA", "manifest.ocdbt", "_sharding", "folder"])
def test_files_on_which_orbax_would_block_are_refused(written: Path, abstract: nnx.State, name: str) -> None:
    path = written / "keyframes" / "weights" / name
    path.unlink(missing_ok=True)
    path.symlink_to("/") if name == "folder" else os.mkfifo(path)
    manifest = read_manifest(written)
    manifest.files.pop(f"keyframes/weights/{name}", None)
    manifest.write(written)
    for read in (weight_shapes, lambda path, component: load_weights(path, component, abstract)):
        with pytest.raises(UserError, match=rf"keyframes/weights cannot be read \({name} is not a regular file\)"):
            read(written, "keyframes")


def test_huge_metadata_is_not_read(written: Path) -> None:
    os.truncate(written / "keyframes" / "weights" / "_METADATA", 1 << 40)
    with pytest.raises(UserError, match=r"_METADATA has more than 67,108,864 bytes"):
        weight_shapes(written, "keyframes")


def test_a_tokenizer_is_checked_before_it_is_used(tmp_path: Path) -> None:
    vocabulary = tmp_path / "vocab.json"
    vocabulary.write_text("{}")
    with new_checkpoint(tmp_path / "checkpoint") as writer:
        writer.add(
            "text_t5", COMPONENT, WEIGHTS, dict.fromkeys(WEIGHTS, np.dtype("float16")), {vocabulary.name: vocabulary}
        )
    folder = tokenizer_folder(tmp_path / "checkpoint", "text_t5")
    assert (folder / "vocab.json").read_text() == "{}"
    (folder / "vocab.json").write_text("[]")
    with pytest.raises(UserError, match=r"missing or changed: text_t5/tokenizer/vocab\.json; convert again"):
        tokenizer_folder(tmp_path / "checkpoint", "text_t5")


def test_weights_that_do_not_fit_are_all_named(written: Path, abstract: nnx.State) -> None:
    abstract["norm"]["scale"] = nnx.Param(jax.ShapeDtypeStruct((9,), jnp.float32))
    abstract["norm"]["bias"] = nnx.Param(jax.ShapeDtypeStruct((8,), jnp.float32))
    del abstract["blocks"][1]
    with pytest.raises(UserError, match="in 3 places: ") as caught:
        load_weights(written, "keyframes", abstract)
    for part in (
        "blocks/1/kernel (stored (8, 16), wanted nothing)",
        "norm/bias (stored nothing, wanted (8,))",
        "norm/scale (stored (8,), wanted (9,))",
    ):
        assert part in str(caught.value)


def test_only_a_checkpoint_is_overwritten(tmp_path: Path, written: Path) -> None:
    before = (written / "manifest.json").read_bytes()
    with pytest.raises(UserError, match=r"exists; choose another place, or replace it with --overwrite"):
        write(written)
    assert (written / "manifest.json").read_bytes() == before
    write(written, np.float32, overwrite=True)
    assert (written / "manifest.json").read_bytes() != before
    verify_files(written)
    foreign = tmp_path / "home"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("")
    with pytest.raises(UserError, match="is no checkpoint, so it is not overwritten"):
        write(foreign, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint", "home"]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full"),
        (ValueError("RESOURCE_EXHAUSTED: write failed [OS error 28: No space left on device]"), "the disk is full"),
        (PermissionError(errno.EACCES, "Permission denied"), "cannot be written"),
    ],
)
@pytest.mark.parametrize("moment", ["add", "finish"])
def test_a_failing_disk_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, message: str, moment: str
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(checkpoints, {"add": "_nest", "finish": "describe_files"}[moment], fail)
    with pytest.raises(UserError, match=message):
        write(tmp_path / "checkpoint")
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_or_failed_conversion_keeps_the_old_checkpoint(tmp_path: Path, written: Path) -> None:
    before = (written / "manifest.json").read_bytes()
    for interruption in (KeyboardInterrupt, RuntimeError):
        with pytest.raises(interruption), new_checkpoint(written, overwrite=True):
            raise interruption
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]
    assert (written / "manifest.json").read_bytes() == before


def test_many_small_and_one_large_array_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "_SAVE_CONCURRENT_BYTES", 64)
    arrays: dict[tuple[str, ...], np.ndarray] = {
        (f"a{index}",): np.full((index + 1,), index, np.float32) for index in range(40)
    }
    done: list[int] = []
    with new_checkpoint(tmp_path / "checkpoint") as writer:
        writer.add("vae", COMPONENT, arrays, dict.fromkeys(arrays, np.dtype("float32")), progress=done.append)
    assert sum(done) == sum(array.nbytes for array in arrays.values())
    abstract = nnx.State({path[0]: nnx.Param(jax.ShapeDtypeStruct(a.shape, a.dtype)) for path, a in arrays.items()})
    for path, array in values(load_weights(tmp_path / "checkpoint", "vae", abstract)).items():
        np.testing.assert_array_equal(array, arrays[path])


def test_ctrl_c_in_a_loop_does_not_wait_for_ended_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "_INTERRUPTED_SECONDS", 0.1)
    loops: list[asyncio.AbstractEventLoop] = []

    async def work() -> None:
        loops.append(asyncio.get_running_loop())
        waiting = loops[0].create_task(asyncio.wait_for(loops[0].create_future(), timeout=10))
        await asyncio.sleep(0)
        assert not waiting.done()
        raise KeyboardInterrupt

    start = time.process_time()
    with pytest.raises(KeyboardInterrupt):
        checkpoints._run_in_new_loop(work())
    assert time.process_time() - start < 5
    loops[0].close()
