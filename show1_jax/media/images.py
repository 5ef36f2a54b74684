"""Reads of images, and of folders of images, as RGB frames."""

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from jaxtyping import UInt8

from show1_jax.files import open_regular
from show1_jax.media.display import blend, grey_to_rgb
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
    upright = ImageOps.exif_transpose(image)
    if (convert := _GREY.get(upright.mode)) is not None:
        return convert(np.asarray(upright))
    if upright.has_transparency_data:
        with_alpha = upright.convert("RGBA")
        return np.asarray(blend(with_alpha.convert("RGB"), with_alpha.getchannel("A")))
    return np.asarray(upright.convert("RGB"))


def _from_16_bits(grey: np.ndarray) -> np.ndarray:
    """Return an image of 16-bit grey, which may be stored in 32 bits, as 8-bit RGB."""
    if grey.min() < 0 or grey.max() > 65535:
        raise VideoError("it has values outside 0..65535; save it with 16 bits")
    table = np.round(np.arange(65536) / 257).astype(np.uint8)
    return np.repeat(table[grey][..., None], 3, axis=-1)


# Pillow clips these to 8 bits instead of scaling them.
_GREY: Final[dict[str, Callable[[np.ndarray], np.ndarray]]] = {
    **dict.fromkeys(("I;16", "I;16L", "I;16B", "I;16N", "I"), _from_16_bits),
    "F": grey_to_rgb,
}
