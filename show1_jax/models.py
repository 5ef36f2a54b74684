"""The kinds of network that a checkpoint holds, by name."""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh
from jax.typing import DTypeLike

from show1_jax.checkpoint import load_weights, read_manifest
from show1_jax.config import Architecture, Remat, UNetConfig, VAEConfig
from show1_jax.errors import UserError
from show1_jax.layers import Layers
from show1_jax.manifest import Component
from show1_jax.parallel import weight_shardings
from show1_jax.text import CLIPTextConfig, CLIPTextEncoder, T5Config, T5Encoder
from show1_jax.unet import UNet
from show1_jax.vae import Autoencoder
from show1_jax.weights import WeightPath

ARCHITECTURES: Final[Mapping[str, type[Architecture]]] = {
    "unet": UNetConfig,
    "vae": VAEConfig,
    "t5": T5Config,
    "clip": CLIPTextConfig,
}
_NETWORKS: Final[Mapping[str, Any]] = {
    "unet": UNet,
    "vae": Autoencoder,
    "t5": T5Encoder,
    "clip": CLIPTextEncoder,
}


def architecture_of(record: Component) -> Architecture:
    """The architecture that a checkpoint's record describes.

    Raises:
        UserError: its kind is unknown, or a field of it is wrong.
    """
    if record.kind not in ARCHITECTURES:
        raise UserError(f"kind={record.kind!r} is none of {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[record.kind].from_dict(record.architecture)


class LoadedNetwork(NamedTuple):
    """A network as pure functions take it: structure (`nnx.split`), parameters on the devices, and what it is."""

    graph: "nnx.GraphDef[nnx.Module]"
    weights: nnx.State
    architecture: Architecture


def build(
    kind: str,
    architecture: Architecture,
    *,
    dtype: DTypeLike = jnp.float32,
    param_dtype: DTypeLike = jnp.float32,
    remat: Remat = "none",
) -> nnx.Module:
    """A network of that kind, whose parameters are shapes only; see `Layers` for that and for the options."""
    network = _NETWORKS[kind](architecture, Layers(dtype, param_dtype, remat))
    assert isinstance(network, nnx.Module)
    return network


def abstract_network(record: Component, mesh: Mesh, dtype: DTypeLike, part: WeightPath = ()) -> LoadedNetwork:
    """The network of a component's record as shapes alone, each with its place on the mesh, computing in `dtype`.

    With a `part`, only the module at this path of the network.
    """
    architecture = architecture_of(record)
    module: Any = build(record.kind, architecture, dtype=dtype, param_dtype=dtype)
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


def exact_float32(dtype: DTypeLike) -> contextlib.AbstractContextManager[None]:
    """A block where float32 is float32: accelerators multiply its matrices in less precision unless told not to.

    Nothing changes where `dtype`, which the networks compute in, is another.
    """
    return jax.default_matmul_precision("highest") if jnp.dtype(dtype) == jnp.float32 else contextlib.nullcontext()
