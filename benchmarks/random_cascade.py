"""A config's cascade with random weights, drawn on the devices: one of full size runs without any download."""

from collections.abc import Sequence
from dataclasses import dataclass

import jax
from jax.sharding import Mesh
from jax.typing import DTypeLike

from show1_jax.cascade import Cascade
from show1_jax.manifest import Manifest
from show1_jax.models import LoadedNetwork, random_network
from show1_jax.random_checkpoint import SOURCE, described_manifest
from show1_jax.request import SampleConfig
from show1_jax.text.encoders import TEXT_ENCODERS
from show1_jax.text.tokenizers import TextTokenizer
from show1_jax.weights import WeightPath


@dataclass
class _Networks:
    """The networks of a manifest, with random weights and tokenizers of bytes."""

    manifest: Manifest

    def load(self, component: str, mesh: Mesh, dtype: DTypeLike, part: WeightPath = ()) -> LoadedNetwork:
        """Return a network, or the module at a path of it."""
        return random_network(self.manifest.component(component), mesh, dtype, part)

    def tokenizer(self, component: str) -> TextTokenizer:
        """Return the tokenizer of a text encoder."""
        return TEXT_ENCODERS[component].small_tokenizer()


def random_cascade(config: SampleConfig, devices: Sequence[jax.Device] | None = None) -> Cascade:
    """Return the cascade of a config.

    Args:
        config: says its networks and schedules.
        devices: to use; all if not given.
    """
    manifest = described_manifest(config.architecture, config.schedulers, {"source": SOURCE})
    return Cascade(_Networks(manifest), config, devices)
