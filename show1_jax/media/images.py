"""Reads of images, and of folders of images, as RGB frames."""

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from jaxtyping import UInt8

from show1_jax.files import open_regular
from show1_jax.media.display import BACKGROUND, blend, grey_to_rgb
from show1_jax.media.errors import VideoError

if TYPE_CHECKING:
    from PIL import Image

IMAGE_SUFFIXES: Final = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
_OTHER_SUFFIXES: Final = (".avif", ".dng", ".dpx", ".exr", ".gif", ".hdr", ".heic", ".jp2", ".jxl", ".ppm", ".tga")
"""Suffixes of images that cannot be read. They are refused, since skipped frames would make another video."""
MAX_IMAGE_PIXELS: Final = 64_000_000
"""Limit for one image: cameras have up to 61 million."""
# Other formats of Pillow can run programs (EPS), or are not pictures.
_IMAGE_FORMATS: Final = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
_DEEP_GREY: Final = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")
"""Pillow's modes of grey with more than 8 bits, which it clips to 8 bits instead of scaling them."""
_DEPTH_TAG: Final = 258
_INTERPRETATION_TAG: Final = 262
_FORMAT_TAG: Final = 339
_WHITE_IS_ZERO: Final = 0
_SIGNED: Final = 2


def list_images(folder: Path) -> list[Path]:
    """Return the images of a folder in natural order: frame2 before frame10.

    Hidden files are ignored: some systems store metadata of `name.png` in `._name.png`.

    Raises:
        VideoError: the folder has images in other formats.
    """
    files = [path for path in folder.iterdir() if not path.name.startswith(".")]
    if others := sorted(path.name for path in files if path.suffix.lower() in _OTHER_SUFFIXES):
        raise VideoError(f"{others[0]} is not one of {' '.join(IMAGE_SUFFIXES)}")
    return sorted(
        (path for path in files if path.suffix.lower() in IMAGE_SUFFIXES), key=lambda path: natural_order(path.name)
    )


def natural_order(name: str) -> tuple[list[tuple[str, int]], str]:
    """Return a key that sorts names as people do: frame2 before frame10."""
    parts = [(text, int(digits or -1)) for text, digits in re.findall(r"(\D*)(\d*)", name.lower())]
    return parts, name


def read_image(path: Path) -> UInt8[np.ndarray, "h w 3"]:
    """Return an image as a viewer shows it: upright, opaque, in 8 bits.

    Raises:
        VideoError: it cannot be read, is in a format that is not listed, is too large, or has several frames.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with open_regular(path) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they concern metadata that are not used
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file, formats=_IMAGE_FORMATS) as image:
                return _to_rgb(image)
    except VideoError:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise VideoError(f"it has more than {MAX_IMAGE_PIXELS:,} pixels") from None
    except UnidentifiedImageError:
        raise VideoError(f"it is not one of {', '.join(_IMAGE_FORMATS)}") from None
    except Exception as error:  # Pillow raises many types for a damaged file
        text = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise VideoError(" ".join(text.split())) from error


def _to_rgb(image: "Image.Image") -> np.ndarray:
    from PIL import ImageOps

    if image.width * image.height > MAX_IMAGE_PIXELS:
        raise VideoError(f"it has more than {MAX_IMAGE_PIXELS:,} pixels")
    if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:  # the other frames of an MPO are previews
        raise VideoError("it has several frames; save each in a separate file")
    tags = getattr(image, "tag_v2", {})
    if tags.get(_FORMAT_TAG, (0,))[0] == _SIGNED and (depth := tags.get(_DEPTH_TAG, (1,))[0]) <= 16:
        raise VideoError(f"it has signed values of {depth} bits, which viewers show differently; save unsigned ones")
    upright = ImageOps.exif_transpose(image)
    if upright.mode in _DEEP_GREY:
        return _from_deep_grey(upright, tags)
    if upright.has_transparency_data:
        with_alpha = upright.convert("RGBA")
        return np.asarray(blend(with_alpha.convert("RGB"), with_alpha.getchannel("A")))
    return np.asarray(upright.convert("RGB"))


def _from_deep_grey(image: "Image.Image", tags: Mapping[int, Any]) -> np.ndarray:
    """Return an image of a mode of `_DEEP_GREY` as RGB.

    Args:
        image: the image.
        tags: those of TIFF: of deep grey Pillow applies neither the depth of 12 bits nor the interpretation.
    """
    array = np.asarray(image)
    rgb = grey_to_rgb(array) if image.mode == "F" else _from_bits(array, min(16, tags.get(_DEPTH_TAG, (16,))[0]))
    if (transparent := image.info.get("transparency")) is not None:
        rgb[array == transparent] = BACKGROUND
    return 255 - rgb if tags.get(_INTERPRETATION_TAG) == _WHITE_IS_ZERO else rgb


def _from_bits(grey: np.ndarray, bits: int) -> np.ndarray:
    """Return an image of grey with up to 16 bits, which may be stored in 32 bits, as 8-bit RGB."""
    largest = (1 << bits) - 1
    if grey.min() < 0 or grey.max() > largest:
        raise VideoError(f"it has values outside 0..{largest}; save it with 16 bits")
    table = np.round(np.arange(largest + 1) * (255 / largest)).astype(np.uint8)
    return np.repeat(table[grey][..., None], 3, axis=-1)
