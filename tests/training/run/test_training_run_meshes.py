"""The same training on one device, on eight and in two processes: the same numbers up to rounding."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from show1_jax.checkpoints.arrays import weight_shapes
from show1_jax.config.config_file import Config
from show1_jax.config.sampling import MeshConfig
from show1_jax.config.settings import flatten
from show1_jax.training.run.metrics import read_metrics
from show1_jax.training.run.training_run import TrainingRun
from tests.helpers.processes import free_address
from tests.helpers.tiny_runs import advance, apart, command, finish, run_of, settings, start

EQUAL = 1e-5

# A huge epsilon makes AdamW plain gradient descent. Otherwise rounding of gradients near zero grows to whole steps.
GRADIENT_DESCENT = {"learning_rate": 1e4, "epsilon": 1e6, "beta1": 0.0, "weight_decay": 0.0, "clip_norm": 0.0}
ADAPTER_DESCENT = GRADIENT_DESCENT | {"learning_rate": 1e6}  # B begins at zero, and A has no gradient until it changes
MESHES: dict[str, tuple[MeshConfig, dict[str, Any]]] = {
    "data": (MeshConfig(data=8), {"remat": "full"}),
    "fsdp": (MeshConfig(data=1, fsdp=4, tensor=2), {"remat": "none"}),
    "all": (MeshConfig(data=2, fsdp=2, tensor=2), {"remat": "dots", "num_microbatches": 2}),
}


def descend(config: Config, workdir: Path, num_devices: int) -> tuple[float, dict[str, np.ndarray], TrainingRun]:
    """Return the first loss, the first gradient (the optimiser's first moment), and the run after five plain steps."""
    run = run_of(config, "keyframes", workdir, num_devices)
    (loss,) = advance(run, 1)
    gradient = {"/".join(path): np.asarray(leaf) for path, leaf in moment(run).items()}
    advance(run, 4)
    return loss, gradient, run


def moment(run: TrainingRun) -> Any:
    return next(part.mu for part in jax.tree.leaves(run.state.optimizer, is_leaf=lambda x: hasattr(x, "mu")))


@pytest.fixture(scope="module")
def alone(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[float, Any, TrainingRun]:
    config = settings(tiny_checkpoint, "keyframes", optimizer=GRADIENT_DESCENT)
    return descend(config, tmp_path_factory.mktemp("alone"), 1)


@pytest.fixture(scope="module")
def adapter_alone(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[float, Any, TrainingRun]:
    return descend(adapter_settings(tiny_checkpoint), tmp_path_factory.mktemp("adapter"), 1)


def adapter_settings(checkpoint: Path, **changes: Any) -> Config:
    """Return settings that train an adapter of the checkpoint's keyframe network."""
    changes |= {"optimizer": dict(ADAPTER_DESCENT), "trainable": "lora", "init": str(checkpoint)}
    return settings(checkpoint, "keyframes", **changes)


@pytest.mark.parametrize("name", MESHES)
def test_eight_devices_do_what_one_does(
    name: str, alone: tuple[float, Any, TrainingRun], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    mesh, changes = MESHES[name]
    train = {"mesh": mesh.to_dict()}
    config = settings(tiny_checkpoint, "keyframes", train=train, optimizer=GRADIENT_DESCENT, **changes)
    loss, gradient, run = descend(config, tmp_path, 8)
    assert abs(loss - alone[0]) <= EQUAL * abs(alone[0])
    assert apart(gradient, alone[1]) <= EQUAL
    assert apart(run.state.weights, alone[2].state.weights) <= EQUAL
    assert apart(run.state.average, alone[2].state.average) <= EQUAL
    # Large arrays are sharded like the weights.
    shards = mesh.fsdp * mesh.tensor
    for tree in (run.state.weights, run.state.average, moment(run)):
        held = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(tree))
        assert held <= 1.4 / shards * sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


def test_an_adapter_on_eight_devices_is_that_on_one(
    adapter_alone: tuple[float, Any, TrainingRun], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    mesh = MeshConfig(data=1, fsdp=4, tensor=2)
    config = adapter_settings(tiny_checkpoint, train={"mesh": mesh.to_dict()})
    loss, gradient, eight = descend(config, tmp_path, 8)
    assert abs(loss - adapter_alone[0]) <= EQUAL * abs(adapter_alone[0])
    assert apart(gradient, adapter_alone[1]) <= EQUAL
    one = adapter_alone[2]
    assert apart(eight.state.weights, one.state.weights) <= EQUAL
    assert apart(eight.averaged_weights(), one.averaged_weights()) <= EQUAL
    held = sum(leaf.addressable_shards[0].data.nbytes for leaf in eight.base.values())
    assert held <= 1.4 / 8 * sum(leaf.nbytes for leaf in eight.base.values())


@pytest.mark.parametrize("trained", ["all", "adapter"])
def test_two_processes_do_what_one_does(
    trained: str, request: pytest.FixtureRequest, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    is_adapter = trained == "adapter"
    one = request.getfixturevalue("adapter_alone" if is_adapter else "alone")
    config = adapter_settings(tiny_checkpoint)
    if not is_adapter:
        config = settings(tiny_checkpoint, "keyframes", optimizer=GRADIENT_DESCENT)
    training = flatten(config.train.keyframes.to_dict())
    names = [*(f"optimizer.{name}" for name in GRADIENT_DESCENT), "trainable", "init"]
    arguments = [f"--config.train.keyframes.{name}={training[name]}" for name in names]
    # The frozen weights of an adapter are sharded over the processes.
    arguments += ["--stage=keyframes", f"--config.train.mesh.{'fsdp' if is_adapter else 'data'}=2"]
    arguments += [
        "--config.train.keyframes.num_steps=5",
        "--config.keyframes.num_frames=2",
        "--config.train.log_every=1",
    ]
    arguments = command(tiny_checkpoint, tmp_path, *arguments)
    arguments += [f"--coordinator_address={free_address()}", "--num_processes=2"]
    processes = [start([*arguments, f"--process_id={number}"]) for number in range(2)]
    outputs = [finish(process) for process in processes]
    printed = [line for line in outputs[1].splitlines() if not line.startswith("[Gloo]")]
    assert printed == []  # only the first process prints, except for lines of the collectives' library

    run = run_of(config, "keyframes", tmp_path)  # one process reads the checkpoint of two
    assert int(run.state.step) == 5
    assert apart(run.state.weights, one[2].state.weights) <= EQUAL
    if is_adapter:  # nothing else is saved, so that the frozen weights are those of the checkpoint
        assert weight_shapes(tmp_path / "checkpoints" / f"{5:08d}", "keyframes").keys() == run.state.weights.keys()
    first, *_ = read_metrics(tmp_path / "metrics.jsonl")
    assert first["step"] == 1
    assert abs(first["loss"] - one[0]) <= EQUAL * abs(one[0])
    norm = np.sqrt(sum(np.sum(leaf**2) for leaf in one[1].values()))
    assert abs(first["grad_norm"] - norm) <= EQUAL * norm
