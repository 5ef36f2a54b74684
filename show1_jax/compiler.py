"""How XLA compiles the programs that run networks."""

import functools
import os
from collections.abc import Callable
from typing import Any, Final

import jax
from jax.sharding import Mesh

_OPTIONS: Final = {"cpu": {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"}}
"""By platform. On CPUs YNNPACK gets single matrix products and nothing else: the convolutions and sums that it has by
default with jax 0.10 are slower than XLA's own (benchmarks/README.md)."""


def compiler_options(platform: str) -> dict[str, str]:
    """What UNets and autoencoders are compiled with on a platform (`jax.Device.platform`), as `jax.jit` takes it.

    What a person says in XLA_FLAGS of an option stays.
    """
    asked = os.environ.get("XLA_FLAGS", "")
    options = {name: value for name, value in _OPTIONS.get(platform, {}).items() if f"--{name}=" not in asked}
    return {name: value for name, value in options.items() if _is_known(platform, name, value)}


@functools.cache
def _is_known(platform: str, name: str, value: str) -> bool:
    """Whether this XLA has an option: they come and go, and without them programs are slower but not wrong."""
    with jax.default_device(jax.local_devices(backend=platform)[0]):
        try:
            jax.jit(lambda: 0, compiler_options={name: value}).lower().compile()
        except jax.errors.JaxRuntimeError as error:
            if name not in str(error):
                raise
            return False
    return True


@functools.lru_cache(maxsize=64)
def network_program(function: Callable[..., Any], mesh: Mesh, *bound: Any, **settings: Any) -> Any:
    """`function` with its first arguments bound, jitted for the devices of a mesh: one program, whoever asks.

    Args:
        function: pure; its arrays come after what is bound.
        mesh: of the devices that it runs on.
        bound: first arguments, the network's structure (`nnx.split`) among them.
        settings: keyword arguments.
    """
    program = functools.partial(function, *bound, **settings)
    return jax.jit(program, compiler_options=compiler_options(mesh.devices.flat[0].platform))
