"""Check that an encoded video is complete, by the sizes that its container states.

Decoders do not report this: FFmpeg reads a truncated Matroska, WebM, AVI or GIF file as a shorter video.
"""

import io
from collections.abc import Callable, Iterator
from typing import Final

import numpy as np

from show1_jax.media.errors import VideoError

MAX_PARTS: Final = 500_000
"""Limit of the parts of a file that are visited."""
MAX_SAMPLES: Final = 5_000_000
"""Limit for all tracks together: 24 hours of video and sound. FFmpeg allocates 60 bytes for each."""
_MAX_DEPTH: Final = 10  # FFmpeg's
_MAX_TABLE_BYTES: Final = 1 << 24
_CUT_SHORT: Final = "it is cut short"
_BOXES: Final = {b"ftyp", b"styp", b"sidx", b"moov", b"moof", b"mdat", b"mfra"}
_OTHER_BOXES: Final = {b"free", b"skip", b"wide", b"pnot", b"uuid", b"meta", b"udta"}
"""Types that may be between those of `_BOXES`; after an unknown type anything may follow: cameras append own data."""
_PARENTS: Final = {
    *(b"moov", b"trak", b"mdia", b"minf", b"stbl", b"moof", b"traf"),
    *(b"dinf", b"edts", b"mvex", b"tref", b"udta", b"wave"),  # FFmpeg reads tables here, too
}
_RIFF_SLACK: Final = 8
"""Tolerance in bytes: some writers include the header in the size."""
_SEGMENT: Final = 0x18538067
_UNKNOWN_SIZE_PARENTS: Final = {_SEGMENT, 0x1F43B675}
_ELEMENTS: Final = {
    *(0x1A45DFA3, _SEGMENT, 0xEC, 0xBF),  # EBML header, Segment, Void, CRC-32
    *(0x114D9B74, 0x1549A966, 0x1654AE6B, 0x1F43B675, 0x1C53BB6B, 0x1941A469, 0x1043A770, 0x1254C367, 0x1B538667),
    *(0xE7, 0xA3, 0xA0, 0xAB, 0xA7, 0xAF, 0x5854),  # in a Cluster: Timestamp, SimpleBlock, BlockGroup, PrevSize, ...
}
"""The elements of EBML, of a Segment and of a Cluster (RFC 9559)."""


def check_complete(file: io.BufferedIOBase) -> None:
    """Check that a file is complete and its parts join, and seek to its start.

    A file in an unknown container, or one that states no sizes (a live recording), is not checked.

    Raises:
        VideoError: the file is empty or truncated, its parts do not join, or it has too many parts or samples.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    head = file.read(12)
    if not head:
        raise VideoError("the file is empty")
    check: Callable[[io.BufferedIOBase, int], None] | None = None
    if head[4:8] in _BOXES | _OTHER_BOXES:
        check = _check_boxes
    elif head[:4] == b"\x1aE\xdf\xa3":
        check = _check_elements
    elif head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        check = _check_chunks
    elif head[:4] == b"GIF8":
        check = _check_blocks
    if check is not None:
        check(file, size)
    file.seek(0)


def _check_boxes(file: io.BufferedIOBase, size: int) -> None:
    """Check ISO base media (mp4, mov, m4v), ISO/IEC 14496-12."""
    num_samples = 0
    joins = True
    parts = iter(range(MAX_PARTS))
    for kind, start, end in _boxes(file, 0, size, parts):
        joins = joins and kind in _BOXES | _OTHER_BOXES
        if joins and kind in _BOXES and end > size:
            raise VideoError(_CUT_SHORT)
        if kind in _PARENTS:
            num_samples += _num_samples(file, start, end, parts)
        if num_samples > MAX_SAMPLES:
            raise VideoError(f"it declares {num_samples:,} samples")


def _boxes(file: io.BufferedIOBase, position: int, end: int, parts: Iterator[int]) -> Iterator[tuple[bytes, int, int]]:
    """Yield the type, and the start and end of the contents, of the boxes from `position` to `end`.

    A box begins with a 32-bit size and a type; if the size is 1, a 64-bit size follows.
    """
    while position + 8 <= end:
        if next(parts, None) is None:
            raise VideoError(f"it has more than {MAX_PARTS:,} parts")
        file.seek(position)
        head = file.read(16)
        length, kind, width = int.from_bytes(head[:4], "big"), head[4:8], 8
        if length == 1:
            length, width = int.from_bytes(head[8:16], "big"), 16
        if length == 0:
            length = end - position
        if length < width:
            return
        yield kind, position + width, position + length
        position += length


def _num_samples(
    file: io.BufferedIOBase, start: int, end: int, parts: Iterator[int], is_sound: bool = False, depth: int = 0
) -> int:
    """Return the approximate number of entries that FFmpeg makes for a movie or a fragment before it reads a sample.

    It makes one entry for every declared sample; for sound whose samples last one unit each, one per 1024 of a chunk.
    """
    in_boxes = in_table = num_chunks = per_chunk = 0
    is_by_chunk = False
    for kind, first, last in _boxes(file, start, end, parts):
        file.seek(first)
        head = file.read(16)
        numbers = [int.from_bytes(head[at : at + 4], "big") for at in (4, 8, 12)]
        if kind in _PARENTS and depth < _MAX_DEPTH:
            in_boxes += _num_samples(file, first, last, parts, is_sound, depth + 1)
        elif kind == b"hdlr" and head[8:12] not in (b"url ", b"alis"):  # QuickTime's data handlers follow
            is_sound = head[8:12] == b"soun"
        elif kind == b"stts":
            is_by_chunk = is_sound and numbers[0] == numbers[2] == 1
        elif kind == b"stsc":
            file.seek(first + 8)
            table = np.frombuffer(file.read(min(max(0, last - first - 8), _MAX_TABLE_BYTES)), np.uint8)
            per_chunk = int(table[: len(table) // 12 * 12].view(">u4").reshape(-1, 3)[:, 1].max(initial=0))
        elif kind in (b"stco", b"co64"):
            num_chunks = min(numbers[0], (last - first) // 4)
        elif kind in (b"stsz", b"stz2"):
            in_table += numbers[1]
        elif kind == b"trun":
            in_boxes += numbers[0]
        elif kind == b"cmov":
            raise VideoError("its header is compressed")
    return in_boxes + (num_chunks * per_chunk // 1024 if is_by_chunk else in_table)


def _check_chunks(file: io.BufferedIOBase, size: int) -> None:
    """Check AVI, with the additional RIFF chunks of OpenDML."""
    position = 0
    for _ in range(MAX_PARTS):
        file.seek(position)
        head = file.read(8)
        if len(head) < 8 or head[:4] != b"RIFF":
            return
        length = int.from_bytes(head[4:], "little")
        if length in (0, 0xFFFFFFFF):  # an unfinished or streamed recording
            return
        position += 8 + length + length % 2
        if position > size + _RIFF_SLACK:
            raise VideoError(_CUT_SHORT)


def _check_elements(file: io.BufferedIOBase, size: int) -> None:
    """Check Matroska and WebM: visit the elements of Segments and Clusters, down to the blocks."""
    position, end = 0, size
    for _ in range(MAX_PARTS):
        if position >= end:
            return
        file.seek(position)
        head = file.read(12)
        id_length = 9 - head[0].bit_length()
        identity = int.from_bytes(head[:id_length], "big")
        if identity not in _ELEMENTS:
            raise VideoError("its parts do not join")
        length, width = _element_size(head[id_length:])
        position += id_length + width
        if length is not None and position + length > end:
            raise VideoError(_CUT_SHORT)
        if identity == _SEGMENT and length is not None:
            end = position + length
        if identity not in _UNKNOWN_SIZE_PARENTS:
            if length is None:
                return
            position += length


def _element_size(data: bytes) -> tuple[int | None, int]:
    """Return an EBML size, None if it is unknown, and the number of bytes that encode it."""
    if not data or not data[0]:
        raise VideoError("its parts do not join")
    width = 9 - data[0].bit_length()
    if len(data) < width:
        raise VideoError(_CUT_SHORT)
    value = int.from_bytes(data[:width], "big") & ((1 << 7 * width) - 1)
    return (None if value == (1 << 7 * width) - 1 else value), width


def _check_blocks(file: io.BufferedIOBase, _: int) -> None:
    """Check GIF89a: blocks of sub-blocks. A missing trailer is accepted, since it has no data."""
    file.seek(10)
    file.seek(13 + _colour_table_bytes(file.read(1)))
    parts = iter(range(MAX_PARTS))
    for _ in parts:
        kind = file.read(1)
        if kind == b"!":
            file.seek(1, io.SEEK_CUR)  # a label
        elif kind == b",":
            file.seek(8, io.SEEK_CUR)
            file.seek(_colour_table_bytes(file.read(1)) + 1, io.SEEK_CUR)
        else:  # the trailer, the end, or data that players ignore
            return
        for _ in parts:
            length = file.read(1)
            if not length:
                raise VideoError(_CUT_SHORT)
            if length == b"\0":
                break
            file.seek(length[0], io.SEEK_CUR)


def _colour_table_bytes(flags: bytes) -> int:
    """Return the size of a GIF's colour table in bytes."""
    return 3 << (flags[0] & 7) + 1 if flags and flags[0] & 0x80 else 0
