"""Names and captions that others wrote, in one normal form that can be compared, stored and printed on a line."""

import unicodedata
from typing import Final

MAX_CAPTION: Final = 10_000
"""Characters of a caption. Text encoders read about 300."""
MAX_VIDEO_BYTES: Final = 512 << 20
"""A video is in memory as a whole while it is checked, written and read."""
_UNPRINTABLE: Final = {"Cc", "Cs", "Zl", "Zp"}
_SHOWN: Final = 200


def one_line(text: str) -> str:
    """Return a text with all white space as single spaces."""
    return " ".join(text.split())


def normal(name: str) -> str:
    """Return a name in composed letters (NFC), with escapes for bytes that are not UTF-8 and for control characters.

    Two systems may write the letters of a file's name differently, and a table like one of them.
    """
    if name.isascii() and name.isprintable():
        return name
    return "".join(map(_escaped, unicodedata.normalize("NFC", name)))


def shown(text: str) -> str:
    """Return a text as one short line, for messages."""
    short = text[:_SHOWN] + ("..." if len(text) > _SHOWN else "")
    return normal(one_line(short))


def _escaped(character: str) -> str:
    if unicodedata.category(character) not in _UNPRINTABLE:
        return character
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # how Python writes a byte that is not UTF-8
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
