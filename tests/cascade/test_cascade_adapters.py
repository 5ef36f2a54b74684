"""A cascade with adapters: they are switched without compiling; with a strength of 0, nothing changes at all."""

from pathlib import Path

import jax
import numpy as np
import pytest

from show1_jax.cascade import networks
from show1_jax.cascade.cascade import Cascade
from show1_jax.checkpoints.checkpoint_set import CheckpointSet
from tests.helpers import tiny_config
from tests.helpers.adapter_files import pairs, write_adapter


def test_adapters_are_switched_without_compiling(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_adapter(tmp_path / "adapter", tiny_checkpoint, pairs())
    plain = Cascade.load(tiny_checkpoint, tiny_config.settings(), jax.devices()[:1])

    def keyframes(cascade: Cascade) -> np.ndarray:
        return cascade.sample(["a red circle"], [1], stages=["keyframes"])["keyframes"]

    first = keyframes(plain)
    monkeypatch.setattr(networks, "compile_stage", None)
    adapted = plain.with_adapters(str(folder))
    changed = keyframes(adapted)
    assert not np.array_equal(changed, first)
    assert np.array_equal(keyframes(adapted.with_adapters(f"{folder}:0")), first)
    assert np.array_equal(keyframes(plain), first)
    with_both = plain.with_adapters(f"{folder}:0.5,{folder}:0.5")
    np.testing.assert_allclose(keyframes(with_both), changed, atol=1e-4)
    checkpoints = CheckpointSet.open(tiny_checkpoint)
    with pytest.raises(ValueError, match="this cascade has none"):
        Cascade(plain.spec, checkpoints.load, checkpoints.tokenizer).with_adapters("")
