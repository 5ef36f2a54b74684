"""Results as Markdown tables."""

import statistics
from collections.abc import Sequence


def head(header: str) -> str:
    """Return the header line of a table and the line below it."""
    return f"{header}\n|{' --- |' * header.count(' |')}"


def row(*cells: str) -> str:
    """Return a line of a table."""
    return f"| {' | '.join(cells)} |"


def spread(values: Sequence[float], scale: float, digits: int) -> str:
    """Return the median, smallest and largest value, each multiplied by `scale`."""
    median, least, most = (scale * value for value in (statistics.median(values), min(values), max(values)))
    return f"{median:.{digits}f} ({least:.{digits}f} to {most:.{digits}f})"
