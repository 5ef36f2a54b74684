"""C3D (Tran et al. 2015, arXiv 1412.0767), whose classes of UCF-101 give the Inception Score of videos.

Layers and names are those of the network that TGAN (Saito et al. 2017, arXiv 1611.06624) published: pre-trained on
Sports-1M, fine-tuned on UCF-101.
"""

from dataclasses import dataclass
from typing import Final

import jax
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float, Int

from show1_jax.nn.config import Architecture
from show1_jax.nn.layers import Layers

NUM_FRAMES: Final = 16
SIDE: Final = 112
"""Height and width of the input, a crop of the frames of `MEAN_SIZE`."""
MEAN_SIZE: Final = (128, 171)
"""Height and width of the mean clip."""

_CONVOLUTIONS: Final = ("conv1a", "conv2a", "conv3a", "conv3b", "conv4a", "conv4b", "conv5a", "conv5b")
_POOL_AFTER: Final = {"conv1a": (1, 2, 2)} | dict.fromkeys(("conv2a", "conv3b", "conv4b", "conv5b"), (2, 2, 2))
"""Windows, and strides, of the max pools by the convolution before them."""
_POOLED_POSITIONS: Final = 1 * 4 * 4
"""Positions in time, height and width behind the last pool: 16, 112 and 112 halved, rounded up."""


@dataclass(frozen=True)
class C3DConfig(Architecture):
    """The widths of C3D, by default those of the published network.

    Attributes:
        channels: channels of the eight convolutions.
        hidden_size: channels of the two hidden linear layers.
        num_classes: number of classes.
    """

    channels: tuple[int, ...] = (64, 128, 256, 256, 512, 512, 512, 512)
    hidden_size: int = 4096
    num_classes: int = 101

    def __post_init__(self) -> None:
        super().__post_init__()
        count = len(self.channels)
        self._require(
            count == len(_CONVOLUTIONS), f"channels has {count} entries for {len(_CONVOLUTIONS)} convolutions"
        )


class C3D(nnx.Module):
    """The classifier of clips.

    Attributes:
        mean: mean clip of Sports-1M, (16 128 171 3), BGR from 0 to 255. It belongs to the weights; the caller subtracts
            it from frames, because implementations crop it differently.

    Example:
        >>> frames -= network.mean_clips(jnp.full((len(frames), 2), 8))  # (b 16 112 112 3), BGR from 0 to 255
        >>> logits = network(frames)  # (b 101)
    """

    def __init__(self, config: C3DConfig, make: Layers):
        self.mean = make.param((NUM_FRAMES, *MEAN_SIZE, 3))
        before = 3
        for name, channels in zip(_CONVOLUTIONS, config.channels, strict=True):
            setattr(self, name, make.conv3d(before, channels, 3))
            before = channels
        self.fc6 = make.linear(before * _POOLED_POSITIONS, config.hidden_size)
        self.fc7 = make.linear(config.hidden_size, config.hidden_size)
        self.fc8 = make.linear(config.hidden_size, config.num_classes)

    def __call__(self, x: Float[Array, "b 16 112 112 3"]) -> Float[Array, "b classes"]:
        """Return the logits (fc8) of clips, BGR from 0 to 255, without the mean clip."""
        for name in _CONVOLUTIONS:
            x = jax.nn.relu(getattr(self, name)(x))
            if name in _POOL_AFTER:
                # The last window may be cut off, as in Caffe: 7 rows become 4. `SAME` pads at the end alone here.
                x = nnx.max_pool(x, _POOL_AFTER[name], _POOL_AFTER[name], "SAME")
        x = rearrange(x, "b t h w c -> b (c t h w)")  # the order of the published fc6
        return self.fc8(jax.nn.relu(self.fc7(jax.nn.relu(self.fc6(x)))))

    def mean_clips(self, corners: Int[Array, "b 2"]) -> Float[Array, "b 16 112 112 3"]:
        """Return a crop of the mean clip for each row and column of its upper left corner."""

        def crop(corner: Int[Array, " 2"]) -> Float[Array, "16 112 112 3"]:
            row, column = corner
            return jax.lax.dynamic_slice(self.mean[...], (0, row, column, 0), (NUM_FRAMES, SIDE, SIDE, 3))

        return jax.vmap(crop)(corners)
