"""Mean and covariance of features in float64, merged without loss of precision, and the Fréchet distance of two."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float, Float64
from scipy import linalg

_EPSILON: Final = float(np.finfo(np.float64).eps)
_CANCELLED: Final = 1e-4
"""Share of the traces below which their difference has lost too many digits."""


@dataclass(frozen=True)
class Gaussian:
    """Moments of a set of features.

    Attributes:
        count: number of rows.
        mean: their mean.
        scatter: sum of the outer products of the centred rows: (count - 1) times the covariance.
    """

    count: int
    mean: Float64[np.ndarray, " d"]
    scatter: Float64[np.ndarray, "d d"]

    @classmethod
    def of(cls, rows: Float[np.ndarray, "n d"]) -> "Gaussian":
        """Return the moments of some rows, at least one."""
        exact = np.asarray(rows, np.float64)
        mean = exact.mean(0)
        centred = exact - mean
        return cls(len(exact), mean, centred.T @ centred)

    def merge(self, other: "Gaussian") -> "Gaussian":
        """Return the moments of the rows of both (Chan, Golub and LeVeque 1979, equation 2.1)."""
        count = self.count + other.count
        shift = other.mean - self.mean
        scatter = self.scatter + other.scatter + np.outer(shift, shift) * (self.count * other.count / count)
        return Gaussian(count, self.mean + shift * (other.count / count), scatter)

    @property
    def covariance(self) -> Float64[np.ndarray, "d d"]:
        """Covariance with `count - 1` in the denominator; it needs two rows."""
        return self.scatter / (self.count - 1)

    @property
    def rank(self) -> int:
        """Numerical rank of the covariance: at most `count - 1`."""
        return int(np.count_nonzero(_clean(linalg.eigvalsh(self.covariance))))


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """Return the squared Fréchet distance of two Gaussians (Dowson and Landau 1982).

    |mean_a - mean_b|^2 + tr(A) + tr(B) - 2 tr((A B)^(1/2)), for covariances A and B. With any factors A = F F' and
    B = G G', the last trace is the sum of the singular values of G' F, so covariances of low rank need no special care.
    For nearly equal sets the three terms cancel; then their sum is computed as the smallest squared Frobenius norm of
    F - G Q over all orthogonal Q, which equals it (Bhatia, Jain and Lim 2019, theorem 1) and is 0 up to 1e-20 for equal
    sets. That takes the singular vectors, and several times as long.

    Args:
        a: moments of at least two rows.
        b: moments of at least two rows of the same width.
    """
    root_a, root_b = _root(a.covariance), _root(b.covariance)
    product, shift = root_b.T @ root_a, a.mean - b.mean
    total = float(np.square(root_a).sum() + np.square(root_b).sum())
    spread = total - 2 * float(linalg.svdvals(product).sum())
    if spread < _CANCELLED * total:
        left, _, right = linalg.svd(product)
        spread = float(np.square(root_a - root_b @ (left @ right)).sum())
    return float(shift @ shift) + spread


def _root(covariance: Float64[np.ndarray, "d d"]) -> Float64[np.ndarray, "d d"]:
    """Return F with covariance = F F', from eigenvalues."""
    values, vectors = linalg.eigh(covariance)
    root: np.ndarray = vectors * np.sqrt(_clean(values))
    return root


def _clean(eigenvalues: Float64[np.ndarray, " d"]) -> Float64[np.ndarray, " d"]:
    """Return eigenvalues with 0 in place of those that rounding alone can give, with the bound of `matrix_rank`."""
    bound = eigenvalues.max(initial=0) * len(eigenvalues) * _EPSILON
    return np.where(eigenvalues > bound, eigenvalues, 0)
