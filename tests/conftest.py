"""Shared fixtures. The device count is set before the backend starts: sharding is tested on eight CPU devices."""

import os
from collections.abc import Iterator
from pathlib import Path

# Tests compile for longer than they compute, so the compiler is told not to optimise. XLA's older emitter of fusions
# compiles twice as fast; the option is ignored by releases of XLA that have only one.
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_backend_optimization_level=0",
        "--xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters",
        "--xla_force_host_platform_device_count=8",
    ]
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np
import pytest
from hypothesis import settings
from safetensors.numpy import load_file

from tests.helpers import type_checks

type_checks.install()

from show1_jax import runtime
from show1_jax.cascade.cascade import Cascade
from show1_jax.checkpoints.random import write_random_checkpoint
from tests.helpers import tiny_config
from tests.helpers.buckets import gcs_server, quick_retries, s3_server
from tests.helpers.gcs_server import GcsServer
from tests.helpers.recorded import RecordedRun

jax.config.update("jax_numpy_dtype_promotion", "strict")
# Hypothesis fails examples that take 0.2 s; machines differ. `python -m tests.fuzz` tries thousands of files.
settings.register_profile("untimed", deadline=None, max_examples=50)
settings.load_profile("untimed")

GOLDEN = Path(__file__).parent / "golden"
LONG = (
    "test_training_run.py",
    "test_training_run_meshes.py",
    "test_training_run_buckets.py",
    "test_launch.py",
    "test_supervision.py",
    "test_sharding.py",
    "test_cascade_parity.py",
    "test_demo.py",
    "test_networks.py",
    "test_notebook.py",
    "test_package.py",
    "test_page_browser.py",
    "test_run_directory.py",
    "test_server.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first, so that none is left to one process at the end."""
    items.sort(key=lambda item: item.path.name not in LONG)


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of the recorded run: `checkpoints/`, `trace.safetensors`, `trace.json`."""
    return GOLDEN


@pytest.fixture(scope="session")
def trace() -> dict[str, np.ndarray]:
    """Every tensor of the recorded run by name, in PyTorch's layout (batch, channel, frame, height, width)."""
    return load_file(GOLDEN / "trace.safetensors")


@pytest.fixture(scope="session")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recorded run's released folders, converted by the production converter: a checkpoint of all five stages."""
    from convert.convert import convert
    from convert.released import RELEASED_STAGES

    out = tmp_path_factory.mktemp("checkpoints") / "golden"
    convert(out, {name: str(GOLDEN / "checkpoints" / stage.folder) for name, stage in RELEASED_STAGES.items()})
    return out


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights for `tiny_config`."""
    config = tiny_config.settings()
    out = tmp_path_factory.mktemp("checkpoints") / "tiny"
    write_random_checkpoint(out, config.architecture, config.schedulers)
    return out


@pytest.fixture(scope="session")
def gcs_session() -> Iterator[GcsServer]:
    """A server of `gs://tests`."""
    with gcs_server() as server:
        yield server


@pytest.fixture
def gcs(gcs_session: GcsServer) -> Iterator[GcsServer]:
    """The server of `gs://tests`, without objects and faults, whose requests are repeated at once and not for long."""
    gcs_session.reset()
    with quick_retries():
        yield gcs_session


@pytest.fixture(scope="session")
def s3_session() -> Iterator[str]:
    """The address of a server of `s3://tests`."""
    with s3_server() as address:
        yield address


@pytest.fixture(scope="session")
def run(golden: Path, trace: dict[str, np.ndarray]) -> RecordedRun:
    """The recorded run in our layout and under our names."""
    return RecordedRun(golden, trace)


@pytest.fixture(scope="module")
def _compiled_as_shipped() -> Iterator[None]:
    """Compile the networks of a file of tests as users' are, for comparisons with the original.

    It takes longer to compile, and a third of the time to compute.
    """
    options = runtime._OPTIONS["cpu"] | {"xla_backend_optimization_level": "3", "xla_backend_extra_options": ""}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runtime, "compiler_options", lambda platform: options)
        runtime.network_program.cache_clear()
        yield
    runtime.network_program.cache_clear()


@pytest.fixture(scope="session")
def cascade(converted: Path, run: RecordedRun) -> Cascade:
    """The converted checkpoint with the recorded run's settings, on one device."""
    return Cascade.load(converted, run.config(), devices=jax.devices()[:1])
