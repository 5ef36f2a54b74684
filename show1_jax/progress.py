"""Progress on stderr: the one bar of all commands."""

import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType, TracebackType
from typing import Any, NoReturn, TypeVar

from tqdm import tqdm

Item = TypeVar("Item")


_RUNNING = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}, {remaining} left{postfix}]"


_LOG_INTERVAL = 30


def refresh_seconds() -> float:
    """Seconds between two states of a bar on stderr: few where it is no terminal, for they stay in a log."""
    return 0.1 if sys.stderr.isatty() else _LOG_INTERVAL


def say(line: str) -> None:
    """Print a line on stderr, above the bars."""
    tqdm.write(line, file=sys.stderr)


class Bar:
    """A bar on stderr; where that is no terminal, a line every half minute instead.

    Attributes:
        done: steps that are done.
        total: steps there are; None: unknown.
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
            name: stands before it.
            total: steps there are; None: unknown, as long as the first one is waited for.
            done: steps that are done already.
            unit: of a step, e.g. " videos"; "B": bytes, shown with a prefix.
            waiting: shown until the first step is done, which waits for the compiler; times and speeds are then of the
                steps after it. Empty: the first step is as the others.
            rates: speeds to show where the first step is waited for: their unit, and how many of it a step has.
            leave: keep the last state on the screen.
            delay: seconds after which the bar is shown first.
            shown: false: show nothing, as in all processes but the first.
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
            "file": sys.stderr if is_terminal else _Lines(),
            "position": None if is_terminal else 0,
            "mininterval": refresh_seconds(),
            "miniters": 1,
        }
        changes = {"bar_format": f"{{desc}}: {waiting}", "leave": False} if waiting else {"total": total}
        self._shown = self._open(**changes)

    def _open(self, **changes: Any) -> "tqdm[NoReturn]":
        return tqdm(initial=self.done, **self._options | changes)

    def update(self, num: int = 1) -> None:
        """Count `num` more steps as done."""
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
        """Show a text behind the speeds from now on."""
        self._note = text
        self._shown.set_postfix_str(self._postfix(), refresh=False)

    def close(self) -> None:
        """Show the last state, or remove the bar if it is not to be left or still waits for the first step."""
        self._shown.close()

    def __enter__(self) -> "Bar":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _postfix(self) -> str:
        """The speeds of the measured steps, as soon as there is one, and the note."""
        parts = []
        if self._measured_from is not None:
            start, first = self._measured_from
            speed = (self.done - first) / max(time.monotonic() - start, 1e-9)
            parts = [f"{speed * each:.3g} {unit}" for unit, each in self._rates.items() if speed]
        return ", ".join([*parts, self._note] if self._note else parts)


def each(items: Iterable[Item], name: str, total: int | None = None, **options: Any) -> Iterator[Item]:
    """Yield items under a bar that counts them; further options are those of `Bar`."""
    with Bar(name, total, **options) as bar:
        for item in items:
            yield item
            bar.update()


class _Lines:
    """Takes what a bar writes and puts every state of it on a line of its own."""

    def write(self, text: str) -> None:
        """Write a state of the bar; bars also write what clears a line."""
        if line := text.strip():
            print(line, file=sys.stderr, flush=True)

    def flush(self) -> None:
        """Nothing waits to be written."""
