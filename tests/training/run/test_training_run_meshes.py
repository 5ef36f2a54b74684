"""The same training on one device, on eight and in two processes: the same numbers up to rounding."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from show1_jax.config.config_file import Config
from show1_jax.config.sampling import MeshConfig
from show1_jax.training.run.metrics import read_metrics
from show1_jax.training.run.training_run import TrainingRun
from tests.helpers.processes import free_address
from tests.helpers.tiny_runs import advance, apart, command, finish, run_of, settings, start

EQUAL = 1e-5

# A huge epsilon makes AdamW plain gradient descent. Otherwise rounding of gradients near zero grows to whole steps.
GRADIENT_DESCENT = {"learning_rate": 1e4, "epsilon": 1e6, "beta1": 0.0, "weight_decay": 0.0, "clip_norm": 0.0}
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


def test_an_adapter_on_eight_devices_is_that_on_one(tiny_checkpoint: Path, tmp_path: Path) -> None:
    descent = GRADIENT_DESCENT | {"learning_rate": 1e6}  # B begins at zero, and A has no gradient until it changes
    runs = []
    for number, mesh in ((1, MeshConfig(data=1)), (8, MeshConfig(data=1, fsdp=4, tensor=2))):
        changes: dict[str, Any] = {"train": {"mesh": mesh.to_dict()}, "optimizer": dict(descent)}
        config = settings(tiny_checkpoint, "keyframes", trainable="lora", init=str(tiny_checkpoint), **changes)
        run = run_of(config, "keyframes", tmp_path / str(number), number)
        losses = advance(run, 3)
        runs.append((losses, run))
    (ours, eight), (others, one) = runs[1], runs[0]
    assert np.allclose(ours, others, rtol=EQUAL, atol=0)
    assert apart(eight.state.weights, one.state.weights) <= EQUAL
    assert apart(eight.averaged_weights(), one.averaged_weights()) <= EQUAL
    held = sum(leaf.addressable_shards[0].data.nbytes for leaf in eight.base.values())
    assert held <= 1.4 / 8 * sum(leaf.nbytes for leaf in eight.base.values())


def test_two_processes_do_what_one_does(
    alone: tuple[float, Any, TrainingRun], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    address = free_address()
    optimizer = [f"--config.train.keyframes.optimizer.{name}={value}" for name, value in GRADIENT_DESCENT.items()]
    arguments = [*optimizer, "--stage=keyframes", "--config.train.keyframes.num_steps=5", "--config.train.mesh.data=2"]
    arguments += ["--config.keyframes.num_frames=2", "--config.train.log_every=1"]
    arguments = command(tiny_checkpoint, tmp_path, *arguments)
    arguments += [f"--coordinator_address={address}", "--num_processes=2"]
    processes = [start([*arguments, f"--process_id={number}"]) for number in range(2)]
    outputs = [finish(process) for process in processes]
    printed = [line for line in outputs[1].splitlines() if not line.startswith("[Gloo]")]
    assert printed == []  # only the first process prints, except for lines of the collectives' library

    config = settings(tiny_checkpoint, "keyframes", optimizer=GRADIENT_DESCENT)
    run = run_of(config, "keyframes", tmp_path)  # one process reads the checkpoint of two
    assert int(run.state.step) == 5
    assert apart(run.state.weights, alone[2].state.weights) <= EQUAL
    first, *_ = read_metrics(tmp_path / "metrics.jsonl")
    assert first["step"] == 1
    assert abs(first["loss"] - alone[0]) <= EQUAL * abs(alone[0])
    norm = np.sqrt(sum(np.sum(leaf**2) for leaf in alone[1].values()))
    assert abs(first["grad_norm"] - norm) <= EQUAL * norm
