"""The command line from end to end: the recorded folders, and bad input of every kind."""

import json
import os
import re
import shutil
import sys
import tempfile
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
from convert.released import RELEASED_STAGES
from convert.rules import released_tensors
from convert.tables import KINDS, parameters
from show1_jax.checkpoints.arrays import load_weights
from show1_jax.checkpoints.manifest import Manifest, read_manifest, sha256, verify_files
from show1_jax.checkpoints.networks import network_kind
from show1_jax.parallel.weights import weight_path

CLIP_CONFIG = {
    "bos_token_id": 577,
    "eos_token_id": 578,
    "hidden_act": "gelu",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "projection_dim": 32,
    "vocab_size": 579,
}
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
    """Return a copy of the recorded folders that a test may damage."""
    return Path(shutil.copytree(golden / "checkpoints", tmp_path / "released"))


@pytest.fixture
def run(tmp_path: Path, released: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run the command on `released`; return exit code, stdout and the last line on stderr (bars are erased)."""

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main(["--from", str(released), "--out", str(tmp_path / "out"), *arguments])
        captured = capsys.readouterr()
        error = captured.err.split("\r")[-1].strip("\n")
        assert "\n" not in error
        return code, captured.out, error

    return run


@pytest.fixture
def refused(run: Callable[..., tuple[int, str, str]], tmp_path: Path) -> Callable[..., str]:
    """Run the command, which must fail with one line and leave no files; return the line."""

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
    architecture = network_kind(kind).architecture.from_dict(record.architecture)
    state = parameters(kind, architecture)
    released = open_weights(golden / "checkpoints" / folder)
    loaded = load_weights(converted, component, state)
    places = released_tensors(state, KINDS[kind].table)
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
        assert provenance["licence"] == "as the owner of the folder says"
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


def test_verify_lists_the_contents(converted: Path, capsys: pytest.CaptureFixture[str]) -> None:
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
    state = parameters("unet", network_kind("unet").architecture.from_dict(record.architecture))
    loaded: Any = load_weights(tmp_path / "out", "first_frame", state)
    bias = loaded["conv_in"]["bias"].get_value()
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


@pytest.mark.parametrize("stage", RELEASED_STAGES)
def test_the_folder_of_another_stage_is_refused(refused: Callable[..., str], released: Path, stage: str) -> None:
    for other in RELEASED_STAGES.values():
        if other.name != stage:
            folder = released / other.folder
            line = refused("--stages", stage, f"--{stage}", str(folder))
            assert f"is the UNet of {other.name}, but {stage} needs {RELEASED_STAGES[stage].description}" in line


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


def replaced(path: Path, make: Callable[[Path], object]) -> None:
    path.unlink()
    make(path)


def replaced_by_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("")


def linked(path: Path, target: str | Path) -> None:
    replaced(path, lambda path: path.symlink_to(target))


def moved_out(path: Path) -> None:
    """Move a file or folder out of the released folder, and leave a link to it."""
    path.symlink_to(path.rename(path.parents[2] / f"elsewhere-{path.name}"))


WEIGHTS = "unet/diffusion_pytorch_model.fp16.safetensors"
Spoil = Callable[[Path], object]
BAD_FOLDERS: dict[str, tuple[Spoil, str]] = {
    "no folder": (lambda stage: shutil.rmtree(stage), "no such folder; give the one of interpolation"),
    "no config": (lambda stage: (stage / "unet/config.json").unlink(), "unet/config.json: no such file"),
    "config no JSON": (lambda stage: (stage / "unet/config.json").write_text("{"), "unet/config.json: not valid JSON"),
    "config no table": (lambda stage: (stage / "unet/config.json").write_text("[]"), "not a table of settings"),
    "unknown setting": (lambda stage: edit(stage / "unet/config.json", dropout=0.5), "config.json: .*dropout = 0.5"),
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
    "config too deep": (lambda stage: (stage / "unet/config.json").write_text("[" * 10**5), "nested more than 64 deep"),
    "config too large": (lambda stage: os.truncate(stage / "unet/config.json", 2**21), "more than 1,048,576 bytes"),
    "config no Unicode": (lambda stage: (stage / "unet/config.json").write_bytes(b'{"a": "\xff"}'), "not utf-8"),
    "config a FIFO": (lambda stage: replaced(stage / "unet/config.json", os.mkfifo), "not a regular file"),
    "config a folder": (lambda stage: replaced(stage / "unet/config.json", os.mkdir), "not a regular file"),
    "config a device": (lambda stage: linked(stage / "unet/config.json", "/dev/zero"), "config.json: leads out of"),
    "config a loop": (lambda stage: linked(stage / "unet/config.json", "config.json"), "a link that leads nowhere"),
    "weights a FIFO": (lambda stage: replaced(stage / WEIGHTS, os.mkfifo), "not a regular file"),
    "weights elsewhere": (lambda stage: moved_out(stage / WEIGHTS), r"fp16\.safetensors: leads out of .*interpolation"),
    "a scheduler elsewhere": (lambda stage: moved_out(stage / "scheduler"), "scheduler_config.json: leads out of"),
    "a component elsewhere": (lambda stage: moved_out(stage / "unet"), "config.json: leads out of"),
    "10^9 layers": (lambda stage: edit(stage / "unet/config.json", layers_per_block=10**9), "layers_per_block"),
    "10^400 channels": (lambda stage: edit(stage / "unet/config.json", in_channels=10**400), "in_channels"),
    "10^12 timesteps": (
        lambda stage: edit(stage / "scheduler/scheduler_config.json", num_train_timesteps=10**12),
        "scheduler_config.json: scheduler setting num_train_timesteps = 1000000000000 is not supported",
    ),
    "a last step without noise": (
        lambda stage: edit(stage / "scheduler/scheduler_config.json", final_sigmas_type="zero"),
        "final_sigmas_type = 'zero' is not supported: only 'sigma_min' ends the last step at timestep 0",
    ),
    "a file for a folder": (
        replaced_by_file,
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


TOKENIZERS = {
    "a padding token that is null": (
        lambda folder: edit(folder / "tokenizer_config.json", pad_token=None),
        "show-1-sr2/tokenizer: pad_token is null",
    ),
    "a length that is no number": (
        lambda folder: edit(folder / "tokenizer_config.json", model_max_length="77"),
        r"show-1-sr2/tokenizer/tokenizer_config\.json: model_max_length='77' is not a whole number",
    ),
    "an added token beyond the table": (
        lambda folder: edit(folder / "tokenizer_config.json", pad_token="<pad>"),
        "show-1-sr2/tokenizer: gives ids up to 579, but the text encoder has a table of 579; give a tokenizer",
    ),
    "a vocabulary beyond the table": (
        lambda folder: edit(folder / "vocab.json", **{"new</w>": 49407}),
        "show-1-sr2/tokenizer: gives ids up to 49407, but the text encoder has a table of 579",
    ),
    "a longer text than positions": (
        lambda folder: edit(folder.parent / "text_encoder/config.json", max_position_embeddings=64),
        "show-1-sr2/tokenizer: gives 77 tokens, but the text encoder has 64 positions",
    ),
    "a file elsewhere": (lambda folder: moved_out(folder / "merges.txt"), "merges.txt: leads out of .*show-1-sr2 by a"),
    "an optional file elsewhere": (
        lambda folder: (folder / "added_tokens.json").symlink_to("/etc/hostname"),
        "added_tokens.json: leads out of",
    ),
    "the folder elsewhere": (lambda folder: moved_out(folder), "leads out of"),
    "an optional FIFO": (lambda folder: os.mkfifo(folder / "added_tokens.json"), "added_tokens.json: .*not a regular"),
    "a link to nothing": (
        lambda folder: (folder / "added_tokens.json").symlink_to("x"),
        "added_tokens.json: cannot be",
    ),
    "too large a file": (lambda folder: os.truncate(folder / "vocab.json", 17 << 20), "more than 16,777,216 bytes"),
    "no vocabulary": (lambda folder: (folder / "vocab.json").unlink(), "show-1-sr2/tokenizer: no CLIP .*vocab.json"),
}


@pytest.mark.parametrize("what", TOKENIZERS)
def test_tokenizers_that_sampling_cannot_use(refused: Callable[..., str], released: Path, what: str) -> None:
    spoil, message = TOKENIZERS[what]
    spoil(released / "show-1-sr2/tokenizer")
    line = refused("--stages", "superres_latent")
    assert re.search(message, line)
    assert tempfile.gettempdir() not in line.replace(str(released.parent), "")


def test_a_t5_tokenizer_beyond_the_table(refused: Callable[..., str], released: Path) -> None:
    edit(released / "show-1-base/text_encoder/config.json", vocab_size=60)
    line = refused("--stages", "keyframes")
    assert re.search("show-1-base/tokenizer: gives ids up to 6., but the text encoder has a table of 60; give a", line)


def test_the_copied_files_of_a_tokenizer_are_those_that_were_checked_and_hashed(
    run: Callable[..., tuple[int, str, str]], released: Path, tmp_path: Path
) -> None:
    folder = released / "show-1-sr2/tokenizer"
    (folder / "README.md").write_text("not a tokenizer's file")
    (folder / "vocab.json").rename(folder / "vocabulary")
    (folder / "vocab.json").symlink_to("vocabulary")
    assert run("--stages", "superres_latent")[0] == 0
    copied = tmp_path / "out/text_clip/tokenizer"
    names = {"merges.txt", "special_tokens_map.json", "tokenizer_config.json", "vocab.json"}
    assert {path.name for path in copied.iterdir()} == names
    assert not (copied / "vocab.json").is_symlink()
    recorded = read_manifest(tmp_path / "out").component("text_clip").provenance["files"]
    assert {name: sha256(copied / name) for name in names} == {name: recorded[f"tokenizer/{name}"] for name in names}


def test_a_clip_encoder_as_transformers_5_saves_it(
    run: Callable[..., tuple[int, str, str]], released: Path, tmp_path: Path, converted: Path
) -> None:
    import transformers

    folder = released / "show-1-sr2"
    weights = open_weights(folder / "text_encoder")
    renamed = {name.removeprefix("text_model."): np.array(array) for name, array in weights.items()}
    assert "embeddings.token_embedding.weight" in renamed
    shutil.rmtree(folder / "text_encoder")
    (folder / "text_encoder").mkdir()
    save_file(renamed, folder / "text_encoder/model.safetensors", {"format": "pt"})
    transformers.CLIPTextConfig.from_dict(CLIP_CONFIG).save_pretrained(folder / "text_encoder")
    tokenizer = transformers.CLIPTokenizer.from_pretrained(folder / "tokenizer")
    shutil.rmtree(folder / "tokenizer")
    tokenizer.save_pretrained(folder / "tokenizer")
    assert run("--stages", "superres_latent")[0] == 0
    mine, theirs = (read_manifest(path).component("text_clip") for path in (tmp_path / "out", converted))
    assert mine.architecture == theirs.architecture
    state = parameters("clip", network_kind("clip").architecture.from_dict(mine.architecture))
    loaded = [load_weights(path, "text_clip", state) for path in (tmp_path / "out", converted)]
    for (path, one), (_, other) in zip(*map(nnx.to_flat_state, loaded), strict=True):
        np.testing.assert_array_equal(one.get_value(), other.get_value(), err_msg=str(path))


def test_clip_weights_under_both_names_are_refused(refused: Callable[..., str], released: Path) -> None:
    folder = released / "show-1-sr2/text_encoder"
    weights = {name: np.array(array) for name, array in open_weights(folder).items()}
    weights["final_layer_norm.weight"] = weights["text_model.final_layer_norm.weight"]
    (folder / "pytorch_model.bin").unlink()
    save_file(weights, folder / "model.safetensors")
    assert "text_encoder: 1 duplicate keys: " in refused("--stages", "superres_latent")


def test_a_changed_bit_of_a_bin_file_is_found(refused: Callable[..., str], released: Path) -> None:
    path = released / "show-1-sr2/vae/diffusion_pytorch_model.bin"
    raw = bytearray(path.read_bytes())
    weight = np.array(open_weights(path.parent)["decoder.conv_in.bias"])
    raw[raw.index(weight.tobytes())] ^= 1
    path.write_bytes(raw)
    assert re.search(
        r"vae/diffusion_pytorch_model\.bin: .*/data/\d+: damaged, its CRC", refused("--stages", "superres_latent")
    )


def test_overlapping_tensors_are_refused(refused: Callable[..., str], released: Path) -> None:
    path = released / "show-1-interpolation" / WEIGHTS
    raw = path.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + size])
    first, second = [name for name, entry in header.items() if entry.get("shape") == [32]][:2]
    header[second]["data_offsets"] = header[first]["data_offsets"]
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + size :])
    assert "overlaps" in refused("--stages", "interpolation")


def test_links_within_a_folder_are_followed(
    run: Callable[..., tuple[int, str, str]], released: Path, tmp_path: Path
) -> None:
    folder = released / "show-1-interpolation"
    (folder / "unet").rename(folder / "kept")
    (folder / "unet").symlink_to("kept")
    (folder / WEIGHTS).rename(folder / "weights")
    (folder / WEIGHTS).symlink_to("../weights")
    folder.rename(tmp_path / "data")
    folder.symlink_to(tmp_path / "data")  # the user may give a link as the folder itself
    assert run("--stages", "interpolation")[0] == 0


def test_a_snapshot_in_the_hub_s_cache_given_as_a_folder(
    run: Callable[..., tuple[int, str, str]], released: Path, tmp_path: Path
) -> None:
    """Its files are links to blobs, and blobs may be links to a store that all repositories share."""
    cache = tmp_path / "hub"
    snapshot = cache / "models--showlab--show-1-interpolation/snapshots" / ("0" * 40)
    blobs, shared = snapshot.parents[1] / "blobs", cache / "blobs"
    for folder in (blobs, shared):
        folder.mkdir(parents=True)
    (shared / ".huggingface-shared-blobs").write_text("1\n")
    original = released / "show-1-interpolation"
    for number, path in enumerate(sorted(path for path in original.rglob("*") if path.is_file())):
        blob = (shared if number % 2 else blobs) / str(number)
        shutil.copyfile(path, blob)
        if number % 2:
            (blobs / str(number)).symlink_to(f"../../blobs/{number}")
        link = snapshot / path.relative_to(original)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blobs / str(number), link.parent))
    assert run("--stages", "interpolation", "--interpolation", str(snapshot))[0] == 0
    (shared / ".huggingface-shared-blobs").unlink()
    code, _, error = run("--stages", "interpolation", "--interpolation", str(snapshot), "--overwrite")
    assert code == 2
    assert "leads out of" in error


def test_a_missing_tokenizer(refused: Callable[..., str], released: Path) -> None:
    (released / "show-1-base/tokenizer/spiece.model").unlink()
    assert "tokenizer: has no spiece.model" in refused("--stages", "keyframes")


def test_a_full_disk(refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    assert "the disk has 0.0 GB free; free space" in refused("--stages", "interpolation")
    monkeypatch.undo()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(conversion, "_write_part", full)
    assert "the disk is full" in refused("--stages", "interpolation")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--stages", "keyframes,upscaling"], "unknown upscaling; choose from keyframes, interpolation"),
        (["--stages", ""], "--stages: unknown"),
        (["--stages", "interpolation", "--keyframes", "x"], "--keyframes is given but keyframes is not among --stages"),
        (["--stages", "interpolation", "--interpolation", "nowhere"], "nowhere: no such folder"),
        (["--stages", "interpolation", "--variant", "fp61"], "no variant 'fp61'; there is fp16"),
        (["--stages", "superres_pixel", "--variant", "fp61"], "--variant fp61: no source has such files"),
        (["--dtype", "int8"], "--dtype: invalid choice: 'int8'"),
        (
            ["--stages", "keyframes", "--keyframes", "gs://bucket/show-1-base"],
            "gs://bucket/show-1-base: buckets and URLs",
        ),
        (["--stages", "keyframes", "--keyframes", "~nobody-of-this-name/x"], "there is no home directory for ~"),
        (["--stages", "keyframes", "--keyframes", "x" * 5000], "File name too long"),
        (["--from", "s3://bucket"], "argument --from: s3://bucket: buckets and URLs are not supported"),
        (["--out", "hdfs://server/x"], "argument --out: hdfs://server/x: not a URL that is supported"),
        (["--out", "x" * 5000], "argument --out: 'xxx"),
        (["--unknown"], "unrecognized arguments: --unknown"),
    ],
)
def test_bad_arguments(refused: Callable[..., str], arguments: list[str], message: str) -> None:
    assert message in refused(*arguments)


def test_the_home_is_the_home_in_every_path(released: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    stage = ["--stages", "interpolation"]
    assert main(["--from", "~/released", "--out", "~/a", *stage]) == 0
    assert main(["--interpolation", "~/released/show-1-interpolation", "--out=~/b", *stage]) == 0
    assert main(["verify", "~/a"]) == 0
    assert main(["inflate", "--interpolation", "~/released/show-1-base", "--out", "~/c"]) == 0
    assert main(["merge", "~/a,~/b", "--out", "~/d"]) == 0
    assert main(["export", "~/d", "--out", "~/e"]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"released", *"abcde"}


def test_a_place_that_cannot_be_written(released: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert main(["--from", str(released), "--stages", "interpolation", "--out", str(tmp_path / "file/out")]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_conversion_needs_no_accelerator_and_no_torch(converted: Path) -> None:
    assert jax.default_backend() == "cpu"
    assert "torch" not in sys.modules


def test_a_scheduler_that_sampling_does_not_support_is_refused(refused: Callable[..., str], released: Path) -> None:
    edit(released / "show-1-base/scheduler/scheduler_config.json", _class_name="PNDMScheduler")
    line = refused("--stages", "keyframes")
    assert "show-1-base/scheduler/scheduler_config.json: " in line
    assert "PNDMScheduler" in line


def test_a_damaged_tokenizer_is_refused(refused: Callable[..., str], released: Path) -> None:
    (released / "show-1-base/tokenizer/spiece.model").write_bytes(b"no model")
    assert "not a sentencepiece model" in refused("--stages", "keyframes")


@pytest.mark.parametrize("path", ["../show-1-base", "./missing", "a--b/c", "no/such/folder"])
def test_a_mistyped_folder_is_not_requested_from_the_hub(refused: Callable[..., str], path: str) -> None:
    assert "no such folder" in refused("--stages", "keyframes", "--keyframes", path)


def test_problems_of_all_folders_are_listed_at_once(refused: Callable[..., str], released: Path) -> None:
    (released / "show-1-base/tokenizer/spiece.model").unlink()
    (released / "show-1-sr2/vae/config.json").write_text("{")
    line = refused()
    assert "spiece.model" in line
    assert "vae/config.json: not valid JSON" in line
