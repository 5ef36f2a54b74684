"""The variants of attention, group norm and quantile, one by one, at the shapes of the full cascade."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.accelerator.setting import Setting, milliseconds
from benchmarks.accelerator.steps import Results
from benchmarks.reference import relative_difference
from benchmarks.sampling import timed
from show1_jax.ops import attention, group_norm, quantile


class Attention(NamedTuple):
    """Rows (frames of all videos) that attend from `queries` tokens to `keys`; `frames` is the frames of a video."""

    rows: int
    frames: int
    queries: int
    keys: int
    heads: int
    width: int


ATTENTIONS: Final = {
    "latent, level 1, pixels": Attention(58, 29, 2880, 2880, 5, 64),
    "latent, level 2, pixels": Attention(58, 29, 720, 720, 10, 64),
    "latent, level 3, pixels": Attention(58, 29, 180, 180, 20, 64),
    "latent, level 1, text": Attention(58, 29, 2880, 77, 5, 64),
    "latent, level 1, frames": Attention(5760, 1, 29, 29, 5, 64),
    "keyframes, text and pixels": Attention(16, 8, 640, 717, 10, 64),
    "keyframes, frames": Attention(1280, 1, 8, 8, 64, 10),
    "interpolation, level 2, frames": Attention(8960, 1, 5, 5, 64, 10),
    "interpolation, level 3, frames": Attention(2240, 1, 5, 5, 64, 15),
    "pixel SR, frames": Attention(1280, 1, 8, 8, 64, 18),
}
"""Attentions of the full cascade with guidance."""
NORMS: Final = {
    "pixel SR, level 1, a frame": (16, 40960, 192),
    "pixel SR, level 2, a frame": (16, 10240, 384),
    "pixel SR, level 1, a video": (2, 327680, 192),
    "keyframes, level 3, a video": (2, 5120, 1280),
}
"""Group norms with SiLU: batch, pixels, channels."""
QUANTILES: Final = {"pixel SR": (8, 160, 256, 3), "keyframes": (8, 40, 64, 3)}
"""Thresholds: frames, height, width, channels."""
GROUPS: Final = 32
SHARE: Final = 0.95
CALLS: Final = 10
"""Calls that are timed together on accelerators, where a single one is shorter than its start from Python."""
_CPU_DIVISOR: Final = 16
"""On CPUs, rows and pixels are fewer by this factor: the variants are run there, and not chosen."""


def attentions(setting: Setting) -> Results:
    """Measure all variants of attention."""
    for place, shape in ATTENTIONS.items():
        if setting.platform == "cpu":
            rows = max(shape.rows // shape.frames // _CPU_DIVISOR, 1) * shape.frames
            queries, keys = (max(tokens // _CPU_DIVISOR, min(tokens, 8)) for tokens in (shape.queries, shape.keys))
            shape = shape._replace(rows=rows, queries=queries, keys=keys)
        sizes = [(shape.rows, tokens, shape.heads, shape.width) for tokens in (shape.queries, shape.keys, shape.keys)]
        arrays = [_draw(setting, number, size) for number, size in enumerate(sizes)]
        size = f"{shape.rows} x {shape.queries} to {shape.keys}, {shape.heads} heads of {shape.width}"
        calls: dict[str, Callable[..., Any]] = {
            name: functools.partial(run, num_frames=shape.frames)
            for name, run in attention.VARIANTS.items()
            if name != "elementwise" or max(shape.queries, shape.keys) <= 32  # it has all products in memory
        }
        yield from _measure(setting, "Attention, variants", place, size, calls, arrays)


def norms(setting: Setting) -> Results:
    """Measure all variants of a group norm followed by SiLU."""
    for place, (batch, pixels, channels) in NORMS.items():
        if setting.platform == "cpu":
            pixels //= _CPU_DIVISOR
        sizes = ((batch, pixels, channels), (channels,), (channels,))
        arrays = [_draw(setting, number, size) for number, size in enumerate(sizes)]

        def norm_and_silu(run: Callable[..., Any], x: Any, scale: Any, bias: Any) -> Any:
            return jax.nn.silu(run(x, scale, bias, GROUPS, 1e-5))

        calls: dict[str, Callable[..., Any]] = {
            name: functools.partial(norm_and_silu, run) for name, run in group_norm.VARIANTS.items()
        }
        yield from _measure(
            setting, "Group norm with SiLU, variants", place, f"{batch} x {pixels} x {channels}", calls, arrays
        )


def quantiles(setting: Setting) -> Results:
    """Measure all variants of the quantile of dynamic thresholding, which is in float32."""
    for place, size in QUANTILES.items():
        x = jnp.asarray(np.random.default_rng(0).standard_normal(size, np.float32))
        calls: dict[str, Callable[..., Any]] = {
            name: functools.partial(run, share=SHARE) for name, run in quantile.VARIANTS.items()
        }
        yield from _measure(setting, "Threshold, variants", place, " x ".join(map(str, size)), calls, [x])


def _measure(
    setting: Setting,
    title: str,
    place: str,
    size: str,
    calls: Mapping[str, Callable[..., Any]],
    arrays: list[jax.Array],
) -> Results:
    """Time the variants of a call; a variant that this device does not run has its reason in place of a time."""
    reference: np.ndarray | None = None
    times = 1 if setting.platform == "cpu" else CALLS
    for name, call in calls.items():
        row = {"where": place, "size": size, "variant": name}
        try:
            compiled = jax.jit(call).lower(*arrays).compile()
            result = np.asarray(compiled(*arrays), np.float32)
            seconds = timed(lambda: [compiled(*arrays) for _ in range(times)], 3)  # noqa: B023
        except (jax.errors.JaxRuntimeError, ValueError, RuntimeError, NotImplementedError) as error:
            yield title, row | {"ms": f"does not run: {' '.join(str(error).split())[:80]}"}
            continue
        reference = result if reference is None else reference
        difference = relative_difference(result, reference)
        yield title, row | {"ms": milliseconds([each / times for each in seconds]), "difference": difference}


def _draw(setting: Setting, seed: int, shape: tuple[int, ...]) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape, np.float32), setting.spec.dtype)
