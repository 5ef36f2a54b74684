"""Small generated videos, in the forms that other programs write."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

HEIGHT, WIDTH = 48, 64


TICK = Fraction(1, 1000)


def corner_marked(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Return a frame with a white top left quarter and red below it: its eight rotations and mirrorings all differ."""
    frame = np.zeros((height, width, 3), np.uint8)
    frame[: height // 2, : width // 2] = 255
    frame[height // 2 :, : width // 2] = (255, 0, 0)
    return frame


def numbered(count: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Return grey frames, 6 levels apart, whose level encodes their number."""
    levels = (10 + 6 * np.arange(count)).astype(np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (count, height, width, 3))


def number_of(frame: np.ndarray) -> int:
    """Return the number of a frame of `numbered`, from uint8 or from [-1, 1]."""
    level = float(frame.mean()) if frame.dtype == np.uint8 else (float(frame.mean()) + 1) * 127.5
    return round((level - 10) / 6)


def encode(
    path: Path,
    frames: np.ndarray,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    *,
    times: Sequence[float] | None = None,
    last_duration: float = 0.1,
    fps: int = 10,
    pixel_aspect: Fraction | None = None,
    matrix: Sequence[int] | None = None,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
) -> Path:
    """Encode frames `(t, h, w, 3 or 4)`, at `fps` or shown at `times` in seconds."""
    with av.open(path, "w", options=container_options or {}) as container:
        stream: Any = container.add_stream(codec, fps, options or {})
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], pix_fmt
        if times is not None:
            stream.codec_context.time_base = TICK
        if pixel_aspect is not None:
            stream.codec_context.sample_aspect_ratio = pixel_aspect
        stream.set_display_matrix(matrix)
        ends = [*(times or [])[1:], (times or [0])[-1] + last_duration]
        for index, array in enumerate(frames):
            layout = "rgba" if array.shape[-1] == 4 else "rgb24"
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(array), format=layout).reformat(format=pix_fmt)
            frame.pts, frame.time_base = index, Fraction(1, fps)
            if times is not None:
                frame.pts, frame.time_base = round(times[index] / TICK), TICK
                frame.duration = round((ends[index] - times[index]) / TICK)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def matrix_of(a: float, b: float, c: float, d: float) -> list[int]:
    """Return a display matrix in fixed point: x' = a x + c y and y' = b x + d y, up to a shift."""
    return [round(value * 65536) for value in (a, b, 0, c, d, 0, 0, 0)] + [1 << 30]


def remux(source: Path, target: Path, seconds: float = 0, options: dict[str, str] | None = None) -> Path:
    """Copy a video's packets to another container, with presentation times shifted by `seconds`."""
    with av.open(source) as given, av.open(target, "w", options=options or {}) as container:
        stream = given.streams.video[0]
        copy = container.add_stream_from_template(stream)
        assert stream.time_base is not None
        shift = round(seconds / stream.time_base)
        for packet in given.demux(stream):
            if packet.dts is not None and packet.pts is not None:
                packet.pts, packet.dts, packet.stream = packet.pts + shift, packet.dts + shift, copy
                container.mux(packet)
    return target


def moving_square(num: int, height: int, width: int) -> np.ndarray:
    """Return uint8 frames `(t, h, w, 3)` that are easy to encode: a gradient and a moving square."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    frames = np.stack([np.stack([60 + 120 * x, 200 - 100 * y, 90 + 0 * x], -1)] * num).astype(np.uint8)
    side = max(1, height // 4)
    for index in range(num):
        left = index * max(1, width - side) // num
        frames[index, :side, left : left + side] = (230, 40, 40)
    return frames


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Return the peak signal-to-noise ratio of two uint8 arrays, in decibels."""
    return float(10 * np.log10(255**2 / max(1e-9, np.mean((a.astype(float) - b) ** 2))))


def write_captioned_videos(folder: Path, count: int, size: tuple[int, int] = (24, 32)) -> Path:
    """Write different videos of 1.5 seconds with their captions, as `python -m show1_jax.data build` reads them."""
    for number in range(count):
        encode(folder / f"{number}.mp4", np.roll(numbered(15, *size), number, axis=0))
        (folder / f"{number}.txt").write_text(f"caption {number}\n")
    return folder
