"""Low-rank pairs for an adapter that replaces whole kernels: the best approximation of each change of a given rank."""

from collections.abc import Mapping

import numpy as np

from show1_jax.checkpoints.adapters import LORA_A, LORA_B
from show1_jax.parallel.weights import WeightPath


def nearest_pairs(changes: Mapping[WeightPath, np.ndarray], rank: int) -> tuple[dict[WeightPath, np.ndarray], float]:
    """Return low-rank pairs whose products A B are nearest to changes of kernels, in the sum of squares.

    They are the truncated singular value decomposition (Eckart and Young 1936). The singular values are shared between
    A and B equally.

    Args:
        changes: changes (inputs..., outputs) by the path of the kernel, of floats.
        rank: rank of the pairs; a kernel with fewer rows or columns gets zeros.

    Returns:
        The pairs by path, float32, and the share of the changes' sum of squares that they have; 1 if it is 0.
    """
    pairs: dict[WeightPath, np.ndarray] = {}
    kept = total = 0.0
    for path, change in changes.items():
        matrix = change.astype(np.float64).reshape(-1, change.shape[-1])
        left, values, right = np.linalg.svd(matrix, full_matrices=False)
        num = min(rank, len(values))
        roots, added = np.sqrt(values[:num]), rank - num
        a = np.pad(left[:, :num] * roots, [(0, 0), (0, added)])
        b = np.pad(roots[:, None] * right[:num], [(0, added), (0, 0)])
        pairs[*path[:-1], LORA_A] = a.reshape(*change.shape[:-1], rank).astype(np.float32)
        pairs[*path[:-1], LORA_B] = b.astype(np.float32)
        kept, total = kept + float(np.sum(values[:num] ** 2)), total + float(np.sum(values**2))
    return pairs, kept / total if total else 1.0
