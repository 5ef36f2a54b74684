"""Writers of mp4 and GIF videos with exactly the given frames and rate.

Every file is encoded in memory and written at once. PyAV and Pillow are imported in the functions that use them, so
that an import of the package stays fast.
"""

import io
import math
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from show1_jax.errors import UserError
from show1_jax.files import write_bytes
from show1_jax.media.frames import check_frames

# Frames per second. GIF viewers ignore delays below 1/50 s.
MIN_FPS, MAX_FPS, MAX_GIF_FPS = 0.1, 240, 50


def write_mp4(path: str | Path, frames: UInt8[np.ndarray, "t h w 3"], fps: int | float | Fraction) -> None:
    """Write an mp4 of exactly these frames at exactly this rate: H.264 (MPEG-4 part 2 if PyAV lacks libx264), BT.709.

    4:2:0 colour requires even sides: an odd one is padded by repeating its last row or column.

    Args:
        path: the file to write.
        frames: the video, RGB.
        fps: frames per second, `MIN_FPS` to `MAX_FPS`.

    Raises:
        UserError: frames or a rate that cannot be written, or a full disk.

    Example:
        >>> import numpy as np
        >>> from show1_jax import read_video, write_mp4
        >>> write_mp4("black.mp4", np.zeros((29, 80, 144, 3), np.uint8), fps=8)
        >>> video, fps = read_video("black.mp4")
        >>> video.shape, fps
        ((29, 80, 144, 3), Fraction(8, 1))
    """
    import av

    check_frames(frames)
    rate = _frame_rate(fps, MAX_FPS)
    odd_height, odd_width = frames.shape[1] % 2, frames.shape[2] % 2
    even = np.pad(frames, ((0, 0), (0, odd_height), (0, odd_width), (0, 0)), mode="edge")
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        if "libx264" in av.codecs_available:
            stream = container.add_stream("libx264", rate, {"crf": "14"})
        else:
            stream = container.add_stream("mpeg4", rate, {"flags": "+qscale", "global_quality": "236"})
        stream.height, stream.width, stream.pix_fmt = even.shape[1], even.shape[2], "yuv420p"
        context = stream.codec_context
        context.color_primaries = context.color_trc = context.colorspace = 1  # BT.709 in ITU-T H.273
        context.color_range = 1  # limited
        for index, array in enumerate(even):
            rgb = av.VideoFrame.from_ndarray(array, format="rgb24")
            frame = rgb.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")
            frame.pts, frame.duration, frame.time_base = index, 1, 1 / rate
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    write_bytes(path, buffer.getvalue())


def write_gif(path: str | Path, frames: UInt8[np.ndarray, "t h w 3"], fps: int | float | Fraction) -> None:
    """Write a GIF that loops forever, with all frames, each dithered to its own 256 colours.

    A GIF stores delays in hundredths of a second: they differ by one where needed, so that the whole lasts `t / fps`.

    Args:
        path: the file to write.
        frames: the video, RGB.
        fps: frames per second, `MIN_FPS` to `MAX_GIF_FPS`; viewers ignore shorter delays.

    Raises:
        UserError: as `write_mp4`.
    """
    import av

    check_frames(frames)
    rate = _frame_rate(fps, MAX_GIF_FPS)
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="gif") as container:
        stream = container.add_stream("gif", rate=rate)
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "pal8"
        stream.codec_context.time_base = Fraction(1, 100)
        starts = [round(index * 100 / rate) for index in range(len(frames) + 1)]
        for array, (start, end) in zip(frames, pairwise(starts), strict=True):
            frame = av.VideoFrame.from_ndarray(_quantize(array), format="pal8")  # type: ignore[arg-type]  # PyAV's gap
            frame.pts, frame.time_base = start, Fraction(1, 100)
            for packet in stream.encode(frame):
                packet.duration = end - start
                container.mux(packet)
    write_bytes(path, buffer.getvalue())


def _frame_rate(fps: int | float | Fraction, limit: int) -> Fraction:
    if not (math.isfinite(fps) and MIN_FPS <= fps <= limit):
        raise UserError(f"fps must be from {MIN_FPS} to {limit}, not {fps}")
    return Fraction(fps).limit_denominator(1001)


def _quantize(frame: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return indices `(h, w)` into an ARGB palette `(256, 4)` made for this frame, with Floyd-Steinberg dither."""
    from PIL import Image

    image = Image.fromarray(frame)
    colours = image.quantize(256, Image.Quantize.FASTOCTREE)  # the others are slower and, by PSNR, worse
    dithered = image.quantize(palette=colours, dither=Image.Dither.FLOYDSTEINBERG)
    palette = np.full((256, 4), 255, np.uint8)
    used = np.asarray(dithered.getpalette(), np.uint8).reshape(-1, 3)
    palette[: len(used), 1:] = used
    return np.asarray(dithered), palette
