"""The kind of device that a program is traced for."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest
from jax._src.cudnn import fused_attention_stablehlo as fused
from jaxtyping import Array

from show1_jax.config.sampling import SamplingMeshConfig
from show1_jax.ops import target
from show1_jax.ops.target import Target, current_target, has_cudnn_attention, traced_for
from show1_jax.parallel import make_mesh


def test_without_a_mesh_it_is_the_default_device() -> None:
    assert current_target().platform == jax.default_backend()


def test_it_is_the_mesh_s_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    assert current_target() == Target("tpu")
    with jax.set_mesh(make_mesh(SamplingMeshConfig(), jax.devices("cpu")[:1])):
        assert current_target() == Target("cpu")


@pytest.mark.parametrize("sizes", [None, {"data": 1}, {"data": 2, "height": 2}])
def test_programs_are_traced_for_another_platform(
    monkeypatch: pytest.MonkeyPatch, sizes: dict[str, int] | None
) -> None:
    monkeypatch.setattr(target, "has_cudnn_attention", lambda: True)
    seen: list[tuple[Target, int]] = []

    @jax.jit
    def program(x: Array) -> Array:
        seen.append((current_target(), jax.sharding.get_abstract_mesh().size))
        return x

    mesh = (
        None if sizes is None else make_mesh(SamplingMeshConfig(**sizes), jax.devices()[: np.prod([*sizes.values()])])
    )
    size = 0 if mesh is None else mesh.size
    if mesh is not None:
        with jax.set_mesh(mesh):
            trace_for_all(program)
    else:
        trace_for_all(program)
    own = Target(jax.default_backend(), has_cudnn=jax.default_backend() == "gpu")
    assert seen == [(own, size), (Target("gpu", has_cudnn=True), size), (Target("tpu"), size)]


def trace_for_all(program: jax.stages.Wrapped) -> None:
    x = np.zeros(8, np.float32)
    program.trace(x)
    for platform in ("gpu", "tpu"):
        with traced_for(platform):
            program.trace(x)
    program.trace(x)  # traced before, so the programs for the others did not take its place


@pytest.mark.parametrize(
    ("version", "capability", "has_it"),
    [
        (91000, "9.0", True),
        (91000, "8.0", True),
        (91000, "12.1", True),
        (91000, "7.5", False),
        (91000, "gfx942", False),
        (91000, None, True),
        (None, "9.0", False),
        (None, None, False),
    ],
)
def test_cudnn_is_found(
    monkeypatch: pytest.MonkeyPatch, version: int | None, capability: str | None, has_it: bool
) -> None:
    def check_version() -> int:
        if version is None:
            raise RuntimeError("cuDNN is not detected.")
        return version

    def local_devices(backend: str) -> list[SimpleNamespace]:
        if capability is None:
            raise RuntimeError(f"Unknown backend {backend}")
        return [SimpleNamespace(compute_capability=capability)]

    monkeypatch.setattr(fused, "check_cudnn_version", check_version)
    monkeypatch.setattr(jax, "local_devices", local_devices)
    assert has_cudnn_attention.__wrapped__() == has_it
