"""The order of clips: shuffles and random draws as functions of integers, equal on every machine and library version.

No list is stored. The clip of any element of an endless, reshuffled order is computed independently, so that workers,
processes and resumed runs need no shared state.
"""

import hashlib
import struct
from dataclasses import dataclass

_ROUNDS = 6


def hashed(key: str, *numbers: int) -> int:
    """Return 64 random bits for a purpose, `key`, and some integers (BLAKE2b, RFC 7693)."""
    data = struct.pack(f"<{len(numbers)}q", *numbers)
    return int.from_bytes(hashlib.blake2b(data, digest_size=8, key=key.encode()).digest(), "little")


def uniform(key: str, *numbers: int) -> float:
    """Return a uniform draw from [0, 1) for a purpose, `key`, and some integers."""
    return (hashed(key, *numbers) >> 11) / 2**53


def shuffled(position: int, size: int, key: str, *numbers: int) -> int:
    """Return the item at a position after the items 0 to `size` - 1 were shuffled.

    A Feistel network permutes the next power of four (Luby and Rackoff, 1988). A result outside of `size` is permuted
    again until it is inside (Black and Rogaway, 2002).

    Args:
        position: 0 to `size` - 1.
        size: number of items.
        key: the purpose; together with `numbers` it selects the shuffle.
        *numbers: integers, such as a seed and an epoch.
    """
    half = max(1, -(-(size - 1).bit_length() // 2))
    while True:
        left, right = divmod(position, 1 << half)
        for number in range(_ROUNDS):
            left, right = right, left ^ (hashed(key, *numbers, number, right) % (1 << half))
        position = (left << half) + right
        if position < size:
            return position


@dataclass(frozen=True)
class Order:
    """An endless order of `size` clips: every clip once an epoch, every epoch with a new shuffle."""

    size: int
    seed: int

    def clip(self, element: int) -> int:
        """Return the clip of an element; elements are counted from 0 over all epochs."""
        epoch, position = divmod(element, self.size)
        return shuffled(position, self.size, "epoch", self.seed, epoch)

    def replacement(self, element: int, attempt: int) -> int:
        """Return a random clip to try after the element's own clip and `attempt` - 1 replacements could not be read."""
        return hashed("replacement", self.seed, element, attempt) % self.size
