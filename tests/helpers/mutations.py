"""Mutations of valid files: damage by disks and networks, and values from an attacker.

Each is a function of only the bytes and a random generator, so that a seed reproduces its result.
"""

import copy
import hashlib
import json
import random
from collections.abc import Callable, Iterator
from typing import Any, Final

Mutate = Callable[[bytes, random.Random], bytes]

NUMBERS: Final = (
    0,
    1,
    2,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0xFFFF,
    2**24,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**40,
    2**63,
    2**64 - 1,
)
VALUES: Final[tuple[Any, ...]] = (
    *(None, True, False, 0, 1, -1, 7, 64, 10**9, 2**40, 10**12, 2**63, 10**400, 0.5, -0.5, 1e-300, 1e300),
    *(float("inf"), float("-inf"), float("nan"), "", "x", "nan", "../x", "/etc/passwd", "\ud800", "x" * 10_000),
    *([], {}, [0], [[]], [10**9] * 3, ["a"], {"a": 1}, {"": {}}, [None]),
)


def mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    """Apply one to four changes of bytes."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        rng.choice((_flip, _flip, _overwrite, _overwrite, _cut, _insert, _repeat, _erase, _truncate))(changed, rng)
    return bytes(changed)


def _place(data: bytearray, rng: random.Random) -> int:
    """Return a position, half of the time among the first bytes, where headers are."""
    return rng.randrange(min(len(data), 256 if rng.random() < 0.5 else len(data)) or 1)


def _flip(data: bytearray, rng: random.Random) -> None:
    if data:
        data[_place(data, rng)] ^= 1 << rng.randrange(8)


def _overwrite(data: bytearray, rng: random.Random) -> None:
    """Overwrite 1, 2, 4 or 8 bytes by a number, in either byte order."""
    width, order = rng.choice((1, 2, 4, 8)), rng.choice(("big", "little"))
    start = _place(data, rng)
    number = (rng.choice(NUMBERS) % 2 ** (8 * width)).to_bytes(width, order)
    data[start : start + width] = number


def _cut(data: bytearray, rng: random.Random) -> None:
    start = _place(data, rng)
    del data[start : start + rng.randint(1, 64)]


def _insert(data: bytearray, rng: random.Random) -> None:
    start = _place(data, rng)
    data[start:start] = rng.randbytes(rng.randint(1, 64))


def _repeat(data: bytearray, rng: random.Random) -> None:
    start, length = _place(data, rng), rng.randint(1, 512)
    data[start:start] = data[start : start + length] * rng.randint(1, 8)


def _erase(data: bytearray, rng: random.Random) -> None:
    start = _place(data, rng)
    length = min(rng.randint(1, 512), len(data) - start)
    data[start : start + length] = bytes([rng.choice((0, 0xFF))]) * length


def _truncate(data: bytearray, rng: random.Random) -> None:
    if rng.random() < 0.3:
        del data[rng.randrange(len(data) + 1) :]


def mutate_json(data: bytes, rng: random.Random) -> bytes:
    """Change one to three values, names or entries of a JSON document; sometimes its bytes."""
    if rng.random() < 0.1:
        return mutate_bytes(data, rng)
    document = json.loads(data)
    for _ in range(rng.randint(1, 3)):
        document = _changed(document, rng)
    return json.dumps(document).encode()


def mutate_signed_json(data: bytes, rng: random.Random) -> bytes:
    """Change a document that contains a hash of itself, and correct the hash."""
    changed = mutate_json(data, rng)
    try:
        document = json.loads(changed)
    except ValueError:
        return changed
    if not isinstance(document, dict):
        return changed
    values = {name: value for name, value in document.items() if name != "sha256"}
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
    return json.dumps(values | {"sha256": digest}).encode()


def mutate_lines(data: bytes, rng: random.Random) -> bytes:
    """Change a text file: its lines, its separators, its encoding, or its bytes."""
    lines = data.split(b"\n")
    for _ in range(rng.randint(1, 3)):
        line = rng.randrange(len(lines))
        match rng.randrange(8):
            case 0:
                lines[line] = json.dumps(rng.choice(VALUES)).encode()
            case 1:
                lines[line] = rng.choice((b'"', b"'", b",", b"{", b"[", b"]", b"}", b"\0", b"\xff\xfe", b"\t;|"))
            case 2:
                lines[line] *= rng.choice((2, 1000))
            case 3:
                lines[line] = lines[line].replace(b",", rng.choice((b";", b"\t", b"", b",,")))
            case 4:
                lines.insert(line, rng.choice(lines))
            case 5:
                del lines[line:]
                lines = lines or [b""]
            case 6:
                lines = [each.replace(b'"', b"") for each in lines]
            case _:
                return mutate_bytes(b"\n".join(lines), rng)
    text = b"\n".join(lines)
    return text if rng.random() < 0.8 else text.decode(errors="replace").encode(rng.choice(("utf-16", "utf-8-sig")))


def _changed(document: Any, rng: random.Random) -> Any:
    places = list(_places(document))
    if not places:
        return rng.choice(VALUES)
    *parents, last = rng.choice(places)
    changed = copy.deepcopy(document)
    node = changed
    for key in parents:
        node = node[key]
    choice = rng.random()
    if choice < 0.15:
        del node[last]
    elif choice < 0.25 and isinstance(node, dict):
        node[rng.choice(("", "x", "../x", last.upper(), last + " "))] = node.pop(last)
    elif choice < 0.3:
        node[last] = _nested(rng.choice((3, 100, 200)))
    elif choice < 0.4 and isinstance(node[last], list):
        node[last] = node[last] * rng.choice((0, 2, 10_000))
    else:
        node[last] = rng.choice(VALUES)
    return changed


def _nested(depth: int) -> Any:
    value: Any = 0
    for _ in range(depth):
        value = [value]
    return value


def _places(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    keys = document if isinstance(document, dict) else range(len(document)) if isinstance(document, list) else ()
    for key in keys:
        yield (*path, key)
        yield from _places(document[key], (*path, key))
