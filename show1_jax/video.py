"""Videos as people and files know them: mp4, GIF, lossless stage files, contact sheets; reading any is in `media`.

One video here is `(time, height, width, channel)`: float32 in [-1, 1], or uint8 frames to look at.
Every file is encoded in memory and written whole, by `write_bytes` of `show1_jax.files`.
PyAV and Pillow are imported where they are used, so that importing the package stays fast.
"""

import hashlib
import io
import json
import math
import os
import re
import unicodedata
from collections.abc import Mapping
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float32, UInt8

from show1_jax.errors import UserError
from show1_jax.files import open_regular, write_bytes
from show1_jax.media.frames import check_frames, even_indices, fit, from_uint8, resize_uint8, sample_frames, to_uint8
from show1_jax.media.read import gather, read_frames

if TYPE_CHECKING:
    from PIL import Image, ImageFont

__all__ = [
    "MAX_FPS",
    "MAX_GIF_FPS",
    "MIN_FPS",
    "contact_sheet",
    "digest",
    "fit",
    "from_uint8",
    "load_stage",
    "read_video",
    "resize_uint8",
    "sample_frames",
    "save_stage",
    "to_uint8",
    "write_gif",
    "write_mp4",
]

# Frames a second. GIF viewers ignore shorter delays than a fiftieth.
MIN_FPS, MAX_FPS, MAX_GIF_FPS = 0.1, 240, 50

SHEET_COLUMNS = 8
# In pixels.
SHEET_FRAME, SHEET_GAP, SHEET_MARGIN, SHEET_LABEL, SHEET_LINE, SHEET_MIN_WIDTH = 232, 6, 36, 32, 40, 940
MAX_TITLE = 500
"""Characters of a contact sheet's title: about eight lines."""
SHEET_PAPER, SHEET_INK, SHEET_FAINT = "#fafafa", "#1a1a1a", "#8a8a8a"

STAGE_FORMAT = "show1_jax.stage.v1"
STAGE_LAYOUT = "time height width channel"


def write_mp4(path: str | Path, frames: UInt8[np.ndarray, "t h w 3"], fps: int | float | Fraction) -> None:
    """Write an mp4 of exactly these frames at exactly this rate: H.264 (MPEG-4 part 2 if PyAV lacks libx264), BT.709.

    4:2:0 colour needs even sides: an odd one is padded by repeating its last row or column.
    Raises `UserError` for frames or a rate that cannot be written, and for a disk that is full.
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
    """Write a GIF that loops for ever: every frame, each with its own 256 colours, dithered.

    A GIF counts hundredths of a second: delays differ by one where needed for the whole to last `t / fps`.
    Raises `UserError` as `write_mp4` does, and above 50 fps, where viewers ignore the delay.
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


def save_stage(path: str | Path, video: Float32[np.ndarray, "t h w c"], stage: str) -> None:
    """Write a stage's result, float32 and bit for bit, as a `.safetensors` file that knows its stage, layout and hash.

    Raises `UserError` if the array is not float32 `(t, h, w, c)`, or the disk is full.
    """
    from safetensors.numpy import save

    if video.dtype != np.float32 or video.ndim != 4 or not video.size:
        raise UserError(f"a stage must be float32 (t, h, w, c), not {video.dtype} {video.shape}")
    video = np.ascontiguousarray(video)
    metadata = {
        "format": STAGE_FORMAT,
        "stage": stage,
        "layout": STAGE_LAYOUT,
        "shape": " ".join(map(str, video.shape)),
        "sha256": digest(video),
    }
    write_bytes(path, _with_sorted_header(save({"video": video}, metadata)))


def digest(video: Float32[np.ndarray, "t h w c"]) -> str:
    """The hexadecimal SHA-256 of a stage's values, as its file records it."""
    return hashlib.sha256(video.data).hexdigest()


def load_stage(path: str | Path, stage: str | None = None) -> Float32[np.ndarray, "t h w c"]:
    """Read what `save_stage` wrote.

    Raises `UserError` if it is missing, damaged, foreign, or, where `stage` is given, of another stage.
    """
    from safetensors import SafetensorError, safe_open

    try:
        open_regular(Path(path)).close()
        with safe_open(path, "numpy") as file:
            metadata = file.metadata() or {}
            values = file.get_slice("video")
            is_video = values.get_dtype() == "F32" and len(values.get_shape()) == 4
            if metadata.get("format") != STAGE_FORMAT or not is_video:
                raise UserError(f"{path} is not a stage file of show1_jax: give one that sample.py wrote")
            video: np.ndarray = file.get_tensor("video")
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot read stage file {path} ({_reason(error)}): sample that stage again") from error
    if metadata.get("sha256") != digest(video):
        raise UserError(f"stage file {path} is damaged (its hash does not match): sample that stage again")
    if stage is not None and metadata.get("stage") != stage:
        raise UserError(f"{path} holds the stage {metadata.get('stage')}, not {stage}: give the file of {stage}")
    return video


def read_video(
    path: str | Path, size: tuple[int, int] | None = None, num_frames: int | None = None
) -> tuple[Float32[np.ndarray, "t h w 3"], Fraction | None]:
    """Return the user's own video in [-1, 1], and its frame rate where the source states one.

    Args:
        path: as `show1_jax.media.read.read_frames` takes, or a stage file, whose values are returned as they are.
        size: (height, width) to which each frame is fitted (see `fit`) as it is read; None: as it is.
        num_frames: so many, evenly spaced in time, are read and kept; None: all, on an even clock.

    Raises:
        UserError: it is missing, undecodable, empty, too short, too large, or of another shape or range.
    """
    path = Path(path)
    if not os.path.exists(path):  # Path.exists raises for names that no file can have
        raise UserError(f"there is no {path}: give a video, a folder of frames, a .npy or a stage file")
    if path.suffix.lower() != ".safetensors" or path.is_dir():
        return read_frames(path, size, num_frames)
    video = load_stage(path)
    chosen = range(len(video)) if num_frames is None else even_indices(len(video), num_frames)
    return gather((video[index] for index in chosen), len(chosen), size, path), None


def contact_sheet(path: str | Path, rows: Mapping[str, UInt8[np.ndarray, "t h w 3"]], title: str) -> None:
    """Write one PNG: the title (a prompt), then for each named video a row of evenly spaced frames.

    Frames share a width, so that columns line up from stage to stage. Pixels of a small video stay visible as squares;
    characters that the built-in font lacks lose their accents or become `?`. A title of more than
    `MAX_TITLE` characters is cut.
    Raises `UserError` if there is nothing to show, or as `write_mp4` does.
    """
    from PIL import Image, ImageDraw, ImageFont

    if not rows:
        raise UserError("a contact sheet needs at least one video")
    strips = {name: _strip(frames) for name, frames in rows.items()}
    width = max(SHEET_MIN_WIDTH, *(strip.width for strip in strips.values()))
    title_font, label_font = ImageFont.load_default(30), ImageFont.load_default(19)
    lines = _wrap(_drawable(_shorten(title), title_font), title_font, width)
    y = SHEET_MARGIN + SHEET_LINE * len(lines) + SHEET_MARGIN // 2
    height = y + sum(SHEET_LABEL + strip.height + SHEET_MARGIN for strip in strips.values())

    sheet = Image.new("RGB", (width + 2 * SHEET_MARGIN, height), SHEET_PAPER)
    draw = ImageDraw.Draw(sheet)
    for index, line in enumerate(lines):
        draw.text((SHEET_MARGIN, SHEET_MARGIN + SHEET_LINE * index), line, SHEET_INK, title_font)
    for name, strip in strips.items():
        label = _drawable(name.replace("_", " "), label_font)
        count, frame_height, frame_width = rows[name].shape[:3]
        facts = f"{count} frame{'s' * (count > 1)}, {frame_width} x {frame_height}"
        draw.text((SHEET_MARGIN, y), label, SHEET_INK, label_font)
        draw.text((SHEET_MARGIN + label_font.getlength(label) + 14, y), facts, SHEET_FAINT, label_font)
        sheet.paste(strip, (SHEET_MARGIN, y + SHEET_LABEL))
        y += SHEET_LABEL + strip.height + SHEET_MARGIN
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    write_bytes(path, buffer.getvalue())


def _frame_rate(fps: int | float | Fraction, limit: int) -> Fraction:
    if not (math.isfinite(fps) and MIN_FPS <= fps <= limit):
        raise UserError(f"fps must be from {MIN_FPS} to {limit}, not {fps}")
    return Fraction(fps).limit_denominator(1001)


def _with_sorted_header(data: bytes) -> bytes:
    """A safetensors file with its header's keys in order: the library's order changes from one call to the next."""
    size = int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8 : 8 + size]), sort_keys=True, separators=(",", ":")).encode()
    assert len(header) <= size
    return data[:8] + header.ljust(size) + data[8 + size :]


def _reason(error: Exception) -> str:
    """What went wrong, on one line and without the path that the message around it names."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__


def _quantize(frame: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices `(h, w)` into an ARGB palette `(256, 4)` made for this frame, with Floyd-Steinberg dither."""
    from PIL import Image

    image = Image.fromarray(frame)
    colours = image.quantize(256, Image.Quantize.FASTOCTREE)  # the others are slower and, by PSNR, worse
    dithered = image.quantize(palette=colours, dither=Image.Dither.FLOYDSTEINBERG)
    palette = np.full((256, 4), 255, np.uint8)
    used = np.asarray(dithered.getpalette(), np.uint8).reshape(-1, 3)
    palette[: len(used), 1:] = used
    return np.asarray(dithered), palette


def _strip(frames: np.ndarray) -> "Image.Image":
    """A row of the contact sheet: at most `SHEET_COLUMNS` frames side by side, each `SHEET_FRAME` wide."""
    from PIL import Image

    check_frames(frames)
    height, width = frames.shape[1:3]
    shown_height = max(1, round(height * SHEET_FRAME / width))
    enlargement = -(-SHEET_FRAME // width)
    chosen = sample_frames(frames, min(SHEET_COLUMNS, len(frames)))
    step = SHEET_FRAME + SHEET_GAP
    strip = Image.new("RGB", (len(chosen) * step - SHEET_GAP, shown_height), SHEET_PAPER)
    for index, frame in enumerate(chosen):
        squares = Image.fromarray(frame.repeat(enlargement, 0).repeat(enlargement, 1))
        strip.paste(squares.resize((SHEET_FRAME, shown_height), Image.Resampling.BOX), (index * step, 0))
    return strip


def _shorten(title: str) -> str:
    return title if len(title) <= MAX_TITLE else title[: MAX_TITLE - 3] + "..."


def _drawable(text: str, font: "ImageFont.FreeTypeFont | ImageFont.ImageFont") -> str:
    """The text on one line; a character that the font lacks loses its accents or becomes `?`."""
    missing = bytes(font.getmask("\uffff"))

    def shown(character: str) -> str:
        if character == " " or bytes(font.getmask(character)) != missing:
            return character
        return unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode() or "?"

    return "".join(map(shown, " ".join(unicodedata.normalize("NFC", text).split())))


def _wrap(text: str, font: "ImageFont.FreeTypeFont | ImageFont.ImageFont", width: int) -> list[str]:
    """Lines no wider than `width`, broken at spaces, or within a word that is wider than a line."""
    lines = [""]
    for word in re.findall(r"\S+\s*", text):
        if lines[-1] and font.getlength(lines[-1] + word.rstrip()) > width:
            lines.append("")
        for character in word:
            if font.getlength(lines[-1] + character) > width:
                lines.append("")
            lines[-1] += character
    return lines
