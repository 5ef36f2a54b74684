"""Measurements with a time budget, whose results are on disk as soon as they are known.

`results.jsonl` has a line for every result; `report.md` has the same as tables and is written again after each of them.
A killed run loses the measurement that was running and nothing else. Measurements that are in the file already are not
repeated, so that a second run continues with those that the first one had no time for.
"""

import contextlib
import gc
import json
import os
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks import table

Row = Mapping[str, Any]
"""A line of a table: values by column. A list of numbers is shown as its median, smallest and largest value."""

MEASURED: Final = "measured"
FAILED: Final = "failed"
LEFT_OUT: Final = "left out"
_MAX_REASON: Final = 400
_JOIN: Final = ":"


@dataclass(frozen=True)
class Measurement:
    """A measurement that can be run, left out, or fail, independently of the others.

    Attributes:
        name: group and what is measured, as in `steps:keyframes`.
        seconds: estimated seconds, with compiling.
        run: yields the results, each with the title of its table.
    """

    name: str
    seconds: float
    run: Callable[[], Iterable[tuple[str, Row]]]

    @property
    def group(self) -> str:
        """Group that the measurement is selected by."""
        return self.name.partition(_JOIN)[0]


@dataclass
class Report:
    """The results of a folder, with those of earlier runs.

    Attributes:
        folder: folder of the results; it is created.
        heading: description of the machine and of what is measured; results of another one are not used.
        lines: results so far: a row with its `measurement`, `status`, `table` and `machine`, which is the heading.
    """

    folder: Path
    heading: str
    lines: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.results.exists():
            for line in self.results.read_text().splitlines():
                with contextlib.suppress(ValueError):  # the last line of a killed run
                    self.lines.append(json.loads(line))
        self.lines = [line for line in self.lines if line["machine"] == self.heading]

    @property
    def results(self) -> Path:
        """File with a result a line."""
        return self.folder / "results.jsonl"

    @property
    def finished(self) -> set[str]:
        """Names of the measurements that ended well."""
        return {line["measurement"] for line in self.lines if line["status"] == MEASURED}

    def add(self, measurement: str, status: str, row: Row, title: str = "") -> None:
        """Write a result to both files, and print it."""
        line = {"measurement": measurement, "status": status, "table": title, "machine": self.heading, **row}
        with self.results.open("a") as file:
            file.write(f"{json.dumps(line)}\n")
            file.flush()
            os.fsync(file.fileno())
        self.lines.append(line)
        partial = self.folder / ".report.md"
        partial.write_text(self.markdown())
        partial.replace(self.folder / "report.md")
        shown = ", ".join(f"{column} {_cell(value)}" for column, value in row.items())
        print(f"{measurement}: {status if status != MEASURED else title or 'done'}: {shown}", flush=True)

    def markdown(self) -> str:
        """Return all tables, and the measurements that failed or were left out."""
        parts = [f"# Measurements\n\n{self.heading}"]
        for title in dict.fromkeys(line["table"] for line in self.lines if line["table"]):
            parts.append(f"## {title}\n\n{_table([line for line in self.lines if line['table'] == title])}")
        finished = self.finished
        for status in (FAILED, LEFT_OUT):
            last = {line["measurement"]: line["reason"] for line in self.lines if line["status"] == status}
            items = [f"- `{name}`: {reason}" for name, reason in last.items() if name not in finished]
            if items:
                parts.append(f"## {status.capitalize()}\n\n" + "\n".join(items))
        return "\n\n".join(parts) + "\n"


def run_all(measurements: Sequence[Measurement], report: Report, deadline: float) -> None:
    """Run measurements in order; one starts only if its estimated time fits before the deadline.

    Args:
        measurements: measurements, the most valuable first.
        report: receives the results; measurements that it has already are skipped.
        deadline: time of `time.monotonic` at which all should be finished.
    """
    for measurement in measurements:
        if measurement.name in report.finished:
            continue
        left = deadline - time.monotonic()
        if measurement.seconds > left:
            reason = f"needs about {measurement.seconds:.0f} s, and {max(left, 0):.0f} s were left"
            report.add(measurement.name, LEFT_OUT, {"reason": reason})
            continue
        started = time.monotonic()
        try:
            for title, row in measurement.run():
                report.add(measurement.name, "part", row, title)
        except Exception as error:  # a failure of one, such as too little memory, must not lose the others
            text = " ".join(str(error).split())[:_MAX_REASON]
            report.add(measurement.name, FAILED, {"reason": f"{type(error).__name__}: {text}"})
        else:
            report.add(measurement.name, MEASURED, {"seconds": round(time.monotonic() - started, 1)})
        gc.collect()  # arrays of a failed measurement are in its traceback's frames


def _table(lines: Sequence[Mapping[str, Any]]) -> str:
    hidden = ("measurement", "status", "table", "machine")
    columns = dict.fromkeys(column for line in lines for column in line if column not in hidden)
    rows = [table.row(*(_cell(line[column]) if column in line else "" for column in columns)) for line in lines]
    return "\n".join([table.head(table.row(*columns)), *rows])


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return f"{_number(statistics.median(value))} ({_number(min(value))} to {_number(max(value))})"
    return _number(value) if isinstance(value, float) else str(value).replace("|", "/")


def _number(value: float) -> str:
    """Return a number with three significant digits, or all digits before the point."""
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"
