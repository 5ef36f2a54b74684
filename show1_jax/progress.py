"""Progress on stderr: the progress bar that all commands use."""

import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType, TracebackType
from typing import Any, NoReturn, TypeVar

from tqdm import tqdm

TrackedItem = TypeVar("TrackedItem")


_RUNNING = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}, {remaining} left{postfix}]"


_LOG_INTERVAL = 30


def refresh_seconds() -> float:
    """Return the seconds between two states of a bar: 0.1 on a terminal, 30 in a log, where every state is a line."""
    return 0.1 if sys.stderr.isatty() else _LOG_INTERVAL


def say(line: str, file: Any = None) -> None:
    """Print a line above the bars, on stderr or on another stream."""
    file = file or sys.stderr
    tqdm.write(line, file=file)
    file.flush()


class Bar:
    """A progress bar on stderr; if stderr is not a terminal, one line every half minute instead.

    Attributes:
        done: number of finished steps.
        total: number of all steps, or None if it is unknown.
    """

    def __init__(
        self,
        name: str,
        total: int | None = None,
        *,
        done: int = 0,
        unit: str = "it",
        waiting: str = "",
        rates: Mapping[str, float] = MappingProxyType({}),
        leave: bool = True,
        delay: float = 0,
        shown: bool = True,
    ):
        """Show the bar.

        Args:
            name: text before the bar.
            total: number of all steps; None if it is unknown.
            done: number of steps that are finished already.
            unit: unit of a step, e.g. " videos"; "B" means bytes, shown with a prefix.
            waiting: text until the first step is finished, which waits for the compiler. Times and speeds then exclude
                the first step. Empty: the first step is counted like the others.
            rates: speeds to show after `waiting`: their unit, and the number of such units in one step.
            leave: keep the last state on the screen.
            delay: seconds before the bar is first shown.
            shown: if false, show nothing, as in all processes except the first.
        """
        self.done, self.total = done, total
        self._waits = bool(waiting)
        self._rates = rates
        self._note = ""
        self._measured_from: tuple[float, int] | None = None
        is_terminal = sys.stderr.isatty()
        self._options: dict[str, Any] = {
            "desc": name,
            "unit": unit,
            "unit_scale": unit == "B",
            "leave": leave,
            "delay": delay if leave or is_terminal else max(delay, _LOG_INTERVAL),
            "disable": not shown,
            "file": sys.stderr if is_terminal else _LineWriter(),
            "position": None if is_terminal else 0,
            "mininterval": refresh_seconds(),
            "miniters": 1,
        }
        changes = {"bar_format": f"{{desc}}: {waiting}", "leave": False} if waiting else {"total": total}
        self._shown = self._open(**changes)

    def _open(self, **changes: Any) -> "tqdm[NoReturn]":
        return tqdm(initial=self.done, **self._options | changes)

    def update(self, num: int = 1) -> None:
        """Count `num` more steps as finished."""
        self.done += num
        if self._waits:
            self._waits = False
            self._shown.close()
            self._measured_from = time.monotonic(), self.done
            self._shown = self._open(total=self.total, bar_format=_RUNNING, smoothing=0)
        else:
            self._shown.set_postfix_str(self._postfix(), refresh=False)
            self._shown.update(num)

    def note(self, text: str) -> None:
        """Show a text after the speeds from now on."""
        self._note = text
        self._shown.set_postfix_str(self._postfix(), refresh=False)

    def close(self) -> None:
        """Show the last state, or remove the bar if `leave` is false or the first step is not finished."""
        self._shown.close()

    def __enter__(self) -> "Bar":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _postfix(self) -> str:
        """Return the speeds over the measured steps, once there is one, and the note."""
        parts = []
        if self._measured_from is not None:
            start, first = self._measured_from
            speed = (self.done - first) / max(time.monotonic() - start, 1e-9)
            parts = [f"{speed * size:.3g} {unit}" for unit, size in self._rates.items() if speed]
        return ", ".join([*parts, self._note] if self._note else parts)


def track(items: Iterable[TrackedItem], name: str, total: int | None = None, **options: Any) -> Iterator[TrackedItem]:
    """Yield items and count them with a progress bar; `options` are those of `Bar`."""
    with Bar(name, total, **options) as bar:
        for item in items:
            yield item
            bar.update()


class _LineWriter:
    """A stream for a bar that writes each of its states as a separate line."""

    def write(self, text: str) -> None:
        """Write a state of the bar; the control characters that clear a line are dropped."""
        if line := text.strip():
            print(line, file=sys.stderr, flush=True)

    def flush(self) -> None:
        """Do nothing: every line is flushed when it is written."""
