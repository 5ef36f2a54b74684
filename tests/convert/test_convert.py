"""The command line from end to end: the recorded folders, and bad input of every kind."""

import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from convert import convert as conversion
from convert.__main__ import main
from convert.reader import open_weights
from convert.released import STAGES
from convert.rules import sources
from convert.tables import KINDS, parameters
from show1_jax.checkpoint import load_weights
from show1_jax.manifest import Manifest, read_manifest, sha256, verify_files
from show1_jax.models import ARCHITECTURES
from show1_jax.weights import weight_path

COMPONENTS = {
    "keyframes": ("unet", "show-1-base/unet"),
    "text_t5": ("t5", "show-1-base/text_encoder"),
    "interpolation": ("unet", "show-1-interpolation/unet"),
    "first_frame": ("unet", "IF-II-L-v1.0/unet"),
    "superres_pixel": ("unet", "show-1-sr1/unet"),
    "superres_latent": ("unet", "show-1-sr2/unet"),
    "text_clip": ("clip", "show-1-sr2/text_encoder"),
    "vae": ("vae", "show-1-sr2/vae"),
}


@pytest.fixture
def released(golden: Path, tmp_path: Path) -> Path:
    """A copy of the recorded folders that a test may spoil."""
    return Path(shutil.copytree(golden / "checkpoints", tmp_path / "released"))


@pytest.fixture
def run(tmp_path: Path, released: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs the command on `released`. Returns exit code, stdout and the last line on stderr (bars are erased)."""

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main(["--from", str(released), "--out", str(tmp_path / "out"), *arguments])
        captured = capsys.readouterr()
        error = captured.err.split("\r")[-1].strip("\n")
        assert "\n" not in error
        return code, captured.out, error

    return run


@pytest.fixture
def refused(run: Callable[..., tuple[int, str, str]], tmp_path: Path) -> Callable[..., str]:
    """Runs the command, which must fail with one line and leave nothing. Returns the line."""

    def refused(*arguments: str) -> str:
        before = sorted(path.name for path in tmp_path.iterdir())
        code, out, error = run(*arguments)
        assert (code, out) == (2, "")
        assert error.startswith("convert: ")
        assert sorted(path.name for path in tmp_path.iterdir()) == before
        return error

    return refused


@pytest.mark.parametrize("component", COMPONENTS)
def test_every_weight_arrives(converted: Path, golden: Path, component: str) -> None:
    kind, folder = COMPONENTS[component]
    record = read_manifest(converted).component(component)
    assert (record.kind, record.dtype) == (kind, "float16")
    architecture = ARCHITECTURES[kind].from_dict(record.architecture)
    state = parameters(kind, architecture)
    released = open_weights(golden / "checkpoints" / folder)
    loaded = load_weights(converted, component, state)
    places = sources(state, KINDS[kind].table)
    assert len(places) == len(released) - (kind == "t5")
    for path, variable in nnx.to_flat_state(loaded):
        source = places[weight_path(path)]
        back = source.to_released(np.asarray(variable.get_value()))
        np.testing.assert_array_equal(back, released[source.key].astype(np.float32))


def test_the_manifest_has_settings_and_provenance(converted: Path, golden: Path) -> None:
    verify_files(converted)
    manifest = read_manifest(converted)
    assert list(manifest.components) == list(COMPONENTS)
    for name, (_, folder) in COMPONENTS.items():
        component, root = manifest.component(name), golden / "checkpoints" / Path(folder).parent
        assert component.config == json.loads((golden / "checkpoints" / folder / "config.json").read_text())
        for role, settings in component.schedulers.items():
            assert settings == json.loads((root / role / "scheduler_config.json").read_text())
        provenance = component.provenance
        assert provenance["source"] == str(root)
        assert ("DeepFloyd" in provenance["licence"]) == (name == "first_frame")
        assert provenance["tool"].startswith("show1-jax")
        assert provenance["files"]
        assert all(sha256(root / path) == digest for path, digest in provenance["files"].items())
    assert set(manifest.component("superres_pixel").schedulers) == {"scheduler", "image_noising_scheduler"}
    assert manifest.component("keyframes").schedulers["scheduler"]["lambda_min_clipped"] == -np.inf
    assert manifest.component("keyframes").provenance["variant"] == "fp16"
    assert manifest.component("superres_pixel").provenance["variant"] is None


def test_tokenizers_are_copied(converted: Path, golden: Path) -> None:
    for component, folder in (("text_t5", "show-1-base"), ("text_clip", "show-1-sr2")):
        original = golden / "checkpoints" / folder / "tokenizer"
        copied = {path.name: path.read_bytes() for path in (converted / component / "tokenizer").iterdir()}
        assert copied == {path.name: path.read_bytes() for path in original.iterdir()}


def test_verify_says_what_is_there(converted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(converted)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + len(COMPONENTS)
    assert lines[1].split()[:4] == ["keyframes", "unet", "float16", "1,507,750"]


def test_verify_names_damage(converted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = Path(shutil.copytree(converted, tmp_path / "copy"))
    (copy / "text_clip/tokenizer/merges.txt").write_text("other")
    assert main(["verify", str(copy)]) == 2
    assert "changed text_clip/tokenizer/merges.txt" in capsys.readouterr().err
    manifest = json.loads((converted / "manifest.json").read_text())
    manifest["components"]["vae"]["architecture"]["block_out_channels"][0] = 64
    (copy / "text_clip/tokenizer/merges.txt").write_bytes((converted / "text_clip/tokenizer/merges.txt").read_bytes())
    Manifest.from_json(manifest).write(copy)
    assert main(["verify", str(copy)]) == 2
    error = capsys.readouterr().err
    assert "copy: vae: " in error
    assert "wrong shapes: " in error
    assert "decoder/conv_norm_out/scale is (32,), not (64,)" in error
    assert main(["verify", str(tmp_path)]) == 2
    assert "make one with `python -m convert --out" in capsys.readouterr().err


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_dtypes(run: Callable[..., tuple[int, str, str]], tmp_path: Path, released: Path, dtype: str) -> None:
    code, out, _ = run("--stages", "first_frame", "--dtype", dtype)
    assert code == 0
    assert f"as {dtype}" in out
    record = read_manifest(tmp_path / "out").component("first_frame")
    assert record.dtype == dtype
    state = parameters("unet", ARCHITECTURES["unet"].from_dict(record.architecture))
    bias = load_weights(tmp_path / "out", "first_frame", state)["conv_in"]["bias"].get_value()
    original = open_weights(released / "IF-II-L-v1.0/unet")["conv_in.bias"]
    np.testing.assert_array_equal(bias, original.astype(conversion.DTYPES[dtype]).astype(np.float32))


def test_one_source_for_one_stage_and_overwriting(
    run: Callable[..., tuple[int, str, str]], released: Path, tmp_path: Path
) -> None:
    elsewhere = released.rename(tmp_path / "elsewhere") / "show-1-sr1"
    arguments = ["--stages", "superres_pixel", "--superres_pixel", str(elsewhere)]
    assert run(*arguments)[0] == 0
    code, _, error = run(*arguments)
    assert code == 2
    assert "exists" in error
    assert run(*arguments, "--overwrite")[0] == 0
    assert list(read_manifest(tmp_path / "out").components) == ["superres_pixel"]


def test_nothing_a_model_index_names_is_imported(
    run: Callable[..., tuple[int, str, str]], released: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = released / "evil"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(str(released))
    path = released / "show-1-interpolation/model_index.json"
    path.write_text(path.read_text().replace("showone.models.unet_3d_condition", "evil"))
    assert run("--stages", "interpolation")[0] == 0


@pytest.mark.parametrize("stage", STAGES)
def test_the_folder_of_another_stage_is_refused(refused: Callable[..., str], released: Path, stage: str) -> None:
    for other in STAGES.values():
        if other.name != stage:
            folder = released / other.folder
            line = refused("--stages", stage, f"--{stage}", str(folder))
            assert f"is the UNet of {other.name}, but {stage} needs {STAGES[stage].description}" in line


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def rewrite(path: Path, change: Callable[[dict[str, np.ndarray]], None]) -> None:
    arrays = load_file(path)
    change(arrays)
    save_file(arrays, path)


def test_wrong_weights_are_all_listed(refused: Callable[..., str], released: Path) -> None:
    def spoil(arrays: dict[str, np.ndarray]) -> None:
        del arrays["conv_in.bias"]
        arrays["extra.weight"] = np.zeros(1, np.float16)
        arrays["conv_out.bias"] = np.zeros(5, np.float16)
        arrays["conv_norm_out.bias"][3] = np.nan

    rewrite(released / "show-1-interpolation/unet/diffusion_pytorch_model.fp16.safetensors", spoil)
    line = refused("--stages", "keyframes,interpolation")
    for part in (
        "show-1-interpolation/unet: ",
        "1 missing keys: conv_in.bias;",
        "1 unexpected keys: extra.weight;",
        "1 wrong shapes: conv_out.bias is (5,), not (6,);",
        "1 weights with NaN or infinity: conv_norm_out.bias;",
    ):
        assert part in line


def test_overflow_in_a_narrower_type_is_refused(refused: Callable[..., str], released: Path) -> None:
    def widen(arrays: dict[str, np.ndarray]) -> None:
        arrays["conv_in.bias"] = np.full(32, 1e6, np.float32)

    rewrite(released / "show-1-interpolation/unet/diffusion_pytorch_model.fp16.safetensors", widen)
    line = refused("--stages", "interpolation", "--dtype", "float16")
    assert "1 weights too large for float16: conv_in.bias" in line


Spoil = Callable[[Path], object]
BAD_FOLDERS: dict[str, tuple[Spoil, str]] = {
    "no folder": (lambda stage: shutil.rmtree(stage), "no such folder; give the one of interpolation"),
    "no config": (lambda stage: (stage / "unet/config.json").unlink(), "unet/config.json: no such file"),
    "config no JSON": (lambda stage: (stage / "unet/config.json").write_text("{"), "unet/config.json: not JSON"),
    "config no table": (lambda stage: (stage / "unet/config.json").write_text("[]"), "not a table of settings"),
    "unknown setting": (lambda stage: edit(stage / "unet/config.json", dropout=0.5), "config.json: .*'dropout': 0.5"),
    "unknown value": (lambda stage: edit(stage / "unet/config.json", act_fn="mish"), "act_fn='mish'"),
    "another class": (lambda stage: edit(stage / "unet/config.json", _class_name="Transformer2D"), "Transformer2D"),
    "no scheduler": (
        lambda stage: (stage / "scheduler/scheduler_config.json").unlink(),
        r"scheduler/scheduler_config\.json: no such file",
    ),
    "no weights": (
        lambda stage: (stage / "unet/diffusion_pytorch_model.fp16.safetensors").unlink(),
        "unet: no weights",
    ),
    "truncated weights": (
        lambda stage: os.truncate(stage / "unet/diffusion_pytorch_model.fp16.safetensors", 10**6),
        r"fp16\.safetensors: truncated",
    ),
    "empty weights": (
        lambda stage: (stage / "unet/diffusion_pytorch_model.fp16.safetensors").write_bytes(b""),
        r"fp16\.safetensors: the file is empty",
    ),
    "a file for a folder": (
        lambda stage: (shutil.rmtree(stage), stage.write_text("")),
        "no such folder; give the one of interpolation",
    ),
}


@pytest.mark.parametrize("what", BAD_FOLDERS)
def test_bad_folders(refused: Callable[..., str], released: Path, what: str) -> None:
    spoil, message = BAD_FOLDERS[what]
    spoil(released / "show-1-interpolation")
    assert re.search(message, refused("--stages", "interpolation"))


def test_text_encoders_must_fit_the_unets(refused: Callable[..., str], released: Path) -> None:
    edit(released / "show-1-interpolation/unet/config.json", encoder_hid_dim=64)

    def widen(arrays: dict[str, np.ndarray]) -> None:
        wide = {
            "encoder_hid_proj.weight": (32, 64),
            "add_embedding.norm1.weight": (64,),
            "add_embedding.norm1.bias": (64,),
            "add_embedding.pool.positional_embedding": (1, 64),
            "add_embedding.proj.weight": (128, 64),
        }
        wide |= {f"add_embedding.pool.{name}_proj.weight": (64, 64) for name in "qkv"}
        wide |= {f"add_embedding.pool.{name}_proj.bias": (64,) for name in "qkv"}
        arrays |= {name: np.zeros(shape, np.float16) for name, shape in wide.items()}

    rewrite(released / "show-1-interpolation/unet/diffusion_pytorch_model.fp16.safetensors", widen)
    line = refused("--stages", "keyframes,interpolation")
    assert "the UNet of interpolation takes text states of width 64, but text_t5 gives 32" in line


def test_a_tokenizer_that_is_not_there(refused: Callable[..., str], released: Path) -> None:
    (released / "show-1-base/tokenizer/spiece.model").unlink()
    assert "tokenizer: has no spiece.model" in refused("--stages", "keyframes")


def test_a_full_disk(refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    assert "the disk has 0.0 GB free; free space" in refused("--stages", "interpolation")
    monkeypatch.undo()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(conversion, "_write", full)
    assert "the disk is full" in refused("--stages", "interpolation")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--stages", "keyframes,upscaling"], "unknown upscaling; there are keyframes, interpolation"),
        (["--stages", ""], "--stages: unknown"),
        (["--stages", "interpolation", "--keyframes", "x"], "--keyframes is given but keyframes is not among --stages"),
        (["--stages", "interpolation", "--interpolation", "nowhere"], "nowhere: no such folder"),
        (["--stages", "interpolation", "--variant", "fp61"], "no variant 'fp61'; there is fp16"),
        (["--stages", "superres_pixel", "--variant", "fp61"], "--variant fp61: no source has such files"),
        (["--dtype", "int8"], "--dtype: invalid choice: 'int8'"),
        (["--unknown"], "unrecognized arguments: --unknown"),
    ],
)
def test_bad_arguments(refused: Callable[..., str], arguments: list[str], message: str) -> None:
    assert message in refused(*arguments)


def test_a_place_that_cannot_be_written(released: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert main(["--from", str(released), "--stages", "interpolation", "--out", str(tmp_path / "file/out")]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_conversion_needs_no_accelerator_and_no_torch(converted: Path) -> None:
    assert jax.default_backend() == "cpu"
    assert "torch" not in sys.modules


def test_a_scheduler_that_sampling_cannot_take_is_refused(refused: Callable[..., str], released: Path) -> None:
    edit(released / "show-1-base/scheduler/scheduler_config.json", _class_name="PNDMScheduler")
    line = refused("--stages", "keyframes")
    assert "show-1-base/scheduler/scheduler_config.json: " in line
    assert "PNDMScheduler" in line


def test_a_damaged_tokenizer_is_refused(refused: Callable[..., str], released: Path) -> None:
    (released / "show-1-base/tokenizer/spiece.model").write_bytes(b"no model")
    assert "not a sentencepiece model" in refused("--stages", "keyframes")


@pytest.mark.parametrize("path", ["../show-1-base", "./missing", "a--b/c", "no/such/folder"])
def test_a_mistyped_folder_is_not_looked_for_on_the_hub(refused: Callable[..., str], path: str) -> None:
    assert "no such folder" in refused("--stages", "keyframes", "--keyframes", path)


def test_problems_of_all_folders_are_listed_at_once(refused: Callable[..., str], released: Path) -> None:
    (released / "show-1-base/tokenizer/spiece.model").unlink()
    (released / "show-1-sr2/vae/config.json").write_text("{")
    line = refused()
    assert "spiece.model" in line
    assert "vae/config.json: not JSON" in line
