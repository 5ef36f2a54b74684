"""Files and table rows that a build does not use, by name."""

import io
from typing import Final

from show1_jax.data.names import normalise_name, one_line

MAX_LISTED: Final = 10
"""Maximum number of names that are printed for each reason."""
_MAX_NAME: Final = 4096


class LeftOut:
    """A table file of everything that is left out, with the reasons, and a summary that is printed.

    A table of captions may name millions of missing videos, so only counts and the first names are kept in memory.

    Attributes:
        count: number of lines in the table; notes are not among them.
    """

    def __init__(self, table: io.TextIOBase):
        self.count = 0
        self._table = table
        self._counts: dict[str, int] = {}
        self._first: dict[str, list[str]] = {}
        table.write("name\treason\n")

    def add(self, name: str, reason: str) -> None:
        """Leave out a file or a table row; the number of different reasons must be small."""
        name = normalise_name(one_line(name[:_MAX_NAME]))
        self._count(f"left out {{}}: {reason}", name)
        self._write(name, reason)

    def skip(self, name: str, reason: str) -> None:
        """Leave out a video whose reason the caller prints; the summary omits it."""
        self._write(name, reason)

    def note(self, name: str, remark: str) -> None:
        """Add a remark about a video that is used."""
        self._count(f"used {{}}: {remark}", normalise_name(name))

    def summary(self) -> list[str]:
        """Return a line for each reason and remark, with the first names."""
        return [
            f"{line.format(count)}: {', '.join(self._first[line])}" + (", ..." if count > MAX_LISTED else "")
            for line, count in self._counts.items()
        ]

    def _count(self, line: str, name: str) -> None:
        self._counts[line] = self._counts.get(line, 0) + 1
        first = self._first.setdefault(line, [])
        if len(first) < MAX_LISTED:
            first.append(name)

    def _write(self, name: str, reason: str) -> None:
        self.count += 1
        self._table.write(f"{name}\t{reason}\n")
