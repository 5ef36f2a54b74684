"""Metrics of a training run: JSON lines, TensorBoard and, on request, Weights & Biases.

The first process writes. If it fails, all processes stop.
"""

import contextlib
import json
import math
import secrets
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, SupportsFloat

import numpy as np
from jaxtyping import UInt8

from show1_jax.buckets.path import BucketPath
from show1_jax.errors import UserError
from show1_jax.files import open_regular, write_bytes
from show1_jax.parallel import from_first_process

METRICS: Final = "metrics.jsonl"
TENSORBOARD: Final = "tensorboard"
_WANDB_ID: Final = "wandb_id"
_MAX_EVENT_BYTES: Final = 2**20
"""Size from which an event file in a bucket is not continued."""


class MetricsWriter:
    """A writer of scalars and images of a run, under its `workdir`.

    `metrics.jsonl` has an object for each call of `write`: `step`, `time` (seconds since 1970) and the values by
    name. JSON has no numbers for NaN and the infinities: they are the strings "NaN", "Infinity" and "-Infinity".

    A resumed run has each step once. From `metrics.jsonl` it removes the lines after the step that it resumes from, and
    an incomplete last line of a killed process. The remaining lines are written to a new file, which then replaces the
    old one, so that a complete file exists at any time. In TensorBoard, an event marks later events
    as outdated. W&B keeps its own steps and ignores steps that are logged again.

    Nothing can be appended to an object in a bucket. There, each call writes `metrics.jsonl` and the current event file
    as a whole; a new event file begins when the current one is large.
    """

    def __init__(
        self,
        workdir: Path,
        *,
        resumed_step: int = 0,
        config: Mapping[str, Any] | None = None,
        tensorboard: bool = True,
        wandb_project: str = "",
    ):
        """Open the files. Every process must call this at the same point.

        Args:
            workdir: working directory of the run; created if missing.
            resumed_step: step that the run resumes from; 0 for a new run.
            config: settings of the run, for W&B.
            tensorboard: write event files to `workdir`/tensorboard.
            wandb_project: W&B project to log to; empty: none.

        Raises:
            UserError: the folder cannot be written, or W&B is requested and is not installed or fails.
        """
        self._workdir = workdir
        self._lines: Any = None
        self._tensorboard: Any = None
        self._wandb: Any = None

        def open_files() -> None:
            if wandb_project:
                self._wandb = _start_wandb(workdir, wandb_project, config or {})
            self._lines = _open_lines(workdir / METRICS, resumed_step)
            if tensorboard:
                with _disk_errors(workdir / TENSORBOARD, "choose another --workdir"):
                    self._tensorboard = _EventFile(workdir / TENSORBOARD, resumed_step)

        from_first_process(open_files)

    def write(self, step: int, values: Mapping[str, SupportsFloat]) -> None:
        """Write scalars of a step. TensorBoard and W&B group names by the part before a slash.

        Every process must call this at the same point.

        Raises:
            UserError: the disk is full, or W&B fails.
        """
        from_first_process(lambda: self._write(step, {name: float(value) for name, value in values.items()}))

    def images(self, step: int, images: Mapping[str, Path]) -> None:
        """Add image files to TensorBoard and W&B, by name.

        Every process must call this at the same point; the first reads the files.

        Raises:
            UserError: the disk is full, or W&B fails.
        """
        from_first_process(lambda: self._show(step, images))

    def close(self) -> None:
        """Close the files, to which everything is already written. Any process may call this alone; it never raises."""
        for file in (self._lines, self._tensorboard):
            if file is not None:
                with contextlib.suppress(OSError):  # reported before, by the write that failed
                    file.close()
        if self._wandb is not None:
            try:
                self._wandb.finish()
            except Exception as error:
                print(f"warning: W&B has not saved everything ({_first_line(error)})", file=sys.stderr, flush=True)

    def _write(self, step: int, numbers: Mapping[str, float]) -> None:
        line = {"step": step, "time": round(time.time(), 3)} | {name: _json_number(v) for name, v in numbers.items()}
        with _disk_errors(self._workdir):
            self._lines.write(json.dumps(line, allow_nan=False) + "\n")
            self._lines.flush()
            if self._tensorboard is not None:
                self._tensorboard.scalars(step, numbers)
        if self._wandb is not None:
            with _wandb_errors():
                self._wandb.log(numbers, step=step)

    def _show(self, step: int, images: Mapping[str, Path]) -> None:
        from PIL import Image

        for name, path in images.items():
            with open_regular(path) as file, Image.open(file) as image:
                pixels = np.asarray(image.convert("RGB"))
            if self._tensorboard is not None:
                with _disk_errors(self._workdir):
                    self._tensorboard.image(step, name, pixels)
            if self._wandb is not None:
                import wandb

                with _wandb_errors():
                    self._wandb.log({name: wandb.Image(pixels)}, step=step)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read the lines of a `metrics.jsonl`, with NaN and the infinities as floats."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [{name: float(v) if isinstance(v, str) else v for name, v in line.items()} for line in lines]


def _json_number(value: float) -> float | str:
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else f"{'-' if value < 0 else ''}Infinity"


def _open_lines(path: Path, resumed_step: int) -> Any:
    with _disk_errors(path, "choose another --workdir"):
        old = []
        with contextlib.suppress(FileNotFoundError), open_regular(path) as file:
            old = file.read().splitlines(keepends=True)
        kept = [line for line in old if _is_kept_line(line, resumed_step)]
        if len(kept) < len(old):
            write_bytes(path, b"".join(kept))
        if isinstance(path, BucketPath):
            return _ObjectLines(path, b"".join(kept))
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("a", encoding="utf-8")


def _is_kept_line(line: bytes, resumed_step: int) -> bool:
    """Return whether a line is complete and not of a step after the resumed one."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        return line.endswith(b"\n") and bool(json.loads(line)["step"] <= resumed_step)
    return False


class _ObjectLines:
    """A text file in a bucket: `flush` writes all of it."""

    def __init__(self, path: BucketPath, content: bytes):
        self._path, self._content = path, bytearray(content)

    def write(self, text: str) -> None:
        self._content += text.encode()

    def flush(self) -> None:
        self._path.write_bytes(self._content)

    def close(self) -> None:
        """Do nothing: every line was flushed."""


class _EventFile:
    """A TensorBoard event file that is written immediately; in a bucket, several files, one after the other.

    The writer of tensorboardX writes in a thread; after a full disk has ended that thread it waits for it forever.
    """

    def __init__(self, folder: Path, resumed_step: int):
        from tensorboardX.proto.event_pb2 import SessionLog

        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._scratch = tempfile.TemporaryDirectory() if isinstance(folder, BucketPath) else None
        self._begin_file()
        if resumed_step:
            self._add(step=resumed_step + 1, session_log=SessionLog(status=SessionLog.START))
        self._flush()

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        from tensorboardX.summary import scalar

        for name, value in values.items():
            self._add(step=step, summary=scalar(name, value))
        self._flush()

    def image(self, step: int, name: str, pixels: UInt8[np.ndarray, "height width 3"]) -> None:
        from tensorboardX.summary import image

        self._add(step=step, summary=image(name, pixels, dataformats="HWC"))
        self._flush()

    def close(self) -> None:
        self._records.close()
        if self._scratch is not None:
            self._scratch.cleanup()

    def _begin_file(self) -> None:
        from tensorboardX.record_writer import RecordWriter

        local = self._folder if self._scratch is None else Path(self._scratch.name)
        self._records = RecordWriter(str(local / f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}"))
        self._add(file_version="brain.Event:2")

    def _flush(self) -> None:
        self._records.flush()
        if self._scratch is not None:
            written = Path(self._records.path)
            (self._folder / written.name).write_bytes(written.read_bytes())
            if written.stat().st_size > _MAX_EVENT_BYTES:
                self._records.close()
                self._begin_file()

    def _add(self, **content: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event

        self._records.write(Event(wall_time=time.time(), **content).SerializeToString())


@contextlib.contextmanager
def _disk_errors(path: Path, remedy: str = "make room, then resume with the same command") -> Iterator[None]:
    """Turn errors of the file system in the block into a `UserError` of one line."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror}); {remedy}") from error


@contextlib.contextmanager
def _wandb_errors() -> Iterator[None]:
    """Turn any error of W&B in the block into a `UserError`: no login, no network, no such project."""
    try:
        yield
    except Exception as error:
        raise UserError(f"W&B fails ({_first_line(error)}); `wandb login`, or train without it") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _start_wandb(workdir: Path, project: str, config: Mapping[str, Any]) -> Any:
    """Start a W&B run, or resume the one that `workdir` was logged to before."""
    try:
        import wandb
    except ImportError:
        raise UserError("wandb is not installed; `pip install 'show1_jax[wandb]'`, or train without it") from None
    path = workdir / _WANDB_ID
    if not path.exists():
        write_bytes(path, secrets.token_hex(8).encode())
    run_id = path.read_text()
    options: dict[str, Any] = {"project": project, "id": run_id, "resume": "allow", "name": workdir.name}
    if not isinstance(workdir, BucketPath):
        options["dir"] = workdir
    with _wandb_errors():
        return wandb.init(**options, config=dict(config))
