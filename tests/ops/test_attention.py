"""The choice in use: attention whose logits exceed the limit, cuDNN's over several devices, and keys of all frames."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from show1_jax.config.sampling import SamplingMeshConfig
from show1_jax.config.training import MeshConfig
from show1_jax.ops import choice
from show1_jax.ops.attention import attend, attend_to_shared, plain
from show1_jax.ops.target import traced_for
from show1_jax.parallel import make_mesh
from tests.helpers import cudnn

COLLECTIVE = re.compile(r"\b(all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)\(")


def random(*shape: int, dtype: jax.typing.DTypeLike = jnp.float32) -> Array:
    return jax.random.normal(jax.random.key(len(shape) + shape[1]), shape, dtype)


@pytest.mark.parametrize("frames_at_once", [1, 2])
def test_large_attention_computes_a_few_frames_at_a_time(monkeypatch: pytest.MonkeyPatch, frames_at_once: int) -> None:
    videos, frames, queries, keys, heads = 2, 3, 5, 7, 4
    query, key, value = (random(videos * frames, tokens, heads, 8) for tokens in (queries, keys, keys))
    in_frames = functools.partial(attend, num_frames=frames)

    def has_all_logits() -> bool:
        logits_of_all_frames = f"f32[{videos * frames},{heads},"
        return logits_of_all_frames in str(jax.make_jaxpr(lambda *x: in_frames(*x))(query, key, value))

    whole = in_frames(query, key, value)
    assert has_all_logits()
    monkeypatch.setattr(choice, "MAX_LOGITS_BYTES", 4 * frames_at_once * videos * heads * queries * keys)
    assert not has_all_logits()
    np.testing.assert_allclose(in_frames(query, key, value), whole, atol=1e-6)


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_keys_of_all_frames(monkeypatch: pytest.MonkeyPatch, platform: str) -> None:
    cudnn.emulate(monkeypatch)
    query, key, value = (random(*shape, 2, 8, dtype=jnp.bfloat16) for shape in ((2, 3, 50), (2, 77), (2, 77)))
    with traced_for(platform), jax.numpy_dtype_promotion("standard"):
        program = jax.jit(attend_to_shared)
        calls = program.trace(query, key, value).lower(lowering_platforms=("cuda",)).as_text().count("__cudnn$fmha")
        out = program(query, key, value)
    assert calls == (1 if platform == "gpu" else 0)
    for frame in range(3):
        wide = [x.astype(jnp.float32) for x in (query[:, frame], key, value)]
        expected = plain(wide[0], wide[1], wide[2])
        np.testing.assert_allclose(out[:, frame].astype(jnp.float32), expected, atol=2e-2)


def sharded(mesh: Mesh, spec: PartitionSpec, *arrays: Array) -> list[Array]:
    return [jax.device_put(x, NamedSharding(mesh, spec)) for x in arrays]


def loss(query: Array, key: Array, value: Array) -> Array:
    return jnp.sum(jnp.square(attend(query, key, value, 2).astype(jnp.float32)))


@pytest.mark.parametrize(
    ("mesh", "spec", "with_gradient"),
    [
        (SamplingMeshConfig(data=2, guidance=2), PartitionSpec(("data", "guidance")), False),
        (MeshConfig(data=2, fsdp=2, tensor=2), PartitionSpec(("data", "fsdp"), None, "tensor"), True),
    ],
)
def test_cudnn_keeps_videos_and_heads_sharded(
    monkeypatch: pytest.MonkeyPatch, mesh: SamplingMeshConfig | MeshConfig, spec: PartitionSpec, with_gradient: bool
) -> None:
    """Keys of a text that all devices have would be refused by JAX's own rules."""
    cudnn.emulate(monkeypatch)
    devices = make_mesh(mesh, jax.devices()[: 8 if with_gradient else 4])
    arrays = [random(8, tokens, 2, 8, dtype=jnp.bfloat16) for tokens in (128, 77, 77)]
    function = jax.grad(loss, argnums=(0, 1, 2)) if with_gradient else functools.partial(attend, num_frames=2)
    with jax.numpy_dtype_promotion("standard"):
        expected = jax.tree.leaves(jax.jit(lambda *x: function(*x))(*arrays))
        with jax.set_mesh(devices), traced_for("gpu"):
            query, *rest = sharded(devices, spec, *arrays)
            rest = rest if with_gradient else sharded(devices, PartitionSpec(), *arrays[1:])
            program = jax.jit(function)
            assert "__cudnn$fmha" in program.trace(query, *rest).lower(lowering_platforms=("cuda",)).as_text()
            compiled = program.lower(query, *rest).compile()
            assert not COLLECTIVE.search(str(compiled.as_text()))
            found = jax.tree.leaves(compiled(query, *rest))
    for own, other in zip(found, expected, strict=True):
        assert own.sharding.is_equivalent_to(NamedSharding(devices, spec), 4)
        bound = 2e-2 * float(jnp.abs(other).max())
        np.testing.assert_allclose(own.astype(jnp.float32), other.astype(jnp.float32), atol=bound)


@pytest.mark.parametrize("mesh", [SamplingMeshConfig(height=4), SamplingMeshConfig(guidance=2, height=2)])
def test_cudnn_is_not_used_for_sharded_queries(monkeypatch: pytest.MonkeyPatch, mesh: SamplingMeshConfig) -> None:
    cudnn.emulate(monkeypatch)
    arrays = [random(4, tokens, 2, 8, dtype=jnp.bfloat16) for tokens in (128, 77, 77)]
    with jax.set_mesh(make_mesh(mesh, jax.devices()[:4])), traced_for("gpu"), jax.numpy_dtype_promotion("standard"):
        assert "custom_call" not in jax.jit(attend).trace(*arrays).lower(lowering_platforms=("cuda",)).as_text()
