"""Contact sheets: one picture with a prompt and a row of frames for each video."""

import io
import re
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from jaxtyping import UInt8

from show1_jax.errors import UserError
from show1_jax.files import write_bytes
from show1_jax.media.frames import check_frames, sample_frames

if TYPE_CHECKING:
    from PIL import Image, ImageFont

CONTACT_SHEET: Final = "contact_sheet.png"
"""The file name of a contact sheet."""
SHEET_COLUMNS = 8
# In pixels.
SHEET_FRAME, SHEET_GAP, SHEET_MARGIN, SHEET_LABEL, SHEET_LINE, SHEET_MIN_WIDTH = 232, 6, 36, 32, 40, 940
MAX_TITLE = 500
"""Limit of characters in the title: about eight lines."""
SHEET_PAPER, SHEET_INK, SHEET_FAINT = "#fafafa", "#1a1a1a", "#8a8a8a"


def contact_sheet(path: str | Path, rows: Mapping[str, UInt8[np.ndarray, "t h w 3"]], title: str) -> None:
    """Write one PNG: the title (a prompt), then for each named video a row of evenly spaced frames.

    All frames have the same width, so that columns are aligned from stage to stage. Pixels of a small video stay
    visible as squares; characters that the built-in font lacks lose their accents or become `?`.

    Args:
        path: the file to write.
        rows: the videos by name.
        title: the title; it is cut to `MAX_TITLE` characters.

    Raises:
        UserError: there are no videos, or as `write_mp4` does for frames and the disk.

    Example:
        >>> import numpy as np
        >>> from show1_jax import contact_sheet, read_picture
        >>> contact_sheet("sheet.png", {"black": np.zeros((29, 80, 144, 3), np.uint8)}, title="a black video")
        >>> read_picture("sheet.png").shape
        (291, 1970, 3)
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


def _strip(frames: np.ndarray) -> "Image.Image":
    """Return a row of the contact sheet: at most `SHEET_COLUMNS` frames in line, each `SHEET_FRAME` pixels wide."""
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
    """Return the text on one line; a character that the font lacks loses its accents or becomes `?`."""
    missing = bytes(font.getmask("\uffff"))

    def drawable(character: str) -> str:
        if character == " " or bytes(font.getmask(character)) != missing:
            return character
        return unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode() or "?"

    return "".join(map(drawable, " ".join(unicodedata.normalize("NFC", text).split())))


def _wrap(text: str, font: "ImageFont.FreeTypeFont | ImageFont.ImageFont", width: int) -> list[str]:
    """Return lines no wider than `width`, broken at spaces, or within a word that is wider than a line."""
    lines = [""]
    for word in re.findall(r"\S+\s*", text):
        if lines[-1] and font.getlength(lines[-1] + word.rstrip()) > width:
            lines.append("")
        for character in word:
            if font.getlength(lines[-1] + character) > width:
                lines.append("")
            lines[-1] += character
    return lines
