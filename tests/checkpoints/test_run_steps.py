"""Training checkpoints: a step is restored exactly as saved, on any mesh, or refused; a failure costs one step at most.

Run as a script, this file is one of several processes.
"""

import contextlib
import dataclasses
import errno
import gc
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from show1_jax.checkpoints import run_steps as module
from show1_jax.checkpoints.arrays import BackgroundWrite, load_arrays
from show1_jax.checkpoints.cards.model_card import is_own_card
from show1_jax.checkpoints.manifest import CARD, CheckpointError, Component, Manifest, describe_files, verify_files
from show1_jax.checkpoints.run_steps import Restored, TrainingCheckpoints, latest_step
from show1_jax.errors import UserError
from show1_jax.media.contact_sheet import CONTACT_SHEET, contact_sheet
from show1_jax.parallel import from_first_process
from show1_jax.parallel.weights import Weights

COMPONENT = Component("unet", {"block_out_channels": [8]}, "float32", provenance={"source": "train.py"})
RECORD = {"stage": "keyframes", "data": {"batch": 3}, "learning_rate": 1e-4}


class State(NamedTuple):
    step: Any
    key: Any
    weights: Any
    optimizer: Any


def mesh_of(num_devices: int) -> Mesh:
    return jax.make_mesh((num_devices,), ("fsdp",), (AxisType.Auto,), devices=jax.devices()[:num_devices])


def arrays(seed: int, size: int = 16) -> tuple[dict[Any, np.ndarray], State]:
    """Return averaged weights and a state like real ones: tuple keys, Adam's tuples, scalars and integers."""
    rng = np.random.default_rng(seed)

    def like_weights() -> dict[Any, np.ndarray]:
        return {
            ("blocks", "0", "kernel"): rng.standard_normal((size, 8), np.float32),
            ("blocks", "1.5", "kernel"): rng.standard_normal((4, 8), np.float32),
            ("norm", "scale"): rng.standard_normal(3, np.float32),
        }

    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
    shapes = jax.eval_shape(optimizer.init, like_weights())
    moments = jax.tree.map(lambda leaf: (rng.standard_normal(leaf.shape) * 99).astype(leaf.dtype), shapes)
    return like_weights(), State(np.int32(seed), rng.integers(2**32, size=2, dtype=np.uint32), like_weights(), moments)


def abstract(tree: Any, mesh: Mesh) -> Any:
    """Return shapes with shardings: matrices are sharded over all devices, other arrays are replicated."""

    def place(leaf: Any) -> jax.ShapeDtypeStruct:
        spec = PartitionSpec(None, "fsdp") if np.ndim(leaf) == 2 else PartitionSpec()
        return jax.ShapeDtypeStruct(np.shape(leaf), leaf.dtype, sharding=NamedSharding(mesh, spec))

    return jax.tree.map(place, tree)


def on_devices(tree: Any, mesh: Mesh) -> Any:
    return jax.tree.map(
        lambda leaf, like: jax.make_array_from_callback(
            like.shape, like.sharding, lambda index: np.asarray(leaf)[index]
        ),
        tree,
        abstract(tree, mesh),
    )


def checkpoints_in(workdir: Path, keep: int = 10, keep_every: int = 0) -> TrainingCheckpoints:
    return TrainingCheckpoints(workdir / "checkpoints", keep=keep, keep_every=keep_every)


def save(checkpoints: TrainingCheckpoints, step: int, mesh: Mesh, size: int = 16) -> None:
    ema, state = on_devices(arrays(step, size), mesh)
    checkpoints.save(step, "keyframes", COMPONENT, ema, state, RECORD | {"step": step})


def restore(checkpoints: TrainingCheckpoints, mesh: Mesh, warnings: list[str] | None = None) -> Restored | None:
    lines: list[str] = []
    ema, state = abstract(arrays(0), mesh)
    restored = checkpoints.restore("keyframes", ema, state, warn=lines.append)
    assert warnings is not None or not lines
    if warnings is not None:
        warnings += lines
    return restored


def assert_is(restored: Restored | None, step: int) -> None:
    assert restored is not None
    assert restored.step == step
    assert restored.record == RECORD | {"step": step}
    expected = arrays(step)
    structure: Any = jax.tree.structure((restored.ema, restored.state))
    assert structure == jax.tree.structure(expected)

    def compare(ours: jax.Array, theirs: np.ndarray) -> None:
        assert ours.dtype == theirs.dtype
        for shard in ours.addressable_shards:
            np.testing.assert_array_equal(shard.data, np.asarray(theirs)[shard.index])

    jax.tree.map(compare, (restored.ema, restored.state), expected)


def steps(workdir: Path) -> list[int]:
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir() if not path.name.startswith("."))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with steps 1 and 2, saved on eight devices; tests must not change it."""
    workdir = tmp_path_factory.mktemp("runs") / "run"
    checkpoints = checkpoints_in(workdir)
    for step in (1, 2):
        save(checkpoints, step, mesh_of(8))
    checkpoints.close()
    return workdir


@pytest.fixture
def workdir(saved: Path, tmp_path: Path) -> Path:
    """A copy of that run."""
    return Path(shutil.copytree(saved, tmp_path / "run"))


def flip(path: Path, offset: int = -1, mask: int = 1) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= mask
    path.write_bytes(data)


def largest_file(folder: Path) -> Path:
    return max(folder.rglob("*"), key=lambda path: path.is_file() and path.stat().st_size)


@pytest.mark.parametrize("num_devices", [8, 4, 1])
def test_restored_on_another_mesh(saved: Path, num_devices: int) -> None:
    mesh = mesh_of(num_devices)
    restored = restore(checkpoints_in(saved), mesh)
    assert_is(restored, 2)
    assert restored is not None
    kernel = restored.state.weights["blocks", "0", "kernel"]
    assert kernel.sharding == NamedSharding(mesh, PartitionSpec(None, "fsdp"))
    assert kernel.addressable_shards[0].data.shape == (16, 8 // num_devices)


def test_no_steps_are_no_error(tmp_path: Path) -> None:
    checkpoints = checkpoints_in(tmp_path / "new")
    assert restore(checkpoints, mesh_of(1)) is None
    assert checkpoints.record() is None
    assert latest_step(tmp_path / "new") is None


def test_a_step_is_a_checkpoint(saved: Path) -> None:
    folder = latest_step(saved)
    assert folder == saved / "checkpoints" / "00000002"
    verify_files(folder)
    ema, _ = arrays(2)
    read = load_arrays(folder, "keyframes/weights", abstract(ema, mesh_of(1)))
    for path, array in read.items():
        np.testing.assert_array_equal(array, ema[path])


def test_arrays_may_be_donated_as_soon_as_save_returns(tmp_path: Path) -> None:
    checkpoints, mesh = checkpoints_in(tmp_path), mesh_of(8)
    ema, state = on_devices(arrays(1), mesh)
    overwrite = jax.jit(lambda tree: jax.tree.map(lambda x: x * 0 + jnp.ones((), x.dtype), tree), donate_argnums=0)
    jax.block_until_ready(overwrite(on_devices(arrays(0), mesh)))
    checkpoints.save(1, "keyframes", COMPONENT, ema, state, RECORD | {"step": 1})
    ones = overwrite((ema, state))
    jax.block_until_ready(overwrite(ones))
    checkpoints.wait()
    assert_is(restore(checkpoints, mesh), 1)


def test_a_save_returns_before_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wait = BackgroundWrite.wait

    def wait_longer(write: BackgroundWrite) -> None:
        time.sleep(0.3)
        wait(write)

    monkeypatch.setattr(BackgroundWrite, "wait", wait_longer)
    checkpoints = checkpoints_in(tmp_path)
    save(checkpoints, 1, mesh_of(1))
    checkpoints.poll()
    assert steps(tmp_path) == []
    checkpoints.close()
    assert steps(tmp_path) == [1]


def test_a_damaged_step_is_skipped_and_named(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flip(largest_file(workdir / "checkpoints/00000002/training/state"))
    warnings: list[str] = []
    assert_is(restore(checkpoints_in(workdir), mesh_of(4), warnings), 1)
    (warning,) = warnings
    assert "00000002: missing or changed: training/state/" in warning
    assert warning.endswith("; step 2 is skipped")
    assert latest_step(workdir) == workdir / "checkpoints/00000002"  # its weights are good
    flip(largest_file(workdir / "checkpoints/00000002/keyframes/weights"))
    assert latest_step(workdir) == workdir / "checkpoints/00000001"
    assert capsys.readouterr().err.startswith("warning: ")
    flip(largest_file(workdir / "checkpoints/00000001/keyframes/weights"))
    with pytest.raises(UserError, match="every step is damaged"):
        latest_step(workdir)
    with pytest.raises(UserError, match=r"no step can be used: .*00000001: missing or changed: keyframes/weights"):
        restore(checkpoints_in(workdir), mesh_of(4), warnings)


FILES = st.floats(0, 1, exclude_max=True)


@pytest.fixture(scope="module")
def one_step(saved: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with step 2 only; a test that changes it must restore it."""
    workdir = tmp_path_factory.mktemp("runs") / "one"
    shutil.copytree(saved / "checkpoints/00000002", workdir / "checkpoints/00000002")
    return workdir


def refused_or_equal(workdir: Path) -> None:
    try:
        restored = restore(checkpoints_in(workdir), mesh_of(1), [])
    except UserError:
        return
    assert_is(restored, 2)


@settings(max_examples=100)
@given(which=FILES, where=FILES, mask=st.integers(1, 255))
def test_a_flipped_byte_never_gives_other_values(one_step: Path, which: float, where: float, mask: int) -> None:
    files = sorted(path for path in one_step.rglob("*") if path.is_file() and path.stat().st_size)
    path = files[int(which * len(files))]
    whole = path.read_bytes()
    try:
        flip(path, int(where * len(whole)), mask)
        refused_or_equal(one_step)
    finally:
        path.write_bytes(whole)


def test_every_missing_or_damaged_file_is_noticed(one_step: Path) -> None:
    for path in sorted(path for path in one_step.rglob("*") if path.is_file() and path.name != CARD):  # users edit it
        whole = path.read_bytes()
        for damaged in (None, b"", whole[: len(whole) // 2], whole + b"\0"):
            path.unlink()
            if damaged is not None:
                path.write_bytes(damaged)
            with pytest.raises(UserError, match="no step can be used"):
                restore(checkpoints_in(one_step), mesh_of(1), [])
            path.write_bytes(whole)
    assert_is(restore(checkpoints_in(one_step), mesh_of(1)), 2)


def test_other_components_shapes_and_arrays_are_refused(saved: Path) -> None:
    checkpoints, (ema, state) = checkpoints_in(saved), abstract(arrays(0), mesh_of(1))
    with pytest.raises(UserError, match="has no component 'vae', only keyframes"):
        checkpoints.restore("vae", ema, state)
    wider_ema, wider_state = abstract(arrays(0, size=17), mesh_of(1))
    with pytest.raises(UserError, match=r"blocks/0/kernel \(stored \(16, 8\), wanted \(17, 8\)\)"):
        checkpoints.restore("keyframes", wider_ema, wider_state, warn=lambda line: None)
    with pytest.raises(UserError, match=r"training/state does not fit .*momentum \(stored nothing"):
        checkpoints.restore("keyframes", ema, {"momentum": state.step}, warn=lambda line: None)


def test_the_record_is_read_without_arrays(workdir: Path) -> None:
    assert checkpoints_in(workdir).record() == RECORD | {"step": 2}
    flip(workdir / "checkpoints/00000002/training/record.json", offset=10)
    assert checkpoints_in(workdir).record() == RECORD | {"step": 1}


def then_full(write: Callable[..., None]) -> Callable[..., None]:
    """Return a function that writes everything and then fails like a full disk."""

    def full(*arguments: Any) -> None:
        write(*arguments)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    return full


@pytest.mark.parametrize("moment", ["write", "manifest"])
@pytest.mark.parametrize("then", ["save", "poll", "wait", "close"])
def test_a_full_disk_costs_one_step(workdir: Path, monkeypatch: pytest.MonkeyPatch, moment: str, then: str) -> None:
    owner, name = {"write": (BackgroundWrite, "wait"), "manifest": (Manifest, "write")}[moment]
    checkpoints = checkpoints_in(workdir)
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, then_full(getattr(owner, name)))
        save(checkpoints, 3, mesh_of(1))
        assert checkpoints._saving is not None
        checkpoints._saving.exception(timeout=10)
    with pytest.raises(UserError, match="step 3 was not saved, the disk is full; the steps before it are still there"):
        save(checkpoints, 4, mesh_of(1)) if then == "save" else getattr(checkpoints, then)()
    assert steps(workdir) == [1, 2]
    checkpoints.poll()  # an error is raised once
    if then != "close":
        save(checkpoints, 5, mesh_of(1))
        checkpoints.wait()
        assert_is(restore(checkpoints, mesh_of(1)), 5)


@contextmanager
def files_of_at_most(num_bytes: int) -> Iterator[None]:
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))


def test_a_disk_that_fails_in_the_middle(workdir: Path, capfd: pytest.CaptureFixture[str]) -> None:
    checkpoints = checkpoints_in(workdir)
    with files_of_at_most(50_000):
        save(checkpoints, 3, mesh_of(1), size=10_000)
        with pytest.raises(UserError, match=r"step 3 was not saved, cannot be written \(File too large\); ") as caught:
            checkpoints.wait()
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""
    assert_is(restore(checkpoints_in(workdir), mesh_of(1)), 2)


def test_hundreds_of_writes_that_fail_are_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """The first error is raised; no other error reaches a closed event loop or the garbage collector."""
    rng = np.random.default_rng(0)
    weights: Weights = {
        (f"layer{index}", "kernel"): jax.device_put(rng.standard_normal((50, 80))) for index in range(400)
    }
    refused = pytest.raises(UserError, match=r"step 1 was not saved, .*File too large")
    with files_of_at_most(200_000), refused, contextlib.closing(checkpoints_in(tmp_path)) as checkpoints:
        checkpoints.save(1, "keyframes", COMPONENT, weights, {"step": jnp.int32(1)}, RECORD)
    gc.collect()
    assert (capfd.readouterr().err, caplog.text) == ("", "")


def test_a_directory_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write in .*; use another --workdir"):
        checkpoints_in(tmp_path / "file")


def test_a_step_exists_until_its_replacement_is_complete(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace = os.replace

    def fail(source: Path, target: Path) -> None:
        if Path(source).name == "draft":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail)
    checkpoints = checkpoints_in(workdir)
    save(checkpoints, 2, mesh_of(1))
    with pytest.raises(UserError, match=r"step 2 was not saved, cannot be written \(Input/output error\)"):
        checkpoints.wait()
    assert_is(restore(checkpoints, mesh_of(1)), 2)


def test_old_steps_are_removed(tmp_path: Path) -> None:
    checkpoints = checkpoints_in(tmp_path, keep=2, keep_every=3)
    for step in range(1, 9):
        save(checkpoints, step, mesh_of(1))
    checkpoints.close()
    assert steps(tmp_path) == [3, 6, 7, 8]


def test_a_damaged_newer_step_removes_no_intact_one(workdir: Path) -> None:
    newest = workdir / "checkpoints/00000002"
    shutil.copytree(newest, newest.with_name("00000009"))
    flip(largest_file(newest.with_name("00000009")))
    checkpoints = checkpoints_in(workdir, keep=1)
    assert_is(restore(checkpoints, mesh_of(1), []), 2)
    save(checkpoints, 3, mesh_of(1))
    checkpoints.wait()
    assert_is(restore(checkpoints, mesh_of(1), []), 3)
    save(checkpoints, 9, mesh_of(1))
    checkpoints.wait()
    assert steps(workdir) == [9]
    assert_is(restore(checkpoints, mesh_of(1)), 9)


def test_files_of_a_killed_run_are_removed_or_moved_back(workdir: Path) -> None:
    directory = workdir / "checkpoints"
    shutil.copytree(directory / "00000002", directory / ".00000003.saving/draft")
    replaced = directory / ".00000002.saving/replaced"
    replaced.parent.mkdir()
    (directory / "00000002").rename(replaced)
    checkpoints = checkpoints_in(workdir)
    assert sorted(path.name for path in directory.iterdir()) == ["00000001", "00000002"]
    assert_is(restore(checkpoints, mesh_of(1)), 2)


class Others:
    """Another process, which reports a problem that this process does not have, at exchange number `at`."""

    def __init__(self, problem: str, at: int = 0):
        self.problem, self.at, self.num_exchanges = problem, at, 0

    def __call__(self, value: Any) -> list[Any]:
        self.num_exchanges += 1
        return [value, self.problem if self.num_exchanges == self.at + 1 else ""]


@pytest.mark.parametrize("at", range(4), ids=["manifest", "record", "weights", "state"])
def test_a_step_that_another_process_cannot_read_is_skipped(
    saved: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    monkeypatch.setattr(module, "from_all_processes", Others("step 2 is damaged", at))
    warnings: list[str] = []
    assert_is(restore(checkpoints_in(saved), mesh_of(1), warnings), 1)
    assert warnings == ["step 2 is damaged; step 2 is skipped"]


def test_other_processes_learn_that_this_one_cannot_read_a_step(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every exchange takes place, whatever this process cannot read."""
    others = Others("")
    monkeypatch.setattr(module, "from_all_processes", others)
    (workdir / "checkpoints/00000002/manifest.json").unlink()
    assert_is(restore(checkpoints_in(workdir), mesh_of(1), []), 1)
    assert others.num_exchanges == 1 + 4


def test_a_record_that_is_no_json_is_skipped(workdir: Path) -> None:
    folder = workdir / "checkpoints/00000002"
    (folder / "training/record.json").write_text("{")
    manifest = json.loads((folder / "manifest.json").read_bytes())
    files = manifest["files"] | describe_files(folder, ["training/record.json"])
    Manifest.from_json(manifest | {"files": files}).write(folder)
    assert checkpoints_in(workdir).record() == RECORD | {"step": 1}
    assert_is(restore(checkpoints_in(workdir), mesh_of(1), []), 1)


def test_a_save_that_another_process_cannot_begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = checkpoints_in(tmp_path)
    monkeypatch.setattr(module, "from_all_processes", Others("step 1 was not saved"))
    with pytest.raises(UserError, match="step 1 was not saved"):
        save(checkpoints, 1, mesh_of(1))
    checkpoints.close()
    assert steps(tmp_path) == []


def test_an_unexpected_error_of_a_save_is_sent_to_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = checkpoints_in(tmp_path)
    sent: list[str] = []

    def fail(*_: object) -> None:
        raise KeyError("no such name")

    def exchange(error: str) -> list[str]:
        sent.append(error)
        return [error]

    monkeypatch.setattr(Manifest, "write", fail)
    save(checkpoints, 1, mesh_of(1))
    monkeypatch.setattr(module, "from_all_processes", exchange)
    with pytest.raises(KeyError):
        checkpoints.close()
    assert sent == ["'no such name'"]


def test_closing_alone_waits_for_no_other_process(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No error is reported, whether the last save of this process succeeds or fails."""
    for step, write in ((3, Manifest.write), (4, then_full(Manifest.write))):
        checkpoints, others = checkpoints_in(workdir), Others("")
        monkeypatch.setattr(Manifest, "write", write)
        save(checkpoints, step, mesh_of(1))
        monkeypatch.setattr(module, "from_all_processes", others)
        checkpoints.close(agree=False)
        assert others.num_exchanges == 0
    assert steps(workdir) == [1, 2, 3]


def start(*arguments: str | Path, devices: int) -> "subprocess.Popen[str]":
    """Start this file as a script."""
    environment = os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    command = [sys.executable, __file__, *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_a_run_that_is_killed_while_it_saves(workdir: Path) -> None:
    process = start("die", workdir, devices=1)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, output
    directory = workdir / "checkpoints"
    assert {path.name for path in directory.iterdir()} == {"00000001", "00000002", ".00000003.saving"}
    assert_is(restore(checkpoints_in(workdir), mesh_of(1)), 2)
    assert steps(workdir) == [1, 2]
    assert not (directory / ".00000003.saving").exists()


def test_two_processes(workdir: Path) -> None:
    """One process saves, two resume, and one restores their step.

    The two processes skip a step that one of them cannot read, and a step that is damaged in one's share of the files.
    """
    for step in (3, 4):
        shutil.copytree(workdir / "checkpoints/00000002", workdir / f"checkpoints/{step:08}")
    flip(largest_file(workdir / "checkpoints/00000003/training/state"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    processes = [start("two", workdir, address, str(number), devices=2) for number in range(2)]
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(outputs)
    assert "step 4 is skipped" in outputs[0]
    assert "step 3 is skipped" in outputs[0]
    assert "is skipped" not in outputs[1]
    assert all("step 5 was not saved, the disk is full" in output for output in outputs), "\n".join(outputs)
    assert steps(workdir) == [1, 2, 3, 4]
    assert_is(restore(checkpoints_in(workdir), mesh_of(8)), 4)
    assert len({path.name for path in (workdir / "checkpoints/00000004").rglob("ocdbt.process_*")}) == 2


def die(workdir: Path) -> None:
    """Save step 3, and be killed once its files are there."""

    def kill(self: Manifest, checkpoint: Path) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    Manifest.write = kill  # type: ignore[method-assign]
    checkpoints = checkpoints_in(workdir)
    save(checkpoints, 3, mesh_of(1))
    checkpoints.wait()


def unreadable(step: int, load: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that loads every step except this one."""

    def load_others(folder: Path, *arguments: Any) -> Any:
        if folder.name == f"{step:08}":
            raise CheckpointError(folder, f"{folder}: cannot be read")
        return load(folder, *arguments)

    return load_others


def one_of_two(workdir: Path, address: str, number: int) -> None:
    """Restore step 2, save step 4, and fail to save step 5."""
    jax.distributed.initialize(address, 2, number)
    mesh, checkpoints = mesh_of(4), checkpoints_in(workdir)
    if number == 1:
        module.load_arrays = unreadable(4, load_arrays)
    assert_is(checkpoints.restore("keyframes", *abstract(arrays(0), mesh)), 2)
    assert checkpoints.record() == RECORD | {"step": 2}
    with pytest.raises(OSError if number == 0 else UserError, match="No space left on device"):
        from_first_process(then_full(lambda: None))
    save(checkpoints, 4, mesh)
    checkpoints.wait()
    if number == 1:
        BackgroundWrite.wait = then_full(BackgroundWrite.wait)  # type: ignore[method-assign]
    save(checkpoints, 5, mesh)
    try:
        checkpoints.close()
    except UserError as error:
        print(error)
    jax.distributed.shutdown()


def test_a_saved_step_has_a_card_and_later_a_contact_sheet(tmp_path: Path) -> None:
    directory = tmp_path / "run" / "checkpoints"
    sheet = tmp_path / "sheet.png"
    contact_sheet(sheet, {"samples": np.zeros((2, 8, 8, 3), np.uint8)}, "a title")
    checkpoints = TrainingCheckpoints(directory, keep=3, keep_every=0)
    provenance = {"source": "train.py", "stage": "keyframes", "step": 7, "settings": {"batch_size": 3}}
    record = dataclasses.replace(COMPONENT, provenance=provenance)
    for step in (1, 2):
        checkpoints.save(step, "keyframes", record, {("kernel",): jnp.ones((2, 3))}, {"step": jnp.int32(step)}, {})
        checkpoints.add_sheet(step, sheet)
    checkpoints.add_sheet(9, sheet)  # a step that does not exist
    checkpoints.close()
    for step in (1, 2):
        folder = directory / f"{step:08d}"
        card = (folder / CARD).read_text()
        assert is_own_card(card)
        assert "| keyframes | UNet | 6 | float32 |" in card
        assert "trained by `train.py` (7 steps)" in card
        assert "    batch_size = 3" in card
        assert f"({CONTACT_SHEET})" in card
        assert (folder / CONTACT_SHEET).read_bytes() == sheet.read_bytes()
        verify_files(folder)
    (directory / "00000002" / CARD).write_text("mine")
    again = TrainingCheckpoints(directory, keep=3, keep_every=0)
    again.save(2, "keyframes", record, {("kernel",): jnp.ones((2, 3))}, {"step": jnp.int32(2)}, {})
    again.add_sheet(2, sheet)
    again.close()
    assert (directory / "00000002" / CARD).read_text() == "mine"
    assert sorted(path.name for path in directory.iterdir()) == ["00000001", "00000002"]


if __name__ == "__main__":
    if sys.argv[1] == "die":
        die(Path(sys.argv[2]))
    else:
        one_of_two(Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
