"""The kind of device that a program is traced for."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import jax
import jax.numpy as jnp
from jax.sharding import AbstractDevice

_AMPERE: Final = 8.0
"""Smallest compute capability of NVIDIA GPUs with fused attention."""


@dataclass(frozen=True)
class Target:
    """A kind of device.

    Attributes:
        platform: `cpu`, `gpu` (from NVIDIA or AMD) or `tpu`, as in `jax.Device.platform`.
        has_cudnn: it runs cuDNN's fused attention.
    """

    platform: str
    has_cudnn: bool = False


def current_target() -> Target:
    """Return the kind of the devices of the mesh that is set (`jax.set_mesh`), or else of JAX's default devices.

    A program is thus traced for the devices of its mesh, which may be only described, and not those of this process.
    """
    device = jax.sharding.get_abstract_mesh().abstract_device
    platform = jax.default_backend() if device is None else device.platform
    return Target(platform, has_cudnn=platform == "gpu" and has_cudnn_attention())


@functools.cache
def has_cudnn_attention() -> bool:
    """Return whether the GPUs of this process run cuDNN's fused attention.

    JAX checks this while it traces, so programs for other GPUs cannot have it either. Without a GPU, but with cuDNN,
    programs are for GPUs that are only described (`jax.experimental.topologies`), which are taken to run it.
    """
    shape = jax.ShapeDtypeStruct((1, 128, 8, 64), jnp.bfloat16)
    attention = functools.partial(jax.nn.dot_product_attention, implementation="cudnn")
    try:
        jax.eval_shape(attention, shape, shape, shape)
    except (RuntimeError, ValueError):  # no cuDNN, or none of the right version
        return False
    try:
        return min(float(device.compute_capability) for device in jax.local_devices(backend="gpu")) >= _AMPERE
    except ValueError:  # GPUs that are not NVIDIA's
        return False
    except RuntimeError:  # no GPU
        return True


@contextmanager
def traced_for(platform: str) -> Iterator[None]:
    """Trace the programs in the block as for the devices of another platform, with the mesh that is set.

    Such a program may not run here; it can be lowered (`jax.stages.Traced.lower` with `lowering_platforms`).

    Args:
        platform: `cpu`, `gpu` or `tpu`.
    """
    device = AbstractDevice(device_kind=platform, num_cores=None, platform=platform)
    with jax.sharding.use_abstract_mesh(jax.sharding.get_abstract_mesh().update(abstract_device=device)):
        yield
