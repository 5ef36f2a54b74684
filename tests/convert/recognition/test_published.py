"""Published files of C3D, Inception and CLIP: keys of full size, and files that are refused, in one line each."""

import gzip
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convert.__main__ import main
from convert.features import PUBLISHED_NETWORKS, convert_features
from convert.recognition.c3d import C3D
from convert.recognition.clip import CLIP
from convert.recognition.inception import INCEPTION
from convert.recognition.published import PublishedNetwork
from convert.rules import match_weights, released_tensors
from convert.tables import parameters
from show1_jax.checkpoints.manifest import read_manifest, sha256
from show1_jax.errors import UserError
from show1_jax.nn.config import Architecture
from show1_jax.nn.recognition.c3d import C3DConfig
from show1_jax.nn.recognition.clip import CLIPModelConfig
from show1_jax.nn.recognition.inception import InceptionV3Config
from tests.helpers.small_networks import (
    C3D_SMALL,
    INCEPTION_SMALL,
    convert_small,
    draw_all,
    mean_clip,
    write_c3d,
    write_clip,
)
from tests.helpers.weight_files import state_dict, torch_legacy, whole_tensors


def published_keys(golden: Path, name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(gzip.decompress((golden / "recognition/full_size_keys.json.gz").read_bytes()))
    return content[name]


def our_keys(network: PublishedNetwork, architecture: Architecture) -> dict[str, tuple[int, ...]]:
    tensors = released_tensors(parameters(network.kind, architecture), network.table)
    return {tensor.key: tensor.shape for tensor in tensors.values()}


def count(shapes: Mapping[str, tuple[int, ...]]) -> int:
    return sum(int(np.prod(shape)) for shape in shapes.values())


def test_keys_of_c3d_at_full_size(golden: Path) -> None:
    published = {key.replace("/", "."): tuple(shape) for key, shape in published_keys(golden, "c3d").items()}
    assert our_keys(C3D, C3DConfig()) == published
    assert count(published) - 3 * 16 * 128 * 171 == 78_409_573  # C3D has 78 million weights


def test_keys_of_inception_at_full_size(golden: Path) -> None:
    keys = published_keys(golden, "inception_v3")
    published = {key: tuple(shape) for key, shape in keys.items() if not key.endswith(".num_batches_tracked")}
    ours = our_keys(INCEPTION, InceptionV3Config())
    assert ours == published
    assert count(ours) == 23_885_392
    assert len(ours) == 94 * 5 + 2  # 94 convolutions with norms, and the classifier


@pytest.mark.parametrize(
    ("name", "number"), [("clip-vit-base-patch32", 151_277_312), ("clip-vit-large-patch14", 427_616_512)]
)
def test_keys_of_clip_at_full_size(golden: Path, name: str, number: int) -> None:
    """The numbers are those of OpenAI's models without the logit scale."""
    content = published_keys(golden, name)
    published = {key: tuple(shape) for key, shape in content["keys"].items() if key != "logit_scale"}
    ours = our_keys(CLIP, CLIPModelConfig.from_json(content["config"]))
    assert ours == published
    assert count(ours) == number


def test_a_checkpoint_says_where_its_weights_come_from(tmp_path: Path) -> None:
    source = write_clip(tmp_path)
    convert_small(CLIP, source, tmp_path / "out")
    component = read_manifest(tmp_path / "out").component("clip_model")
    assert component.provenance["files"]["model.safetensors"] == sha256(source / "model.safetensors")
    assert component.provenance["files"]["merges.txt"] == sha256(source / "merges.txt")
    assert component.config == json.loads((source / "config.json").read_text())
    assert main(["verify", str(tmp_path / "out")]) == 0


def test_inception_is_read_from_the_old_format(tmp_path: Path) -> None:
    drawn = draw_all(our_keys(INCEPTION, INCEPTION_SMALL) | {"Conv2d_1a_3x3.bn.num_batches_tracked": ()})
    torch_legacy(tmp_path / "a.pth", *whole_tensors(drawn, is_legacy=True))
    weights = INCEPTION.read(tmp_path / "a.pth").weights
    matched = match_weights(weights, parameters(INCEPTION.kind, INCEPTION_SMALL), INCEPTION.table, where="a.pth")
    kernel = matched["mixed_7c", "branch3x3_2", "b", "conv", "kernel"]
    np.testing.assert_array_equal(kernel, drawn["Mixed_7c.branch3x3_2b.conv.weight"].transpose(2, 3, 1, 0))


def test_torchvision_s_own_network_is_refused(tmp_path: Path) -> None:
    """Its keys are those of FID's, but for a further classifier, and the number of classes."""
    shapes = our_keys(INCEPTION, INCEPTION_SMALL)
    shapes |= {"fc.weight": (12, shapes["fc.weight"][1]), "fc.bias": (12,), "AuxLogits.fc.weight": (12, 48)}
    state_dict(tmp_path / "a.pth", draw_all(shapes))
    with pytest.raises(
        UserError, match=r"2 wrong shapes: fc\.(bias|weight) .*1 unexpected keys: AuxLogits\.fc\.weight"
    ):
        convert_small(INCEPTION, tmp_path / "a.pth", tmp_path / "out", INCEPTION_SMALL)
    assert not (tmp_path / "out").exists()


Damage = Callable[[Path], object]


def without(name: str) -> Damage:
    return lambda folder: (folder / name).unlink()


def replaced(name: str, content: bytes) -> Damage:
    return lambda folder: (folder / name).write_bytes(content)


def other_mean(folder: Path) -> None:
    np.savez(folder / "mean2.npz", mean=mean_clip()[:, :8])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            without("mean2.npz"),
            r"a folder without mean2\.npz; get a folder with conv3d_deepnetA_ucf\.npz and mean2\.npz",
        ),
        (replaced("mean2.npz", b"<html>"), r"mean2\.npz: truncated or damaged"),
        (other_mean, r"1 wrong shapes: mean is \(3, 8, 128, 171\), not \(3, 16, 128, 171\)"),
        (lambda folder: np.savez(folder / "mean2.npz", other=mean_clip()), r"mean2\.npz: holds no mean clip"),
        (
            lambda folder: np.savez(folder / "conv3d_deepnetA_ucf.npz", a=np.zeros(3)),
            r"23 missing keys|22 missing keys",
        ),
    ],
)
def test_c3d_s_folder_is_checked(tmp_path: Path, damage: Damage, message: str) -> None:
    damage(write_c3d(tmp_path))
    with pytest.raises(UserError, match=message):
        convert_small(C3D, tmp_path, tmp_path / "out", C3D_SMALL)
    assert not (tmp_path / "out").exists()


def edited(**changes: Any) -> Damage:
    def edit(folder: Path) -> None:
        settings = json.loads((folder / "config.json").read_text())
        for name, value in changes.items():
            tower, _, field = name.partition("__")
            if field:
                settings[tower][field] = value
            else:
                settings[name] = value
        (folder / "config.json").write_text(json.dumps(settings))

    return edit


RELEASED_PROCESSOR = {
    "crop_size": 224,
    "do_center_crop": True,
    "do_normalize": True,
    "do_resize": True,
    "feature_extractor_type": "CLIPFeatureExtractor",
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "resample": 3,
    "size": 224,
}
NEWER = {"size": {"shortest_edge": 224}, "crop_size": {"height": 224, "width": 224}, "rescale_factor": 1 / 255}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, ""),
        (NEWER, ""),
        ({"image_mean": [0.5, 0.5, 0.5]}, r"image_mean=\[0\.5, 0\.5, 0\.5\] is not supported, only \[0\.48145466"),
        ({"resample": 2}, "resample=2 is not supported, only 3"),
        ({"crop_size": 336}, "crop_size=336 is not supported, only {'height': 224, 'width': 224}"),
        ({"do_center_crop": False}, "do_center_crop=False is not supported, only True"),
    ],
)
def test_clip_s_processor_is_ours(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    write_clip(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(RELEASED_PROCESSOR | changes))
    if message:
        with pytest.raises(UserError, match=f"preprocessor_config.json: {message}"):
            CLIP.read(tmp_path)
    else:
        CLIP.read(tmp_path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without("config.json"), r"config\.json: no such file"),
        (without("model.safetensors"), r"no weights \(\*\.safetensors or \*\.bin\)"),
        (without("merges.txt"), r"no CLIP tokenizer: merges\.txt missing"),
        (edited(model_type="siglip"), r"config\.json: model_type='siglip' is not supported, only 'clip'"),
        (edited(text_config__vocab_size=100), r"gives ids up to \d+, but the text encoder has a table of 100"),
        (edited(text_config__eos_token_id=100_000), r"eos_token_id=100000 is not below vocab_size"),
        (edited(text_config__hidden_act="relu"), r"hidden_act='relu' is not supported"),
        (edited(text_config__new="x"), r"CLIP text encoder: new = 'x' is not supported"),
        (edited(vision_config__num_channels=1), r"num_channels=1 is not supported, only 3"),
        (edited(vision_config__patch_size=300), r"patch_size=300 is larger than image_size=224"),
        (edited(vision_config__hidden_size=64), r"\d+ wrong shapes: .*vision_model"),
        (edited(vision_config=[1]), r"vision_config=\[1\] must be settings by name"),
        (edited(projection_dim="a"), r"projection_dim='a' must be a whole number"),
        (edited(new=3), r"CLIP: new = 3 is not supported"),
    ],
)
def test_clip_s_folder_is_checked(tmp_path: Path, damage: Damage, message: str) -> None:
    damage(write_clip(tmp_path))
    with pytest.raises(UserError, match=message):
        convert_features(CLIP, tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command_refuses_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("c3d", "inception_v3", "clip_model"):
        assert main(["features", name, "--from", str(tmp_path / "none"), "--out", str(tmp_path / "out")]) == 2
        line = capsys.readouterr().err.strip()
        assert f"none: no such file; get {PUBLISHED_NETWORKS[name].source}" in line
        assert "\n" not in line


def test_clip_s_links_do_not_lead_out_of_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "clip"
    folder.mkdir()
    write_clip(folder)
    for name in ("vocab.json", "model.safetensors", "config.json"):
        shutil.move(folder / name, tmp_path / name)
        (folder / name).symlink_to(tmp_path / name)
        with pytest.raises(UserError, match=rf"{name}: leads out of .* by a link"):
            convert_features(CLIP, folder, tmp_path / "out")
        (folder / name).unlink()
        shutil.move(tmp_path / name, folder / name)
