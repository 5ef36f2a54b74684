"""I3D: Inception-v1 in 3-D, a classifier of the 400 actions of Kinetics (Carreira & Zisserman 2017, arXiv 1705.07750).

Layers and names are those of DeepMind's published network; the widths of the nine modules are Inception-v1's (Szegedy
et al. 2014, arXiv 1409.4842, table 1). All padding is TensorFlow's `SAME`.
"""

from dataclasses import dataclass, fields
from typing import Final

import jax
import jax.numpy as jnp
from einops import reduce
from flax import nnx
from jaxtyping import Array, Float

from show1_jax.nn.config import Architecture
from show1_jax.nn.layers import Layers

_NORM_EPSILON: Final = 1e-3
_MODULES: Final = ("3b", "3c", "4b", "4c", "4d", "4e", "4f", "5b", "5c")
_POOL_BEFORE: Final = {"3b": (1, 2, 2), "4b": (2, 2, 2), "5b": (2, 2, 2)}
"""Strides in time, height and width of the max pools, by the module that follows."""
_POOL_WINDOW: Final = {"3b": (1, 3, 3), "4b": (3, 3, 3), "5b": (2, 2, 2)}


@dataclass(frozen=True)
class I3DConfig(Architecture):
    """The widths of I3D, by default those of the published network.

    `branch_*` have one entry for each of the nine modules, 3b to 5c. Branches 1 and 2 are a 1x1x1 (a) and a 3x3x3
    convolution (b), branch 3 is a max pool and a 1x1x1 convolution (b).
    """

    num_classes: int = 400
    stem_channels: tuple[int, ...] = (64, 64, 192)
    branch_0: tuple[int, ...] = (64, 128, 192, 160, 128, 112, 256, 256, 384)
    branch_1a: tuple[int, ...] = (96, 128, 96, 112, 128, 144, 160, 160, 192)
    branch_1b: tuple[int, ...] = (128, 192, 208, 224, 256, 288, 320, 320, 384)
    branch_2a: tuple[int, ...] = (16, 32, 16, 24, 24, 32, 32, 32, 48)
    branch_2b: tuple[int, ...] = (32, 96, 48, 64, 64, 64, 128, 128, 128)
    branch_3b: tuple[int, ...] = (32, 64, 64, 64, 64, 64, 128, 128, 128)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(len(self.stem_channels) == 3, "stem_channels needs 3 entries")
        for field in fields(self):
            if field.name.startswith("branch_"):
                count = len(getattr(self, field.name))
                self._require(count == len(_MODULES), f"{field.name} has {count} entries for {len(_MODULES)} modules")


class ConvUnit(nnx.Module):
    """A 3-D convolution without bias, batch norm without scale, ReLU."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, make: Layers, stride: int = 1):
        self.conv = make.conv3d(in_channels, out_channels, kernel, stride=stride, bias=False)
        self.norm = make.batch_norm(out_channels, _NORM_EPSILON, scale=False)

    def __call__(self, x: Float[Array, "b t h w c"]) -> Float[Array, "b _ _ _ d"]:
        return jax.nn.relu(self.norm(self.conv(x)))


class InceptionModule(nnx.Module):
    """Four branches over the same input, concatenated: 1x1x1, 3x3x3 twice, and a max pool with 1x1x1."""

    def __init__(self, config: I3DConfig, index: int, in_channels: int, make: Layers):
        self.branch_0 = ConvUnit(in_channels, config.branch_0[index], 1, make)
        self.branch_1a = ConvUnit(in_channels, config.branch_1a[index], 1, make)
        self.branch_1b = ConvUnit(config.branch_1a[index], config.branch_1b[index], 3, make)
        self.branch_2a = ConvUnit(in_channels, config.branch_2a[index], 1, make)
        self.branch_2b = ConvUnit(config.branch_2a[index], config.branch_2b[index], 3, make)
        self.branch_3b = ConvUnit(in_channels, config.branch_3b[index], 1, make)

    def __call__(self, x: Float[Array, "b t h w c"]) -> Float[Array, "b t h w d"]:
        branches = [
            self.branch_0(x),
            self.branch_1b(self.branch_1a(x)),
            self.branch_2b(self.branch_2a(x)),
            self.branch_3b(max_pool(x, (3, 3, 3), (1, 1, 1))),
        ]
        return jnp.concatenate(branches, axis=-1)


class I3D(nnx.Module):
    """The classifier of clips; metrics compare its logits.

    Example:
        >>> logits = network(clips)  # (b 400) of (b 16 224 224 3) in [-1, 1]
    """

    def __init__(self, config: I3DConfig, make: Layers):
        first, second, third = config.stem_channels
        self.conv3d_1a_7x7 = ConvUnit(3, first, 7, make, stride=2)
        self.conv3d_2b_1x1 = ConvUnit(first, second, 1, make)
        self.conv3d_2c_3x3 = ConvUnit(second, third, 3, make)
        channels = third
        for index, name in enumerate(_MODULES):
            setattr(self, f"mixed_{name}", InceptionModule(config, index, channels, make))
            channels = sum(
                getattr(config, branch)[index] for branch in ("branch_0", "branch_1b", "branch_2b", "branch_3b")
            )
        self.logits = make.linear(channels, config.num_classes)
        self.dtype = make.dtype

    def __call__(self, video: Float[Array, "b t h w 3"]) -> Float[Array, "b classes"]:
        """Return the logits, averaged over time, in float32.

        Args:
            video: at least 9 frames of 224x224, RGB in [-1, 1].
        """
        x = self.conv3d_1a_7x7(video.astype(self.dtype))
        x = max_pool(x, (1, 3, 3), (1, 2, 2))
        x = self.conv3d_2c_3x3(self.conv3d_2b_1x1(x))
        for name in _MODULES:
            if name in _POOL_BEFORE:
                x = max_pool(x, _POOL_WINDOW[name], _POOL_BEFORE[name])
            x = getattr(self, f"mixed_{name}")(x)
        pixels = reduce(x, "b t h w c -> b t c", "mean")
        pairs = (pixels[:, :-1] + pixels[:, 1:]) / 2  # the published average pool, of 2 x 7 x 7 positions
        return self.logits(pairs).astype(jnp.float32).mean(axis=1)


def max_pool(
    x: Float[Array, "b t h w c"], window: tuple[int, int, int], strides: tuple[int, int, int]
) -> Float[Array, "b _ _ _ c"]:
    """Return the maxima over windows in time, height and width; padding is `SAME` and never a maximum.

    Axis by axis, which gives the same maxima: 45 ms become 1.3 ms on a CPU, for 3x3x3 windows of 8 frames of 28x28.
    """
    for axis in range(3):
        size, stride = ([1, 1, 1] for _ in range(2))
        size[axis], stride[axis] = window[axis], strides[axis]
        x = nnx.max_pool(x, tuple(size), tuple(stride), "SAME")
    return x
