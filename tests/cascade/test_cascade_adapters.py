"""A cascade with adapters: they are switched without loading or compiling; without them, no bit has changed."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from show1_jax.cascade import memory, networks
from show1_jax.cascade.cascade import Cascade
from show1_jax.cascade.denoise import EVERY_BRANCH_AND_LEVEL
from show1_jax.cascade.memory import CompiledStage, MemoryNeed, adapted_bytes, component_bytes
from show1_jax.cascade.spec import CascadeSpec
from show1_jax.checkpoints.adapter_set import open_adapters
from show1_jax.checkpoints.checkpoint_set import CheckpointSet
from show1_jax.config.sampling import ResidentWeights, Stage
from show1_jax.config.video_edit import VideoEdit
from show1_jax.errors import UserError
from tests.helpers import tiny_config
from tests.helpers.adapter_files import CONV, QUERY, pair, pairs, write_adapter

STAGES: tuple[Stage, ...] = ("keyframes", "interpolation")
Videos = dict[Stage, np.ndarray]


@pytest.fixture(scope="module")
def folder(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the adapters `pairs` (two low-rank pairs), `dense` (a whole weight) and `between` (stage 2)."""
    parent = tmp_path_factory.mktemp("adapters")
    write_adapter(parent / "pairs", tiny_checkpoint, pairs())
    write_adapter(parent / "dense", tiny_checkpoint, {QUERY: np.full((32, 32), 0.1, np.float32)}, rank=0)
    write_adapter(parent / "between", tiny_checkpoint, pair(QUERY, (32,), 32, 7), component="interpolation")
    return parent


def cascade(checkpoint: Path, resident_weights: ResidentWeights = "all", adapters: str = "") -> Cascade:
    config = dataclasses.replace(tiny_config.settings(), resident_weights=resident_weights)
    return Cascade.load(checkpoint, config, jax.devices()[:1], adapters)


def sample(cascade: Cascade) -> Videos:
    return cascade.sample(["a red circle"], [1], stages=STAGES)


def assert_equal(found: Videos, expected: Videos) -> None:
    assert all(np.array_equal(found[stage], expected[stage]) for stage in STAGES)


def refused(*arguments: Any, **options: Any) -> Any:
    raise AssertionError("weights are loaded, or a program is compiled")


def test_adapters_are_switched_without_loading_or_compiling(
    tiny_checkpoint: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stacked = f"{folder}/pairs:0.5,{folder}/dense:0.25,{folder}/between"
    with cascade(tiny_checkpoint) as plain:
        first = sample(plain)
        monkeypatch.setattr(networks, "compile_stage", refused)
        monkeypatch.setattr(networks.Networks, "_take", refused)
        both = plain.with_adapters(stacked)
        changed = sample(both)
        assert not any(np.array_equal(changed[stage], first[stage]) for stage in STAGES)
        weak = sample(plain.with_adapters(f"{folder}/pairs:0.25"))
        assert not np.array_equal(weak["keyframes"], changed["keyframes"])
        assert_equal(sample(both.with_adapters(f"{folder}/pairs:0,{folder}/between:0")), first)
        assert_equal(sample(plain), first)
        assert_equal(sample(both), changed)
        halves = sample(plain.with_adapters(f"{folder}/pairs:0.125,{folder}/pairs:0.125"))
        assert_equal(halves, weak)  # powers of two: no rounding
        with plain.with_adapters(f"{folder}/between").network("keyframes") as kept:
            weights = jax.tree.leaves(kept.weights)
        assert not any(weight.is_deleted() for weight in weights)
    assert all(weight.is_deleted() for weight in weights)
    monkeypatch.undo()
    assert_equal(sample(cascade(tiny_checkpoint, "one", stacked)), changed)


def test_changed_weights_are_deleted_with_the_others(tiny_checkpoint: Path, folder: Path) -> None:
    for resident_weights in ("one", "all"):
        adapted = cascade(tiny_checkpoint, resident_weights, f"{folder}/pairs")
        with adapted.network("keyframes") as network:
            weights = jax.tree.leaves(network.weights)
            plain = adapted.with_adapters("")
            with plain.network("keyframes") as other:  # of the same weights, all but two
                shared = {id(leaf) for leaf in jax.tree.leaves(other.weights)} & {id(leaf) for leaf in weights}
                assert len(shared) == len(weights) - 2
        assert all(weight.is_deleted() for weight in weights)


def test_an_adapter_with_nan_is_refused_and_leaves_the_cascade_as_it_was(tiny_checkpoint: Path, tmp_path: Path) -> None:
    broken = pairs() | {(*CONV[:-1], "lora_b"): np.full((4, 32), np.nan, np.float32)}
    write_adapter(tmp_path / "broken", tiny_checkpoint, broken)
    with cascade(tiny_checkpoint) as plain:
        with plain.network("keyframes") as network:
            before = [np.asarray(leaf) for leaf in jax.tree.leaves(network.weights)]
        with (
            pytest.raises(UserError, match="has values that are NaN or infinite"),
            plain.with_adapters(str(tmp_path / "broken")).network("keyframes"),
        ):
            raise AssertionError("the network is used")
        with plain.network("keyframes") as network:
            after = [np.asarray(leaf) for leaf in jax.tree.leaves(network.weights)]
        assert all(np.array_equal(one, other) for one, other in zip(before, after, strict=True))


def test_memory_counts_the_changed_copies(tiny_checkpoint: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = cascade(tiny_checkpoint).spec
    manifest = CheckpointSet.open(tiny_checkpoint).manifest
    opened = open_adapters(f"{folder}/pairs,{folder}/dense,{folder}/between:0", manifest)
    spec = dataclasses.replace(plain, adapters=opened)
    copies = 4 * (32 * 32 + 3 * 3 * 3 * 32)  # of two weights, however many adapters change them
    assert adapted_bytes(plain, "keyframes") == adapted_bytes(spec, "interpolation") == 0
    assert adapted_bytes(spec, "keyframes") == copies
    assert component_bytes(spec, "keyframes") == component_bytes(plain, "keyframes") + copies
    half = dataclasses.replace(spec, dtype=jnp.dtype(jnp.bfloat16))
    assert adapted_bytes(half, "keyframes") == copies / 2
    steps: Any = {EVERY_BRANCH_AND_LEVEL: None}
    compiled = CompiledStage(steps, None, None, MemoryNeed(1000, 7))
    monkeypatch.setattr(memory, "compile_stage", lambda spec, stage, batch_size: compiled)
    monkeypatch.setattr(memory, "denoising_step", lambda *_, **__: None)
    monkeypatch.setattr(memory, "_program_need", lambda spec, program: MemoryNeed(900, 5))
    monkeypatch.setattr(memory, "text_need", lambda spec, component, batch_size: MemoryNeed(1, 1))
    needs = dict(memory.memory_needs(spec, ["keyframes"], edit=VideoEdit("keyframes", inversion_steps=3)))
    assert needs["keyframes"] == MemoryNeed(1000 + copies, 7)
    assert needs["inversion"] == MemoryNeed(900 + copies, 5)


def test_resident_weights_leave_room_for_adapters(
    tiny_checkpoint: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spec(adapters: str) -> CascadeSpec:
        return cascade(tiny_checkpoint, "auto", adapters).spec

    needed = component_bytes(spec(""), "keyframes") + component_bytes(spec(""), "text_t5")
    monkeypatch.setattr(memory, "memory_bytes", lambda spec: 2 * needed)
    assert memory.keeps_all_weights(spec(""), ["keyframes"])
    assert not memory.keeps_all_weights(spec(f"{folder}/pairs"), ["keyframes"])
    assert memory.keeps_all_weights(spec(f"{folder}/between"), ["keyframes"])
