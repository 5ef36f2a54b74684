"""Training: every stage learns and resumes exactly; one device, eight devices and two processes do the same.

Compiling a step is what takes the time here: each stage is compiled once, for a run that several tests look at.
"""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
import tiny_config
from processes import environment, free_address

from show1_jax import stages
from show1_jax.errors import UserError
from show1_jax.request import SampleConfig
from show1_jax.sampling_config import MeshConfig
from show1_jax.training.loop import Loop, Window
from show1_jax.training.metrics import read_metrics
from show1_jax.training.plan import make_plan
from show1_jax.training.run import TrainingRun
from show1_jax.training.samples import write_samples
from show1_jax.training.step import Metrics
from show1_jax.training.stop import StopSignal
from show1_jax.training_config import TRAINED_STAGES, TrainedStage
from show1_jax.video import read_video

ROOT = Path(__file__).parent.parent
SAVED, STEPS, LEARNED = 2, 4, 50
FALLS_BELOW = 0.5
"""Share of the first loss that the mean of the last losses must be below, over a handful of clips."""
EQUAL = 1e-5


def settings(checkpoint: Path, stage: TrainedStage, **changes: Any) -> SampleConfig:
    """The tiny config with some training settings changed, by dotted name."""
    config = tiny_config.get_config()
    config.checkpoint = str(checkpoint)
    config.keyframes.num_frames = config.train.superres_latent.num_frames = 2
    config.superres_pixel.update(window=2, stride=1)
    config.superres_latent.update(height=16, width=16)
    config.train.update(changes.pop("train", {}))
    config.train[stage].optimizer.update(changes.pop("optimizer", {}))
    config.train[stage].update(changes)
    return SampleConfig.from_dict(config.to_dict())


def run_of(config: SampleConfig, stage: TrainedStage, workdir: Path, num_devices: int = 1) -> TrainingRun:
    return TrainingRun.open(make_plan(config, stage, "cpu"), workdir, jax.devices()[:num_devices])


def advance(run: TrainingRun, num_steps: int) -> list[float]:
    """Train so many steps; returns their losses."""
    metrics = [run.train_step(run.next_batch()) for _ in range(num_steps)]
    return [float(step.loss) for step in metrics]


def bytes_of(run: TrainingRun) -> dict[str, bytes]:
    """Every array of a run's state, and its place in the data."""
    arrays = {
        jax.tree_util.keystr(path): np.asarray(leaf).tobytes()
        for path, leaf in jax.tree_util.tree_leaves_with_path(run.state)
    }
    return arrays | {"data": json.dumps(run.clips.get_state(), sort_keys=True).encode()}


@pytest.mark.parametrize("stage", TRAINED_STAGES)
def test_every_stage_learns_and_resumes_exactly(
    stage: TrainedStage, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(tiny_checkpoint, stage, batch_size=4, optimizer={"learning_rate": 3e-3})
    run = run_of(config, stage, tmp_path)
    losses = advance(run, SAVED)
    run.save(SAVED)
    losses += advance(run, STEPS - SAVED)
    straight = bytes_of(run)

    assert run.resume()
    assert int(run.state.step) == SAVED
    again = advance(run, STEPS - SAVED)
    assert again == losses[SAVED:]
    assert bytes_of(run) == straight

    losses += advance(run, LEARNED - STEPS)
    assert np.mean(losses[-10:]) < FALLS_BELOW * losses[0], losses
    check_samples(run, monkeypatch)
    run.close()


def check_samples(run: TrainingRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a run writes to look at; denoising itself, which is long to compile, is left out."""
    monkeypatch.setattr(stages, "denoise", lambda network, sampler, sample, *rest: sample)
    sheet = write_samples(run, 7)
    assert sheet == run.workdir / "samples" / "00000007" / "contact_sheet.png"
    assert sheet.stat().st_size > 1000
    clip, _ = read_video(sheet.parent / "3.mp4")
    spec = run.plan.spec
    assert clip.shape == (spec.num_frames, spec.height, spec.width, 3)


# A huge epsilon makes AdamW a plain gradient step: without it rounding of gradients near zero grows to whole steps.
GRADIENT_DESCENT = {"learning_rate": 1e4, "epsilon": 1e6, "beta1": 0.0, "weight_decay": 0.0, "clip_norm": 0.0}
MESHES = {
    "data": (MeshConfig(data=8), {"remat": "full"}),
    "fsdp": (MeshConfig(data=1, fsdp=4, tensor=2), {"remat": "none"}),
    "all": (MeshConfig(data=2, fsdp=2, tensor=2), {"remat": "dots", "num_microbatches": 2}),
}


def descend(config: SampleConfig, workdir: Path, num_devices: int) -> tuple[float, dict[str, np.ndarray], TrainingRun]:
    """The first loss, the first gradient (the optimiser's first moment), and the run after five plain steps."""
    run = run_of(config, "keyframes", workdir, num_devices)
    (loss,) = advance(run, 1)
    gradient = {"/".join(path): np.asarray(leaf) for path, leaf in moment(run).items()}
    advance(run, 4)
    return loss, gradient, run


def moment(run: TrainingRun) -> Any:
    return next(part.mu for part in jax.tree.leaves(run.state.optimizer, is_leaf=lambda x: hasattr(x, "mu")))


def apart(ours: Any, others: Any) -> float:
    """The norm of the difference of two trees, as a share of the norm."""
    ours, others = (np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]) for tree in (ours, others))
    return float(np.linalg.norm(ours - others) / np.linalg.norm(others))


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
    # Whatever is large is spread, and lies as the weights do.
    shards = mesh.fsdp * mesh.tensor
    for tree in (run.state.weights, run.state.average, moment(run)):
        held = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(tree))
        assert held <= 1.4 / shards * sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


def command(checkpoint: Path, workdir: Path, *arguments: str) -> list[str]:
    return [
        *(sys.executable, "train.py", "--config", "tests/tiny_config.py", f"--checkpoint={checkpoint}"),
        *(f"--workdir={workdir}", f"--config.compilation_cache={workdir.parent / 'compiled'}", *arguments),
    ]


def start(arguments: list[str], num_devices: int = 1) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        arguments, cwd=ROOT, env=environment(num_devices), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(process: "subprocess.Popen[str]", returncode: int = 0) -> str:
    output, _ = process.communicate(timeout=600)
    assert process.returncode == returncode, output
    return output


def wait_for_step(workdir: Path, step: int, process: "subprocess.Popen[str]") -> None:
    """Until a checkpoint of that step or a later one is there."""
    while process.poll() is None:
        steps = [int(path.name) for path in (workdir / "checkpoints").glob("0*")]
        if steps and max(steps) >= step:
            return
        time.sleep(0.02)
    raise AssertionError(process.communicate()[0])


def arrays_of(workdir: Path, config: SampleConfig, stage: TrainedStage) -> dict[str, bytes]:
    run = run_of(config, stage, workdir)
    arrays = bytes_of(run)
    run.close()
    return arrays


def test_a_killed_and_a_stopped_run_end_as_one_that_was_not(tiny_checkpoint: Path, tmp_path: Path) -> None:
    stage: TrainedStage = "autoencoder"  # the quickest to compile
    steps = 30
    settled = [f"--stage={stage}", f"--config.train.{stage}.num_steps={steps}", "--config.train.save_every=2"]
    settled += ["--config.train.evaluate_every=10", "--config.train.sample_every=15"]
    config = settings(tiny_checkpoint, stage, num_steps=steps)
    straight = run_of(config, stage, tmp_path / "straight")
    advance(straight, steps)
    broken = tmp_path / "broken"

    first = start(command(tiny_checkpoint, broken, *settled))
    wait_for_step(broken, 4, first)
    first.kill()
    finish(first, -signal.SIGKILL)

    second = start(command(tiny_checkpoint, broken, *settled))
    wait_for_step(broken, 12, second)
    second.send_signal(signal.SIGTERM)
    output = finish(second, 128 + signal.SIGTERM)
    assert "SIGTERM: saved" in output

    output = finish(start(command(tiny_checkpoint, broken, f"--profile={steps - 3}:2", *settled)))
    assert f"{steps} steps done" in output
    assert list((broken / "profile").rglob("*.xplane.pb"))
    assert (broken / "samples" / f"{steps:08d}" / "contact_sheet.png").exists()
    lines = read_metrics(broken / "metrics.jsonl")
    logged = [line["step"] for line in lines if "loss" in line]
    assert logged == sorted(set(logged))
    assert logged[-1] == steps
    validated = {line["step"]: line["validation/loss"] for line in lines if "validation/loss" in line}
    assert list(validated) == [10, 20, 30]
    assert validated[30] < validated[10]
    assert 0 < lines[-2]["latent_std"] < 100
    assert arrays_of(broken, config, stage) == bytes_of(straight)


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
    spoken = [line for line in outputs[1].splitlines() if not line.startswith("[Gloo]")]
    assert spoken == []  # only the first process speaks, but for what the collectives' library prints

    config = settings(tiny_checkpoint, "keyframes", optimizer=GRADIENT_DESCENT)
    run = run_of(config, "keyframes", tmp_path)  # and one process reads what two have written
    assert int(run.state.step) == 5
    assert apart(run.state.weights, alone[2].state.weights) <= EQUAL
    first, *_ = read_metrics(tmp_path / "metrics.jsonl")
    assert first["step"] == 1
    assert abs(first["loss"] - alone[0]) <= EQUAL * abs(alone[0])
    norm = np.sqrt(sum(np.sum(leaf**2) for leaf in alone[1].values()))
    assert abs(first["grad_norm"] - norm) <= EQUAL * norm


def test_a_run_goes_on_only_as_what_it_is(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage: TrainedStage = "autoencoder"
    config = settings(tiny_checkpoint, stage)
    first = run_of(config, stage, tmp_path)
    first.save(0)
    first.close()

    def refusal(config: SampleConfig, stage: TrainedStage = stage) -> str:
        with pytest.raises(UserError) as refused:
            run_of(config, stage, tmp_path)
        return str(refused.value)

    assert "of stage autoencoder, not first_frame" in refusal(settings(tiny_checkpoint, "first_frame"), "first_frame")
    assert "with batch_size=8" in refusal(settings(tiny_checkpoint, stage, batch_size=4))
    assert "with seed=0" in refusal(settings(tiny_checkpoint, stage, train={"seed": 1}))
    assert "on other clips" in refusal(settings(tiny_checkpoint, stage, train={"data": {"seed": 1}}))
    assert "on other clips" in refusal(settings(tiny_checkpoint, stage, height=32))
    deeper = tiny_config.get_config()
    deeper.architecture.vae.layers_per_block = 2
    changed = settings(tiny_checkpoint, stage).to_dict() | {"architecture": deeper.architecture.to_dict()}
    assert "of another network or noise schedule" in refusal(SampleConfig.from_dict(changed))

    changed_rate = settings(tiny_checkpoint, stage, optimizer={"learning_rate": 0.5}, train={"log_every": 7})
    run = run_of(changed_rate, stage, tmp_path)
    assert "with another optimizer.learning_rate; it goes on with the new settings" in capsys.readouterr().err
    assert run.saved_step == 0
    run.close()


def test_a_run_starts_from_another_ones_average(tiny_checkpoint: Path, tmp_path: Path) -> None:
    stage: TrainedStage = "autoencoder"
    before = run_of(settings(tiny_checkpoint, stage, train={"seed": 5}), stage, tmp_path / "before")
    before.latent_std = 0.5
    before.save(0)
    before.close()
    after = run_of(settings(tiny_checkpoint, stage, init=str(tmp_path / "before")), stage, tmp_path / "after")
    assert apart(after.state.weights, before.state.average) == 0
    assert after.plan.record.architecture["scaling_factor"] == 2  # what the run before has measured
    after.close()


@pytest.mark.parametrize("name", ["loss", "grad_norm"])
def test_a_loss_that_is_not_finite_ends_the_run_before_it_is_saved(name: str, tiny_checkpoint: Path) -> None:
    plan = make_plan(settings(tiny_checkpoint, "autoencoder"), "autoencoder", "cpu")
    clips, checkpoints = SimpleNamespace(check=lambda: None), SimpleNamespace(wait=lambda: None)
    run: Any = SimpleNamespace(plan=plan, saved_step=4, clips=clips, checkpoints=checkpoints)
    loop: Any = object.__new__(Loop)
    loop.run = run
    metrics = Metrics(np.float32(1), np.float32(1), {}, None)._replace(**{name: np.float32("nan")})
    with pytest.raises(UserError, match="not finite before step 6; go on from the checkpoint of step 4"):
        loop._log(6, Window([metrics]), None)


def test_the_first_signal_is_noted_and_the_second_takes_effect() -> None:
    with StopSignal() as stop:
        assert stop.requested(0) is None
        signal.raise_signal(signal.SIGINT)
        assert stop.requested(1) == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
