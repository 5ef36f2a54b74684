"""Export of networks as diffusers folders: the released files, bit by bit, and their conversion again."""

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from convert import export as exporting
from convert.__main__ import main
from convert.config_files import with_explicit_levels
from convert.convert import convert
from convert.export import export
from convert.reader import open_weights
from convert.released import RELEASED_STAGES
from convert.stored import read_weights, stored_architecture
from convert.tables import parameters
from show1_jax.checkpoints.manifest import read_manifest
from show1_jax.checkpoints.random import write_random_checkpoint
from show1_jax.nn.config import UNetConfig
from show1_jax.parallel.weights import WeightPath
from tests.helpers import tiny_config

PARTS = {part.component: (stage, part) for stage in RELEASED_STAGES.values() for part in stage.parts}


def weights_of(checkpoint: Path, name: str) -> dict[WeightPath, np.ndarray]:
    record = read_manifest(checkpoint).component(name)
    return read_weights(checkpoint, name, parameters(record.kind, stored_architecture(checkpoint, name, record)))


def assert_same_weights(one: Path, other: Path, name: str) -> None:
    mine, theirs = (weights_of(checkpoint, name) for checkpoint in (one, other))
    assert mine.keys() == theirs.keys()
    assert all(mine[path].dtype == theirs[path].dtype and np.array_equal(mine[path], theirs[path]) for path in mine)


def assert_same_record(one: Path, other: Path, name: str) -> None:
    records = [read_manifest(checkpoint).component(name) for checkpoint in (one, other)]
    for attribute in ("kind", "dtype", "schedulers"):
        assert getattr(records[0], attribute) == getattr(records[1], attribute)
    mine, theirs = (stored_architecture(one, name, record) for record in records)
    if isinstance(mine, UNetConfig) and isinstance(theirs, UNetConfig):
        mine, theirs = with_explicit_levels(mine), with_explicit_levels(theirs)
    assert mine == theirs


def from_folder(folder: Path, out: Path) -> Path:
    convert(out, {name: str(folder / stage.folder) for name, stage in RELEASED_STAGES.items()})
    return out


@pytest.fixture(scope="module")
def exported(converted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the recorded folders, converted and exported."""
    out = tmp_path_factory.mktemp("exported") / "released"
    export(converted, out)
    return out


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a checkpoint of networks that were never released."""
    config = tiny_config.settings()
    latent = {**config.architecture["superres_latent"], "transformer_in_head_dim": 16}
    out = tmp_path_factory.mktemp("untrained") / "checkpoint"
    write_random_checkpoint(out, {**config.architecture, "superres_latent": latent}, config.schedulers)
    return out


@pytest.mark.parametrize("component", PARTS)
def test_the_released_file_again(exported: Path, golden: Path, component: str) -> None:
    stage, part = PARTS[component]
    released, written = (open_weights(root / stage.folder / part.folder) for root in (golden / "checkpoints", exported))
    assert written.keys() == released.keys()
    for key, array in written.items():
        assert array.dtype == released[key].dtype
        np.testing.assert_array_equal(array, released[key], strict=True)
    (path,) = written.files
    with safe_open(path, "numpy") as file:
        assert file.metadata() == {"format": "pt"}
    assert load_file(path).keys() == released.keys()


@pytest.mark.parametrize("stage", RELEASED_STAGES)
def test_the_released_settings_again(exported: Path, golden: Path, stage: str) -> None:
    original, copy = golden / "checkpoints" / RELEASED_STAGES[stage].folder, exported / RELEASED_STAGES[stage].folder
    names = [path.relative_to(original) for path in original.rglob("*.json")]
    for name in names:
        before, after = (json.loads((folder / name).read_text()) for folder in (original, copy))
        if name.name == "model_index.json" and not (original / "text_encoder").exists():
            before |= {"text_encoder": [None, None], "tokenizer": [None, None]}
        assert before == after, name
    there = {path.relative_to(copy) for path in copy.rglob("*.json")}
    assert there == set(names)
    for path in (original / "tokenizer").glob("*"):
        assert (copy / "tokenizer" / path.name).read_bytes() == path.read_bytes()


def test_a_released_checkpoint_again(exported: Path, converted: Path, tmp_path: Path) -> None:
    again = from_folder(exported, tmp_path / "again")
    for name in PARTS:
        assert_same_record(again, converted, name)
        assert read_manifest(again).component(name).config == read_manifest(converted).component(name).config
    assert_same_weights(again, converted, "text_t5")  # the others' files were compared already


def test_networks_that_were_never_released(untrained: Path, tmp_path: Path) -> None:
    export(untrained, tmp_path / "exported")
    again = from_folder(tmp_path / "exported", tmp_path / "again")
    for name in PARTS:
        assert not read_manifest(untrained).component(name).config
        assert_same_record(again, untrained, name)
    for name in ("first_frame", "superres_latent", "text_t5", "text_clip", "vae"):  # every kind of network
        assert_same_weights(again, untrained, name)
    assert (again / "text_t5/tokenizer/spiece.model").is_file()


Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(converted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Export from `converted` to `out`; return the exit code and the last line on stderr (bars are erased)."""

    def run(*arguments: str, checkpoint: Path | str = converted) -> tuple[int, str]:
        code = main(["export", str(checkpoint), "--out", str(tmp_path / "out"), *arguments])
        error = capsys.readouterr().err.split("\r")[-1].strip("\n")
        assert "\n" not in error
        return code, error

    return run


def test_components_into_one_folder(run: Run, tmp_path: Path) -> None:
    assert run("--component", "keyframes", "--component", "text_t5") == (0, "")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("unet", "scheduler", "text_encoder", "tokenizer", "model_index.json")
    }
    convert(tmp_path / "again", {"keyframes": str(tmp_path / "out")})
    assert list(read_manifest(tmp_path / "again").components) == ["keyframes", "text_t5"]


def test_an_autoencoder_alone(run: Run, tmp_path: Path) -> None:
    assert run("--component", "vae") == (0, "")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["vae"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_dtypes(run: Run, tmp_path: Path, converted: Path, dtype: str) -> None:
    assert run("--component", "vae", "--dtype", dtype) == (0, "")
    bias = open_weights(tmp_path / "out/vae")["encoder.conv_in.bias"]
    assert bias.dtype.name == dtype
    kept = weights_of(converted, "vae")["encoder", "conv_in", "bias"]
    np.testing.assert_array_equal(bias, kept.astype(np.float32 if dtype == "float32" else ml_dtypes.bfloat16))


def test_overwriting(run: Run, tmp_path: Path) -> None:
    assert run("--component", "vae")[0] == 0
    code, error = run("--component", "text_clip")
    assert (code, "out: exists; choose another place, or replace it with --overwrite" in error) == (2, True)
    assert run("--component", "text_clip", "--overwrite") == (0, "")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"text_encoder", "tokenizer"}
    (tmp_path / "out/thesis.tex").write_text("")
    code, error = run("--component", "vae", "--overwrite")
    assert (code, "is no exported folder, so it is not overwritten" in error) == (2, True)
    assert (tmp_path / "out/thesis.tex").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_training_run_and_several_checkpoints(run: Run, converted: Path, tmp_path: Path) -> None:
    """A run's steps have a checkpoint's layout; its working directory is read as the newest step."""
    from show1_jax.checkpoints.run_steps import CHECKPOINTS

    workdir = tmp_path / "run"
    shutil.copytree(converted, workdir / CHECKPOINTS / "00000007")
    assert run("--component", "vae", checkpoint=workdir) == (0, "")
    assert run("--component", "vae", "--overwrite", checkpoint=f"{converted},{workdir}") == (0, "")
    written = open_weights(tmp_path / "out/vae")["encoder.conv_in.bias"]
    np.testing.assert_array_equal(written, weights_of(converted, "vae")["encoder", "conv_in", "bias"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--component", "keyframes", "--component", "interpolation"], "keyframes and interpolation both go to unet/"),
        (["--component", "upscaler"], "has no component 'upscaler', only keyframes, text_t5"),
        (["--dtype", "int8"], "--dtype: invalid choice: 'int8'"),
        (["--from", "x"], "unrecognized arguments: --from x"),
    ],
)
def test_bad_arguments(run: Run, tmp_path: Path, arguments: list[str], message: str) -> None:
    code, error = run(*arguments)
    assert code == 2
    assert message in error
    assert not list(tmp_path.iterdir())


def test_a_scheduler_s_name_leads_nowhere_else(run: Run, tmp_path: Path) -> None:
    text = {"text_t5": tiny_config.settings().architecture["text_t5"]}
    write_random_checkpoint(tmp_path / "evil", text, {"text_t5": {"../elsewhere": tiny_config.NOISING}})
    code, error = run(checkpoint=tmp_path / "evil")
    assert code == 2
    assert "text_t5 has schedulers of unknown roles: ../elsewhere" in error
    assert [path.name for path in tmp_path.iterdir()] == ["evil"]


def test_a_network_that_no_released_class_can_represent(run: Run, tiny_checkpoint: Path, tmp_path: Path) -> None:
    code, error = run(checkpoint=tiny_checkpoint)
    record = read_manifest(tiny_checkpoint).component("superres_latent").architecture
    if record["transformer_in_head_dim"] == record["mid_head_dim"]:
        assert (code, error) == (0, "")
    else:
        assert (code, "superres_latent: cannot be written as a diffusers folder" in error) == (2, True)
        assert not list(tmp_path.iterdir())


def spoiled(tmp_path: Path, change: Callable[[np.ndarray], Any]) -> Path:
    """Return a checkpoint of one text encoder with a changed weight."""
    from show1_jax.checkpoints import random

    config = tiny_config.settings()
    out = tmp_path / "spoiled"

    def weight(path: WeightPath, shape: tuple[int, ...], *_: Any, **__: Any) -> np.ndarray:
        array = np.ones(shape, np.float32)
        change(array)
        return array

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(random, "initial_weight", weight)
        write_random_checkpoint(out, {"text_t5": config.architecture["text_t5"]}, {})
    return out


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    assert "the disk has 0.0 GB free" in run("--component", "vae")[1]
    monkeypatch.undo()
    monkeypatch.setattr(exporting, "write_safetensors", full)
    code, error = run("--component", "vae")
    assert (code, "the disk is full, nothing was kept" in error) == (2, True)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_an_earlier_export(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("--component", "vae")[0] == 0
    before = (tmp_path / "out/vae/config.json").read_bytes()
    monkeypatch.setattr(exporting, "write_safetensors", full)
    assert run("--component", "vae", "--overwrite")[0] == 2
    assert (tmp_path / "out/vae/config.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_place_that_cannot_be_written(converted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert main(["export", str(converted), "--component", "vae", "--out", str(tmp_path / "file/out")]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_damaged_weights_are_not_exported(run: Run, converted: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(converted, tmp_path / "copy"))
    largest = max((copy / "vae").rglob("*"), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    code, error = run("--component", "vae", checkpoint=copy)
    assert code == 2
    assert "vae" in error
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]


@pytest.mark.parametrize("command", ["export", "merge"])
def test_a_tokenizer_with_a_changed_bit_is_not_written(
    converted: Path, tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Path(shutil.copytree(converted, tmp_path / "copy"))
    path = copy / "text_clip/tokenizer/merges.txt"
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    assert main([command, str(copy), "--component", "text_clip", "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err.split("\r")[-1]
    assert "missing or changed: text_clip/tokenizer/merges.txt" in error
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]


@pytest.mark.parametrize("command", ["export", "merge"])
def test_a_file_outside_the_manifest_is_not_written(
    converted: Path, tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Path(shutil.copytree(converted, tmp_path / "copy"))
    (tmp_path / "secret").write_text("secret")
    (copy / "text_clip/tokenizer/added_tokens.json").symlink_to(tmp_path / "secret")
    main([command, str(copy), "--component", "text_clip", "--out", str(tmp_path / "out")])
    capsys.readouterr()
    assert not any("secret" in path.read_text(errors="ignore") for path in tmp_path.rglob("out/**/*.json"))
    assert not list(tmp_path.rglob("out/**/added_tokens.json"))


def test_a_scheduler_s_role_is_no_other_folder_s_name(run: Run, tmp_path: Path) -> None:
    config = tiny_config.settings()
    unet = {"keyframes": config.architecture["keyframes"]}
    settings = config.schedulers["keyframes"]["scheduler"]
    write_random_checkpoint(tmp_path / "evil", unet, {"keyframes": {"unet": settings, "tokenizer": settings}})
    code, error = run(checkpoint=tmp_path / "evil")
    assert code == 2
    assert "keyframes has schedulers of unknown roles: tokenizer, unet; convert again" in error
    assert [path.name for path in tmp_path.iterdir()] == ["evil"]


@pytest.mark.parametrize(
    ("value", "arguments", "message"),
    [
        (np.nan, [], "weights with NaN or infinity: "),
        (1e6, ["--dtype", "float16"], "weights too large for float16: "),
    ],
)
def test_bad_values(run: Run, tmp_path: Path, value: float, arguments: list[str], message: str) -> None:
    checkpoint = spoiled(tmp_path, lambda array: array.fill(value))
    code, error = run(*arguments, checkpoint=checkpoint)
    assert code == 2
    assert message in error
    assert [path.name for path in tmp_path.iterdir()] == ["spoiled"]
