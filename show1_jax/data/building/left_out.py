"""What a build does not use, by name."""

import io
from typing import Final

from show1_jax.data.names import normal, one_line

MAX_LISTED: Final = 10
"""Names that are printed for each reason."""
_MAX_NAME: Final = 4096


class LeftOut:
    """The names and reasons of all that is left out, in a table; counts and the first names for the screen.

    A table of captions may name millions of videos that are not there, so they are not kept in memory.

    Attributes:
        count: of all of them, without those that were only noted.
    """

    def __init__(self, table: io.TextIOBase):
        self.count = 0
        self._table = table
        self._counts: dict[str, int] = {}
        self._first: dict[str, list[str]] = {}
        table.write("name\treason\n")

    def add(self, name: str, reason: str) -> None:
        """Leave something out: a file, or a row of a table; there are few reasons."""
        name = normal(one_line(name[:_MAX_NAME]))
        self._count(f"left out {{}}: {reason}", name)
        self._write(name, reason)

    def skip(self, name: str, reason: str) -> None:
        """Leave a video out whose reason is printed by itself."""
        self._write(name, reason)

    def note(self, name: str, remark: str) -> None:
        """Note something about what is used."""
        self._count(f"used {{}}: {remark}", normal(name))

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
