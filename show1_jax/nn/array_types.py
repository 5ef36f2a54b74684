"""Shapes of arrays that several modules share.

Axes: b batch, t time, h height, w width, c channel; i and j height and width of latents, z their channels; n tokens, d
channels of text states.
"""

from jaxtyping import Array, Float, Float32, Key

Video = Float32[Array, "b t h w c"]
"""Pixels in [-1, 1], or other arrays of frames."""
Latents = Float32[Array, "b t i j z"]
TextStates = Float[Array, "b n d"]
"""The last states of a text encoder, padding included."""
Keys = Key[Array, " b"]
"""A random key for each example of a batch."""
