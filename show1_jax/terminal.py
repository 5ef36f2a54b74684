"""The terminal of a command: output that may be lost without ending the work, and Ctrl-C as one line.

Imports nothing that takes time: it is there while everything else is imported.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, Final, NoReturn

INTERRUPTED = 130
"""What a shell makes of Ctrl-C."""

_AGAIN_SECONDS: Final = 0.05


def end_at_once(program: str) -> None:
    """Have Ctrl-C end this process in one line from now on: there is nothing to tidy up."""
    _handle(_leave(program))


@contextlib.contextmanager
def ending_at_once(program: str) -> Iterator[None]:
    """A block in which Ctrl-C does what `end_at_once` says, such as an import of JAX."""
    with _handling(_leave(program)):
        yield


@contextlib.contextmanager
def interruptible(program: str) -> Iterator[threading.Event]:
    """A block that a first Ctrl-C leaves by KeyboardInterrupt, so that it tidies up, and a second one ends at once.

    What it yields is set by the first one: libraries may make another exception of the KeyboardInterrupt.
    """
    interrupted = threading.Event()

    def first(number: int, frame: FrameType | None) -> NoReturn:
        interrupted.set()
        end_at_once(program)
        raise KeyboardInterrupt

    def unraisable(said: Any) -> None:
        """Where it was raised in what cannot pass it on, such as a garbage collector's callback, raise it again."""
        if said.exc_type is not KeyboardInterrupt:
            before(said)
            return
        threading.Timer(_AGAIN_SECONDS, os.kill, (os.getpid(), signal.SIGINT)).start()
        _handle(first)  # not before: what a second Ctrl-C raised here would be printed

    before, sys.unraisablehook = sys.unraisablehook, unraisable
    try:
        with _handling(first):
            yield interrupted
    finally:
        sys.unraisablehook = before


def leave(code: int) -> NoReturn:
    """End the process with an exit code; after Ctrl-C, without waiting for what is still under way.

    Threads of XLA and TensorStore that were interrupted in their work crash the interpreter while it is taken apart.
    """
    if code != INTERRUPTED:
        sys.exit(code)
    if "multiprocessing" in sys.modules:
        for child in sys.modules["multiprocessing"].active_children():
            child.terminate()
    os._exit(code)


def _leave(program: str) -> Callable[[int, FrameType | None], NoReturn]:
    def leave(number: int, frame: FrameType | None) -> NoReturn:
        bar_end = "" if getattr(sys.stderr, "is_at_line_start", True) else "\n"
        with contextlib.suppress(OSError):
            os.write(2, f"{bar_end}{program}: interrupted\n".encode())
        os._exit(INTERRUPTED)

    return leave


def _handle(handler: Any) -> None:
    """Handle Ctrl-C so, unless it is ignored, as that of a command in the background is."""
    with contextlib.suppress(ValueError):  # not the main thread: somebody else's program
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, handler)


@contextlib.contextmanager
def _handling(handler: Any) -> Iterator[None]:
    before = signal.getsignal(signal.SIGINT)
    _handle(handler)
    try:
        yield
    finally:
        _handle(before)


@contextlib.contextmanager
def steady_output() -> Iterator[None]:
    """A block in which printing never fails.

    What the encoding of stdout or stderr lacks is written in ASCII. What cannot be written at all (a pipe whose reader
    has gone, a full disk, a stream that was closed from the start) is lost, and the work goes on.
    """
    _fill_closed()
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = map(_Steady, before)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        sys.stdout, sys.stderr = before


def _fill_closed() -> None:
    """Open what was closed: the next file would be stdout, and take what is printed."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


class _Steady:
    """A text stream that loses what it cannot write.

    Attributes:
        is_at_line_start: whether what was written last ends a line, as that of a progress bar does not.
    """

    def __init__(self, stream: Any):
        self.is_at_line_start = True
        self._stream = open(os.devnull, "w") if stream is None else stream  # noqa: SIM115
        if hasattr(self._stream, "reconfigure"):
            self._stream.reconfigure(errors="backslashreplace")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write a text, or lose it."""
        if text:
            self.is_at_line_start = text[-1] in "\r\n"
        with self._losing():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Write what was not written yet, or lose it."""
        with self._losing():
            self._stream.flush()

    @contextlib.contextmanager
    def _losing(self) -> Iterator[None]:
        try:
            yield
        except BlockingIOError:
            pass  # a full pipe that does not wait for its reader
        except OSError:  # what is left would fail again when the process ends
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._stream.fileno())
            os.close(null)
