"""Videos that cannot be read: their names and reasons, their number, and the limit at which training stops."""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from show1_jax.errors import UserError
from show1_jax.media.errors import VideoError as VideoError
from show1_jax.progress import say

MIN_READ = 100
"""Number of clips that must be read before the share of failures is checked."""
MAX_NAMED = 100
"""Maximum number of videos that are named."""


@dataclass
class Counts:
    """Numbers of clips.

    Attributes:
        num_read: clips that were tried.
        num_failed: clips among them that could not be read.
        named: names and reasons of the first `MAX_NAMED` different videos that failed.
    """

    num_read: int = 0
    num_failed: int = 0
    named: dict[str, str] = field(default_factory=dict)

    def __add__(self, more: "Counts") -> "Counts":
        named = list((self.named | more.named).items())[:MAX_NAMED]
        return type(self)(self.num_read + more.num_read, self.num_failed + more.num_failed, dict(named))


class Failures:
    """Counts of clips that were read and that failed; the first failures are named, once each, on stderr.

    A process counts its own clips between two calls of `check`, which adds up the counts of all processes.

    Attributes:
        fatal_problem: reason why this process cannot continue, or ""; `check` raises it in all processes.
    """

    def __init__(self, max_share: float):
        self.fatal_problem = ""
        self._max_share = max_share
        self._global_counts = Counts()
        self._local_counts = Counts()

    @property
    def total(self) -> Counts:
        """Counts of all processes up to the last `check`, plus those of this process since then."""
        return self._global_counts + self._local_counts

    @property
    def num_failed(self) -> int:
        """Clips of `total` that could not be read."""
        return self.total.num_failed

    def count(self, failed: Iterable[tuple[str, str]], num_good: int) -> None:
        """Add the (name, reason) of clips that failed, and the number of clips that did not."""
        local = self._local_counts
        local.num_read += num_good
        for name, reason in failed:
            local.num_read += 1
            local.num_failed += 1
            self._name(name, reason)

    def check(self) -> None:
        """Add up the counts of all processes and compare them with the limit. Every process calls it at the same point.

        Raises:
            UserError: too large a share of the clips has failed, or a process cannot continue.
        """
        from show1_jax.parallel.processes import from_all_processes  # imported here, as workers read clips without JAX

        of_all = from_all_processes((self._local_counts, self.fatal_problem))
        self._global_counts = sum((local for local, _ in of_all), self._global_counts)
        self._local_counts = Counts()
        counts = self._global_counts
        if counts.num_read >= MIN_READ and counts.num_failed > self._max_share * counts.num_read:
            name, reason = next(iter(counts.named.items()))
            raise UserError(
                f"{counts.num_failed} of {counts.num_read} clips cannot be read, the first {name} ({reason}): more "
                f"than the share of {self._max_share:g} that data.max_failed_share allows; build the dataset again"
            )
        for _, problem in of_all:
            if problem:
                raise UserError(problem)

    def _name(self, name: str, reason: str) -> None:
        known = self.total.named
        if name not in known and len(known) < MAX_NAMED:
            self._local_counts.named[name] = reason
            say(f"data: {name} cannot be read ({reason}); it is skipped")

    def get_state(self) -> dict[str, Any]:
        """Return `total` for JSON; after `check` it is equal in every process."""
        return dataclasses.asdict(self.total)

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue from a `get_state`; every process must pass the same one."""
        self.fatal_problem = ""
        self._global_counts = Counts(**state)
        self._local_counts = Counts()
