"""Which clip comes when: shuffles and draws that are functions of numbers, the same on every machine and library.

Neither holds a list: the clip of any element of an endless, reshuffled order is computed by itself, so that workers,
processes and resumed runs need no common state.
"""

import hashlib
import struct
from dataclasses import dataclass

_ROUNDS = 6


def hashed(key: str, *numbers: int) -> int:
    """64 random bits for a purpose and some numbers (BLAKE2b, RFC 7693)."""
    data = struct.pack(f"<{len(numbers)}q", *numbers)
    return int.from_bytes(hashlib.blake2b(data, digest_size=8, key=key.encode()).digest(), "little")


def uniform(key: str, *numbers: int) -> float:
    """A draw from [0, 1) for a purpose and some numbers."""
    return (hashed(key, *numbers) >> 11) / 2**53


def shuffled(position: int, size: int, key: str, *numbers: int) -> int:
    """What stands at a position of 0 to size - 1 after they were shuffled.

    A Feistel network permutes the next larger square power of two (Luby and Rackoff, 1988); what falls outside of
    `size` is permuted again until it is inside (Black and Rogaway, 2002).

    Args:
        position: from 0 to `size` - 1.
        size: how many there are.
        key: with `numbers`, which shuffle.
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
    """An endless order over `size` clips: every one of them once an epoch, each epoch shuffled anew."""

    size: int
    seed: int

    def clip(self, element: int) -> int:
        """The clip of an element, counted from 0 over all epochs."""
        epoch, position = divmod(element, self.size)
        return shuffled(position, self.size, "epoch", self.seed, epoch)

    def replacement(self, element: int, attempt: int) -> int:
        """The clip to try when an element's own, and `attempt` - 1 others, cannot be read: any, by chance."""
        return hashed("replacement", self.seed, element, attempt) % self.size
