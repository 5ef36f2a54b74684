"""The kinds of network in a checkpoint, and networks with their weights."""

import functools
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh
from jax.typing import DTypeLike

from show1_jax.checkpoints.arrays import load_weights, read_manifest
from show1_jax.checkpoints.manifest import Component
from show1_jax.checkpoints.reading import move_to_layouts
from show1_jax.config.sampling import AUTOENCODER
from show1_jax.config.settings import Remat
from show1_jax.errors import UserError
from show1_jax.nn.config import Architecture, UNetConfig, VAEConfig
from show1_jax.nn.init import random_weight
from show1_jax.nn.layers import Layers
from show1_jax.nn.recognition.c3d import C3D, C3DConfig
from show1_jax.nn.recognition.clip import CLIPModel, CLIPModelConfig
from show1_jax.nn.recognition.i3d import I3D, I3DConfig
from show1_jax.nn.recognition.inception import InceptionV3, InceptionV3Config
from show1_jax.nn.unet import UNet
from show1_jax.nn.vae import Autoencoder
from show1_jax.parallel import weight_shardings
from show1_jax.parallel.weights import WeightPath, to_state, to_weights
from show1_jax.text.encoders import TEXT_ENCODERS


class NetworkKind(NamedTuple):
    """A kind of network: its architecture dataclass, and its module, constructed from an architecture and `Layers`."""

    architecture: type[Architecture]
    network: type[nnx.Module]


def network_kinds() -> dict[str, NetworkKind]:
    """Return all kinds of network by the name used in records; those of text encoders come from `TEXT_ENCODERS`."""
    encoders = {encoder.kind: NetworkKind(encoder.architecture, encoder.network) for encoder in TEXT_ENCODERS.values()}
    return {
        "unet": NetworkKind(UNetConfig, UNet),
        AUTOENCODER: NetworkKind(VAEConfig, Autoencoder),
        **encoders,
        "i3d": NetworkKind(I3DConfig, I3D),
        "c3d": NetworkKind(C3DConfig, C3D),
        "inception_v3": NetworkKind(InceptionV3Config, InceptionV3),
        "clip_model": NetworkKind(CLIPModelConfig, CLIPModel),
    }


def network_kind(name: str) -> NetworkKind:
    """Return the kind of network of that name.

    Raises:
        UserError: there is no such kind.
    """
    kinds = network_kinds()
    if name not in kinds:
        raise UserError(f"kind={name!r} is not one of {', '.join(kinds)}")
    return kinds[name]


def kind_of(component: str) -> str:
    """Return a component's kind of network: a text encoder, the autoencoder, or otherwise a UNet."""
    if component in TEXT_ENCODERS:
        return TEXT_ENCODERS[component].kind
    return AUTOENCODER if component == AUTOENCODER else "unet"


def architecture_of(record: Component) -> Architecture:
    """Return the architecture that a checkpoint's record describes.

    Raises:
        UserError: its kind is unknown, or a field is wrong.
    """
    return network_kind(record.kind).architecture.from_dict(record.architecture)


class LoadedNetwork(NamedTuple):
    """A network as arguments for pure functions.

    Attributes:
        graph: the network's structure, from `nnx.split`.
        weights: the network's parameters on the devices, or their shapes and shardings.
        architecture: the network's settings.
    """

    graph: "nnx.GraphDef[nnx.Module]"
    weights: nnx.State
    architecture: Architecture

    @property
    def module(self) -> Any:
        """Network as a callable module, e.g. a `show1_jax.nn.unet.UNet`."""
        return nnx.merge(self.graph, self.weights)


def make_network(
    kind: str,
    architecture: Architecture,
    *,
    dtype: DTypeLike = jnp.float32,
    param_dtype: DTypeLike = jnp.float32,
    remat: Remat = "none",
) -> nnx.Module:
    """Return a network of a kind; its parameters are shapes only. See `Layers` for this and for the options.

    Args:
        kind: `unet`, `vae`, `t5` or `clip_text`, or the kind of a network of metrics.
        architecture: its settings, of the class of its kind.
        dtype: dtype of activations.
        param_dtype: dtype of parameters.
        remat: what the backward pass recomputes.

    Raises:
        UserError: there is no such kind.

    Example:
        >>> from flax import nnx
        >>> from show1_jax import Cascade, make_network
        >>> architecture = Cascade.load("checkpoints/demo").spec.architecture("keyframes")
        >>> network = make_network("unet", architecture)
        >>> nnx.state(network)["conv_in"]["kernel"].get_value().shape  # 3x3, from 3 colours and 3 positions
        (3, 3, 6, 32)
    """
    make: Any = network_kind(kind).network
    network: nnx.Module = make(architecture, Layers(dtype, param_dtype, remat))
    return network


def abstract_network(record: Component, mesh: Mesh, dtype: DTypeLike, part: WeightPath = ()) -> LoadedNetwork:
    """Return the network of a component's record as shapes with shardings, without weights.

    Args:
        record: the component's record in the manifest.
        mesh: the mesh of the shardings.
        dtype: dtype of the weights and of the computation.
        part: path of one module of the network; by default the whole network.

    Raises:
        UserError: the record's kind is unknown, or a field is wrong.
    """
    return _abstract_network(record.kind, architecture_of(record), mesh, jnp.dtype(dtype), part)


@functools.lru_cache(maxsize=16)
def _abstract_network(
    kind: str, architecture: Architecture, mesh: Mesh, dtype: DTypeLike, part: WeightPath
) -> LoadedNetwork:
    """Return the network of `abstract_network`, which a start needs often, and which takes long to build."""
    module: Any = make_network(kind, architecture, dtype=dtype, param_dtype=dtype)
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
    checkpoint: Path, component: str, mesh: Mesh, dtype: DTypeLike, part: WeightPath = (), formats: Any = None
) -> LoadedNetwork:
    """Load a network of a checkpoint, or a part of it, with weights sharded over the mesh.

    Args:
        checkpoint: the checkpoint's directory.
        component: e.g. "keyframes".
        mesh: the mesh of the shardings.
        dtype: dtype of the weights and of the computation.
        part: path of one module of the network; by default the whole network. Hashes of a part are not checked.
        formats: state of `jax.experimental.layout.Format` for the weights; by default they have the default layouts.

    Raises:
        UserError: no such checkpoint or component, or its weights are damaged.
    """
    network = abstract_network(read_manifest(checkpoint).component(component), mesh, dtype, part)
    places = jax.tree.map(lambda leaf: leaf.sharding, network.weights) if formats is None else formats
    return network._replace(weights=load_weights(checkpoint, component, network.weights, places, dtype, part))


def random_network(
    record: Component, mesh: Mesh, dtype: DTypeLike, part: WeightPath = (), formats: Any = None
) -> LoadedNetwork:
    """Return the network of a component's record with random weights.

    They are for measurements: this takes seconds for a network of full size (see `random_weight`).

    Args:
        record: see `abstract_network`, as for the mesh and the dtype.
        mesh: the mesh of the shardings.
        dtype: dtype of the weights and of the computation.
        part: see `load_network`.
        formats: see `load_network`.
    """
    network = abstract_network(record, mesh, dtype, part)
    weights = {path: random_weight((*part, *path), leaf) for path, leaf in to_weights(network.weights).items()}
    if formats is not None:
        weights = move_to_layouts(weights, to_weights(formats))
    return network._replace(weights=to_state(network.weights, weights))
