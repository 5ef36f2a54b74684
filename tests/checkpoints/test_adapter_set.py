"""Adapters that are added to a checkpoint's network: exact sums, strengths, and refusals in one line."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from show1_jax.checkpoints.adapter_set import adapted_weights, open_adapters, split_adapters
from show1_jax.checkpoints.checkpoint_set import CheckpointSet
from show1_jax.config.sampling import MeshConfig
from show1_jax.errors import UserError
from show1_jax.parallel import make_mesh
from show1_jax.parallel.weights import WeightPath, to_weights
from tests.helpers.adapter_files import ALPHA, COMPONENT, CONV, QUERY, RANK, pairs, write_adapter

EQUAL = 1e-6
Arrays = dict[WeightPath, np.ndarray]


def loaded(checkpoint: Path, adapters: str, dtype: Any = jnp.float32, num_devices: int = 1) -> Arrays:
    """Return the weights of the keyframe network with adapters."""
    checkpoints = CheckpointSet.open(checkpoint)
    mesh = make_mesh(MeshConfig(data=1, fsdp=-1), jax.devices()[:num_devices])
    opened = [adapter for adapter in open_adapters(adapters, checkpoints.manifest) if adapter.strength]
    weights = to_weights(checkpoints.load(COMPONENT, mesh, dtype).weights)
    weights |= adapted_weights(weights, opened, mesh)
    return {path: np.asarray(leaf) for path, leaf in weights.items()}


def change(arrays: Arrays, kernel: WeightPath) -> np.ndarray:
    a, b = (np.asarray(arrays[*kernel[:-1], name], np.float64) for name in ("lora_a", "lora_b"))
    return ALPHA / RANK * (a @ b)


def test_adapters_are_added_with_their_strengths(tiny_checkpoint: Path, tmp_path: Path) -> None:
    first, second, replaced = pairs(), pairs(5), ("conv_out", "bias")
    dense = {replaced: np.full(6, 3.0, np.float32)}
    write_adapter(tmp_path / "first", tiny_checkpoint, first)
    write_adapter(tmp_path / "second", tiny_checkpoint, second | dense)
    base = loaded(tiny_checkpoint, "")
    found = loaded(tiny_checkpoint, f"{tmp_path}/first, {tmp_path}/second:-0.5")
    wanted: dict[WeightPath, Any] = dict(base)
    for kernel in (QUERY, CONV):
        wanted[kernel] = base[kernel] + change(first, kernel) - 0.5 * change(second, kernel)
    wanted[replaced] = base[replaced] - 0.5 * (3 - base[replaced])
    for path, weight in wanted.items():
        np.testing.assert_allclose(found[path], weight, rtol=EQUAL, atol=EQUAL * np.abs(weight).max(), err_msg=path)
    sharded = loaded(tiny_checkpoint, f"{tmp_path}/first,{tmp_path}/second:-0.5", num_devices=8)
    assert all(np.allclose(sharded[path], weight, rtol=EQUAL, atol=EQUAL) for path, weight in found.items())


def test_weights_keep_their_dtype_and_the_sum_is_rounded_once(tiny_checkpoint: Path, tmp_path: Path) -> None:
    write_adapter(tmp_path / "adapter", tiny_checkpoint, pairs())
    base = loaded(tiny_checkpoint, "", jnp.bfloat16)
    found = loaded(tiny_checkpoint, f"{tmp_path}/adapter:0.5", jnp.bfloat16)
    assert all(array.dtype == jnp.bfloat16 for array in found.values())
    for kernel in (QUERY, CONV):
        exact = base[kernel].astype(np.float64) + 0.5 * change(pairs(), kernel)
        half_of_the_spacing = np.abs(exact) * 2.0**-8
        assert (np.abs(found[kernel].astype(np.float64) - exact) <= half_of_the_spacing * (1 + 1e-3) + EQUAL).all()


def without_b(arrays: Arrays) -> Arrays:
    return {path: array for path, array in arrays.items() if path != (*QUERY[:-1], "lora_b")}


def with_nan(arrays: Arrays) -> Arrays:
    return arrays | {(*CONV[:-1], "lora_b"): np.full((RANK, 32), np.nan, np.float32)}


def with_both(arrays: Arrays) -> Arrays:
    return arrays | {QUERY: np.zeros((32, 32), np.float32)}


def renamed(arrays: Arrays) -> Arrays:
    return arrays | {("nowhere", "lora_a"): np.zeros((2, RANK), np.float32)}


def unchanged(arrays: Arrays) -> Arrays:
    return arrays


@pytest.mark.parametrize(
    ("changed", "options", "problem"),
    [
        (unchanged, {"base": "0" * 64}, "belongs to other weights than the keyframes of .*; give the checkpoint that"),
        (unchanged, {"rank": 3}, r"lora_a has the shape .* and not "),
        (without_b, {}, r"lacks mid_block\..*\.to_q\.lora_b, the other part of a pair"),
        (with_both, {}, r"has mid_block\..*\.to_q\.kernel and also a pair that changes it"),
        (
            unchanged,
            {"component": "text_t5"},
            "changes text_t5; only the networks of stages have adapters: keyframes, ",
        ),
        (renamed, {}, r"has nowhere\.lora_a, which keyframes does not have"),
        (with_nan, {}, "the adapter has values that are NaN or infinite"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(
    changed: Callable[[Arrays], Arrays], options: dict[str, Any], problem: str, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    write_adapter(tmp_path / "adapter", tiny_checkpoint, changed(pairs()), **options)
    with pytest.raises(UserError, match=problem) as refused:
        loaded(tiny_checkpoint, str(tmp_path / "adapter"))
    assert "\n" not in str(refused.value)


def test_a_damaged_adapter_and_a_checkpoint_are_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not an adapter but a checkpoint; give it as --checkpoint"):
        loaded(tiny_checkpoint, str(tiny_checkpoint))
    with pytest.raises(UserError, match=r"there is no adapter .*nothing:0\.5x; give the working directory of the run"):
        loaded(tiny_checkpoint, str(tmp_path / "nothing:0.5x"))
    write_adapter(tmp_path / "adapter", tiny_checkpoint, pairs())
    for file in filter(Path.is_file, (tmp_path / "adapter" / COMPONENT).rglob("*")):
        content = bytearray(original := file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
        with pytest.raises(UserError, match="missing or changed"):
            loaded(tiny_checkpoint, str(tmp_path / "adapter"))
        file.write_bytes(original)
    with pytest.raises(UserError, match=r"is an adapter of keyframes, .*; give it as --adapter, or merge"):
        CheckpointSet.open(tmp_path / "adapter")


def test_names_have_strengths(tmp_path: Path) -> None:
    odd = tmp_path / "name:2"
    odd.mkdir()
    assert split_adapters("") == []
    assert split_adapters(f"a, b:0.25,{odd},c:-1e0") == [
        (Path("a"), 1.0),
        (Path("b"), 0.25),
        (odd, 1.0),
        (Path("c"), -1.0),
    ]
    for strength in ("nan", "inf", "1e3", "-101"):
        with pytest.raises(UserError, match="the strength of an adapter must be from -100 to 100"):
            split_adapters(f"a:{strength}")


def test_an_adapter_of_another_network_is_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = str(write_adapter(tmp_path / "adapter", tiny_checkpoint, pairs()))
    manifest = CheckpointSet.open(tiny_checkpoint).manifest
    manifest.components[COMPONENT] = dataclasses.replace(manifest.components[COMPONENT], schedulers={})
    with pytest.raises(UserError, match="belongs to other weights than the keyframes of the checkpoint"):
        open_adapters(folder, manifest)
    del manifest.components[COMPONENT]
    with pytest.raises(UserError, match="changes keyframes, which the checkpoint does not have; it has first_frame, "):
        open_adapters(folder, manifest)
