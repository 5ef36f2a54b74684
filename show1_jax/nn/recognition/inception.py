"""Inception v3 (Szegedy et al. 2016, arXiv 1512.00567) as the Fréchet Inception Distance uses it.

This is the TensorFlow graph of 2015-12-05 with which FID was published (Heusel et al. 2017, arXiv 1706.08500), as
ported to PyTorch by pytorch-fid. It differs from torchvision's network of the same layers: average pools leave out the
padding, the last block has a max pool, and there are 1008 classes. Layers have torchvision's names, in lower case.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from show1_jax.nn.config import Architecture
from show1_jax.nn.layers import Layers

SIDE: Final = 299
"""Height and width of the input."""

_NORM_EPSILON: Final = 1e-3
_NO_PADDING: Final = ((0, 0), (0, 0))

Pool = Literal["average", "max", "stride"]
"""The pool beside a block's convolutions: 3x3 with the block's size, or a 3x3 max pool that halves it."""


class Conv(NamedTuple):
    """A convolution of a branch.

    Attributes:
        channels: channels of its output.
        kernel: height and width of the kernel. "cross" stands for 1x3 and 3x1 side by side, both with `channels`.
        stride: 2 halves height and width, without padding; otherwise the input is padded to keep them.
    """

    channels: int
    kernel: int | tuple[int, int] | Literal["cross"] = 1
    stride: int = 1


Branches = Mapping[str, Sequence[Conv]]


def _block_35(pool_channels: int) -> Branches:
    return {
        "branch1x1": (Conv(64),),
        "branch5x5": (Conv(48), Conv(64, 5)),
        "branch3x3dbl": (Conv(64), Conv(96, 3), Conv(96, 3)),
        "branch_pool": (Conv(pool_channels),),
    }


def _block_17(inner: int) -> Branches:
    wide, tall = (1, 7), (7, 1)
    return {
        "branch1x1": (Conv(192),),
        "branch7x7": (Conv(inner), Conv(inner, wide), Conv(192, tall)),
        "branch7x7dbl": (Conv(inner), Conv(inner, tall), Conv(inner, wide), Conv(inner, tall), Conv(192, wide)),
        "branch_pool": (Conv(192),),
    }


_BLOCK_8: Final[Branches] = {
    "branch1x1": (Conv(320),),
    "branch3x3": (Conv(384), Conv(384, "cross")),
    "branch3x3dbl": (Conv(448), Conv(384, 3), Conv(384, "cross")),
    "branch_pool": (Conv(192),),
}

_BLOCKS: Final[Mapping[str, tuple[Branches, Pool]]] = {
    "mixed_5b": (_block_35(32), "average"),
    "mixed_5c": (_block_35(64), "average"),
    "mixed_5d": (_block_35(64), "average"),
    "mixed_6a": (
        {"branch3x3": (Conv(384, 3, 2),), "branch3x3dbl": (Conv(64), Conv(96, 3), Conv(96, 3, 2))},
        "stride",
    ),
    "mixed_6b": (_block_17(128), "average"),
    "mixed_6c": (_block_17(160), "average"),
    "mixed_6d": (_block_17(160), "average"),
    "mixed_6e": (_block_17(192), "average"),
    "mixed_7a": (
        {
            "branch3x3": (Conv(192), Conv(320, 3, 2)),
            "branch7x7x3": (Conv(192), Conv(192, (1, 7)), Conv(192, (7, 1)), Conv(192, 3, 2)),
        },
        "stride",
    ),
    "mixed_7b": (_BLOCK_8, "average"),
    "mixed_7c": (_BLOCK_8, "max"),
}
"""Branches and pool of the blocks, in order; features are 35x35, from 6a on 17x17, and from 7a on 8x8."""


@dataclass(frozen=True)
class InceptionV3Config(Architecture):
    """The widths of Inception v3, by default those of the published network.

    Attributes:
        num_classes: number of classes.
        channel_divisor: divisor of all channels; only networks of tests have another than 1.
    """

    num_classes: int = 1008
    channel_divisor: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(16 % self.channel_divisor == 0, f"channel_divisor={self.channel_divisor} does not divide 16")


class ConvUnit(nnx.Module):
    """A convolution without bias, batch norm, ReLU."""

    def __init__(self, in_channels: int, conv: Conv, make: Layers, *, padded: bool = True):
        assert conv.kernel != "cross"
        padding = None if padded and conv.stride == 1 else _NO_PADDING
        self.conv = make.conv(in_channels, conv.channels, conv.kernel, stride=conv.stride, padding=padding, bias=False)
        self.bn = make.batch_norm(conv.channels, _NORM_EPSILON)

    def __call__(self, x: Float[Array, "n _ _ c"]) -> Float[Array, "n _ _ d"]:
        return jax.nn.relu(self.bn(self.conv(x)))


class CrossUnit(nnx.Module):
    """A 1x3 and a 3x1 convolution over the same input, concatenated."""

    def __init__(self, in_channels: int, channels: int, make: Layers):
        self.a = ConvUnit(in_channels, Conv(channels, (1, 3)), make)
        self.b = ConvUnit(in_channels, Conv(channels, (3, 1)), make)

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w d"]:
        return jnp.concatenate([self.a(x), self.b(x)], axis=-1)


class InceptionBlock(nnx.Module):
    """Branches over the same input, concatenated; the layers of a branch have its name and their number."""

    def __init__(self, in_channels: int, branches: Branches, pool: Pool, divisor: int, make: Layers):
        self.pool = pool
        self.branches = tuple(
            (branch, (branch,) if len(convs) == 1 else tuple(f"{branch}_{n}" for n in range(1, len(convs) + 1)))
            for branch, convs in branches.items()
        )
        self.out_channels = in_channels if pool == "stride" else 0
        for branch, names in self.branches:
            channels = in_channels
            for name, conv in zip(names, branches[branch], strict=True):
                width = conv.channels // divisor
                if conv.kernel == "cross":
                    setattr(self, name, CrossUnit(channels, width, make))
                    channels = 2 * width
                else:
                    setattr(self, name, ConvUnit(channels, conv._replace(channels=width), make))
                    channels = width
            self.out_channels += channels

    def __call__(self, x: Float[Array, "n _ _ c"]) -> Float[Array, "n _ _ d"]:
        outputs = []
        for branch, names in self.branches:
            output = self._pooled(x) if branch == "branch_pool" else x
            for name in names:
                output = getattr(self, name)(output)
            outputs.append(output)
        if self.pool == "stride":
            outputs.append(max_pool(x))
        return jnp.concatenate(outputs, axis=-1)

    def _pooled(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        if self.pool == "max":
            return nnx.max_pool(x, (3, 3), (1, 1), "SAME")
        return nnx.avg_pool(x, (3, 3), (1, 1), "SAME", count_include_pad=False)


class InceptionV3(nnx.Module):
    """The network up to its last pool.

    Example:
        >>> features = network(images)  # (n 2048) of (n 299 299 3), RGB in [-1, 1]
    """

    def __init__(self, config: InceptionV3Config, make: Layers):
        divisor = config.channel_divisor

        def unit(in_channels: int, channels: int, kernel: int, stride: int = 1, *, padded: bool = False) -> ConvUnit:
            inputs = in_channels if in_channels == 3 else in_channels // divisor
            return ConvUnit(inputs, Conv(channels // divisor, kernel, stride), make, padded=padded)

        self.conv2d_1a_3x3 = unit(3, 32, 3, 2)
        self.conv2d_2a_3x3 = unit(32, 32, 3)
        self.conv2d_2b_3x3 = unit(32, 64, 3, padded=True)
        self.conv2d_3b_1x1 = unit(64, 80, 1)
        self.conv2d_4a_3x3 = unit(80, 192, 3)
        channels = 192 // divisor
        for name, (branches, pool) in _BLOCKS.items():
            block = InceptionBlock(channels, branches, pool, divisor, make)
            setattr(self, name, block)
            channels = block.out_channels
        # The classifier: features do not need it, but its shape tells this network from torchvision's.
        self.fc = make.linear(channels, config.num_classes)

    def __call__(self, x: Float[Array, "n h w 3"]) -> Float[Array, "n d"]:
        """Return the features behind the last pool, `pool3`."""
        x = max_pool(self.conv2d_2b_3x3(self.conv2d_2a_3x3(self.conv2d_1a_3x3(x))))
        x = max_pool(self.conv2d_4a_3x3(self.conv2d_3b_1x1(x)))
        for name in _BLOCKS:
            x = getattr(self, name)(x)
        return x.astype(jnp.float32).mean(axis=(1, 2))


def max_pool(x: Float[Array, "n _ _ c"]) -> Float[Array, "n _ _ c"]:
    """Return the maxima of 3x3 windows with stride 2, without padding."""
    return nnx.max_pool(x, (3, 3), (2, 2), "VALID")
