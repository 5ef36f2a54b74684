"""What a training run tells of itself: JSON lines, TensorBoard and, if asked for, Weights & Biases.

The first process writes, and where it cannot, all processes stop.
"""

import contextlib
import json
import math
import secrets
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, SupportsFloat

import numpy as np
from jaxtyping import UInt8

from show1_jax.errors import UserError
from show1_jax.files import open_regular, write_bytes
from show1_jax.parallel import from_first_process

METRICS: Final = "metrics.jsonl"
TENSORBOARD: Final = "tensorboard"
_WANDB_ID: Final = "wandb_id"


class MetricsWriter:
    """Writes scalars and images of a run under its `workdir`.

    `metrics.jsonl` has an object for each call of `write`: `step`, `time` (seconds since 1970) and the values by
    name. NaN and the infinities, which JSON has no numbers for, are the strings "NaN", "Infinity" and "-Infinity".

    A resumed run has each step once. From `metrics.jsonl` the lines after the step it resumes from are left out, and
    what a kill has left of a last line: the kept lines are written to a new file, which then takes the old one's place,
    so that a kill at any moment leaves one or the other. TensorBoard is told to forget the later events; W&B keeps
    what it has and skips the steps that come again.
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
        """Open the files; every process calls it, at the same point.

        Args:
            workdir: of the run; made if it is not there.
            resumed_step: the run goes on after it; 0 for a new run.
            config: of the run, for W&B.
            tensorboard: write event files to `workdir`/tensorboard.
            wandb_project: project of W&B to log to; empty: none.

        Raises:
            UserError: the folder cannot be written, or wandb is asked for and is not installed or takes no run.
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
                with _one_line(workdir / TENSORBOARD, "choose another --workdir"):
                    self._tensorboard = _EventFile(workdir / TENSORBOARD, resumed_step)

        from_first_process(open_files)

    def write(self, step: int, values: Mapping[str, SupportsFloat]) -> None:
        """Write scalars of a step; names with a slash are grouped by what stands before it.

        Every process calls it, at the same point.

        Raises:
            UserError: the disk is full, or W&B takes nothing.
        """
        from_first_process(lambda: self._write(step, {name: float(value) for name, value in values.items()}))

    def images(self, step: int, images: Mapping[str, Path]) -> None:
        """Show image files in TensorBoard and W&B, by name.

        Every process calls it, at the same point; the first reads the files.

        Raises:
            UserError: the disk is full, or W&B takes nothing.
        """
        from_first_process(lambda: self._show(step, images))

    def close(self) -> None:
        """Close the files, in which everything is already. For any process by itself; nothing is raised."""
        for file in (self._lines, self._tensorboard):
            if file is not None:
                with contextlib.suppress(OSError):  # said before, when it was written
                    file.close()
        if self._wandb is not None:
            try:
                self._wandb.finish()
            except Exception as error:
                print(f"warning: W&B has not taken everything ({_first_line(error)})", file=sys.stderr, flush=True)

    def _write(self, step: int, numbers: Mapping[str, float]) -> None:
        line = {"step": step, "time": round(time.time(), 3)} | {name: _json(v) for name, v in numbers.items()}
        with _one_line(self._workdir):
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
            with Image.open(path) as image:
                pixels = np.asarray(image.convert("RGB"))
            if self._tensorboard is not None:
                with _one_line(self._workdir):
                    self._tensorboard.image(step, name, pixels)
            if self._wandb is not None:
                import wandb

                with _wandb_errors():
                    self._wandb.log({name: wandb.Image(pixels)}, step=step)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a `metrics.jsonl`, with NaN and the infinities as numbers again."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [{name: float(v) if isinstance(v, str) else v for name, v in line.items()} for line in lines]


def _json(value: float) -> float | str:
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else f"{'-' if value < 0 else ''}Infinity"


def _open_lines(path: Path, resumed_step: int) -> Any:
    with _one_line(path, "choose another --workdir"):
        old = []
        with contextlib.suppress(FileNotFoundError), open_regular(path) as file:
            old = file.read().splitlines(keepends=True)
        kept = [line for line in old if _is_kept(line, resumed_step)]
        if len(kept) < len(old):
            write_bytes(path, b"".join(kept))
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("a", encoding="utf-8")


def _is_kept(line: bytes, resumed_step: int) -> bool:
    """Whether a line is whole, and of a step that the run goes on after."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        return line.endswith(b"\n") and bool(json.loads(line)["step"] <= resumed_step)
    return False


class _EventFile:
    """TensorBoard's events, written at once.

    tensorboardX's own writer leaves them to a thread, and waits for it for ever once a full disk has ended it.
    """

    def __init__(self, folder: Path, resumed_step: int):
        from tensorboardX.proto.event_pb2 import SessionLog
        from tensorboardX.record_writer import RecordWriter

        folder.mkdir(parents=True, exist_ok=True)
        self._records = RecordWriter(str(folder / f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}"))
        self._add(file_version="brain.Event:2")
        if resumed_step:
            self._add(step=resumed_step + 1, session_log=SessionLog(status=SessionLog.START))
        self._records.flush()

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        from tensorboardX.summary import scalar

        for name, value in values.items():
            self._add(step=step, summary=scalar(name, value))
        self._records.flush()

    def image(self, step: int, name: str, pixels: UInt8[np.ndarray, "height width 3"]) -> None:
        from tensorboardX.summary import image

        self._add(step=step, summary=image(name, pixels, dataformats="HWC"))
        self._records.flush()

    def close(self) -> None:
        self._records.close()

    def _add(self, **content: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event

        self._records.write(Event(wall_time=time.time(), **content).SerializeToString())


@contextlib.contextmanager
def _one_line(path: Path, remedy: str = "make room, then go on with the same command") -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror}); {remedy}") from error


@contextlib.contextmanager
def _wandb_errors() -> Iterator[None]:
    """What goes wrong in W&B, of whatever type: no login, no network, no such project."""
    try:
        yield
    except Exception as error:
        raise UserError(f"W&B fails ({_first_line(error)}); `wandb login`, or train without it") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _start_wandb(workdir: Path, project: str, config: Mapping[str, Any]) -> Any:
    """A run of W&B, the same one whenever the training of `workdir` goes on."""
    try:
        import wandb
    except ImportError:
        raise UserError("wandb is not installed; `pip install 'show1_jax[wandb]'`, or train without it") from None
    path = workdir / _WANDB_ID
    if not path.exists():
        write_bytes(path, secrets.token_hex(8).encode())
    run_id = path.read_text()
    options = {"project": project, "id": run_id, "resume": "allow", "name": workdir.name, "dir": workdir}
    with _wandb_errors():
        return wandb.init(**options, config=dict(config))
