"""Initial checkpoints: the outputs of inflated networks, the sources of their weights, and refused input."""

import dataclasses
import errno
import gzip
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import rearrange, repeat
from flax import nnx

from convert import inflate as inflating
from convert.__main__ import main
from convert.architectures import unet_config
from convert.export import export
from convert.inflate import INITIAL_FOLDERS, inflate
from convert.stored import read_weights, stored_architecture
from convert.tables import parameters
from convert.verify import verify
from show1_jax.checkpoints.arrays import load_weights
from show1_jax.checkpoints.manifest import read_manifest, verify_files
from show1_jax.checkpoints.networks import make_network, network_kind
from show1_jax.checkpoints.random import write_random_checkpoint
from show1_jax.parallel.weights import WeightPath
from tests.helpers import tiny_config
from tests.helpers.recorded import relative_error

TOLERANCE = 1e-5
FRAMES = 3


@pytest.fixture(scope="module")
def image_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return random weights for a 2-D keyframe network and its text encoder."""
    config = tiny_config.settings()
    networks = {
        "keyframes": {**config.architecture["keyframes"], "temporal": False},
        "text_t5": config.architecture["text_t5"],
    }
    out = tmp_path_factory.mktemp("image") / "checkpoint"
    write_random_checkpoint(out, networks, {"keyframes": {"scheduler": tiny_config.DDPM}})
    return out


@pytest.fixture(scope="module")
def image_folder(image_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the same in the form of DeepFloyd IF-I: a diffusers folder with text encoder and tokenizer."""
    out = tmp_path_factory.mktemp("image") / "IF-I"
    export(image_checkpoint, out, ["keyframes", "text_t5"])
    return out


@pytest.fixture(scope="module")
def start(image_folder: Path, golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an initial checkpoint for all stages."""
    folders = golden / "checkpoints"
    sources = {
        "keyframes": image_folder,
        "interpolation": "keyframes",
        "first_frame": folders / "IF-II-L-v1.0",
        "superres_pixel": folders / "IF-II-L-v1.0",
        "superres_latent": folders / "show-1-sr2",
    }
    out = tmp_path_factory.mktemp("start") / "checkpoint"
    inflate(out, {name: str(source) for name, source in sources.items()}, seed=3)
    return out


def weights_of(checkpoint: Path, name: str) -> dict[WeightPath, np.ndarray]:
    record = read_manifest(checkpoint).component(name)
    return read_weights(checkpoint, name, parameters(record.kind, stored_architecture(checkpoint, name, record)))


def call(checkpoint: Path, name: str, *inputs: Any) -> np.ndarray:
    """Return a network's outputs in float32."""
    record = read_manifest(checkpoint).component(name)
    graph, shapes = nnx.split(make_network(record.kind, stored_architecture(checkpoint, name, record)))
    weights = load_weights(checkpoint, name, shapes)
    return np.asarray(jax.jit(lambda weights, *inputs: nnx.merge(graph, weights)(*inputs))(weights, *inputs))


def inputs(channels: int, *, noise_level: bool = False) -> list[Any]:
    """Return two videos, their timesteps, text states and, if the network is conditioned on them, noise levels."""
    rng = np.random.default_rng(0)
    video = rng.standard_normal((2, FRAMES, 4, 6, channels), np.float32)
    text = rng.standard_normal((2, 5, tiny_config.TEXT_DIM), np.float32)
    return [video, jnp.asarray([3, 700]), text, *([jnp.asarray([20, 400])] if noise_level else [])]


def as_images(video: np.ndarray, *others: Any) -> list[Any]:
    """Return every frame as a video of its own, with the other inputs of its video."""
    return [
        rearrange(video, "b t h w c -> (b t) 1 h w c"),
        *(repeat(x, "b ... -> (b t) ...", t=FRAMES) for x in others),
    ]


def test_an_inflated_keyframe_network_has_the_image_network_s_output_for_each_frame(
    start: Path, image_checkpoint: Path
) -> None:
    video = inputs(3)
    images = call(image_checkpoint, "keyframes", *as_images(*video))
    expected = rearrange(images, "(b t) 1 h w c -> b t h w c", t=FRAMES)
    assert relative_error(call(start, "keyframes", *video), expected) <= TOLERANCE


def test_a_network_inflated_from_a_recorded_one_has_its_outputs(start: Path) -> None:
    video = inputs(6, noise_level=True)
    images = call(start, "first_frame", *as_images(*video))
    expected = rearrange(images, "(b t) 1 h w c -> b t h w c", t=FRAMES)
    assert relative_error(call(start, "superres_pixel", *video), expected) <= TOLERANCE


def test_an_interpolation_network_ignores_its_condition_at_first(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """The keyframe network's temporal layers are not the identity."""
    inflate(tmp_path / "out", {"interpolation": str(tiny_checkpoint)})
    video, *others = inputs(3)
    expected = call(tiny_checkpoint, "keyframes", video, *others)
    condition = np.random.default_rng(1).uniform(-9, 9, (*video.shape[:-1], 4)).astype(np.float32)
    output = call(tmp_path / "out", "interpolation", np.concatenate([video, condition], axis=-1), *others)
    assert relative_error(output, expected) <= TOLERANCE


def test_the_licence_of_trained_weights_is_that_of_their_start(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = Path(shutil.copytree(tiny_checkpoint, tmp_path / "trained"))
    manifest = read_manifest(trained)
    keyframes = dataclasses.replace(
        manifest.component("keyframes"), provenance={"source": "train.py", "starts_from": {"licence": "mit"}}
    )
    dataclasses.replace(manifest, components=manifest.components | {"keyframes": keyframes}).write(trained)
    verify(trained)
    assert re.search(r"^keyframes .* mit$", capsys.readouterr().out, re.MULTILINE)
    inflate(tmp_path / "out", {"interpolation": str(trained)})
    assert read_manifest(tmp_path / "out").component("interpolation").provenance["licence"] == "mit"


def assert_widened(interpolation: dict[WeightPath, np.ndarray], keyframes: dict[WeightPath, np.ndarray]) -> None:
    first = ("conv_in", "kernel")
    kernel = interpolation.pop(first)
    np.testing.assert_array_equal(kernel[:, :, :3], keyframes.pop(first))
    assert not kernel[:, :, 3:].any()
    assert kernel.shape[2] == 7
    assert interpolation.keys() == keyframes.keys()
    assert all(np.array_equal(interpolation[path], keyframes[path]) for path in keyframes)


def test_interpolation_from_the_inflated_keyframes(start: Path) -> None:
    assert_widened(weights_of(start, "interpolation"), weights_of(start, "keyframes"))


def test_interpolation_from_a_released_folder(converted: Path, golden: Path, tmp_path: Path) -> None:
    inflate(tmp_path / "out", {"interpolation": str(golden / "checkpoints/show-1-base")})
    assert_widened(weights_of(tmp_path / "out", "interpolation"), weights_of(converted, "keyframes"))
    assert list(read_manifest(tmp_path / "out").components) == ["interpolation", "text_t5"]


def test_the_contents_of_an_initial_checkpoint(start: Path, image_folder: Path, golden: Path) -> None:
    verify_files(start)
    manifest = read_manifest(start)
    assert set(manifest.components) == {*INITIAL_FOLDERS, "text_t5", "text_clip", "vae"}
    for name, folder in (("keyframes", image_folder), ("superres_pixel", golden / "checkpoints/IF-II-L-v1.0")):
        component = manifest.component(name)
        assert not component.config
        for role, settings in component.schedulers.items():
            assert settings == json.loads((folder / role / "scheduler_config.json").read_text())
        assert component.provenance["source"] == str(folder)
        assert component.provenance["start"] == ["initial temporal layers, seed 3"]
        assert "unet/config.json" in component.provenance["files"]
        assert component.provenance["licence"] == "as the owner of the folder says"
    assert set(manifest.component("superres_pixel").schedulers) == {"scheduler", "image_noising_scheduler"}
    assert manifest.component("interpolation").schedulers == manifest.component("keyframes").schedulers
    assert len(manifest.component("interpolation").provenance["start"]) == 2
    assert manifest.component("superres_pixel").dtype == "float16"
    assert manifest.component("superres_latent").config
    assert (start / "text_t5/tokenizer/spiece.model").is_file()


def test_initial_layers_follow_the_seed(image_folder: Path, tmp_path: Path) -> None:
    def initial(seed: int, dtype: Any = None) -> np.ndarray:
        out = tmp_path / f"{seed}-{dtype}"
        inflate(out, {"keyframes": str(image_folder)}, seed=seed, dtype=dtype)
        return weights_of(out, "keyframes")["mid_block", "temp_convs", "0", "conv1", "conv", "kernel"]

    first, narrow, other = initial(1), initial(1, np.dtype("float16")), initial(2)
    np.testing.assert_array_equal(first.astype(np.float16), narrow)
    assert narrow.dtype == np.float16
    assert not np.array_equal(first, other)
    assert abs(first.std() * (3 * first.shape[2]) ** 0.5 - 1) < 0.05


def test_the_full_size_network_is_the_released_one_s(golden: Path) -> None:
    with gzip.open(golden / "full_size_keys.json.gz") as file:
        configs = {name: spec["config"] for name, spec in json.load(file).items()}
    image = unet_config({"_class_name": "UNet2DConditionModel", **configs["IF-II-L-v1.0/unet"]})
    video = unet_config({"_class_name": "UNet3DConditionModel", **configs["show-1-sr1/unet"]})
    assert network_kind("unet").architecture.from_dict({**image.to_dict(), "temporal": True}) == video


Refused = Callable[..., str]


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Run the command, which must fail with one line and leave no files; return the line."""

    def refused(*arguments: str) -> str:
        capsys.readouterr()
        before = sorted(path.name for path in tmp_path.iterdir())
        assert main(["inflate", "--out", str(tmp_path / "out"), *arguments]) == 2
        captured = capsys.readouterr()
        error = captured.err.split("\r")[-1].strip("\n")
        assert "\n" not in error
        assert not captured.out
        assert sorted(path.name for path in tmp_path.iterdir()) == before
        return error

    return refused


@pytest.mark.parametrize(
    ("stage", "folder", "message"),
    [
        ("keyframes", "show-1-base", "is the UNet of keyframes, but keyframes needs a 2-D pixel UNet with 3"),
        ("keyframes", "IF-II-L-v1.0", "is the UNet of first_frame, but keyframes needs a 2-D pixel UNet with 3"),
        ("superres_pixel", "show-1-sr1", "is the UNet of superres_pixel, but superres_pixel needs a 2-D pixel UNet"),
        ("superres_pixel", "IF-I", "in_channels=3, noise_level_embedding=False, but superres_pixel needs a 2-D"),
        ("interpolation", "IF-I", "temporal=False, .*, but interpolation needs a 3-D pixel UNet with 3 input channels"),
        ("interpolation", "show-1-interpolation", "is the UNet of interpolation, but interpolation needs a 3-D pixel"),
        ("first_frame", "show-1-sr1", "is the UNet of superres_pixel, but first_frame needs a 2-D pixel UNet"),
        ("superres_latent", "show-1-base", "is the UNet of keyframes, but superres_latent needs a 3-D latent UNet"),
        ("keyframes", "nowhere", "nowhere: no such folder; give the one of keyframes"),
    ],
)
def test_the_wrong_folder(
    refused: Refused, golden: Path, image_folder: Path, stage: str, folder: str, message: str
) -> None:
    source = image_folder if folder == "IF-I" else golden / "checkpoints" / folder
    assert re.search(message, refused(f"--{stage}", str(source)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no sources; give at least one of --keyframes, --interpolation"),
        (["--interpolation", "keyframes"], "--interpolation keyframes starts from the result of --keyframes"),
        (["--keyframes", "x", "--seed", "-1"], "--seed -1: must be from 0 to 2^32 - 1"),
        (["--keyframes", "x", "--seed", "a"], "--seed: invalid int value"),
        (["--stages", "keyframes"], "unrecognized arguments: --stages keyframes"),
    ],
)
def test_bad_arguments(refused: Refused, arguments: list[str], message: str) -> None:
    assert message in refused(*arguments)


def test_a_checkpoint_without_keyframes(refused: Refused, tmp_path: Path) -> None:
    out = tmp_path / "text"
    write_random_checkpoint(out, {"text_t5": tiny_config.settings().architecture["text_t5"]}, {})
    assert "has no component 'keyframes', only text_t5" in refused("--interpolation", str(out))


def test_an_image_network_in_a_checkpoint(refused: Refused, image_checkpoint: Path) -> None:
    line = refused("--interpolation", str(image_checkpoint))
    assert "temporal=False" in line
    assert "but interpolation needs a 3-D pixel UNet" in line


def test_widths_that_temporal_layers_cannot_have(refused: Refused, tmp_path: Path) -> None:
    odd = {"block_out_channels": (48,), "norm_num_groups": 16, "temporal": False}
    networks = {"keyframes": {**tiny_config.settings().architecture["keyframes"], **odd}}
    write_random_checkpoint(tmp_path / "odd", networks, {"keyframes": {"scheduler": tiny_config.DDPM}})
    export(tmp_path / "odd", tmp_path / "IF-I", ["keyframes"])
    line = refused("--keyframes", str(tmp_path / "IF-I"))
    assert "IF-I: cannot be inflated: UNetConfig: temporal layers have 32 groups" in line
    assert "48 channels do not divide" in line


def test_text_encoders_must_fit(refused: Refused, image_checkpoint: Path, tmp_path: Path) -> None:
    config = tiny_config.settings()
    wide = {**config.architecture["text_t5"], "d_model": 48}
    write_random_checkpoint(tmp_path / "wide", {"text_t5": wide}, {})
    export(tmp_path / "wide", tmp_path / "IF-I", ["text_t5"])
    export(image_checkpoint, tmp_path / "unet", ["keyframes"])
    for part in ("unet", "scheduler"):
        shutil.move(tmp_path / "unet" / part, tmp_path / "IF-I" / part)
    line = refused("--keyframes", str(tmp_path / "IF-I"))
    assert "the UNet of keyframes takes text states of width 32, but text_t5 gives 48" in line


def test_a_full_disk_while_layers_are_drawn(
    refused: Refused, image_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(inflating, "write_safetensors", full)
    assert "the disk is full" in refused("--keyframes", str(image_folder))
