"""Batches of training clips, read and compared."""

import contextlib
from collections.abc import Sequence

import numpy as np

from show1_jax.data.clips import ClipBatch, ClipIterator


def read_batches(iterator: ClipIterator, num: int) -> list[ClipBatch]:
    """Return the next batches, and end the iterator's workers."""
    with contextlib.closing(iterator):
        return [next(iterator) for _ in range(num)]


def assert_equal(some: Sequence[ClipBatch], others: Sequence[ClipBatch]) -> None:
    """Compare captions and all pixels."""
    for one, other in zip(some, others, strict=True):
        assert one.captions == other.captions
        np.testing.assert_array_equal(one.video, other.video)
