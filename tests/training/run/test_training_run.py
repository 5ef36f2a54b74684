"""Training: every stage learns and resumes exactly, also after a kill or a stop signal.

Most of the time here is compilation of steps: each stage is compiled once.
"""

import copy
import dataclasses
import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from show1_jax.checkpoints.adapters import AdapterConfig
from show1_jax.checkpoints.arrays import weight_shapes
from show1_jax.checkpoints.checkpoint_set import CheckpointSet
from show1_jax.checkpoints.manifest import read_manifest
from show1_jax.config.config_file import Config
from show1_jax.config.training import TRAINED_STAGES, TrainedStage
from show1_jax.errors import UserError
from show1_jax.media.read import read_video
from show1_jax.training.plan import make_plan
from show1_jax.training.run import job, training_run
from show1_jax.training.run.loop import MetricsWindow, diverged, divergence_error
from show1_jax.training.run.metrics import read_metrics
from show1_jax.training.run.samples import write_samples
from show1_jax.training.run.stop import StopSignal
from show1_jax.training.run.training_run import TrainingRun
from show1_jax.training.step import Metrics
from tests.helpers import tiny_config
from tests.helpers.tiny_runs import advance, apart, command, finish, run_of, settings, start

SAVED, STEPS, LEARNED = 2, 4, 24
FALLS_BELOW = 0.5
"""Share of the first loss that the mean of the last losses must be below, over a handful of clips."""


def bytes_of(run: TrainingRun) -> dict[str, bytes]:
    """Return the bytes of every array of a run's state, and its position in the data."""
    arrays = {
        jax.tree_util.keystr(path): np.asarray(leaf).tobytes()
        for path, leaf in jax.tree_util.tree_leaves_with_path(run.state)
    }
    return arrays | {"data": json.dumps(run.clips.get_state(), sort_keys=True).encode()}


@pytest.mark.parametrize("stage", TRAINED_STAGES)
def test_every_stage_learns_and_resumes_exactly(stage: TrainedStage, tiny_checkpoint: Path, tmp_path: Path) -> None:
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
    check_samples(run)
    run.close()


def check_samples(run: TrainingRun) -> None:
    """Check the samples of a run, without denoising, which takes long to compile."""
    sheet = write_samples(run, 7, denoise=lambda network, sampler, sample, **_: sample)
    assert sheet == run.workdir / "samples" / "00000007" / "contact_sheet.png"
    assert sheet.stat().st_size > 1000
    clip, _ = read_video(sheet.parent / "3.mp4")
    spec = run.plan.spec
    assert clip.shape == (spec.num_frames, spec.height, spec.width, 3)


def wait_for_step(workdir: Path, step: int, process: "subprocess.Popen[str]") -> None:
    """Wait until a checkpoint of that step or a later one exists."""
    while process.poll() is None:
        steps = [int(path.name) for path in (workdir / "checkpoints").glob("0*")]
        if steps and max(steps) >= step:
            return
        time.sleep(0.02)
    raise AssertionError(process.communicate()[0])


def arrays_of(workdir: Path, config: Config, stage: TrainedStage) -> dict[str, bytes]:
    run = run_of(config, stage, workdir)
    arrays = bytes_of(run)
    run.close()
    return arrays


def test_a_killed_and_a_stopped_run_end_like_an_uninterrupted_one(tiny_checkpoint: Path, tmp_path: Path) -> None:
    stage: TrainedStage = "autoencoder"  # the quickest to compile
    steps = 16
    settled = [f"--stage={stage}", f"--config.train.{stage}.num_steps={steps}", "--config.train.save_every=2"]
    settled += ["--config.train.evaluate_every=8", "--config.train.sample_every=16"]
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    finish(start(command(tiny_checkpoint, straight, *settled)))

    first = start(command(tiny_checkpoint, broken, *settled))
    wait_for_step(broken, 4, first)
    first.kill()
    finish(first, -signal.SIGKILL)

    second = start(command(tiny_checkpoint, broken, *settled))
    wait_for_step(broken, 8, second)
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
    assert list(validated) == [8, 16]
    assert all(0 < loss < 10 for loss in validated.values())
    assert 0 < lines[-2]["latent_std"] < 100
    config = settings(tiny_checkpoint, stage, num_steps=steps)
    assert arrays_of(broken, config, stage) == arrays_of(straight, config, stage)


def test_a_run_of_something_else_is_not_resumed(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage: TrainedStage = "autoencoder"
    config = settings(tiny_checkpoint, stage)
    first = run_of(config, stage, tmp_path)
    first.save(0)
    first.close()

    def refusal(config: Config, stage: TrainedStage = stage) -> str:
        with pytest.raises(UserError) as refused:
            run_of(config, stage, tmp_path)
        return str(refused.value)

    assert "of stage autoencoder, not first_frame" in refusal(settings(tiny_checkpoint, "first_frame"), "first_frame")
    assert "with batch_size=8" in refusal(settings(tiny_checkpoint, stage, batch_size=4))
    assert "with seed=0" in refusal(settings(tiny_checkpoint, stage, train={"seed": 1}))
    assert "with optimizer.kind=adamw" in refusal(settings(tiny_checkpoint, stage, optimizer={"kind": "muon"}))
    assert "on other clips" in refusal(settings(tiny_checkpoint, stage, train={"data": {"seed": 1}}))
    assert "on other clips" in refusal(settings(tiny_checkpoint, stage, height=32))
    deeper = tiny_config.get_config()
    deeper.architecture.vae.layers_per_block = 2
    changed = settings(tiny_checkpoint, stage).to_dict() | {"architecture": deeper.architecture.to_dict()}
    assert "of another network or noise schedule" in refusal(Config.from_dict(changed))

    changed_rate = settings(tiny_checkpoint, stage, optimizer={"learning_rate": 0.5}, train={"log_every": 7})
    run = run_of(changed_rate, stage, tmp_path)
    assert "with another optimizer.learning_rate; it resumes with the new settings" in capsys.readouterr().err
    assert run.saved_step == 0
    run.close()


def test_a_run_resumes_when_architectures_have_gained_a_setting(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stage: TrainedStage = "first_frame"
    config = settings(tiny_checkpoint, stage)
    first = run_of(config, stage, tmp_path)
    first.save(0)
    first.close()
    read = type(first.checkpoints).record

    def record_from_before(checkpoints: Any) -> Any:
        record = read(checkpoints)
        assert record is not None
        del record["network"][0]["position_channels"], record["settings"]["optimizer.kind"]
        del record["settings"]["data.local_copies"], record["settings"]["text.local_copies"]
        return record

    monkeypatch.setattr(type(first.checkpoints), "record", record_from_before)
    config = settings(tiny_checkpoint, stage, train={"data": {"local_copies": "x"}, "text": {"local_copies": "x"}})
    run = run_of(config, stage, tmp_path)
    assert run.saved_step == 0
    assert "it resumes with" not in capsys.readouterr().err
    run.close()


def test_processes_with_different_datasets_do_not_train(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host may have an old copy, or a dataset is replaced in its bucket while they start."""
    monkeypatch.setattr(training_run, "from_all_processes", lambda fingerprint: [fingerprint, "0" * 64])
    with pytest.raises(UserError, match="the processes have different datasets or files"):
        run_of(settings(tiny_checkpoint, "autoencoder"), "autoencoder", tmp_path)


def test_a_run_starts_from_the_average_of_another(tiny_checkpoint: Path, tmp_path: Path) -> None:
    stage: TrainedStage = "autoencoder"
    before = run_of(settings(tiny_checkpoint, stage, train={"seed": 5}), stage, tmp_path / "before")
    before.latent_std = 0.5
    before.save(0)
    before.close()
    after = run_of(settings(tiny_checkpoint, stage, init=str(tmp_path / "before")), stage, tmp_path / "after")
    assert apart(after.state.weights, before.state.average) == 0
    assert after.plan.record.architecture["scaling_factor"] == 2  # measured by the run before
    after.close()


def test_a_decoder_is_trained_alone_and_latents_do_not_change(tiny_checkpoint: Path, tmp_path: Path) -> None:
    stage: TrainedStage = "autoencoder"
    before = run_of(settings(tiny_checkpoint, stage), stage, tmp_path / "before")
    before.latent_std = 0.5
    before.save(0)
    before.close()
    start, alone = str(tmp_path / "before"), tmp_path / "alone"
    decayed = {"learning_rate": 1e-2, "weight_decay": 0.1, "warmup_steps": 0}
    run = run_of(settings(tiny_checkpoint, stage, init=start, decoder_only=True, optimizer=decayed), stage, alone)
    losses = advance(run, 8)
    assert losses[-1] < 0.9 * losses[0]
    for name, weight in before.state.average.items():
        for trained in (run.base | run.state.weights, run.averaged_weights()):
            assert np.array_equal(trained[name], weight) == (name[0] in ("encoder", "quant_conv")), name
    run.latent_std = 0.25
    run.save(8)
    run.close()
    assert CheckpointSet.open(str(alone)).component("vae").architecture["scaling_factor"] == 2
    with pytest.raises(UserError, match="with decoder_only=True, whose state another optimizer cannot use"):
        run_of(settings(tiny_checkpoint, stage, init=start, optimizer=decayed), stage, alone)
    with pytest.raises(UserError, match="name it with init=DIR"):
        run_of(settings(tiny_checkpoint, stage, decoder_only=True), stage, tmp_path / "new")


@pytest.mark.parametrize(
    ("trainable", "num_arrays", "frozen_dtype"), [("temporal_attention", 6, "float32"), ("lora", 28, "bfloat16")]
)
def test_an_adapter_is_trained_alone_and_resumes_exactly(
    trainable: str, num_arrays: int, frozen_dtype: str, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    stage: TrainedStage = "keyframes"
    changes = {"init": str(tiny_checkpoint), "optimizer": {"learning_rate": 1e-2, "weight_decay": 0.1}}
    config = settings(tiny_checkpoint, stage, trainable=trainable, frozen_dtype=frozen_dtype, **copy.deepcopy(changes))
    run = run_of(config, stage, tmp_path)
    assert {weight.dtype.name for weight in run.base.values()} == {frozen_dtype}
    assert {weight.dtype.name for weight in run.state.weights.values()} == {"float32"}
    start = run.averaged_weights()
    assert len(run.state.weights) == num_arrays
    arrays = jax.tree.leaves((run.state.weights, run.state.average, run.state.optimizer))
    with_moments = 4 * sum(weight.size for weight in run.state.weights.values())
    assert sum(leaf.size for leaf in arrays if leaf.ndim) == with_moments

    losses = advance(run, SAVED)
    run.save(SAVED)
    losses += advance(run, STEPS - SAVED)
    straight = bytes_of(run)
    run.base = {}
    assert run.resume()
    assert advance(run, STEPS - SAVED) == losses[SAVED:]
    assert bytes_of(run) == straight
    for path, weight in run.averaged_weights().items():
        is_trained = "temp_attentions" in path and path[-2] in ("to_q", "to_k", "to_v")
        is_trained |= trainable == "lora" and path[-2].endswith(("to_q", "to_k", "to_v", "to_out", "_proj"))
        is_trained &= path[-1] == "kernel" and path[0] == "mid_block" and "ff" not in path
        is_trained &= "resnets" not in path
        assert np.array_equal(weight, start[path]) == (not is_trained), path
    run.close()
    check_saved_adapter(tmp_path, run, trainable)
    with pytest.raises(UserError, match=f"with trainable={trainable}, whose state another optimizer cannot use"):
        run_of(settings(tiny_checkpoint, stage, **changes), stage, tmp_path)


def check_saved_adapter(workdir: Path, run: TrainingRun, trainable: str) -> None:
    """Check that a step has only the trained arrays, names their base, and is not taken for a network."""
    folder = workdir / "checkpoints" / f"{SAVED:08d}"
    assert weight_shapes(folder, "keyframes").keys() == run.state.weights.keys()
    recorded = AdapterConfig.from_dict(read_manifest(folder).component("keyframes").architecture)
    assert run.plan.starts_from is not None
    rank = 8 if trainable == "lora" else 0
    assert recorded == AdapterConfig(run.plan.starts_from.manifest.digest("keyframes"), rank, float(rank or 1))
    with pytest.raises(UserError, match="is an adapter of keyframes, which changes a checkpoint and does not replace"):
        CheckpointSet.open(str(workdir))


def test_an_adapter_is_not_resumed_on_other_weights(tiny_checkpoint: Path, tmp_path: Path) -> None:
    stage: TrainedStage = "keyframes"
    new = run_of(settings(tiny_checkpoint, stage), stage, tmp_path / "new")
    new.save(0)
    new.close()
    for init, refused in ((tiny_checkpoint, ""), (tmp_path / "new", "a run that adapts other weights; give those of")):
        config = settings(tiny_checkpoint, stage, trainable="lora", init=str(init))
        if refused:
            with pytest.raises(UserError, match=refused):
                run_of(config, stage, tmp_path / "adapter")
        else:
            run = run_of(config, stage, tmp_path / "adapter")
            run.save(0)
            run.close()
    config = settings(tiny_checkpoint, stage, trainable="lora", init=str(tiny_checkpoint), lora={"rank": 4})
    with pytest.raises(UserError, match=r"with lora\.rank=8, .*; resume with that, or use another --workdir$"):
        run_of(config, stage, tmp_path / "adapter")  # and an adapter is nothing to start from


def test_settings_of_low_rank_adapters_do_not_concern_other_runs(tiny_checkpoint: Path, tmp_path: Path) -> None:
    stage: TrainedStage = "keyframes"
    for rank in (8, 4):
        changes = {"trainable": "conv_in", "init": str(tiny_checkpoint), "lora": {"rank": rank}}
        run = run_of(settings(tiny_checkpoint, stage, **changes), stage, tmp_path)
        run.save(0)
        run.close()


def test_weights_are_frozen_only_at_those_of_a_checkpoint(tiny_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match="stage keyframes: trainable freezes weights of a checkpoint; name it with init"
    ):
        run_of(settings(tiny_checkpoint, "keyframes", trainable="conv_in"), "keyframes", tmp_path)


def test_settings_that_the_initial_checkpoint_overrides_are_named(tiny_checkpoint: Path) -> None:
    config = settings(tiny_checkpoint, "keyframes", init=str(tiny_checkpoint))
    assert make_plan(config, "keyframes", "cpu").overridden_settings() == []
    changed = config.to_dict()
    changed["architecture"]["keyframes"]["act_fn"] = "silu"
    changed["schedulers"]["keyframes"]["scheduler"] |= {"prediction_type": "v_prediction"}
    plan = make_plan(Config.from_dict(changed), "keyframes", "cpu")
    assert plan.overridden_settings() == ["architecture.keyframes.act_fn", "schedulers.keyframes.scheduler"]
    changed["train"]["keyframes"]["init"] = ""
    assert make_plan(Config.from_dict(changed), "keyframes", "cpu").overridden_settings() == []


@pytest.mark.parametrize("name", ["loss", "grad_norm"])
def test_a_loss_that_is_not_finite_is_detected(name: str, tiny_checkpoint: Path) -> None:
    config = settings(tiny_checkpoint, "autoencoder").train.autoencoder
    values: dict[str, Any] = {"loss": np.float32(1), "grad_norm": np.float32(1)}
    assert not diverged(MetricsWindow([Metrics(**values, parts={}, bands=None)]).values(config))
    values[name] = np.float32("nan")
    assert diverged(MetricsWindow([Metrics(**values, parts={}, bands=None)]).values(config))


def test_a_run_that_diverges_names_the_last_good_step() -> None:
    assert "before step 6; resume from the checkpoint of step 4 with a lower" in str(divergence_error(6, 4))
    assert "before step 6; start again with a lower" in str(divergence_error(6, None))


def test_a_run_that_diverges_saves_nothing_more(tiny_checkpoint: Path, tmp_path: Path) -> None:
    config = settings(tiny_checkpoint, "autoencoder", num_steps=6, optimizer={"learning_rate": 1e6, "clip_norm": 0.0})
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, log_every=1, save_every=1))
    with pytest.raises(UserError, match="the loss or its gradient is not finite before step"):
        job.train(config, "autoencoder", tmp_path / "run")
    saved = sorted(int(path.name) for path in (tmp_path / "run" / "checkpoints").glob("0*"))
    assert saved == list(range(1, len(saved) + 1))
    assert len(saved) < 6


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Install Python's handler of Ctrl-C, as in a terminal: a shell's background jobs start without it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_the_first_signal_is_recorded_and_the_second_has_its_usual_effect(interruptible: None) -> None:
    with StopSignal() as stop:
        assert stop.requested(0) is None
        signal.raise_signal(signal.SIGINT)
        assert stop.requested(1) == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
