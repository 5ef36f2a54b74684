"""Several checkpoints as one: later components replace earlier ones, and a training run stands for its newest step."""

import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_config
from flax import nnx

from convert.verify import verify
from show1_jax.cascade import Cascade
from show1_jax.checkpoint_set import CheckpointSet, split_names
from show1_jax.errors import UserError
from show1_jax.manifest import read_manifest
from show1_jax.models import ARCHITECTURES, build
from show1_jax.training.checkpoints import TrainingCheckpoints
from show1_jax.weights import to_weights


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Path:
    """A training run of the tiny keyframe network whose averaged weights are all the number of the step."""
    workdir = tmp_path_factory.mktemp("runs") / "keyframes"
    record = read_manifest(tiny_checkpoint).component("keyframes")
    network = build(record.kind, ARCHITECTURES[record.kind].from_dict(record.architecture))
    shapes = to_weights(nnx.state(network, nnx.Param))
    checkpoints = TrainingCheckpoints(workdir / "checkpoints", keep=2, keep_every=0)
    for step in (1, 2):
        average = {path: jax.device_put(np.full(leaf.shape, step, np.float32)) for path, leaf in shapes.items()}
        checkpoints.save(step, "keyframes", record, average, {"step": jnp.int32(step)}, {})
    checkpoints.close()
    return workdir


def keyframe_values(cascade: Cascade) -> set[float]:
    with cascade._loaded("keyframes") as network:
        return {value for leaf in jax.tree.leaves(network.weights) for value in np.unique(leaf).tolist()}


def load(names: str) -> Cascade:
    return Cascade.load(names, tiny_config.settings(), devices=jax.devices()[:1])


@pytest.mark.parametrize("step", [None, 1, 2])
def test_a_training_run_replaces_its_component(tiny_checkpoint: Path, run: Path, step: int | None) -> None:
    trained = run if step is None else run / "checkpoints" / f"{step:08d}"
    checkpoints, before = CheckpointSet.open(f"{tiny_checkpoint},{trained}"), read_manifest(tiny_checkpoint)
    assert checkpoints.path("keyframes") == run / "checkpoints" / f"{step or 2:08d}"
    assert keyframe_values(load(f"{tiny_checkpoint},{trained}")) == {step or 2}
    assert set(checkpoints.manifest.components) == set(before.components)
    for name in set(before.components) - {"keyframes"}:
        assert checkpoints.path(name) == tiny_checkpoint
        assert checkpoints.manifest.digest(name) == before.digest(name)
    assert checkpoints.manifest.digest("keyframes") != before.digest("keyframes")
    checkpoints.check_sizes(tuple(before.components))


def test_the_last_one_counts(tiny_checkpoint: Path, run: Path) -> None:
    checkpoints = CheckpointSet.open(f"{run}, {tiny_checkpoint}")
    assert set(checkpoints.paths.values()) == {tiny_checkpoint}
    assert checkpoints.manifest == read_manifest(tiny_checkpoint)


def test_a_step_alone_has_its_component_only(run: Path) -> None:
    with pytest.raises(UserError, match="no component 'vae', only keyframes"):
        CheckpointSet.open(run).path("vae")


def test_a_damaged_step_is_passed_over(
    tmp_path: Path, tiny_checkpoint: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    weights = max((copy / "checkpoints/00000002").rglob("*"), key=lambda path: path.is_file() and path.stat().st_size)
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 4
    weights.write_bytes(data)
    assert keyframe_values(load(f"{tiny_checkpoint},{copy}")) == {1}
    said = capsys.readouterr().err
    assert said.startswith("warning: ")
    assert said.endswith("step 2 is passed over\n")
    with pytest.raises(UserError, match=r"changed: keyframes/weights/.*; take an earlier step"):
        keyframe_values(load(f"{tiny_checkpoint},{copy}/checkpoints/00000002"))


def test_a_run_without_steps(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(UserError, match="this training run has no checkpoint yet"):
        CheckpointSet.open(tmp_path)
    with pytest.raises(UserError, match="none: no checkpoint; make one with"):
        CheckpointSet.open(f"{tmp_path}/none")


def test_names(tmp_path: Path) -> None:
    assert split_names("a,b, c") == [Path("a"), Path("b"), Path("c")]
    (tmp_path / "a,b").mkdir()
    assert split_names(tmp_path / "a,b") == [tmp_path / "a,b"]


def test_verify_takes_a_step(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    verify(run / "checkpoints/00000002")
    assert "keyframes" in capsys.readouterr().out
