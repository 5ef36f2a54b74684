"""Videos that cannot be read: what went wrong, how often, and how often is too often."""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from show1_jax.errors import UserError
from show1_jax.media.errors import VideoError as VideoError
from show1_jax.progress import say

MIN_READ = 100
"""Clips read before their failed share is judged."""
MAX_NAMED = 100


@dataclass
class Counts:
    """Clips that were tried.

    Attributes:
        num_read: how many.
        num_failed: of these, how many could not be read.
        named: the first `MAX_NAMED` different videos among them, with their reasons.
    """

    num_read: int = 0
    num_failed: int = 0
    named: dict[str, str] = field(default_factory=dict)

    def __add__(self, more: "Counts") -> "Counts":
        named = list((self.named | more.named).items())[:MAX_NAMED]
        return type(self)(self.num_read + more.num_read, self.num_failed + more.num_failed, dict(named))


class Failures:
    """Counts the clips that were read and that failed; the first of them are named, once each, on stderr.

    A process counts its own clips between two calls of `check`, which adds up what all processes have counted.

    Attributes:
        hopeless: why this process cannot go on, if it cannot; `check` raises it in all.
    """

    def __init__(self, max_share: float):
        self.hopeless = ""
        self._max_share = max_share
        self._agreed = Counts()
        self._own = Counts()

    @property
    def total(self) -> Counts:
        """Of all processes up to the last `check`, and of this one since then."""
        return self._agreed + self._own

    @property
    def num_failed(self) -> int:
        """Clips that could not be read, of `total`."""
        return self.total.num_failed

    def count(self, failed: Iterable[tuple[str, str]], num_good: int) -> None:
        """Add some clips: those that failed, as (name, reason), and the number of those that did not."""
        own = self._own
        own.num_read += num_good
        for name, reason in failed:
            own.num_read += 1
            own.num_failed += 1
            self._name(name, reason)

    def check(self) -> None:
        """Add up the counts of all processes and judge them. Every process calls it, at the same point.

        Raises:
            UserError: too large a share of what was read has failed, or a process cannot go on.
        """
        from show1_jax.parallel.processes import from_all_processes  # here, for workers read clips without JAX

        everyone = from_all_processes((self._own, self.hopeless))
        self._agreed = sum((own for own, _ in everyone), self._agreed)
        self._own = Counts()
        counts = self._agreed
        if counts.num_read >= MIN_READ and counts.num_failed > self._max_share * counts.num_read:
            name, reason = next(iter(counts.named.items()))
            raise UserError(
                f"{counts.num_failed} of {counts.num_read} clips cannot be read, the first {name} ({reason}): more "
                f"than the share of {self._max_share:g} that data.max_failed_share allows; build the dataset again"
            )
        for _, hopeless in everyone:
            if hopeless:
                raise UserError(hopeless)

    def _name(self, name: str, reason: str) -> None:
        known = self.total.named
        if name not in known and len(known) < MAX_NAMED:
            self._own.named[name] = reason
            say(f"data: {name} cannot be read ({reason}); it is passed over")

    def get_state(self) -> dict[str, Any]:
        """`total`, for JSON: after `check` the same in every process."""
        return dataclasses.asdict(self.total)

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue from a `get_state` that every process is given."""
        self.hopeless = ""
        self._agreed = Counts(**state)
        self._own = Counts()
