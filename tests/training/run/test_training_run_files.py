"""Customisation: a run on one clip of the user, with the motion loss, and the config that does so."""

import contextlib
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from show1_jax.cli import load_config
from show1_jax.commands import train
from show1_jax.config.training import DenoisingTrainingConfig
from show1_jax.data.synthetic.paths import PathScene
from show1_jax.errors import UserError
from show1_jax.training.plan import make_plan
from show1_jax.training.run.loop import Loop
from show1_jax.training.run.metrics import MetricsWriter
from show1_jax.training.run.stop import StopSignal
from show1_jax.training.trainable import matching_weights
from tests.helpers.tiny_runs import run_of, settings

ROOT = Path(__file__).parents[3]
CUSTOMISE = ROOT / "configs/customise.py"


def save_clip(folder: Path) -> Path:
    path = folder / "clip.npy"
    np.save(path, PathScene("red", "circle", "loops").render(np.linspace(0, 3.5, 9), 40, 64))
    return path


def test_one_clip_fills_a_batch_and_is_trained_without_validation(tiny_checkpoint: Path, tmp_path: Path) -> None:
    config = settings(
        tiny_checkpoint,
        "keyframes",
        init=str(tiny_checkpoint),
        trainable="temporal_attention",
        loss="motion",
        num_steps=2,
        optimizer={"learning_rate": 1e-2, "warmup_steps": 0, "ema_decay": 0.0},
        train={"evaluate_every": 1, "sample_every": 1, "save_every": 2, "log_every": 1},
    )
    data = dataclasses.replace(
        config.train.data, name="files", path=str(save_clip(tmp_path)), caption="a red circle moves", num_validation=0
    )
    config = dataclasses.replace(
        config,
        keyframes=dataclasses.replace(config.keyframes, num_frames=3),
        train=dataclasses.replace(config.train, data=data),
    )
    run = run_of(config, "keyframes", tmp_path / "run")
    batch = next(run.clips).video
    assert batch.shape[:2] == (run.plan.training.batch_size, 3)
    assert len(batch) > 1
    assert (batch == batch[:1]).all()
    assert (batch[:, 0] != batch[:, 1]).any()
    start = {path: np.asarray(weight) for path, weight in run.state.weights.items()}
    with contextlib.closing(MetricsWriter(tmp_path / "run", resumed_step=0, config=config.to_dict())) as writer:
        Loop(run, writer, StopSignal()).train()
    assert all(not np.array_equal(start[path], weight) for path, weight in run.state.weights.items())
    assert all(np.array_equal(run.state.average[path], weight) for path, weight in run.state.weights.items())
    assert not (tmp_path / "run" / "samples").exists()
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss/motion" in line] == [1, 2]
    assert not any("validation/loss" in line for line in lines)


@pytest.mark.parametrize("cascade", ["demo", "full"])
def test_the_config_trains_a_part_of_the_keyframe_network(cascade: str) -> None:
    config = load_config(f"{CUSTOMISE}:{cascade}")
    assert config.train.default_stage == "keyframes"
    training = config.train.keyframes
    assert isinstance(training, DenoisingTrainingConfig)
    assert training.init == config.checkpoint
    if cascade == "full":
        assert (training.trainable, training.loss, training.optimizer.learning_rate) == (
            "temporal_attention",
            "motion",
            1e-4,
        )
        assert (training.num_steps, training.batch_size, training.text_dropout) == (400, 1, 0)
        assert (training.optimizer.weight_decay, training.optimizer.clip_norm) == (0.01, 1.0)
        assert config.train.precision == "float32"
        return
    shapes = make_plan(config, "keyframes", "cpu").shapes()
    trained = matching_weights(training.trainable, shapes, "trainable")
    assert all(path[2].startswith("temp_") or path[1].startswith("temp_") for path in trained)
    assert sum(int(np.prod(leaf.shape)) for leaf in trained.values()) * 4 < 2e6  # the bytes of its checkpoint


def test_bad_customisations_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no such cascade"):
        load_config(f"{CUSTOMISE}:other")
    common = ["train.py", "--config", str(CUSTOMISE), f"--workdir={tmp_path / 'run'}"]
    common.append("--config.train.keyframes.batch_size=8")  # a clip for each of the devices that tests have
    with pytest.raises(UserError, match=r"there is no .*absent\.mp4"):
        train.train([*common, f"--config.train.data.path={tmp_path}/absent.mp4"])
    with pytest.raises(UserError, match="has no caption"):
        train.train([*common, f"--config.train.data.path={save_clip(tmp_path)}"])
    assert not (tmp_path / "run" / "checkpoints").exists()
