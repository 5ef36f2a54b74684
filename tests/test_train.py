"""The command line of train.py: every mistake is one line on stderr and exit code 2; a dry run needs no devices."""

import re
import shutil
from pathlib import Path

import jax
import pytest

from show1_jax.checkpoints.manifest import Manifest, read_manifest
from show1_jax.cli import flag_help, load_config
from show1_jax.commands import train
from show1_jax.config.config_file import Config
from show1_jax.config.training import TRAINED_STAGES, OptimizerConfig, TrainedStage
from show1_jax.errors import UserError
from show1_jax.training.dry_run import describe_training_memory
from show1_jax.training.plan import clip_spec, make_plan
from tests.helpers import tiny_config
from tests.helpers.tiny_runs import settings

ROOT = Path(__file__).parents[1]
FULL, TINY = str(ROOT / "configs/full.py"), str(ROOT / "tests/helpers/tiny_config.py")


def refusal(*arguments: str) -> str:
    """Return the error of a refused command line."""
    with pytest.raises(UserError) as refused:
        train.train(["train.py", *arguments])
    line = str(refused.value)
    assert "\n" not in line
    return line


def test_help_names_every_flag_and_stage(capsys: pytest.CaptureFixture[str]) -> None:
    train.train(["train.py", "--help"])
    out = capsys.readouterr().out
    assert all(f"--{name}" in out for name in train.define_flags() if name != "h")
    assert all(stage in out for stage in TRAINED_STAGES)
    assert len(flag_help(train.define_flags()).splitlines()) == len(list(train.define_flags())) - 1
    assert max(map(len, out.splitlines())) <= 120


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("--stage=keyframe", "--stage=keyframe must be one of keyframes, interpolation"),
        ("--stage=", "must be one of keyframes"),
        ("--workdir=", "no --workdir"),
        ("--workdir=hdfs://host/run", "hdfs://host/run: not a URL that is supported"),
        ("--workdir=gs://Bucket/run", "gs://Bucket/run: 'Bucket' is not the name of a bucket"),
        ("--workdir=~nobody-is-called-so/run", "there is no home directory for ~"),
        pytest.param("--workdir=run\udce9", "is not UTF-8; rename the folder", id="not UTF-8"),
        ("--checkpoint=gs:/bucket/show1", "gs:/bucket/show1: not a URL"),
        ("--config.train.data.path=hdfs://bucket/videos", "hdfs://bucket/videos: not a URL"),
        ("--config.train.keyframes.init=a,s3:/bucket/b", "s3:/bucket/b: not a URL"),
        ("--profile=5", "--profile=5 must be STEP:N"),
        ("--profile=5:0", "--profile=5:0 must be STEP:N"),
        ("--devices=8", "--devices is for --dry_run"),
        ("--config.adapter=runs/loop", "adapter=runs/loop is for sampling, and training would ignore it"),
        ("--config.train.keyframes.batchsize=8", "did you mean --config.train.keyframes.batch_size?"),
        ("--config.train.keyframes.batch_size=0", "batch_size=0 must be from 1 to 10000000"),
        ("--config.train.keyframes.num_microbatches=3", "num_microbatches=3 does not divide batch_size=8"),
        ("--config.train.keyframes.remat=some", "remat='some' is not one of"),
        ("--config.train.keyframes.text_dropout=1.5", "text_dropout=1.5 must be from 0 to 1"),
        ("--config.train.keyframes.optimizer.learning_rate=nan", "learning_rate=nan must be"),
        ("--config.train.keyframes.optimizer.ema_decay=1", "ema_decay=1.0 must be"),
        ("--config.train.data.name=web", "name='web' is not one of"),
        ("--config.train.text.source=cache", "needs its folder"),
        ("--config.train.save_every=0", "save_every=0 must be from 1"),
        ("--config.train.mesh.tensor=0", "sizes must be positive"),
        ("--config.train.keyframes.init=none", "none: no checkpoint"),
        ("--config.train.keyframes.num_timesteps=1001", "num_timesteps=1001 must be at most the 1000"),
    ],
)
def test_bad_input(argument: str, said: str, tmp_path: Path) -> None:
    workdir = tmp_path / "run"
    common = ["--config", TINY, "--stage=keyframes", f"--workdir={workdir}", f"--checkpoint={tmp_path / 'random'}"]
    assert said in refusal(*common, argument)
    assert not workdir.exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--config.train.mesh.data=3"], "mesh data=3 x fsdp=-1 x tensor=1 does not fit 8 devices"),
        (["--config.train.keyframes.batch_size=4"], "use a multiple of 8 as --config.train.keyframes.batch_size"),
        (["--config.train.data.num_synthetic=7"], "7 clips are left to train on"),
        (["--config.train.data.name=videos", "--config.train.data.path=none"], "none"),
        (["--config.keyframes.num_frames=9"], "the synthetic world's lasts 3.5 s"),
    ],
)
def test_settings_that_do_not_fit_are_refused_before_files_are_written(
    arguments: list[str], said: str, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    workdir = tmp_path / "run"
    common = ["--config", TINY, "--stage=keyframes", f"--workdir={workdir}", f"--checkpoint={tiny_checkpoint}"]
    assert said in refusal(*common, *arguments)
    assert not workdir.exists()


def test_a_stage_without_its_frozen_networks_is_refused(tmp_path: Path) -> None:
    config = tiny_config.get_config()
    config.update(checkpoint=str(tmp_path / "none"), random_weights=False)
    with pytest.raises(UserError, match="none: no checkpoint"):
        make_plan(Config.from_dict(config.to_dict()), "superres_latent", "cpu").frozen_folder("vae")


def test_a_frozen_autoencoder_that_is_none_is_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_checkpoint, tmp_path / "edited")
    manifest = read_manifest(tmp_path / "edited")
    components = manifest.components | {"vae": manifest.component("keyframes")}
    Manifest(components, manifest.files).write(tmp_path / "edited")
    config = tiny_config.get_config()
    config.checkpoint = str(tmp_path / "edited")
    with pytest.raises(UserError, match="superres_latent: the component 'vae' is not an autoencoder"):
        make_plan(Config.from_dict(config.to_dict()), "superres_latent", "cpu")


@pytest.mark.parametrize("devices", ["8,x", "0", ""])
def test_numbers_of_devices(devices: str) -> None:
    line = refusal("--config", FULL, "--stage=keyframes", "--dry_run", f"--devices={devices}")
    assert line == f"--devices={devices} must be numbers, e.g. 8,64,256"


@pytest.mark.parametrize("stage", TRAINED_STAGES)
def test_clips_are_of_the_size_and_rate_that_a_stage_makes(stage: TrainedStage) -> None:
    config = load_config(FULL)
    spec = clip_spec(config, stage)
    frames, fps, height, width = {
        "keyframes": (8, 2, 40, 64),
        "interpolation": (5, 8, 40, 64),
        "first_frame": (1, 8, 160, 256),
        "superres_pixel": (8, 8, 160, 256),
        "superres_latent": (16, 8, 320, 576),
        "autoencoder": (1, 8, 256, 256),
    }[stage]
    assert (spec.num_frames, spec.fps, spec.height, spec.width) == (frames, fps, height, width)


def test_the_expert_is_trained_below_timestep_900() -> None:
    training = load_config(FULL).train
    assert training.superres_latent.num_timesteps == 900
    assert training.keyframes.num_timesteps == training.superres_pixel.num_timesteps == 1000


def test_learning_rate_rises_then_falls() -> None:
    from show1_jax.training.optimizer import learning_rate

    config = OptimizerConfig(learning_rate=2.0, warmup_steps=10, final_share=0.1)
    rates = [float(learning_rate(config, 110)(step)) for step in (0, 5, 10, 60, 110)]
    assert rates == pytest.approx([0, 1, 2, 1.1, 0.2], rel=1e-5)
    constant = OptimizerConfig(learning_rate=2.0, warmup_steps=0, schedule="constant")
    assert float(learning_rate(constant, 10)(7)) == 2
    linear = OptimizerConfig(learning_rate=2.0, warmup_steps=0, schedule="linear", final_share=0.5)
    assert float(learning_rate(linear, 10)(5)) == pytest.approx(1.5)


def sizes(text: str) -> dict[str, float]:
    return {name.strip(): float(size) for name, size in re.findall(r"^  (.{22}) *([\d.]+) GB$", text, re.M)}


def test_a_dry_run_counts_the_memory_of_each_device(capsys: pytest.CaptureFixture[str]) -> None:
    with jax.numpy_dtype_promotion("standard"):  # for bfloat16 activations
        train.train(["train.py", "--config", TINY, "--stage=keyframes", "--dry_run", "--devices=1,8"])
    one, eight = capsys.readouterr().out.strip().split("keyframes on ")[1:]
    assert eight.startswith("8 devices, mesh data=1 x fsdp=8 x tensor=1")
    alone, sharded = sizes(one), sizes(eight)
    assert alone["each device"] == pytest.approx(sum(alone.values()) - alone["each device"], abs=2e-3)
    assert alone.keys() - {"activations, 8 clips"} == sharded.keys() - {"activations, 1 clips"}
    assert alone["activations, 8 clips"] == pytest.approx(8 * sharded["activations, 1 clips"], abs=8e-3)


def test_a_dry_run_counts_frozen_weights_once(tiny_checkpoint: Path) -> None:
    stage: TrainedStage = "keyframes"
    trained = settings(tiny_checkpoint, stage, trainable=r"conv_(in|out)\.kernel")
    table = describe_training_memory(make_plan(trained, stage, "cpu"), 1, 0)
    every = sizes(describe_training_memory(make_plan(settings(tiny_checkpoint, stage), stage, "cpu"), 1, 0))
    some = sizes(table)
    assert "of which 0.003 million are trained" in table  # 3 x 3 x 32 x (3 + 6)
    assert some["weights"] == every["weights"] > 0
    assert some["average"] == some["gradient"] == some["optimizer"] == 0
    assert every["optimizer"] > every["weights"]


def test_full_size_shapes_say_what_forty_gigabytes_hold() -> None:
    config = load_config(FULL)
    plan = make_plan(config, "keyframes", "accelerator")
    activation_bytes = 0  # tracing the full network takes minutes
    eight, many = (sizes(describe_training_memory(plan, number, activation_bytes)) for number in (8, 32))
    assert "use a multiple of 64 clips" in describe_training_memory(plan, 64, activation_bytes)
    parameters = 1.72684839
    assert eight["weights"] == pytest.approx(4 * parameters / 8, rel=0.01)
    assert eight["optimizer"] == pytest.approx(8 * parameters / 8, rel=0.01)
    assert eight["frozen networks"] == pytest.approx(2 * 4.762 / 8, rel=0.05)
    assert eight["each device"] < 40
    assert many["each device"] == pytest.approx(eight["each device"] / 4, rel=0.02)
