"""Normal forms of untrusted names and captions, which can be compared, stored and printed on one line."""

import re
import unicodedata
from typing import Final

MAX_CAPTION: Final = 10_000
"""Maximum number of characters of a caption. Text encoders read about 300."""
MAX_VIDEO_BYTES: Final = 512 << 20
"""Size limit of a video, in bytes: all of it is in memory while it is checked, written and read."""
MISSING: Final = {"nan", "-nan", "none", "null", "nil", "na", "n/a", "#n/a", "#na", "<na>", "undefined"}
"""Texts, in small letters, that programs write in place of a missing caption or prompt."""
_UNPRINTABLE: Final = {"Cc", "Cs", "Zl", "Zp"}
_MAX_SHORT_LINE: Final = 200


def one_line(text: str) -> str:
    """Return a text with every run of white space replaced by one space."""
    return " ".join(text.split())


def marks_missing(text: str) -> bool:
    """Return whether a text stands for a missing caption or prompt, such as nan."""
    return text.casefold() in MISSING


def split_lines(text: str) -> list[str]:
    """Return the lines of a text file. Other separators, such as U+2028, are part of a line, as JSON permits."""
    return re.split(r"\r\n|\r|\n", text)


def normalise_name(name: str) -> str:
    """Return a name in Unicode's composed form (NFC), with bytes that are not UTF-8 and control characters escaped.

    Operating systems may encode the letters of a file name differently, and a table may use either encoding.
    """
    if name.isascii() and name.isprintable():
        return name
    return "".join(map(_escape, unicodedata.normalize("NFC", name)))


def short_line(text: str) -> str:
    """Return a text as one short line for messages: its first 200 characters."""
    short = text[:_MAX_SHORT_LINE] + ("..." if len(text) > _MAX_SHORT_LINE else "")
    return normalise_name(one_line(short))


def _escape(character: str) -> str:
    if unicodedata.category(character) not in _UNPRINTABLE:
        return character
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # how Python writes a byte that is not UTF-8
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
