"""Terminal handling of the commands: output errors do not end a command, and Ctrl-C prints one line.

This module imports only modules that load fast: it is in use while all other modules are imported.
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
"""Exit code of a command that Ctrl-C ended, as shells report it."""

BACKGROUND: Final = "background"
"""Start of the names of threads that a process does not wait for when it ends."""

_RETRY_SECONDS: Final = 0.05

OnFailure = Callable[[BaseException, str, int], None]
_ON_FAILURE: Final[list[OnFailure]] = []


def end_at_once(program: str) -> None:
    """Let Ctrl-C end this process at once, with one line, from now on: there is nothing to clean up."""
    _handle(_exit_handler(program))


@contextlib.contextmanager
def ending_at_once(program: str) -> Iterator[None]:
    """Let Ctrl-C end the process as `end_at_once` does while the block lasts, e.g. during the import of JAX."""
    with _handling(_exit_handler(program)):
        yield


@contextlib.contextmanager
def interruptible(program: str) -> Iterator[threading.Event]:
    """Let a first Ctrl-C raise KeyboardInterrupt in the block, so that it cleans up, and a second one end the process.

    Yields:
        An event that the first Ctrl-C sets: libraries may replace the KeyboardInterrupt by another exception.
    """
    interrupted = threading.Event()

    def first(number: int, frame: FrameType | None) -> NoReturn:
        interrupted.set()
        end_at_once(program)
        raise KeyboardInterrupt

    def unraisable(error: Any) -> None:
        """Raise a KeyboardInterrupt again that Python dropped, e.g. in a callback of the garbage collector."""
        if error.exc_type is not KeyboardInterrupt:
            before(error)
            return
        threading.Timer(_RETRY_SECONDS, os.kill, (os.getpid(), signal.SIGINT)).start()
        _handle(first)  # only now: Python would print an exception that a second Ctrl-C raises here

    before, sys.unraisablehook = sys.unraisablehook, unraisable
    try:
        with _handling(first):
            yield interrupted
    finally:
        sys.unraisablehook = before


def exit_process(code: int) -> NoReturn:
    """End the process with an exit code; after Ctrl-C or an error, without waiting for busy threads.

    Interrupted threads of XLA and TensorStore can crash the interpreter while it shuts down, and a program for a GPU
    may be compiled for a minute.
    """
    is_busy = any(thread.name.startswith(BACKGROUND) for thread in threading.enumerate())
    if code == 0 or (code != INTERRUPTED and not is_busy):
        sys.exit(code)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    _end_now(code)


def end_process(line: str, code: int) -> NoReturn:
    """End the process from any thread, with one line on stderr, whatever the main thread is doing."""
    _write_line(line)
    _end_now(code)


def on_failure(tell: OnFailure) -> None:
    """Call a function whenever a command fails, before its line is printed.

    Args:
        tell: called with the exception, the line and the exit code.
    """
    _ON_FAILURE.append(tell)


def tell_of_failure(error: BaseException, line: str, code: int) -> None:
    """Call the functions that were given to `on_failure`."""
    for tell in _ON_FAILURE:
        tell(error, line, code)


def _end_now(code: int) -> NoReturn:
    if "multiprocessing" in sys.modules:
        for child in sys.modules["multiprocessing"].active_children():
            child.terminate()
    os._exit(code)


def _write_line(line: str) -> None:
    """Write a line to stderr, also in a signal handler; a progress bar that is there keeps its own line."""
    bar_end = "" if getattr(sys.stderr, "is_at_line_start", True) else "\n"
    with contextlib.suppress(OSError):
        os.write(2, f"{bar_end}{line}\n".encode(errors="backslashreplace"))


def _exit_handler(program: str) -> Callable[[int, FrameType | None], NoReturn]:
    def handler(number: int, frame: FrameType | None) -> NoReturn:
        _write_line(f"{program}: interrupted")
        os._exit(INTERRUPTED)

    return handler


def _handle(handler: Any) -> None:
    """Install a handler for Ctrl-C, unless Ctrl-C is ignored, as it is for a command in the background."""
    with contextlib.suppress(ValueError):  # not the main thread: another program uses this as a library
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
def tolerant_output() -> Iterator[None]:
    """Let printing never fail while the block lasts.

    Characters that the encoding of stdout or stderr lacks are escaped in ASCII. Text that cannot be written at all (a
    closed pipe, a full disk, a stream that was closed from the start) is dropped, and the command continues.
    """
    _open_closed_streams()
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = map(_TolerantStream, before)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        sys.stdout, sys.stderr = before


def _open_closed_streams() -> None:
    """Open closed standard streams: the next opened file would otherwise become stdout and receive printed text."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


class _TolerantStream:
    """A text stream that drops text that it cannot write.

    Attributes:
        is_at_line_start: true if the last text ended a line; the text of a progress bar does not.
    """

    def __init__(self, stream: Any):
        self.is_at_line_start = True
        self._stream = open(os.devnull, "w") if stream is None else stream  # noqa: SIM115
        if hasattr(self._stream, "reconfigure"):
            self._stream.reconfigure(errors="backslashreplace")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write a text, or drop it."""
        if text:
            self.is_at_line_start = text[-1] in "\r\n"
        with self._dropping_on_error():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Write the buffered text, or drop it."""
        with self._dropping_on_error():
            self._stream.flush()

    @contextlib.contextmanager
    def _dropping_on_error(self) -> Iterator[None]:
        try:
            yield
        except BlockingIOError:
            pass  # a full pipe in non-blocking mode
        except OSError:  # the buffered text would fail again when the process ends
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._stream.fileno())
            os.close(null)
