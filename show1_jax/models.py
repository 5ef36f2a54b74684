"""The kinds of network that a checkpoint holds, by name."""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from show1_jax.config import Architecture, UNetConfig, VAEConfig
from show1_jax.text import CLIPTextConfig, CLIPTextEncoder, T5Config, T5Encoder
from show1_jax.unet import UNet
from show1_jax.vae import Autoencoder

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


class LoadedNetwork(NamedTuple):
    """A network as pure functions take it: structure (`nnx.split`), parameters on the devices, and what it is."""

    graph: "nnx.GraphDef[nnx.Module]"
    weights: nnx.State
    architecture: Architecture


def build(
    kind: str,
    architecture: Architecture,
    *,
    rngs: nnx.Rngs | None = None,
    dtype: DTypeLike = jnp.float32,
    param_dtype: DTypeLike = jnp.float32,
) -> nnx.Module:
    """A network of that kind; without `rngs` its parameters are shapes only, and nothing is computed."""
    network = _NETWORKS[kind](architecture, rngs=rngs, dtype=dtype, param_dtype=param_dtype)
    assert isinstance(network, nnx.Module)
    return network
