"""Contact sheets, with any title."""

import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from show1_jax.errors import UserError
from show1_jax.media.contact_sheet import _drawable, _wrap, contact_sheet
from tests.helpers.media_files import moving_square


def test_a_contact_sheet_shows_every_row_in_order(tmp_path: Path) -> None:
    reds, greens = np.zeros((29, 8, 16, 3), np.uint8), np.zeros((3, 20, 30, 3), np.uint8)
    reds[..., 0], greens[..., 1] = 255, 255
    contact_sheet(tmp_path / "sheet.png", {"keyframes": reds, "superres_pixel": greens}, "two colours")
    with Image.open(tmp_path / "sheet.png") as sheet:
        pixels = np.asarray(sheet).astype(int)
    red = np.all(pixels == (255, 0, 0), -1)
    green = np.all(pixels == (0, 255, 0), -1)
    assert red.sum() == 8 * 232 * 116
    assert green.sum() == 3 * 232 * 155
    assert np.flatnonzero(red.any(1))[-1] < np.flatnonzero(green.any(1))[0]


def test_pixels_of_a_small_video_stay_squares(tmp_path: Path) -> None:
    checks = np.indices((8, 16)).sum(0) % 2 * np.uint8(255)
    frames = np.repeat(checks[None, :, :, None], 3, -1).astype(np.uint8)
    contact_sheet(tmp_path / "sheet.png", {"keyframes": frames}, "")
    with Image.open(tmp_path / "sheet.png") as sheet:
        shown = np.asarray(sheet)[-36 - 116 : -36, 36 : 36 + 232]
    assert np.isin(shown, (0, 255)).mean() > 0.8  # grey only if a square's edge is inside a pixel


@given(st.text(max_size=300))
@settings(max_examples=10)
def test_any_prompt_can_be_a_title(tmp_path_factory: pytest.TempPathFactory, title: str) -> None:
    path = tmp_path_factory.mktemp("sheet") / "sheet.png"
    contact_sheet(path, {"keyframes": moving_square(1, 8, 16)}, title)
    with Image.open(path) as sheet:
        assert sheet.width == 940 + 2 * 36


def test_titles_are_wrapped_and_lose_only_characters_that_the_font_lacks() -> None:
    from PIL import ImageFont

    font = ImageFont.load_default(30)
    text = _drawable("A  caf\u00e9\n\u6cb9\u7d75 " + "painted " * 40 + "x" * 200, font)
    assert text.startswith("A cafe ?? painted")
    lines = _wrap(text, font, 900)
    assert "".join(lines) == text
    assert all(font.getlength(line.rstrip()) <= 900 for line in lines)


@pytest.mark.parametrize("title", ["word " * 40_000, "x" * 200_000, "\u6cb9" * 200_000, "a" + "\u0301" * 200_000])
def test_a_long_title_is_cut(tmp_path: Path, title: str) -> None:
    start = time.process_time()
    contact_sheet(tmp_path / "sheet.png", {"keyframes": moving_square(1, 8, 16)}, title)
    assert time.process_time() - start < 2  # it would take a hundred times as long if it were not cut
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.height < 1000


def test_a_contact_sheet_without_videos_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="at least one video"):
        contact_sheet(tmp_path / "sheet.png", {}, "nothing")
