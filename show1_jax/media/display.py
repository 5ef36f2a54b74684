"""Conversion of decoded pictures for display: RGB, opaque, square pixels, rotated and mirrored as the file states."""

import math
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from jaxtyping import Float, UInt8

from show1_jax.media.errors import VideoError

if TYPE_CHECKING:
    import av
    from PIL import Image

MAX_FRAME_PIXELS: Final = 1 << 24
"""Limit for one frame, such as 5312 x 2988; decoders keep up to 17 frames in memory."""
BACKGROUND: Final = (0, 0, 0)
"""Colour behind transparent pixels: black, as in video players."""
MAX_PIXEL_ASPECT: Final = 10
"""Limit of the ratio of a pixel's longer side to its shorter side; films have at most 2.2."""
_SQUARE_TOLERANCE: Final = 0.01
"""Difference from 1 up to which a pixel aspect is taken as 1: it comes from rounding."""
_MAX_SKEW: Final = 0.1
"""Limit of a display matrix's deviation from the nearest quarter turn: 6 degrees."""


class FrameDisplay:
    """A converter of the frames of a stream for display."""

    def __init__(self, *, is_opaque: bool = False):
        """Make a converter.

        Args:
            is_opaque: an apparent alpha channel is ignored.
        """
        self._is_opaque = is_opaque
        self._matrices: dict[float, np.ndarray] = {}

    def to_rgb(
        self, frame: "av.VideoFrame", pixel_aspect: Fraction, alpha: "av.VideoFrame | None" = None
    ) -> UInt8[np.ndarray, "h w 3"]:
        """Return a decoded frame as a player shows it.

        Args:
            frame: a frame in any pixel format; its display matrix is applied.
            pixel_aspect: the width of a stored pixel divided by its height. The shorter side is enlarged.
            alpha: a frame whose luma is the alpha channel.

        Raises:
            VideoError: its display angle is not a quarter turn, it is too large, or its pixel aspect is out of range.
        """
        opaque = np.asarray(frame.to_ndarray(format="rgb24")) if self._is_opaque else _over_background(frame, alpha)
        return _turn(_make_square(opaque, pixel_aspect), self._matrix(frame))

    def _matrix(self, frame: "av.VideoFrame") -> np.ndarray:
        """Return the frame's display matrix, read only once per angle, since a read keeps the frame in memory."""
        try:
            angle = float(frame.rotation)
        except ValueError:  # raised for a matrix of zeros
            angle = math.nan
        if angle not in self._matrices:
            self._matrices[angle] = _display_matrix(frame, angle)
        return self._matrices[angle]


def blend(image: "Image.Image", alpha: "Image.Image") -> "Image.Image":
    """Return an RGB image blended with the plain background by its alpha channel."""
    from PIL import Image

    background = Image.new("RGB", image.size, BACKGROUND)
    background.paste(image, mask=alpha)
    return background


def _over_background(frame: "av.VideoFrame", alpha: "av.VideoFrame | None") -> np.ndarray:
    from PIL import Image

    if frame.format.name.startswith("grayf32"):  # swscale treats it as limited range
        return grey_to_rgb(np.asarray(frame.to_ndarray()))
    if alpha is not None:
        if (alpha.width, alpha.height) != (frame.width, frame.height):
            raise VideoError("its alpha channel is of another size")
        mask = Image.fromarray(_luma(alpha))
        return np.asarray(blend(Image.fromarray(frame.to_ndarray(format="rgb24")), mask))
    if frame.format.has_palette or any(component.is_alpha for component in frame.format.components):
        rgba = np.asarray(frame.to_ndarray(format="rgba"))
        if (rgba[..., 3] == 255).all():
            return rgba[..., :3]
        image = Image.fromarray(rgba)
        return np.asarray(blend(image.convert("RGB"), image.getchannel("A")))
    return np.asarray(frame.to_ndarray(format="rgb24"))


def _luma(frame: "av.VideoFrame") -> np.ndarray:
    """Return the first plane unchanged: a conversion to grey would stretch its range."""
    plane = frame.planes[0]
    return np.frombuffer(bytes(plane), np.uint8).reshape(-1, plane.line_size)[: frame.height, : frame.width]


def grey_to_rgb(grey: Float[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """Return an image with grey values in [0, 1] as RGB.

    Raises:
        VideoError: a value is outside [0, 1].
    """
    if not ((grey >= 0) & (grey <= 1)).all():
        raise VideoError("it has values outside [0, 1]")
    return np.repeat(np.round(grey * 255).astype(np.uint8)[..., None], 3, axis=-1)


def _make_square(rgb: np.ndarray, pixel_aspect: Fraction) -> np.ndarray:
    """Make the pixels square by enlarging their shorter side, so that none is lost."""
    from PIL import Image

    if abs(pixel_aspect - 1) < _SQUARE_TOLERANCE:
        return rgb
    if not Fraction(1, MAX_PIXEL_ASPECT) <= pixel_aspect <= MAX_PIXEL_ASPECT:
        raise VideoError(f"its pixels are {float(pixel_aspect):g} times as wide as high")
    height, width = rgb.shape[:2]
    size = (round(width * max(1, pixel_aspect)), round(height * max(1, 1 / pixel_aspect)))
    if size[0] * size[1] > MAX_FRAME_PIXELS:
        raise VideoError(f"its frames have more than {MAX_FRAME_PIXELS:,} pixels")
    return np.asarray(Image.fromarray(rgb).resize(size, Image.Resampling.BICUBIC))


def _display_matrix(frame: "av.VideoFrame", angle: float) -> np.ndarray:
    """Return the 2 x 2 matrix that maps a stored position (x, y) to its displayed position, up to a shift."""
    side_data: Any = None
    try:
        side_data = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # PyAV has no name for another kind of side data; only the angle is known
        return np.linalg.matrix_power(np.array([[0, 1], [-1, 0]]), round(angle / 90) % 4)
    if side_data is None:
        return np.eye(2)
    a, b, _, c, d, *_ = np.frombuffer(side_data, np.int32).astype(float)
    return np.array([[a, c], [b, d]])


def _turn(rgb: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Apply the nearest of the eight rotations and reflections of a rectangle; a singular matrix is ignored."""
    (a, c), (b, d) = matrix
    if a * d == b * c:
        return rgb
    largest = max(abs(matrix).flat)
    if max(abs(a), abs(d)) < max(abs(b), abs(c)):
        rgb, a, b, c, d = np.swapaxes(rgb, 0, 1), c, d, a, b
    if max(abs(b), abs(c)) > _MAX_SKEW * largest or a * d == 0:
        raise VideoError("it is shown at an angle that is not a quarter turn")
    return rgb[:: 1 if d > 0 else -1, :: 1 if a > 0 else -1]
