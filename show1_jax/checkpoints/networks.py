"""The kinds of network that a checkpoint holds, and networks with their weights."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh
from jax.typing import DTypeLike

from show1_jax.checkpoints.arrays import load_weights, read_manifest
from show1_jax.checkpoints.manifest import Component
from show1_jax.config.sampling import AUTOENCODER
from show1_jax.config.settings import Remat
from show1_jax.errors import UserError
from show1_jax.nn.config import Architecture, UNetConfig, VAEConfig
from show1_jax.nn.init import initial_weight_on_devices
from show1_jax.nn.layers import Layers
from show1_jax.nn.unet import UNet
from show1_jax.nn.vae import Autoencoder
from show1_jax.parallel import weight_shardings
from show1_jax.parallel.weights import WeightPath, to_state, to_weights
from show1_jax.text.encoders import TEXT_ENCODERS


class NetworkKind(NamedTuple):
    """A kind of network: the dataclass of its architecture, and its module, which is made of one and `Layers`."""

    architecture: type[Architecture]
    network: type[nnx.Module]


def network_kinds() -> dict[str, NetworkKind]:
    """Return all kinds of network by name, as records have it; the text encoders' are those of `TEXT_ENCODERS`."""
    encoders = {encoder.kind: NetworkKind(encoder.architecture, encoder.network) for encoder in TEXT_ENCODERS.values()}
    return {"unet": NetworkKind(UNetConfig, UNet), AUTOENCODER: NetworkKind(VAEConfig, Autoencoder), **encoders}


def network_kind(name: str) -> NetworkKind:
    """Return the kind of network of that name.

    Raises:
        UserError: there is none.
    """
    kinds = network_kinds()
    if name not in kinds:
        raise UserError(f"kind={name!r} is none of {', '.join(kinds)}")
    return kinds[name]


def kind_of(component: str) -> str:
    """Return the kind of network that a component has: a text encoder, the autoencoder, or else a UNet."""
    if component in TEXT_ENCODERS:
        return TEXT_ENCODERS[component].kind
    return AUTOENCODER if component == AUTOENCODER else "unet"


def architecture_of(record: Component) -> Architecture:
    """Return the architecture that a checkpoint's record describes.

    Raises:
        UserError: its kind is unknown, or a field of it is wrong.
    """
    return network_kind(record.kind).architecture.from_dict(record.architecture)


class LoadedNetwork(NamedTuple):
    """A network in the form that pure functions take.

    Attributes:
        graph: its structure, from `nnx.split`.
        weights: its parameters on the devices, or their shapes and shardings.
        architecture: its settings.
    """

    graph: "nnx.GraphDef[nnx.Module]"
    weights: nnx.State
    architecture: Architecture

    @property
    def module(self) -> Any:
        """The network as a module that is called with arrays, e.g. a `show1_jax.nn.unet.UNet`."""
        return nnx.merge(self.graph, self.weights)


def make_network(
    kind: str,
    architecture: Architecture,
    *,
    dtype: DTypeLike = jnp.float32,
    param_dtype: DTypeLike = jnp.float32,
    remat: Remat = "none",
) -> nnx.Module:
    """Return a network of that kind, whose parameters are shapes only; see `Layers` for that and for the options."""
    make: Any = network_kind(kind).network
    network: nnx.Module = make(architecture, Layers(dtype, param_dtype, remat))
    return network


def abstract_network(record: Component, mesh: Mesh, dtype: DTypeLike, part: WeightPath = ()) -> LoadedNetwork:
    """The network of a component's record as shapes alone, each with its place on the mesh, computing in `dtype`.

    With a `part`, only the module at this path of the network.
    """
    architecture = architecture_of(record)
    module: Any = make_network(record.kind, architecture, dtype=dtype, param_dtype=dtype)
    for name in part:
        module = module[int(name)] if name.isdigit() else getattr(module, name)
    graph, shapes = nnx.split(module)
    placed = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        weight_shardings(shapes, mesh),
    )
    return LoadedNetwork(graph, placed, architecture)


def load_network(
    checkpoint: Path, component: str, mesh: Mesh, dtype: DTypeLike, part: WeightPath = ()
) -> LoadedNetwork:
    """A network of a checkpoint, or a part of it, its weights spread over the mesh in the dtype that it computes in.

    Raises:
        UserError: no such checkpoint or component, or its weights are damaged.
    """
    network = abstract_network(read_manifest(checkpoint).component(component), mesh, dtype, part)
    places = jax.tree.map(lambda leaf: leaf.sharding, network.weights)
    return network._replace(weights=load_weights(checkpoint, component, network.weights, places, dtype, part))


def random_network(record: Component, mesh: Mesh, dtype: DTypeLike, part: WeightPath = ()) -> LoadedNetwork:
    """Return the network of a component's record with random weights; see `abstract_network` for the arguments.

    They are drawn on the devices, each where it belongs: a network of full size is there in seconds.
    """
    network = abstract_network(record, mesh, dtype, part)
    weights = {
        path: initial_weight_on_devices((*part, *path), leaf, temporal_identity=False)
        for path, leaf in to_weights(network.weights).items()
    }
    return network._replace(weights=to_state(network.weights, weights))
