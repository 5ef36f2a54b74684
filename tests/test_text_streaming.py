"""The text encoder with one block's weights at a time gives what all of it gives."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from show1_jax import checkpoint_set
from show1_jax.cascade import Cascade
from show1_jax.models import LoadedNetwork
from show1_jax.sampling_config import SamplingMeshConfig, TextPadding
from tests import tiny_config


@pytest.mark.parametrize("padding", ["encoded", "zeros"])
def test_the_text_encoder_block_by_block(
    tiny_checkpoint: Path, padding: TextPadding, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dataclasses.replace(tiny_config.settings(), text_padding=padding, mesh=SamplingMeshConfig(data=2))
    batches = [("a red circle", "a blue square moves left"), ("", "blur")]
    devices = jax.devices()[:2]
    whole = Cascade.load(tiny_checkpoint, config, devices)._encode("text_t5", batches)

    held: list[int] = []
    checked: list[str] = []
    cascade = Cascade.load(tiny_checkpoint, dataclasses.replace(config, memory_limit_gb=1e-6), devices)
    load = cascade.networks.load

    def noted(*args: Any) -> LoadedNetwork:
        network = load(*args)
        held.append(sum(leaf.size for leaf in jax.tree.leaves(network.weights)))
        return network

    monkeypatch.setattr(cascade.networks, "load", noted)
    monkeypatch.setattr(checkpoint_set, "check_weights", lambda path, component: checked.append(component))
    streamed = cascade._encode("text_t5", batches)
    for lines in batches:
        np.testing.assert_allclose(streamed[lines], whole[lines], atol=1e-5)
    layers = cascade.architecture("text_t5").num_layers
    assert (len(held), checked) == (1 + layers + 1, ["text_t5"])
    assert max(held) < sum(held) / 2
