"""Cascades that a config describes, with random weights drawn on the devices: full size needs no download."""

from collections.abc import Sequence

import jax
from jax.sharding import Mesh
from jax.typing import DTypeLike

from show1_jax.cascade.cascade import Cascade
from show1_jax.cascade.spec import CascadeSpec
from show1_jax.checkpoints.networks import LoadedNetwork, random_network
from show1_jax.checkpoints.random import SOURCE, described_manifest
from show1_jax.config.config_file import Config
from show1_jax.parallel.weights import WeightPath
from show1_jax.text.encoders import TEXT_ENCODERS


def described_spec(config: Config, devices: Sequence[jax.Device] | None = None) -> CascadeSpec:
    """Return the specification of the cascade that a config describes, on `devices` or, if None, on all devices."""
    manifest = described_manifest(config.architecture, config.schedulers, {"source": SOURCE})
    return CascadeSpec.of(config, manifest, devices)


def random_cascade(config: Config) -> Cascade:
    """Return the cascade that a config describes, with random weights."""
    spec = described_spec(config)

    def load(component: str, mesh: Mesh, dtype: DTypeLike, part: WeightPath = ()) -> LoadedNetwork:
        return random_network(spec.manifest.component(component), mesh, dtype, part)

    return Cascade(spec, load, lambda component: TEXT_ENCODERS[component].small_tokenizer())
