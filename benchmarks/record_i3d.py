"""Record the logits of i3d-jax's own network (Flax Linen) with a sixteenth of the channels and random weights.

Run once, by hand, with `i3d-jax` installed: `python benchmarks/record_i3d.py`. It writes `tests/golden/i3d`: weights
as `thin.ckpt`, in the form of the published file, and `logits.safetensors`, by number of frames. The network's source
fixes all channels, so its layer is replaced by one that divides them.
"""

import pickle
from pathlib import Path
from typing import Any, Final

import flax
import i3d_jax.i3d
import jax
import numpy as np
from safetensors.numpy import save_file

FOLDER: Final = Path(__file__).parents[1] / "tests/golden/i3d"
DIVISOR: Final = 16
FRAMES: Final = (10, 16)


def clip(frames: int) -> np.ndarray:
    """Return a clip of noise in [-1, 1], as a batch of one."""
    pixels = np.random.RandomState(frames).randint(0, 256, (1, frames, 224, 224, 3))
    return (2 * pixels.astype(np.float32) / 255 - 1).astype(np.float32)


def random_weight(rng: np.random.RandomState, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return a weight that keeps the scale of activations, with all parts of the norms in use."""
    if name == "var":
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    scale = np.sqrt(2 / np.prod(shape[:-1])) if name == "kernel" else 0.3
    return (scale * rng.standard_normal(shape)).astype(np.float32)


def main() -> None:
    """Write the recording."""
    unit = i3d_jax.i3d.Unit3D
    thin: Any = lambda output_channels, **options: unit(output_channels=output_channels // DIVISOR, **options)  # noqa: E731
    i3d_jax.i3d.Unit3D = thin
    network = i3d_jax.i3d.InceptionI3d()
    shapes = jax.eval_shape(network.init, jax.random.key(0), clip(FRAMES[0]))
    rng = np.random.RandomState(0)
    flat = {path: random_weight(rng, path[-1], leaf.shape) for path, leaf in flatten(shapes).items()}
    variables = flax.traverse_util.unflatten_dict(flat)
    logits = {str(frames): np.asarray(network.apply(variables, clip(frames))[0]) for frames in FRAMES}
    save_file(logits, FOLDER / "logits.safetensors")
    # The published file has statistics with all axes of the network's arrays.
    published = {path: a[None, None, None, None] if path[0] == "batch_stats" else a for path, a in flat.items()}
    (FOLDER / "thin.ckpt").write_bytes(pickle.dumps(flax.traverse_util.unflatten_dict(published), 4))


def flatten(tree: Any) -> dict[tuple[str, ...], Any]:
    """Return the leaves of nested dicts by path, in alphabetical order."""
    return dict(sorted(flax.traverse_util.flatten_dict(tree).items()))


if __name__ == "__main__":
    main()
