"""How XLA compiles the programs that run networks."""

import functools
from collections.abc import Callable
from typing import Any, Final

import jax
from jax.sharding import Mesh

from show1_jax.parallel import platform_of

_OPTIONS: Final = {"cpu": {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"}}
"""By platform. On CPUs YNNPACK takes single matrix products, which it does well, and nothing else: its convolutions
take up to twice as long as XLA's own with jax 0.10 (benchmarks/README.md)."""


def compiler_options(platform: str) -> dict[str, str]:
    """What programs of networks for a platform (`jax.Device.platform`) are compiled with, as `jax.jit` takes it."""
    return dict(_OPTIONS[platform]) if _are_known(platform) else {}


@functools.cache
def _are_known(platform: str) -> bool:
    """Whether this XLA has a platform's options: they come and go, and programs are the same without them."""
    if platform not in _OPTIONS:
        return False
    with jax.default_device(jax.local_devices(backend=platform)[0]):
        try:
            jax.jit(lambda: 0, compiler_options=_OPTIONS[platform]).lower().compile()
        except jax.errors.JaxRuntimeError:
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
    return jax.jit(
        functools.partial(function, *bound, **settings), compiler_options=compiler_options(platform_of(mesh))
    )
