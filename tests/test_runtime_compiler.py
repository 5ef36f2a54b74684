from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf

from show1_jax import runtime
from show1_jax.config.sampling import MeshConfig
from show1_jax.nn.layers import exact_gelu
from show1_jax.parallel import make_mesh
from show1_jax.training import step
from tests.helpers import tiny_runs

UNKNOWN = {"xla_no_such_option": "1"}


@pytest.fixture(autouse=True)
def _nothing_remembered() -> Iterator[None]:
    def forget() -> None:
        runtime._is_known_option.cache_clear()
        runtime.network_program.cache_clear()

    forget()
    yield
    forget()


@pytest.fixture
def mesh() -> jax.sharding.Mesh:
    return make_mesh(MeshConfig(), jax.devices()[:1])


def test_programs_for_cpus_have_options_that_this_xla_knows() -> None:
    assert runtime.compiler_options("cpu") == runtime._OPTIONS["cpu"]


def test_programs_for_gpus_that_are_not_here_have_their_options() -> None:
    assert runtime.compiler_options("gpu") == runtime._OPTIONS["gpu"]


def test_programs_for_tpus_are_compiled_as_xla_would() -> None:
    assert runtime.compiler_options("tpu") == {}


def test_an_option_that_the_user_sets_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    (name,) = runtime._OPTIONS["cpu"]
    monkeypatch.setenv("XLA_FLAGS", f"--xla_dump_to=x --{name}=")
    assert runtime.compiler_options("cpu") == {}


@pytest.mark.parametrize("options", [UNKNOWN, {"xla_cpu_experimental_ynn_fusion_type": "NO_SUCH"}])
def test_options_that_xla_no_longer_knows_are_left_out(
    monkeypatch: pytest.MonkeyPatch, mesh: jax.sharding.Mesh, options: dict[str, str]
) -> None:
    monkeypatch.setattr(runtime, "_OPTIONS", {"cpu": options})
    assert runtime.compiler_options("cpu") == {}
    assert runtime.network_program(jax.lax.add, mesh)(1.0, 2.0) == 3.0


def test_network_programs_are_compiled_with_the_options(
    monkeypatch: pytest.MonkeyPatch, mesh: jax.sharding.Mesh
) -> None:
    monkeypatch.setattr(runtime, "compiler_options", lambda platform: UNKNOWN)
    with pytest.raises(jax.errors.JaxRuntimeError, match="xla_no_such_option"):
        runtime.network_program(jax.lax.add, mesh)(1.0, 2.0)


def test_steps_of_training_are_compiled_with_the_options(
    monkeypatch: pytest.MonkeyPatch, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    monkeypatch.setattr(step, "compiler_options", lambda platform: UNKNOWN)
    config = tiny_runs.settings(tiny_checkpoint, "autoencoder")
    run = tiny_runs.run_of(config, "autoencoder", tmp_path / "run")
    with pytest.raises(jax.errors.JaxRuntimeError, match="xla_no_such_option"):
        run.train_step(run.next_batch())
    with pytest.raises(jax.errors.JaxRuntimeError, match="xla_no_such_option"):
        run.evaluate()
    run.close()


def test_equal_arguments_give_the_same_network_program(mesh: jax.sharding.Mesh) -> None:
    def scaled(factor: float, x: jax.Array, *, offset: float) -> jax.Array:
        return factor * x + offset

    program = runtime.network_program(scaled, mesh, 2.0, offset=1.0)
    assert program is runtime.network_program(scaled, mesh, 2.0, offset=1.0)
    assert program is not runtime.network_program(scaled, mesh, 3.0, offset=1.0)
    np.testing.assert_array_equal(program(jnp.arange(3.0)), [1, 3, 5])


def test_a_program_is_compiled_once_for_weights_in_the_layouts_that_the_compiler_chooses(
    mesh: jax.sharding.Mesh,
) -> None:
    def scaled(weights: jax.Array, x: jax.Array) -> jax.Array:
        return weights * x

    program = runtime.network_program(scaled, mesh)
    ahead = runtime.with_weight_formats(program, "cpu", 2)
    assert ahead is runtime.with_weight_formats(program, "cpu", 2)
    compiled = ahead.lower(jnp.ones(3), jnp.ones(3)).compile()
    formats = runtime.weight_formats(compiled)
    given = runtime.with_weight_formats(program, "cpu", 2, formats)
    assert given is runtime.with_weight_formats(program, "cpu", 2, formats)
    assert given is not ahead
    np.testing.assert_array_equal(compiled(jax.device_put(jnp.full(3, 2.0), formats), jnp.ones(3)), [2, 2, 2])
    assert runtime.takes_arguments(compiled, (None, jnp.ones(3)))
    assert not runtime.takes_arguments(compiled, (None, jnp.ones(4)))
    donating = runtime.with_weight_formats(program, "cpu", 2, donated=(1,))
    assert donating is not ahead
    donated = jnp.ones(3)
    donating.lower(jnp.ones(3), donated).compile()(jax.device_put(jnp.ones(3), formats), donated)
    assert donated.is_deleted()
    with pytest.raises(jax.errors.JaxRuntimeError, match="no_such_option"):
        runtime.with_weight_formats(program, "cpu", 2, more_options={"no_such_option": 1}).lower(
            jnp.ones(3), jnp.ones(3)
        ).compile()


def test_gelu_is_the_one_of_erf() -> None:
    x = np.linspace(-12, 12, 4801)
    expected = 0.5 * x * (1 + erf(x / np.sqrt(2)))
    np.testing.assert_allclose(exact_gelu(jnp.asarray(x, jnp.float32)), expected, rtol=1e-6, atol=1e-6)


def test_gelu_of_bfloat16_is_that_of_float32_rounded() -> None:
    x = jnp.linspace(-6, 6, 2001, dtype=jnp.bfloat16)
    expected = exact_gelu(x.astype(jnp.float32)).astype(jnp.bfloat16)
    np.testing.assert_array_equal(exact_gelu(x), expected)
