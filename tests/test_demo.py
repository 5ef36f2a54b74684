"""The shipped weights are those of the config, and the README's first command samples the video of its prompt."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from configs import demo
from show1_jax.checkpoints.manifest import read_manifest, verify_files
from show1_jax.checkpoints.networks import network_kind
from show1_jax.commands.sample import sample
from show1_jax.config.config_file import Config
from show1_jax.data.synthetic.world import parse_sentence
from show1_jax.evaluation.demo_world.measure import judge, measure
from show1_jax.media.frames import to_uint8
from show1_jax.media.read import read_video

ROOT = Path(__file__).parent.parent
MAX_BYTES = 24_000_000
PROMPT = "a red circle moves right"


@pytest.fixture(scope="module")
def config() -> Config:
    return Config.from_dict(demo.get_config().to_dict())


def test_shipped_weights_are_whole_and_small(config: Config) -> None:
    shipped = Path(config.checkpoint)
    verify_files(shipped)
    assert sum(path.stat().st_size for path in shipped.rglob("*") if path.is_file()) <= MAX_BYTES


def test_shipped_weights_are_the_configs(config: Config) -> None:
    shipped = read_manifest(Path(config.checkpoint)).components
    assert shipped.keys() == config.architecture.keys()
    for name, component in shipped.items():
        fields: dict[str, Any] = (
            network_kind(component.kind).architecture.from_dict(config.architecture[name]).to_dict()
        )
        measured = {"scaling_factor"} if name == "vae" else set()
        has = network_kind(component.kind).architecture.from_dict(component.architecture).to_dict()
        assert {field for field, value in fields.items() if has[field] != value} == measured, name
        assert component.schedulers == config.schedulers.get(name, {}), name
        assert component.dtype == "float16"


def test_the_first_command_shows_its_prompt(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "JAX_PLATFORMS")}
    command = [sys.executable, "sample.py", "--config", "configs/demo.py", "--prompt", PROMPT]
    command += ["--out", str(tmp_path / "out"), f"--config.compilation_cache={tmp_path / 'compiled'}"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "these weights know only" not in done.stderr
    (made,) = tmp_path.glob("out/*/5_superres_latent.mp4")
    enlarged = made.with_name("5_superres_latent_x4_lanczos.mp4")
    assert str(enlarged) in done.stdout.splitlines()[-1]
    assert read_video(enlarged)[0].shape == (29, 320, 576, 3)
    frames, fps = read_video(made)
    assert frames.shape == (29, 80, 144, 3)
    assert fps == 8
    verdict = judge(measure(to_uint8(frames)), parse_sentence(PROMPT))
    assert verdict.all, verdict


def test_a_prompt_outside_the_world_is_answered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompts = [argument for text in ("a cat", "一只猫", PROMPT) for argument in ("--prompt", text)]
    command = ["sample.py", "--config", "configs/demo.py", *prompts, "--stages", "keyframes", "--out", str(tmp_path)]
    sample([*command, "--config.keyframes.num_steps=2"])
    first, second = [line for line in capsys.readouterr().err.splitlines() if "nearest to" in line]
    assert first.startswith("note: these weights know only sentences like 'a small red circle moves right on a ")
    assert first.endswith("; nearest to 'a cat': 'a red circle moves right'")
    assert second == "note: nearest to '一只猫': 'a red circle moves right'"
