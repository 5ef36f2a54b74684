"""The command line of sample.py: every mistake is one line on stderr and exit code 2, and leaves nothing behind."""

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from show1_jax.cascade.prompts import Prompt
from show1_jax.cascade.stages import STAGE_TABLE
from show1_jax.cli import decode_argument, flag_help, importing_jax, load_config, parse_flags, run_command
from show1_jax.commands import sample
from show1_jax.config.bounds import MAX_SEED
from show1_jax.config.config_file import Config
from show1_jax.config.sampling import STAGES, CascadeConfig
from show1_jax.errors import UserError, error_line
from show1_jax.sampling.request import Request, choose_prompts, choose_shard, choose_stages
from show1_jax.sampling.run_directory import RunDirectory

ROOT = Path(__file__).parent.parent
CONFIGS = {name: str(ROOT / "configs" / f"{name}.py") for name in ("full", "demo")}
SETTINGS = ["seed", "keyframes.num_steps", "superres_latent.strength", "mesh.fsdp", "output.fps", "precision"]


def refusal(*arguments: str) -> str:
    """Return the error of a command line that is refused before JAX is used."""
    with pytest.raises(UserError) as refused:
        sample.sample(["sample.py", *arguments])
    return str(refused.value)


def parsed(*arguments: str) -> Config:
    argv = ["sample.py", "--config", CONFIGS["demo"], *arguments]
    return Config.from_dict(parse_flags(sample.define_flags(), argv).to_dict())


def test_help_names_every_flag_and_the_layout(capsys: pytest.CaptureFixture[str]) -> None:
    sample.sample(["sample.py", "--help"])
    out = capsys.readouterr().out
    assert all(f"--{name}" in out for name in sample.define_flags() if name != "h")
    assert "run.json" in out
    assert max(map(len, out.splitlines())) <= 120


def test_flag_help_has_a_line_a_flag() -> None:
    assert len(flag_help(sample.define_flags()).splitlines()) == len(list(sample.define_flags())) - 1


@pytest.mark.parametrize("name", CONFIGS)
def test_shipped_configs_are_valid(name: str) -> None:
    config = load_config(CONFIGS[name])
    assert choose_prompts(config, [], None, 1)[0].text == config.prompts[0]
    assert Config.from_dict(json.loads(json.dumps(config.to_dict()))).keyframes == config.keyframes


def test_full_config_has_the_released_settings() -> None:
    config = load_config(CONFIGS["full"])
    assert {name: getattr(config, name) for name in CascadeConfig().to_dict()} == vars(CascadeConfig())
    assert [STAGE_TABLE[stage].fps(config.output) for stage in STAGES] == [2, 8, 8, 8, 8]


def test_overrides() -> None:
    config = parsed("--config.keyframes.num_steps=50", "--config.superres_latent.strength=1", "--config.prompts=x")
    assert (config.keyframes.num_steps, config.superres_latent.strength) == (50, 1.0)
    assert config.prompts == ("x",)


@given(st.sampled_from(SETTINGS), st.data())
def test_a_misspelt_override_is_refused_with_the_nearest_name(setting: str, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(setting) - 1).filter(lambda place: setting[place] != "."))
    misspelt = setting[:place] + "q" + setting[place + 1 :]
    line = refusal("--config", CONFIGS["demo"], f"--config.{misspelt}=1")
    assert line == f"there is no setting --config.{misspelt}; did you mean --config.{setting}?"


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("--promt=x", "did you mean --prompt?"),
        ("--config.keyframes.num_steps=2.5", "--config.keyframes.num_steps=2.5: invalid literal"),
        ("--config.keyframes.num_steps=", "--config.keyframes.num_steps=: invalid literal"),
        ("--config.keyframes.num_steps", "Missing value for flag --config.keyframes.num_steps"),
        ("--config.keyframes.num_steps=0", "num_steps=0 must be from 1 to 100000"),
        ("--config.keyframes.use_negative_prompt=maybe", "--config.keyframes.use_negative_prompt=maybe: "),
        ("--config.keyframes.sampler=euler", "sampler='euler' is not one of"),
        ("--config.keyframes={}", "there is no setting --config.keyframes;"),
        ("--config.=1", "there is no setting --config.;"),
        ("--config.keyframes[0]=1", "there is no setting --config.keyframes[0];"),
        ("--config.output.fps=51", "fps=51.0 must be from 0.1 to 50"),
        ("--config.output.keyframes_fps=nan", "keyframes_fps=nan must be"),
        ("--config.mesh.data=0", "sizes must be positive or -1"),
        ("--config.precision=float16", "precision='float16' is not one of"),
        ("--seed=-1", "seed=-1 must be from 0"),
        ("--seed=x", "--seed=x: invalid literal"),
        (f"--seed={MAX_SEED + 1}", "must be from 0"),
        ("--overwrite=perhaps", "--overwrite=perhaps: "),
        ("--videos_per_prompt=0", "--videos_per_prompt=0 must be at least 1"),
        ("--videos_per_prompt=1000001", "x 1000001 videos are more than 1,000,000; ask for fewer"),
        ("--prompt=" + "x" * 10_001, "has 10,001 characters, more than 10,000; shorten it"),
        ("--negative_prompt=" + "x" * 200_000, "has 200,000 characters, more than 10,000; shorten it"),
        ("--negative_prompt=caf\udce9", "'caf\\udce9' is not valid Unicode"),
        ("--batch_size=0", "--batch_size=0 must be at least 1"),
        ("--prompt=", "the prompt is empty"),
        ("--prompt= ", "the prompt is empty"),
        ("--prompts=none.txt", "none.txt: cannot be read"),
        ("--stages=keyframe", "no stage 'keyframe'; the stages are keyframes,"),
        ("--stages=", "no stages to run"),
        ("--stages=interpolation", "stage interpolation needs the result of keyframes"),
        ("--from_stage=last", "no stage 'last'"),
        ("--from_stage=", "--from_stage takes one stage"),
        ("--from_stage=keyframes,interpolation", "--from_stage takes one stage"),
        ("--video=own.mp4", "--video needs --from_stage with one of interpolation, first_frame, superres_latent"),
        ("--strength=0.5", "--strength and --invert need --from_stage, the stage that starts from --video"),
        ("--invert", "--strength and --invert need --from_stage, the stage that starts from --video"),
        ("--inversion_steps=5", "--inversion_steps and --inversion_iterations need --invert"),
        ("a panda", "'a panda' belongs to no flag"),
        ("--checkpoint=none", "none: no checkpoint; make one with `python -m convert --out none`"),
    ],
)
def test_bad_input(argument: str, said: str) -> None:
    line = refusal("--config", CONFIGS["full"], argument)
    assert said in line
    assert "\n" not in line


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (None, "there is no config"),
        ("def get_config(: pass", "does not run (invalid syntax"),
        ("import nothing_like_this", "does not run (No module named"),
        ("settings = 1", "does not run (it has no function get_config())"),
        ("def get_config(): return {}", "must return an ml_collections.ConfigDict"),
        ("def get_config():\n raise ValueError('no\\nway')", "does not run (no way)"),
        ("from ml_collections import *\ndef get_config(): return ConfigDict({'sed': 1})", "did you mean 'seed'?"),
        ("from ml_collections import *\ndef get_config(): return ConfigDict({'prompts': 1})", "a list of strings"),
        ("from ml_collections import *\ndef get_config(): return ConfigDict()", "no prompts; give --prompt"),
    ],
)
def test_bad_config(tmp_path: Path, source: str | None, said: str) -> None:
    path = tmp_path / "config.py"
    if source is not None:
        path.write_text(source)
    line = refusal("--config", str(path))
    assert said in line
    assert "\n" not in line


def test_config_is_needed() -> None:
    for arguments in (["--prompt", "x"], ["--config"], ["--config="], ["--config.seed=1"]):
        assert "no --config; give --config demo, --config full," in refusal(*arguments)


def test_seeds_of_prompts(tmp_path: Path) -> None:
    config = Config(prompts=("from the config",), seed=5)
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "b", "seed": 9, "negative": "dull"}\n{"prompt": "c"}\n')
    videos = choose_prompts(config, ["a"], str(file), 2)
    assert [(p.text, p.negative, p.seed) for p in videos] == [
        *(("a", None, seed) for seed in (5, 6)),
        *(("b", "dull", seed) for seed in (9, 10)),
        *(("c", None, seed) for seed in (5, 6)),
    ]
    assert [p.text for p in choose_prompts(config, [], None, 1)] == ["from the config"]


def test_no_video_is_requested_twice() -> None:
    with pytest.raises(UserError, match="'a' is asked for twice with seed 345"):
        choose_prompts(Config(), ["a", "a"], None, 1)
    with pytest.raises(UserError, match=f"seed {MAX_SEED + 1} is above"):
        choose_prompts(Config(seed=MAX_SEED), ["a"], None, 2)


@given(st.integers(1, 40), st.integers(1, 12))
def test_shards_divide_the_videos(num_videos: int, count: int) -> None:
    prompts = choose_prompts(Config(), ["a"], None, num_videos)
    assert choose_shard(prompts, None) == prompts
    shards = [choose_shard(prompts, f"{number}/{count}") for number in range(1, min(count, num_videos) + 1)]
    assert sorted(p.seed or 0 for shard in shards for p in shard) == [p.seed for p in prompts]
    assert max(map(len, shards)) - min(map(len, shards)) <= 1
    with pytest.raises(UserError, match=f"nothing is left for this host of {num_videos} videos; use fewer hosts"):
        choose_shard(prompts, f"{num_videos + 1}/{num_videos + 1}")


@pytest.mark.parametrize("shard", ["", "3", "0/4", "5/4", "1/0", "-1/4", "1/4/2", "a/b", "1 / 2", "1/9999999999"])
def test_shards_of_another_form(shard: str) -> None:
    with pytest.raises(UserError, match=f"--shard={re.escape(shard)}: give I/N with I from 1 to N, e.g. 3/16"):
        choose_shard(choose_prompts(Config(), ["a", "b"], None, 9), shard)


def test_choice_of_stages() -> None:
    assert choose_stages(None, None) == STAGES
    assert choose_stages(None, "superres_pixel") == STAGES[3:]
    assert choose_stages("interpolation, keyframes", None) == STAGES[:2]
    assert choose_stages("keyframes,interpolation,first_frame", "interpolation") == STAGES[1:3]
    resumed = Request((), STAGES[3:], resume=True)
    assert (resumed.kept, resumed.inputs) == (STAGES[:3], STAGES[1:3])
    with pytest.raises(UserError, match="superres_pixel needs the result of first_frame"):
        Request((), ("interpolation", "superres_pixel"), resume=True)


@given(st.text(st.characters(codec="utf-8"), max_size=20))
def test_whatever_an_error_says_is_one_line(text: str) -> None:
    def command() -> None:
        raise UserError(text)

    with pytest.MonkeyPatch.context() as patch:
        written = io.StringIO()
        patch.setattr(sys, "stderr", written)
        assert run_command("sample", command) == 2
    assert len(written.getvalue().splitlines()) == 1


def test_a_working_directory_that_was_removed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = FileNotFoundError(2, "No such file or directory")
    assert error_line(missing).startswith("No such file or directory; check the path")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "here").rmdir()
    assert error_line(missing) == "the working directory was removed; change to another one"


def test_negative_prompts() -> None:
    config = Config.from_dict({"keyframes": {"use_negative_prompt": True}, "first_frame": {"guidance_scale": 1}})
    assert [config.negative_text(stage) for stage in STAGES] == [
        *("low resolution, blur", "", None, "", "low resolution, blur")
    ]
    assert [config.negative_text(stage, "dull") for stage in STAGES] == ["dull", "", None, "", "dull"]


def test_arguments_that_the_locale_cannot_read_are_utf8() -> None:
    command = [sys.executable, "sample.py", "--config", CONFIGS["demo"], "--prompt", "\U0001f43c"]
    c_locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run([*command, *command[-2:]], env=os.environ | c_locale, cwd=ROOT, capture_output=True)
    assert done.stderr == b"sample: '\\U0001f43c' is asked for twice with seed 345; give each a different seed\n"
    assert decode_argument("caf\udce9") == "caf\udce9"  # refused as a prompt


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("jax_numpy_rank_promotion", "raise"),
        ("jax_error_checking_behavior_nan", "raise"),
        ("jax_error_checking_behavior_divide", "raise"),
        ("jax_disable_jit", True),
        ("jax_no_execution", True),
    ],
)
def test_settings_of_jax_that_forbid_what_commands_do_are_reset(setting: str, value: Any) -> None:
    usual = getattr(jax.config, setting)
    jax.config.update(setting, value)
    try:
        with importing_jax("sample"):
            assert getattr(jax.config, setting) == usual
    finally:
        jax.config.update(setting, usual)


@pytest.mark.parametrize(
    "command",
    [
        ["convert", "--help"],
        ["show1_jax.data", "encode_text", "--checkpoint=checkpoints/demo", "--component=text_t5", "--out=x"],
        ["show1_jax.evaluation.alignment", "--help"],
        ["show1_jax.training.caption_encoders", "--help"],
    ],
)
def test_a_wrong_variable_of_jax_is_one_line(command: list[str]) -> None:
    variables = os.environ | {"JAX_ENABLE_X64": "perhaps"}
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, env=variables, capture_output=True, text=True)
    assert done.returncode == 2
    assert "JAX does not start (invalid truth value 'perhaps' for environment 'JAX_ENABLE_X64')" in done.stderr
    assert done.stderr.count("\n") == 1


def test_flags_come_in_any_order() -> None:
    argv = ["sample.py", "--config.seed=4", "--prompt", "a", "--config", CONFIGS["demo"], "--seed=3", "--prompt=b"]
    values = sample.define_flags()
    assert parse_flags(values, argv).seed == 4
    assert (values.seed, values.prompt) == (3, ["a", "b"])


def test_a_mistake_is_reported_at_once_by_the_program_itself(tmp_path: Path) -> None:
    """Without importing JAX, which takes seconds."""
    command = [sys.executable, str(ROOT / "sample.py"), "--config", CONFIGS["demo"], "--config.keyframes.num_step=3"]
    before = os.times()
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    after = os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    assert used < 3  # seconds of the processor, which do not depend on what else runs
    line = "there is no setting --config.keyframes.num_step; did you mean --config.keyframes.num_steps?"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"sample: {line}\n")
    assert not list(tmp_path.iterdir())


def test_one_of_several_checkpoints_is_no_bucket() -> None:
    line = refusal("--config", CONFIGS["demo"], "--checkpoint=checkpoints/demo, gs:/bucket/x")
    assert line.startswith("gs:/bucket/x: not a URL that is supported")


@pytest.mark.parametrize("flag", ["--out", "--prompts", "--video", "--config"])
def test_a_path_without_a_home_directory_is_refused(flag: str) -> None:
    line = refusal("--config", CONFIGS["demo"], "--from_stage=interpolation", f"{flag}=~nobody-is-called-so/x.txt")
    assert "there is no home directory for ~" in line


def test_without_a_home_directory_the_defaults_are_no_obstacle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "")
    assert "no home directory" not in refusal("--config", CONFIGS["demo"], "--stages=none")


def test_a_tilde_is_the_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "own.py").write_text(
        "from ml_collections import *\ndef get_config(): return ConfigDict({'out': '~/v'})"
    )
    (tmp_path / "prompts.txt").write_text("a panda")
    assert load_config("~/own.py").out == "~/v"
    assert choose_prompts(Config(), [], "~/prompts.txt", 1)[0].text == "a panda"
    assert RunDirectory.of("~/v", Prompt("a panda", seed=1)).path.parent == tmp_path / "v"
