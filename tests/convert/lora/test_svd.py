"""Low-rank pairs that are nearest to changes of kernels."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from convert.lora.svd import nearest_pairs

SIZES = st.integers(1, 7)


@given(kernel=st.lists(SIZES, min_size=2, max_size=4), rank=SIZES, seed=st.integers(0, 2**32 - 1))
def test_the_error_is_that_of_the_singular_values_left_out(kernel: list[int], rank: int, seed: int) -> None:
    change = np.random.default_rng(seed).standard_normal(kernel)
    pairs, share = nearest_pairs({("a", "kernel"): change}, rank)
    a, b = pairs["a", "lora_a"], pairs["a", "lora_b"]
    assert (a.shape, b.shape) == ((*kernel[:-1], rank), (rank, kernel[-1]))
    assert a.dtype == b.dtype == np.float32
    values = np.linalg.svd(change.reshape(-1, kernel[-1]), compute_uv=False)
    error = np.sum((a.astype(np.float64) @ b - change) ** 2)
    assert error == pytest.approx(np.sum(values[rank:] ** 2), rel=1e-5, abs=1e-9)
    assert share == pytest.approx(1 - np.sum(values[rank:] ** 2) / np.sum(values**2), abs=1e-12)


def test_no_change_is_kept_wholly() -> None:
    pairs, share = nearest_pairs({("a", "kernel"): np.zeros((3, 2), np.float32)}, 2)
    assert share == 1
    assert all(not array.any() for array in pairs.values())
