"""Several checkpoints as one: later components replace earlier ones, and of a training run the newest step is used."""

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from convert.export import export
from convert.merge import merge
from convert.verify import verify
from show1_jax.cascade.cascade import Cascade
from show1_jax.checkpoints.checkpoint_set import CheckpointSet, split_names
from show1_jax.checkpoints.manifest import read_manifest
from show1_jax.checkpoints.networks import make_network, network_kind
from show1_jax.checkpoints.random import write_random_checkpoint
from show1_jax.checkpoints.run_steps import TrainingCheckpoints
from show1_jax.config.sampling import STAGES, Stage
from show1_jax.errors import UserError
from show1_jax.parallel.weights import to_weights
from tests.helpers import tiny_config


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Path:
    """A training run of the tiny keyframe network whose averaged weights are all the number of the step."""
    workdir = tmp_path_factory.mktemp("runs") / "keyframes"
    record = read_manifest(tiny_checkpoint).component("keyframes")
    network = make_network(record.kind, network_kind(record.kind).architecture.from_dict(record.architecture))
    shapes = to_weights(nnx.state(network, nnx.Param))
    checkpoints = TrainingCheckpoints(workdir / "checkpoints", keep=2, keep_every=0)
    for step in (1, 2):
        average = {path: jax.device_put(np.full(leaf.shape, step, np.float32)) for path, leaf in shapes.items()}
        checkpoints.save(step, "keyframes", record, average, {"step": jnp.int32(step)}, {})
    checkpoints.close()
    return workdir


def keyframe_values(cascade: Cascade) -> set[float]:
    with cascade.network("keyframes") as network:
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


def test_the_last_checkpoint_is_used(tiny_checkpoint: Path, run: Path) -> None:
    checkpoints = CheckpointSet.open(f"{run}, {tiny_checkpoint}")
    assert set(checkpoints.paths.values()) == {tiny_checkpoint}
    assert checkpoints.manifest == read_manifest(tiny_checkpoint)


def test_a_step_alone_has_its_component_only(run: Path) -> None:
    with pytest.raises(UserError, match="no component 'vae', only keyframes"):
        CheckpointSet.open(run).path("vae")


def test_a_damaged_step_is_skipped(
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
    assert said.endswith("step 2 is skipped\n")
    with pytest.raises(UserError, match=r"changed: keyframes/weights/.*; use an earlier step"):
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


def test_text_of_a_manifest_is_printed_on_one_line(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Path(shutil.copytree(tiny_checkpoint, tmp_path / "copy"))
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["components"]["vae"] |= {"dtype": "a\nb", "provenance": {"licence": "\x1b[2J", "source": "c\rd"}}
    sign(copy, manifest)
    verify(copy)
    merge(copy, tmp_path / "merged", ["vae"])
    export(copy, tmp_path / "exported", ["vae"])
    printed = capsys.readouterr().out
    assert all(line.isprintable() for line in printed.split("\n"))
    assert printed.count("'a\\nb'") == 3


JSON = (
    st.none()
    | st.booleans()
    | st.sampled_from([0, -1, 7, 2**40, 10**400, 0.5, float("inf"), "", "unet", "vae", "../x"])
    | st.builds(list)
    | st.builds(dict)
)


def places(values: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every value of a JSON document."""
    for key in values if isinstance(values, dict) else range(len(values)) if isinstance(values, list) else ():
        yield (*path, key)
        yield from places(values[key], (*path, key))


def sign(checkpoint: Path, values: dict[str, Any]) -> None:
    """Write a manifest whose own hash is correct, as a user who knows the format can."""
    values = {name: value for name, value in values.items() if name != "sha256"}
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
    (checkpoint / "manifest.json").write_text(json.dumps(values | {"sha256": digest}))


@pytest.fixture(scope="module")
def edited(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Path:
    return Path(shutil.copytree(tiny_checkpoint, tmp_path_factory.mktemp("edited") / "checkpoint"))


@settings(max_examples=100)
@given(st.data())
def test_an_edited_manifest_is_used_or_refused_in_one_line(
    tiny_checkpoint: Path, edited: Path, data: st.DataObject
) -> None:
    manifest = json.loads((tiny_checkpoint / "manifest.json").read_text())
    *parents, last = data.draw(st.sampled_from(list(places(manifest))))
    node = manifest
    for key in parents:
        node = node[key]
    if isinstance(last, str) and data.draw(st.booleans()):
        del node[last]
    else:
        node[last] = data.draw(JSON)
    sign(edited, manifest)
    try:
        load(str(edited)).spec.check(STAGES)
    except UserError as error:
        line = str(error)
    else:
        return
    assert "\n" not in line


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("format_version", "2", "manifest.json: damaged"),
        ("format_version", 10**400, "format version 1000"),
        ("files", [], "manifest.json: damaged (files is no JSON object)"),
        ("components/keyframes", 3, "damaged (components: keyframes: Component: 3 must be settings by name)"),
        ("components/keyframes/kind", "gan", "manifest.json: components: keyframes: kind='gan' is not one of unet"),
        ("components/keyframes/kind", "vae", "components: keyframes: VAEConfig has no field"),
        ("components/keyframes/architecture/in_channels", 2**40, "components: keyframes: UNetConfig: in_channels="),
        ("components/keyframes/architecture/layers_per_block", [10**9], "layers_per_block=1000000000 must be from"),
        ("components/keyframes/schedulers", {}, "stage keyframes: the checkpoint has no scheduler for it"),
        ("components/keyframes/schedulers/scheduler/num_train_timesteps", 10**12, "num_train_timesteps"),
        ("components/first_frame/schedulers/image_noising_scheduler", None, "schedulers=.* must be settings by name"),
        ("components/text_t5/architecture/d_model", "wide", "d_model='wide' must be a whole number"),
        ("components/..", {}, "'..' is not the name of a component"),
    ],
)
def test_edits_are_named_with_file_and_field(
    tiny_checkpoint: Path, edited: Path, path: str, value: Any, said: str
) -> None:
    manifest = json.loads((tiny_checkpoint / "manifest.json").read_text())
    *parents, last = path.split("/")
    node = manifest
    for key in parents:
        node = node[key]
    node[last] = value
    sign(edited, manifest)
    with pytest.raises(UserError) as raised:
        load(str(edited)).spec.check(STAGES)
    assert re.search(said if ".*" in said else re.escape(said), str(raised.value))


@pytest.mark.parametrize(("one", "other"), [("keyframes", "interpolation"), ("first_frame", "vae")])
def test_components_under_each_other_s_names(tiny_checkpoint: Path, edited: Path, one: Stage, other: str) -> None:
    manifest = json.loads((tiny_checkpoint / "manifest.json").read_text())
    components = manifest["components"]
    components[one], components[other] = components[other], components[one]
    sign(edited, manifest)
    with pytest.raises(UserError, match=f"stage {one}: "):
        load(str(edited)).spec.check_settings([one])


def test_a_tokenizer_with_an_unlisted_file_is_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tiny_checkpoint, tmp_path / "copy"))
    (copy / "text_clip/tokenizer/tokenizer.json").symlink_to("/etc/hostname")
    with pytest.raises(UserError, match=r"holds tokenizer\.json, which the manifest does not list; remove it"):
        CheckpointSet.open(copy).tokenizer("text_clip")
    (copy / "text_clip/tokenizer/tokenizer.json").rename(copy / "text_clip/tokenizer/.DS_Store")
    CheckpointSet.open(copy).tokenizer("text_clip")


@pytest.mark.parametrize("name", ["manifest.json", "text_t5/tokenizer/spiece.model"])
def test_a_pipe_in_place_of_a_file_is_not_waited_for(tiny_checkpoint: Path, tmp_path: Path, name: str) -> None:
    copy = Path(shutil.copytree(tiny_checkpoint, tmp_path / "copy"))
    (copy / name).unlink()
    os.mkfifo(copy / name)
    with pytest.raises(UserError, match=r"cannot be read|missing or changed"):
        CheckpointSet.open(copy).tokenizer("text_t5")


def test_no_random_checkpoint_is_made_with_a_schedule_that_cannot_be_sampled(tmp_path: Path) -> None:
    config = tiny_config.settings()
    broken = config.schedulers | {"interpolation": {"scheduler": tiny_config.DDPM | {"beta_schedule": "foo"}}}
    with pytest.raises(UserError, match="schedulers: interpolation: scheduler: scheduler setting beta_schedule"):
        write_random_checkpoint(tmp_path / "out", config.architecture, broken)
    assert not any(tmp_path.iterdir())


def test_paths_that_are_too_long_are_one_line(tiny_checkpoint: Path, tmp_path: Path) -> None:
    names = ",".join([str(tiny_checkpoint)] * 30)
    assert set(CheckpointSet.open(names).paths.values()) == {tiny_checkpoint}
    with pytest.raises(UserError, match="File name too long"):
        read_manifest(tmp_path / ("a" * 300))
    with pytest.raises(UserError, match="File name too long"):
        CheckpointSet.open("a" * 300)


@pytest.mark.parametrize("path", ["hdfs://host/show1", "checkpoints/demo,s3:/bucket/keyframes"])
def test_other_urls_are_no_checkpoints(path: str) -> None:
    with pytest.raises(UserError, match="not a URL that is supported"):
        CheckpointSet.open(path)


def test_folders_that_look_like_steps_are_ignored(tiny_checkpoint: Path, run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    steps = copy / "checkpoints"
    for name in (".1x.saving", "00000x09", "9", ".00000009.saving.txt"):
        (steps / name).mkdir()
    (steps / "00000007").symlink_to("00000007")
    (steps / "00000008").write_text("")
    with contextlib.closing(TrainingCheckpoints(steps, keep=2, keep_every=0)) as checkpoints:
        assert checkpoints.record() == {}
    assert CheckpointSet.open(f"{tiny_checkpoint},{copy}").path("keyframes") == steps / "00000002"
    with pytest.raises(UserError, match="00000007"):
        CheckpointSet.open(steps / "00000007")
