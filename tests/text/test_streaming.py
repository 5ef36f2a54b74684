"""The text encoder block by block has the same states as the whole encoder."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.typing import DTypeLike

from show1_jax.cascade.cascade import Cascade
from show1_jax.cascade.spec import CascadeSpec
from show1_jax.checkpoints import checkpoint_set
from show1_jax.checkpoints.checkpoint_set import CheckpointSet
from show1_jax.checkpoints.networks import LoadedNetwork
from show1_jax.config.sampling import SamplingMeshConfig, TextPadding
from show1_jax.parallel.weights import WeightPath
from tests.helpers import tiny_config


@pytest.mark.parametrize("padding", ["encoded", "zeros"])
def test_the_text_encoder_block_by_block(
    tiny_checkpoint: Path, padding: TextPadding, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dataclasses.replace(tiny_config.settings(), text_padding=padding, mesh=SamplingMeshConfig(data=2))
    batches = [("a red circle", "a blue square moves left"), ("", "blur")]
    devices = jax.devices()[:2]
    whole = Cascade.load(tiny_checkpoint, config, devices).encode_texts("text_t5", batches)

    loaded_sizes: list[int] = []
    checked: list[str] = []
    checkpoints = CheckpointSet.open(tiny_checkpoint)
    limited = CascadeSpec.of(dataclasses.replace(config, memory_limit_gb=1e-6), checkpoints.manifest, devices)

    def recording_load(
        component: str, mesh: Mesh, dtype: DTypeLike, part: WeightPath = (), formats: Any = None
    ) -> LoadedNetwork:
        network = checkpoints.load(component, mesh, dtype, part, formats)
        loaded_sizes.append(sum(leaf.size for leaf in jax.tree.leaves(network.weights)))
        return network

    monkeypatch.setattr(checkpoint_set, "check_weights", lambda path, component: checked.append(component))
    streamed = Cascade(limited, recording_load, checkpoints.tokenizer).encode_texts("text_t5", batches)
    for states, expected in zip(streamed, whole, strict=True):
        np.testing.assert_allclose(states, expected, atol=1e-5)
    (one,) = Cascade.load(tiny_checkpoint, config, devices).encode_texts("text_t5", [batches[0][:1]])
    np.testing.assert_allclose(one, whole[0][:1], atol=1e-5)  # one text on two devices
    layers = limited.architecture("text_t5").num_layers
    assert (len(loaded_sizes), checked) == (1 + layers + 1, ["text_t5"])
    assert max(loaded_sizes) < sum(loaded_sizes) / 2
