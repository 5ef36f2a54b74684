"""Adapters that a merge adds to the weights of a checkpoint: the same as a cascade with these adapters."""

from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convert.__main__ import main
from convert.stored import cpu_mesh, read_weights, stored_architecture
from convert.tables import parameters
from show1_jax.cascade.cascade import Cascade
from show1_jax.checkpoints.adapter_set import adapted_weights, open_adapters
from show1_jax.checkpoints.checkpoint_set import CheckpointSet
from show1_jax.checkpoints.manifest import read_manifest
from show1_jax.parallel.weights import WeightPath, to_weights
from tests.helpers import tiny_config
from tests.helpers.adapter_files import ALPHA, COMPONENT, CONV, QUERY, RANK, pair, pairs, write_adapter

Arrays = dict[WeightPath, np.ndarray]
Merge = Callable[..., tuple[int, str]]
BIAS: WeightPath = ("conv_out", "bias")
EQUAL = 1e-6
"""Two roundings of float32, relative to the largest element."""


def weights_of(checkpoint: Path) -> Arrays:
    record = read_manifest(checkpoint).component(COMPONENT)
    architecture = stored_architecture(checkpoint, COMPONENT, record)
    return read_weights(checkpoint, COMPONENT, parameters(record.kind, architecture))


@pytest.fixture
def merge(tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Merge:
    """Merge the keyframe network with adapters; return the exit code and the last line on stderr (bars are erased)."""

    def merge(adapters: str, *arguments: str, out: str = "out", component: str = COMPONENT) -> tuple[int, str]:
        command = ["merge", str(tiny_checkpoint), "--component", component, "--adapter", adapters]
        code = main([*command, "--out", str(tmp_path / out), *arguments])
        error = capsys.readouterr().err.split("\r")[-1].strip("\n")
        assert "\n" not in error
        return code, error

    return merge


@pytest.fixture(scope="module")
def merged(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Return the keyframe network with two adapters, and the adapters."""
    folder = tmp_path_factory.mktemp("merged")
    write_adapter(folder / "first", tiny_checkpoint, pairs())
    write_adapter(folder / "second", tiny_checkpoint, pairs(5) | {BIAS: np.full(6, 3.0, np.float32)})
    adapters = f"{folder}/first, {folder}/second:-0.5"
    command = ["merge", str(tiny_checkpoint), "--component", COMPONENT, "--adapter", adapters]
    assert main([*command, "--out", str(folder / "out")]) == 0
    return folder / "out", adapters


def test_a_merge_has_the_weights_of_a_cascade_with_adapters(merged: tuple[Path, str], tiny_checkpoint: Path) -> None:
    out, adapters = merged
    checkpoints, mesh = CheckpointSet.open(tiny_checkpoint), cpu_mesh()
    weights = to_weights(checkpoints.load(COMPONENT, mesh, jnp.float32).weights)
    wanted = weights | adapted_weights(weights, open_adapters(adapters, checkpoints.manifest), mesh)
    found, base = weights_of(out), weights_of(tiny_checkpoint)
    assert {path for path in base if not np.array_equal(found[path], base[path])} == {QUERY, CONV, BIAS}
    for path, weight in wanted.items():
        np.testing.assert_allclose(found[path], weight, rtol=0, atol=EQUAL * np.abs(weight).max())
    record, before = (read_manifest(folder).components[COMPONENT] for folder in (out, tiny_checkpoint))
    named = record.provenance.pop("adapters")
    sources = [(str(out.with_name("first")), 1.0), (str(out.with_name("second")), -0.5)]
    assert [(entry["source"], entry["strength"]) for entry in named] == sources
    assert named[0]["digest"] == read_manifest(out.with_name("first")).digest(COMPONENT)
    assert (named[0]["rank"], named[0]["alpha"]) == (RANK, ALPHA)
    assert record == before


def test_a_strength_of_zero_changes_no_bit(merge: Merge, tiny_checkpoint: Path, tmp_path: Path) -> None:
    write_adapter(tmp_path / "adapter", tiny_checkpoint, pairs())
    assert merge(f"{tmp_path}/adapter:0") == (0, "")
    found, base = weights_of(tmp_path / "out"), weights_of(tiny_checkpoint)
    assert all(found[path].tobytes() == weight.tobytes() for path, weight in base.items())


def test_merge_then_sample_is_adapter_then_sample(merged: tuple[Path, str], tiny_checkpoint: Path) -> None:
    """Videos are in [-1, 1]."""
    out, adapters = merged
    plain = Cascade.load(tiny_checkpoint, tiny_config.settings(), jax.devices()[:1])
    with_merged = Cascade.load(f"{tiny_checkpoint},{out}", tiny_config.settings(), jax.devices()[:1])

    def keyframes(cascade: Cascade) -> np.ndarray:
        return cascade.sample(["a red circle"], [1], stages=["keyframes"])["keyframes"]

    found = keyframes(with_merged)
    np.testing.assert_allclose(found, keyframes(plain.with_adapters(adapters)), rtol=0, atol=1e-5)
    assert np.abs(found - keyframes(plain)).max() > 1e-3


def test_sums_are_rounded_once(merge: Merge, tiny_checkpoint: Path, tmp_path: Path) -> None:
    arrays = pairs()
    write_adapter(tmp_path / "adapter", tiny_checkpoint, arrays)
    assert merge(f"{tmp_path}/adapter", "--dtype", "float16") == (0, "")
    a, b = (arrays[*QUERY[:-1], name] for name in ("lora_a", "lora_b"))
    wanted = (weights_of(tiny_checkpoint)[QUERY] + ALPHA / RANK * (a.astype(np.float64) @ b)).astype(np.float16)
    found = weights_of(tmp_path / "out")[QUERY]
    assert found.dtype == np.float16
    np.testing.assert_allclose(found, wanted, rtol=2**-10)
    assert np.mean(found == wanted) > 0.99


def test_refusals(merge: Merge, tiny_checkpoint: Path, tmp_path: Path) -> None:
    large = {("conv_in", "lora_b"): np.full((RANK, 32), 1e5, np.float32)}
    write_adapter(tmp_path / "adapter", tiny_checkpoint, pairs())
    write_adapter(tmp_path / "large", tiny_checkpoint, pair(CONV, (3, 3, 3), 32, 0) | large)
    write_adapter(tmp_path / "other", tiny_checkpoint, pairs(), base="0" * 64)
    for name, arguments, component, message in [
        ("adapter", [], "vae", "adapts keyframes, which is not written; add its --component"),
        ("adapter:101", [], COMPONENT, "the strength of an adapter must be from -100 to 100"),
        ("other", [], COMPONENT, "belongs to other weights than the keyframes of "),
        (
            "large",
            ["--dtype", "float16"],
            COMPONENT,
            "with its adapters: 1 weights too large for float16: conv_in/kernel",
        ),
    ]:
        code, error = merge(f"{tmp_path}/{name}", *arguments, component=component)
        assert (code, message in error) == (2, True), error
        assert not (tmp_path / "out").exists()
