"""Adapters as LoRA files: the same again bit for bit, and refusals of what such a file cannot hold."""

import json
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open

from convert.__main__ import main
from convert.reader import Weights
from convert.safetensors_file import read_safetensors
from convert.stored import cpu_mesh, read_weights
from convert.tables import parameters
from show1_jax.checkpoints.adapter_set import open_adapters, read_adapter
from show1_jax.checkpoints.adapters import lora_shapes
from show1_jax.checkpoints.arrays import weight_shapes
from show1_jax.checkpoints.checkpoint_set import CheckpointSet
from show1_jax.checkpoints.manifest import read_manifest
from show1_jax.checkpoints.networks import architecture_of
from show1_jax.parallel.weights import WeightPath
from tests.helpers.adapter_files import COMPONENT, CONV, QUERY, pair, pairs, write_adapter

Export = Callable[..., tuple[int, str]]
FILE = "pytorch_lora_weights.safetensors"


@pytest.fixture
def export(tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Export:
    """Export an adapter to `out`; return the exit code and the last line on stderr."""

    def export(adapter: object, *arguments: str) -> tuple[int, str]:
        command = ["export", str(tiny_checkpoint), "--adapter", str(adapter), "--out", str(tmp_path / "out")]
        code = main([*command, *arguments])
        error = capsys.readouterr().err.split("\r")[-1].strip("\n")
        assert "\n" not in error
        return code, error

    return export


def arrays_of(folder: Path, checkpoint: Path) -> dict[WeightPath, np.ndarray]:
    (adapter,) = open_adapters(str(folder), CheckpointSet.open(checkpoint).manifest)
    return {path: np.asarray(array) for path, array in read_adapter(adapter, cpu_mesh()).items()}


def weights_of(checkpoint: Path) -> dict[WeightPath, np.ndarray]:
    record = read_manifest(checkpoint).component(COMPONENT)
    return read_weights(checkpoint, COMPONENT, parameters(record.kind, architecture_of(record)))


@pytest.mark.parametrize("component", ["keyframes", "superres_latent"])
def test_every_kernel_comes_back_bit_for_bit(tiny_checkpoint: Path, tmp_path: Path, component: str) -> None:
    """Rank and alpha have no exact quotient."""
    rank, rng = 3, np.random.default_rng(0)
    shapes = weight_shapes(tiny_checkpoint, component)
    kernels = {path: leaf for path, leaf in shapes.items() if path[-1] == "kernel"}
    assert {len(leaf.shape) for leaf in kernels.values()} == {2, 4}
    arrays = {
        path: rng.standard_normal(leaf.shape).astype(np.float32) for path, leaf in lora_shapes(kernels, rank).items()
    }
    write_adapter(tmp_path / "adapter", tiny_checkpoint, arrays, component=component, rank=rank, alpha=0.1)
    out, back = str(tmp_path / "out"), str(tmp_path / "back")
    assert main(["export", str(tiny_checkpoint), "--adapter", str(tmp_path / "adapter"), "--out", out]) == 0
    assert main(["import", out, "--checkpoint", str(tiny_checkpoint), "--out", back]) == 0
    before, after = (read_manifest(tmp_path / name).components[component] for name in ("adapter", "back"))
    assert after.architecture == before.architecture
    found = arrays_of(tmp_path / "back", tiny_checkpoint)
    assert found.keys() == arrays.keys()
    assert all(found[path].tobytes() == array.tobytes() for path, array in arrays.items())
    assert len(read_safetensors(tmp_path / "out" / FILE)) == len(arrays)


def test_names_layouts_and_settings(export: Export, tiny_checkpoint: Path, tmp_path: Path) -> None:
    arrays = pairs()
    write_adapter(tmp_path / "adapter", tiny_checkpoint, arrays)
    assert export(tmp_path / "adapter") == (0, "")
    names = {"mid_block.temp_attentions.0.transformer_blocks.0.attn1.to_q": QUERY, "conv_in": CONV}
    with safe_open(tmp_path / "out" / FILE, "numpy") as file:
        assert set(file.keys()) == {f"unet.{name}.lora_{part}.weight" for name in names for part in "AB"}
        conv_a, conv_b = (file.get_tensor(f"unet.conv_in.lora_{part}.weight") for part in "AB")
        metadata = file.metadata()
    ours_a, ours_b = (arrays["conv_in", name] for name in ("lora_a", "lora_b"))
    np.testing.assert_array_equal(conv_a[3, 2, 1, 0], ours_a[1, 0, 2, 3])
    np.testing.assert_array_equal(conv_b[:, :, 0, 0], ours_b.T)
    settings = json.loads(metadata["lora_adapter_metadata"])
    assert settings == {"unet.r": 4, "unet.lora_alpha": 2, "unet.target_modules": sorted(names)}
    assert metadata["show1_jax.component"] == COMPONENT


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_dtypes(export: Export, tiny_checkpoint: Path, tmp_path: Path, dtype: str) -> None:
    arrays = pairs()
    write_adapter(tmp_path / "adapter", tiny_checkpoint, arrays)
    assert export(tmp_path / "adapter", "--dtype", dtype) == (0, "")
    found = Weights(read_safetensors(tmp_path / "out" / FILE))["unet.conv_in.lora_B.weight"]
    rounded = arrays["conv_in", "lora_b"].T.astype(np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype))
    assert found[:, :, 0, 0].tobytes() == rounded.tobytes()


def test_what_a_file_cannot_hold(export: Export, tiny_checkpoint: Path, tmp_path: Path) -> None:
    bias: dict[WeightPath, np.ndarray] = {("conv_out", "bias"): np.zeros(6, np.float32)}
    kernel: dict[WeightPath, np.ndarray] = {QUERY: np.zeros((32, 32), np.float32)}
    write_adapter(tmp_path / "whole", tiny_checkpoint, kernel | pair(CONV, (3, 3, 3), 32, 0))
    write_adapter(tmp_path / "bias", tiny_checkpoint, bias | pairs())
    write_adapter(tmp_path / "pairs", tiny_checkpoint, pairs())
    write_adapter(tmp_path / "other", tiny_checkpoint, pairs(), base="0" * 64)
    write_adapter(tmp_path / "large", tiny_checkpoint, pair(CONV, (3, 3, 3), 32, 0) | {("conv_in", "lora_b"): LARGE})
    for adapter, arguments, message in [
        (
            "whole",
            [],
            "replaces 1 whole kernels (mid_block.temp_attentions.0.transformer_blocks.0.attn1.to_q.kernel), which no ",
        ),
        ("pairs:0.5", [], "a LoRA file has no strength; omit it"),
        (f"pairs,{tmp_path}/pairs", [], "a LoRA file has one adapter of one network"),
        ("pairs", ["--component", "keyframes"], "omit --component"),
        ("pairs", ["--rank", "2"], "the adapter has pairs of rank 4 already; omit --rank"),
        ("bias", ["--rank", "2"], "the adapter replaces conv_out.bias, and a LoRA file is for kernels only"),
        ("pairs", ["--rank", "0"], "argument --rank: 0 must be at least 1"),
        ("other", [], "belongs to other weights"),
        ("large", ["--dtype", "float16"], "1 weights too large for float16: unet.conv_in.lora_B.weight; use a wider"),
    ]:
        code, error = export(tmp_path / adapter, *arguments)
        assert (code, message in error) == (2, True), error
        assert not (tmp_path / "out").exists()


def test_a_rank_without_an_adapter(tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(tiny_checkpoint), "--rank", "2", "--out", str(tmp_path / "out")]) == 2
    assert "--rank is for an adapter; give it with --adapter" in capsys.readouterr().err


def test_an_adapter_that_contradicts_its_record_is_not_verified(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    half = {path: array for path, array in pairs().items() if path != ("conv_in", "lora_b")}
    write_adapter(tmp_path / "adapter", tiny_checkpoint, half, rank=3)
    assert main(["verify", str(tmp_path / "adapter")]) == 2
    error = capsys.readouterr().err
    assert "1 pairs that are not complete: conv_in/lora_a; " in error
    assert "3 ranks that are not 3: " in error


def test_whole_kernels_as_pairs_of_a_rank(export: Export, tiny_checkpoint: Path, tmp_path: Path) -> None:
    """The kernel of the convolution has 27 rows, so its pair has zeros."""
    low_rank = pairs()
    changes = {
        kernel: np.einsum("...r,ro->...o", *(low_rank[*kernel[:-1], name] for name in ("lora_a", "lora_b")))
        for kernel in (QUERY, CONV)
    }
    base = weights_of(tiny_checkpoint)
    whole: dict[WeightPath, np.ndarray] = {kernel: base[kernel] + change for kernel, change in changes.items()}
    write_adapter(tmp_path / "whole", tiny_checkpoint, whole, rank=0)
    assert export(tmp_path / "whole", "--rank", "30") == (0, "")
    command = ["import", str(tmp_path / "out"), "--checkpoint", str(tiny_checkpoint), "--out", str(tmp_path / "back")]
    assert main(command) == 0
    found = arrays_of(tmp_path / "back", tiny_checkpoint)
    for kernel, change in changes.items():
        a, b = (found[*kernel[:-1], name] for name in ("lora_a", "lora_b"))
        assert b.shape == (30, 32)
        np.testing.assert_allclose(a @ b, change, rtol=0, atol=1e-5 * np.abs(change).max())


LARGE = np.full((4, 32), 7e4, np.float32)


def test_overwriting_and_another_base(
    export: Export, tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file may be used with other weights of the same network, with a warning."""
    write_adapter(tmp_path / "adapter", tiny_checkpoint, pairs())
    assert export(tmp_path / "adapter") == (0, "")
    code, error = export(tmp_path / "adapter")
    assert (code, "out: exists; choose another place, or replace it with --overwrite" in error) == (2, True)
    assert export(tmp_path / "adapter", "--overwrite") == (0, "")
    other = ["--component", COMPONENT, "--dtype", "float16", "--out", str(tmp_path / "half")]
    assert main(["merge", str(tiny_checkpoint), *other]) == 0
    capsys.readouterr()
    command = ["import", str(tmp_path / "out"), "--checkpoint", str(tmp_path / "half"), "--out", str(tmp_path / "back")]
    assert main(command) == 0
    assert "made for other weights than the keyframes of " in capsys.readouterr().err
    assert arrays_of(tmp_path / "back", tmp_path / "half").keys() == pairs().keys()
    (tmp_path / "out/thesis.tex").write_text("")
    code, error = export(tmp_path / "adapter", "--overwrite")
    assert (code, "is no exported adapter, so it is not overwritten" in error) == (2, True)
