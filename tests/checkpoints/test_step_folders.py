"""Saved steps of a run in a bucket: complete or not counted, restored bit for bit, never with a flipped byte."""

import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from show1_jax.buckets import lease
from show1_jax.buckets.errors import BucketError
from show1_jax.buckets.lease import LEASE
from show1_jax.buckets.path import BucketPath
from show1_jax.checkpoints import run_steps
from show1_jax.checkpoints.adapter_set import split_adapters
from show1_jax.checkpoints.checkpoint_set import is_run, resolve_checkpoint, split_names
from show1_jax.checkpoints.manifest import Component, check_sizes, verify_files
from show1_jax.checkpoints.run_steps import TrainingCheckpoints, latest_step
from show1_jax.errors import UserError
from show1_jax.files import check_target, check_writable, locked_folder, storage_path
from tests.helpers.buckets import BUCKET
from tests.helpers.gcs_server import Answer, GcsServer, Request

COMPONENT = Component("unet", {"block_out_channels": [8]}, "float32", provenance={"source": "train.py"})
STEPS = "run/checkpoints"


def workdir_in(scheme: str = "gs") -> BucketPath:
    path = storage_path(f"{scheme}://{BUCKET}/run")
    assert isinstance(path, BucketPath)
    return path


def arrays(seed: int) -> tuple[dict[Any, jax.Array], dict[Any, jax.Array]]:
    """Return weights and a state, sharded over all devices."""
    rng = np.random.default_rng(seed)
    mesh = jax.make_mesh((8,), ("fsdp",), (AxisType.Auto,))
    sharded = NamedSharding(mesh, PartitionSpec("fsdp"))
    weights = {("block", "kernel"): jax.device_put(rng.standard_normal((16, 8), np.float32), sharded)}
    return weights, {"moments": jax.device_put(rng.standard_normal(8).astype(np.float32), sharded)}


def like(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), tree)


def save(checkpoints: TrainingCheckpoints, step: int) -> None:
    weights, state = arrays(step)
    checkpoints.save(step, "keyframes", COMPONENT, weights, state, {"step": step})


def saved_steps(workdir: BucketPath, *steps: int, keep: int = 10, keep_every: int = 0) -> None:
    with closing(TrainingCheckpoints(workdir / "checkpoints", keep=keep, keep_every=keep_every)) as checkpoints:
        for step in steps:
            save(checkpoints, step)


def restored_step(workdir: BucketPath, warnings: list[str] | None = None) -> int:
    """Restore the newest step, check all values, and return its number."""
    lines = [] if warnings is None else warnings
    weights, state = arrays(0)
    with closing(TrainingCheckpoints(workdir / "checkpoints", keep=10, keep_every=0)) as checkpoints:
        restored = checkpoints.restore("keyframes", like(weights), like(state), warn=lines.append)
    assert restored is not None
    for found, expected in zip((restored.ema, restored.state), arrays(restored.step), strict=True):
        jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert restored.record == {"step": restored.step}
    assert warnings is not None or not lines
    return restored.step


def numbers(gcs: GcsServer) -> set[str]:
    """Return the names of the folders in the directory of steps."""
    return {name.split("/")[2] for name in gcs.names(BUCKET, f"{STEPS}/")}


@pytest.mark.parametrize("scheme", ["gs", "s3"])
def test_steps_are_saved_and_restored(scheme: str, request: pytest.FixtureRequest) -> None:
    request.getfixturevalue("gcs" if scheme == "gs" else "s3_session")
    workdir = workdir_in(scheme)
    workdir.remove_all()
    with locked_folder(workdir):
        saved_steps(workdir, 1, 2)
        assert restored_step(workdir) == 2
        step = workdir / "checkpoints/00000002"
        verify_files(step)
        check_sizes(step, "keyframes")
        assert latest_step(workdir) == step
    assert is_run(workdir)
    assert split_names(f"{workdir},{step}") == [workdir, step]
    assert split_names(workdir) == [workdir]
    assert resolve_checkpoint(workdir) == step
    assert split_adapters(f"{workdir}:0.5,{step}") == [(workdir, 0.5), (step, 1.0)]
    assert not any(name.startswith(".") for name in (workdir / "checkpoints").names())
    workdir.remove_all()


def test_old_steps_are_removed(gcs: GcsServer) -> None:
    saved_steps(workdir_in(), *range(1, 6), keep=2, keep_every=3)
    assert numbers(gcs) == {"00000003", "00000004", "00000005"}
    assert restored_step(workdir_in()) == 5


def test_every_missing_or_flipped_object_is_noticed(gcs: GcsServer) -> None:
    saved_steps(workdir_in(), 1, 2)
    names = gcs.names(BUCKET, f"{STEPS}/00000002/")
    assert len(names) > 10
    kept = dict(gcs.objects[BUCKET])
    for name in names:
        flipped = bytearray(kept[name][0])
        flipped[len(flipped) // 2] ^= 1
        for damaged in (None, bytes(flipped)):
            if damaged is None:
                del gcs.objects[BUCKET][name]
            else:
                gcs.write(BUCKET, name, damaged)
            # `sample.py` uses the weights only; the rest is checked when a run resumes.
            used = latest_step_number(workdir_in(), []) if "/training/" not in name else restored_step(workdir_in(), [])
            assert used == 1
            gcs.objects[BUCKET] = dict(kept)
    victim = next(name for name in names if "/training/state/ocdbt.process_0/d/" in name)
    gcs.write(BUCKET, victim, gcs.objects[BUCKET][victim][0][:-1])
    warnings: list[str] = []
    assert restored_step(workdir_in(), warnings) == 1
    assert warnings == [
        f"gs://{BUCKET}/{STEPS}/00000002: missing or changed: {victim[len(STEPS) + 10 :]}; step 2 is skipped"
    ]


def latest_step_number(workdir: BucketPath, warnings: list[str]) -> int:
    found = latest_step(workdir, warn=warnings.append)
    assert found is not None
    return int(found.name)


def test_a_truncated_object_is_found_without_reading_it(gcs: GcsServer) -> None:
    saved_steps(workdir_in(), 1)
    name = next(name for name in gcs.names(BUCKET) if "/keyframes/weights/ocdbt.process_0/d/" in name)
    gcs.write(BUCKET, name, gcs.objects[BUCKET][name][0] + b"x")
    with pytest.raises(UserError, match="missing or truncated"):
        check_sizes(workdir_in() / "checkpoints/00000001", "keyframes")


@pytest.fixture
def killed_at(gcs: GcsServer) -> Callable[[int], int]:
    """Return a function that saves step 2 and stops all work in the bucket after so many writes of the save."""

    def killed(writes: int) -> int:
        done = 0

        def fault(request: Request) -> Answer | None:
            nonlocal done
            done += request.method != "GET"
            return Answer(status=403) if done > writes else None  # no more requests arrive, as after SIGKILL

        gcs.fault = fault
        with pytest.raises(UserError):
            saved_steps(workdir_in(), 2)
        served = -1
        while served != (served := len(gcs.requests)):
            time.sleep(0.2)  # requests of the save that are on their way; a killed process has none
        gcs.fault = lambda request: None
        return done

    return killed


@pytest.mark.parametrize("writes", [0, 1, 2, 5, 12, 20, 27])
def test_a_save_that_ends_anywhere_does_not_count(gcs: GcsServer, killed_at: Callable[[int], int], writes: int) -> None:
    saved_steps(workdir_in(), 1)
    killed_at(writes)
    assert f"{STEPS}/00000002/manifest.json" not in gcs.names(BUCKET)
    assert latest_step_number(workdir_in(), []) == 1
    assert restored_step(workdir_in()) == 1
    assert numbers(gcs) == {"00000001"}
    saved_steps(workdir_in(), 2)
    assert restored_step(workdir_in()) == 2


def test_a_mark_that_is_left_beside_a_complete_step_is_removed(gcs: GcsServer) -> None:
    saved_steps(workdir_in(), 1)
    gcs.write(BUCKET, f"{STEPS}/.00000001.saving/begun", b"")
    assert restored_step(workdir_in()) == 1
    assert numbers(gcs) == {"00000001"}


def test_a_step_is_replaced(gcs: GcsServer) -> None:
    saved_steps(workdir_in(), 1, 2)
    gcs.write(BUCKET, f"{STEPS}/00000002/training/record.json", b"{}")
    assert restored_step(workdir_in(), []) == 1
    saved_steps(workdir_in(), 2)
    assert restored_step(workdir_in()) == 2


@pytest.mark.parametrize("status", [503, 403])
def test_a_server_that_fails_is_no_damage(gcs: GcsServer, status: int) -> None:
    """The step is not skipped: this would lose the work after the step before."""
    saved_steps(workdir_in(), 1, 2)
    for part in (
        "manifest.json",
        "training/record.json",
        "keyframes/weights/manifest.ocdbt",
        "keyframes/weights/_METADATA",
    ):
        gcs.fault = lambda request, part=part: (  # type: ignore[misc]
            Answer(status=status) if request.name == f"{STEPS}/00000002/{part}" else None
        )
        with pytest.raises(BucketError, match="does not answer" if status == 503 else "access is denied"):
            restored_step(workdir_in())
    gcs.fault = lambda request: None
    assert restored_step(workdir_in()) == 2


def test_a_save_that_fails_is_one_line(gcs: GcsServer) -> None:
    saved_steps(workdir_in(), 1)
    gcs.fault = lambda request: Answer(status=503) if request.name.endswith("manifest.ocdbt") else None
    with pytest.raises(UserError) as raised:
        saved_steps(workdir_in(), 2)
    assert str(raised.value).startswith(
        f"gs://{BUCKET}: the server does not answer (All 3 retry attempts failed: a fault"
    )
    assert "\n" not in str(raised.value)
    gcs.fault = lambda request: None
    assert numbers(gcs) == {"00000001"}


def test_a_run_that_lost_its_lease_completes_no_step(gcs: GcsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another run has taken over and works on the same step: its objects stay."""
    checkpoints = TrainingCheckpoints(workdir_in() / "checkpoints", keep=10, keep_every=0)
    hashes = run_steps.describe_files

    def taken_over(*arguments: Any) -> Any:
        gcs.write(BUCKET, f"run/{LEASE}", b"another run")
        return hashes(*arguments)

    with locked_folder(workdir_in()):
        save(checkpoints, 1)
        checkpoints.wait()
        monkeypatch.setattr(run_steps, "describe_files", taken_over)
        monkeypatch.setattr(lease, "_RECENT_SECONDS", 0.0)
        save(checkpoints, 2)
        with pytest.raises(UserError, match="another process writes there"):
            checkpoints.wait()
        assert f"{STEPS}/.00000002.saving/begun" in gcs.names(BUCKET)
        with pytest.raises(UserError, match="another process writes there"):
            save(checkpoints, 3)
        checkpoints.close()
    assert latest_step_number(workdir_in(), []) == 1
    assert gcs.objects[BUCKET][f"run/{LEASE}"][0] == b"another run"


def test_what_needs_a_file_system_says_so(gcs: GcsServer) -> None:
    with pytest.raises(UserError, match="it is written to a file system first"):
        check_target(workdir_in())
    check_writable(workdir_in())
    assert gcs.names(BUCKET) == []
    gcs.fault = lambda request: Answer(status=403) if request.method == "POST" else None
    with pytest.raises(UserError, match="access is denied"):
        check_writable(workdir_in())


def test_a_bucket_without_a_checkpoint(gcs: GcsServer) -> None:
    from show1_jax.checkpoints.checkpoint_set import CheckpointSet

    with pytest.raises(UserError, match=rf"gs://{BUCKET}/none: no checkpoint, or its upload has not ended; make one"):
        CheckpointSet.open(f"gs://{BUCKET}/none")
    assert not Path("gs:").exists()
