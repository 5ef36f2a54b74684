"""A checkpoint records its sampling settings, and they are used."""

import dataclasses
import json
import shutil
import warnings
from pathlib import Path

import jax
import numpy as np
import pytest

from convert.__main__ import main as convert_main
from convert.merge import merge
from show1_jax.cascade.cascade import Cascade
from show1_jax.checkpoints.manifest import Manifest, read_manifest
from show1_jax.checkpoints.random import write_random_checkpoint
from show1_jax.checkpoints.recorded_settings import differing_settings, recorded_config
from show1_jax.cli import load_config
from show1_jax.config.config_file import Config
from show1_jax.config.sampling import STAGES, CascadeConfig, KeyframesConfig
from show1_jax.errors import UserError
from tests.helpers import tiny_config, tiny_runs

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "checkpoints" / "demo"


def demo_config() -> Config:
    return load_config(str(ROOT / "configs/demo.py"))


def of_version_2(checkpoint: Path, out: Path) -> Path:
    """Write a copy of a checkpoint in version 2, which has no sampling settings."""
    shutil.copytree(checkpoint, out)
    manifest = read_manifest(out)
    records = {name: dataclasses.replace(record, sampling={}) for name, record in manifest.components.items()}
    Manifest(records, manifest.files, format_version=2).write(out)
    text = (out / "manifest.json").read_text()
    assert '"sampling": {}' in text
    return out


def settings_of(config: CascadeConfig) -> dict[str, object]:
    return {stage: config.stage(stage).to_dict() for stage in STAGES} | {"text_padding": config.text_padding}


def test_the_demo_records_the_settings_of_its_config() -> None:
    recorded = recorded_config(read_manifest(DEMO), "demo")
    assert settings_of(recorded) == settings_of(demo_config())
    assert settings_of(recorded) != settings_of(CascadeConfig())
    assert differing_settings(read_manifest(DEMO), demo_config(), STAGES) == []


def test_the_demo_needs_no_config_for_sampling() -> None:
    prompts, stages = ["a red circle moves right"], STAGES[:2]
    device = jax.devices()[:1]
    own = Cascade.load(DEMO, devices=device).sample(prompts, seeds=[345], stages=stages)
    stated = Cascade.load(DEMO, demo_config(), device).sample(prompts, seeds=[345], stages=stages)
    for stage in stages:
        np.testing.assert_array_equal(own[stage], stated[stage])
    assert own["interpolation"].shape == (1, 29, 10, 16, 3)


def test_converted_checkpoints_record_the_released_settings(converted: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert recorded_config(read_manifest(converted), "converted") == CascadeConfig()


def test_training_runs_record_their_sampling_settings(tiny_checkpoint: Path, tmp_path: Path) -> None:
    config = tiny_runs.settings(tiny_checkpoint, "keyframes")
    config = dataclasses.replace(config, text_padding="zeros")
    training = tiny_runs.run_of(config, "keyframes", tmp_path / "run")
    training.save(1)
    training.checkpoints.close()
    loaded = Cascade.load(tmp_path / "run", devices=jax.devices()[:1]).spec.config
    assert loaded.keyframes == config.keyframes
    assert loaded.text_padding == "zeros"


def test_merging_keeps_the_settings_or_records_those_of_a_config(tmp_path: Path) -> None:
    tiny = tiny_config.settings()
    write_random_checkpoint(tmp_path / "made", tiny.architecture, tiny.schedulers, config=tiny)
    merge(tmp_path / "made", tmp_path / "kept", ["keyframes", "text_t5"])
    assert read_manifest(tmp_path / "kept").component("keyframes").sampling["num_frames"] == 3
    assert read_manifest(tmp_path / "kept").component("text_t5").sampling == {}
    other = dataclasses.replace(tiny, keyframes=dataclasses.replace(tiny.keyframes, num_steps=7))
    merge(tmp_path / "made", tmp_path / "changed", ["keyframes"], config=other)
    assert read_manifest(tmp_path / "changed").component("keyframes").sampling["num_steps"] == 7


def test_checkpoints_of_version_2_are_read_with_a_warning_about_assumed_settings(tmp_path: Path) -> None:
    old = of_version_2(DEMO, tmp_path / "old")
    with pytest.warns(UserWarning, match=r"old: records no sampling settings of keyframes, interpolation.*original's"):
        cascade = Cascade.load(old)
    assert settings_of(cascade.spec.config) == settings_of(CascadeConfig())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Cascade.load(old, demo_config()).spec.config == demo_config()
    assert read_manifest(old).digest("keyframes") == read_manifest(DEMO).digest("keyframes")


def test_differences_are_named() -> None:
    config = dataclasses.replace(
        demo_config(), keyframes=dataclasses.replace(demo_config().keyframes, num_steps=3), text_padding="encoded"
    )
    lines = differing_settings(read_manifest(DEMO), config, STAGES[:2])
    assert lines == ["keyframes.num_steps=3 (recorded: 10)", "text_padding='encoded' (recorded: 'zeros')"]
    assert differing_settings(read_manifest(DEMO), config, ["first_frame"]) == lines[1:]


def test_networks_for_different_text_paddings_are_refused(tmp_path: Path) -> None:
    manifest = read_manifest(DEMO)
    record = manifest.component("keyframes")
    other = dataclasses.replace(record, sampling=record.sampling | {"text_padding": "encoded"})
    mixed = Manifest(manifest.components | {"keyframes": other}, manifest.files)
    with pytest.raises(UserError, match=r"different text_padding .keyframes: encoded, interpolation: zeros"):
        recorded_config(mixed, "mixed")


@pytest.mark.parametrize(
    ("sampling", "said"),
    [
        ({"num_steps": 0}, "num_steps=0 must be from 1"),
        ({"steps": 5}, "has no field 'steps'"),
        (KeyframesConfig().to_dict() | {"text_padding": "ones"}, "text_padding='ones' is not one of"),
    ],
)
def test_invalid_recorded_settings_are_refused(sampling: dict[str, object], said: str, tmp_path: Path) -> None:
    out = tmp_path / "edited"
    shutil.copytree(DEMO, out)
    manifest = read_manifest(out)
    record = dataclasses.replace(manifest.component("keyframes"), sampling=json.loads(json.dumps(sampling)))
    Manifest(manifest.components | {"keyframes": record}, manifest.files).write(out)
    with pytest.raises(UserError, match=said):
        Cascade.load(out)


def test_a_stage_without_a_record_has_the_original_padding() -> None:
    manifest = read_manifest(DEMO)
    old = dataclasses.replace(manifest.component("keyframes"), sampling={})
    mixed = Manifest(manifest.components | {"keyframes": old}, manifest.files)
    with (
        pytest.warns(UserWarning, match="no sampling settings of keyframes"),
        pytest.raises(UserError, match=r"different text_padding \(keyframes: encoded, interpolation: zeros"),
    ):
        recorded_config(mixed, "mixed")


def test_a_stage_is_checked_alone_and_all_of_them_together(tmp_path: Path) -> None:
    tiny = tiny_config.settings()
    large = dataclasses.replace(tiny.keyframes, num_frames=100, height=1024, width=1024)
    between = dataclasses.replace(tiny.interpolation, num_between=1)
    config = dataclasses.replace(
        tiny, keyframes=large, interpolation=between, first_frame=dataclasses.replace(tiny.first_frame, scale=1)
    )
    write_random_checkpoint(tmp_path / "large", tiny.architecture, tiny.schedulers, config=config)
    loaded = Cascade.load(tmp_path / "large", devices=jax.devices()[:1]).spec.config
    assert settings_of(loaded) == settings_of(config)
    merge(tmp_path / "large", tmp_path / "alone", ["keyframes"])
    with pytest.raises(UserError, match=r"alone: its recorded settings cannot be used together .* give a config"):
        Cascade.load(tmp_path / "alone")


def test_conversion_records_the_settings_of_a_config(tmp_path: Path, golden: Path) -> None:
    folder = golden / "checkpoints" / "show-1-interpolation"
    arguments = ["--out", str(tmp_path / "out"), "--stages=interpolation", f"--interpolation={folder}"]
    assert convert_main([*arguments, "--config", str(ROOT / "configs/demo.py")]) == 0
    record = read_manifest(tmp_path / "out").component("interpolation")
    assert record.sampling["num_steps"] == 4
    assert record.sampling["text_padding"] == "zeros"
