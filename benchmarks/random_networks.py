"""Networks of a config with random weights, born on the devices: a full-size cascade runs without any download."""

import math
import tempfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import Array

from show1_jax.manifest import Manifest
from show1_jax.models import LoadedNetwork, abstract_network
from show1_jax.random_checkpoint import SOURCE, TEXT_ENCODERS, new_component
from show1_jax.text import write_tokenizers
from show1_jax.text.encoding import Tokenize, load_tokenize
from show1_jax.weights import WeightPath, to_state, to_weights


class RandomNetworks:
    """Stands in for a `CheckpointSet`: `Cascade(RandomNetworks(config.architecture, config.schedulers), config)`.

    Args:
        architecture: for every component the fields of its architecture dataclass.
        schedulers: for every UNet its scheduler configs, by role.
    """

    def __init__(self, architecture: Mapping[str, Any], schedulers: Mapping[str, Any]):
        records = {
            name: new_component(name, fields, schedulers.get(name, {}), {"source": SOURCE})
            for name, fields in architecture.items()
        }
        self.manifest = Manifest(records, {})

    def load(self, component: str, mesh: Mesh, dtype: DTypeLike, part: WeightPath = ()) -> LoadedNetwork:
        """A network of the config, or the module at a path of it."""
        network = abstract_network(self.manifest.component(component), mesh, dtype, part)
        weights = {path: _born((*part, *path), leaf) for path, leaf in to_weights(network.weights).items()}
        return network._replace(weights=to_state(network.weights, weights))

    def tokenize(self, component: str) -> Tokenize:
        """Tokens of bytes."""
        with tempfile.TemporaryDirectory() as folder:
            write_tokenizers(folder)
            return load_tokenize(self.manifest.component(component).kind, Path(folder) / TEXT_ENCODERS[component])


def _born(path: WeightPath, leaf: Any) -> Array:
    """Norms as the identity, biases zero, all else Gaussian by fan-in: the arithmetic of trained networks."""
    if path[-1] in ("scale", "bias"):
        return jnp.full(leaf.shape, float(path[-1] == "scale"), leaf.dtype, device=leaf.sharding)
    draw = jax.jit(jax.random.normal, static_argnums=(1, 2), out_shardings=leaf.sharding)
    key = jax.random.key(zlib.crc32("/".join(path).encode()))
    drawn: Array = draw(key, leaf.shape, leaf.dtype) * jnp.asarray(math.prod(leaf.shape[:-1]) ** -0.5, leaf.dtype)
    return drawn
