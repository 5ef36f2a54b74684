"""Run directories: one for every video, named by its prompt and seed, on a file system or in a bucket.

A run directory contains, for stage number n:

    n_STAGE.safetensors     the stage's result, float32, bit for bit; `--from_stage` starts from it
    n_STAGE.mp4, .gif       the same, for viewing
    n_STAGE_x4_lanczos.mp4  the same at four times the size, of the last stage, if its frames are small
    contact_sheet.png       frames of all stages
    run.json                the request, and how the video was made

A stage's `.safetensors` is written after its other files, and `run.json` after all files: if one of these exists, the
files before it are complete.
"""

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from jaxtyping import Float32

from show1_jax.cascade.prompts import Prompt, slug
from show1_jax.checkpoints.manifest import sha256
from show1_jax.config.config_file import Config
from show1_jax.config.sampling import STAGES, Stage
from show1_jax.config.video_edit import VideoEdit
from show1_jax.errors import UserError
from show1_jax.files import locked_folder, open_regular, storage_path, write_bytes
from show1_jax.media.contact_sheet import CONTACT_SHEET, contact_sheet
from show1_jax.media.frames import enlarge_uint8, to_uint8
from show1_jax.media.stage_files import load_stage, read_start, save_stage, video_sha256
from show1_jax.media.write import write_gif, write_mp4
from show1_jax.sampling.run_record import RECORD, Record

START_FIELDS: Final = ("edit", "image")
"""Fields of a request that state what its first stages started from; see `describe_request`."""
_VIEWABLE: Final = (".mp4", ".gif")
_FACTOR: Final = 4
_ENLARGED: Final = f"_x{_FACTOR}_lanczos.mp4"
_SMALL: Final = 240
"""Height below which players show a video as a stamp: it is also written enlarged."""
_SUFFIXES: Final = (*_VIEWABLE, _ENLARGED, ".safetensors")
_HASHED: Final = (*_VIEWABLE, ".png")
_RESAMPLE: Final = "sample it again with --overwrite"

Clip = Float32[np.ndarray, "t h w c"]


class RunDirectory:
    """The directory of one video. Only files of the video are read, written and removed, never other files.

    Attributes:
        path: path of the directory, which is made with its first file.
    """

    def __init__(self, path: Path):
        self.path = path

    @classmethod
    def of(cls, out: str | Path, prompt: Prompt) -> "RunDirectory":
        """Return the directory of a prompt, which must have a seed."""
        assert prompt.seed is not None
        return cls(storage_path(out) / slug(prompt.text, prompt.seed))

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the directory against other processes while the block lasts; an empty directory is removed afterwards.

        Raises:
            UserError: another process has locked it, or it cannot be made.
        """
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(locked_folder(self.path))
            except OSError as error:
                raise UserError(f"cannot write in {self.path} ({error.strerror}); choose another --out") from error
            yield

    def stage_file(self, stage: Stage, suffix: str = ".safetensors") -> Path:
        """Return the path of a stage's file with that suffix; it may not exist."""
        return self.path / f"{STAGES.index(stage) + 1}_{stage}{suffix}"

    def viewed(self, stage: Stage) -> Path:
        """Return the path of a stage's MP4 to look at: the enlarged one, if there is one."""
        enlarged = self.stage_file(stage, _ENLARGED)
        return enlarged if enlarged.exists() else self.stage_file(stage, ".mp4")

    def has(self, stage: Stage) -> bool:
        """Return whether a stage is finished."""
        return self.stage_file(stage).exists()

    def load(self, stage: Stage) -> Clip:
        """Return a stage's result.

        Raises:
            UserError: it is missing or damaged.
        """
        path = self.stage_file(stage)
        if not path.exists():
            raise UserError(f"there is no {path}; run stage {stage} of this prompt and seed first")
        return load_stage(path, stage)

    def write_stage(
        self, stage: Stage, video: Clip, fps: float, start: Mapping[str, Any] = MappingProxyType({})
    ) -> None:
        """Write all files of a stage.

        Args:
            stage: the stage.
            video: its result.
            fps: frames per second at which it is shown.
            start: what the video started from, see `start_of`.

        Raises:
            UserError: the video has NaN values, or the disk is full.
        """
        frames = to_uint8(video)
        write_mp4(self.stage_file(stage, ".mp4"), frames, fps)
        write_gif(self.stage_file(stage, ".gif"), frames, fps)
        if stage == STAGES[-1] and frames.shape[1] < _SMALL:
            write_mp4(self.stage_file(stage, _ENLARGED), enlarge_uint8(frames, _FACTOR), fps)
        save_stage(self.stage_file(stage), video, stage, start)

    def finish(self, title: str, record: Record) -> None:
        """Write the contact sheet of the existing stages, then the record with the hashes of all files.

        Args:
            title: title of the contact sheet.
            record: the record, with the hashes of the stages' results as they were written.

        Raises:
            UserError: a stage no longer has the hash in the record's `results`, or the disk is full.
        """
        videos = {stage: self.load(stage) for stage in STAGES if self.has(stage)}
        results = {stage: video_sha256(video) for stage, video in videos.items()}
        for stage, expected in record.results.items():
            if results.get(stage) != expected:
                raise UserError(f"{self.stage_file(stage)} was changed meanwhile; sample the video again")
        contact_sheet(self.path / CONTACT_SHEET, {stage: to_uint8(video) for stage, video in videos.items()}, title)
        files = {path.name: sha256(path) for path in self.existing(STAGES) if path.suffix in _HASHED}
        record = dataclasses.replace(record, results=results, files=files)
        write_bytes(self.path / RECORD, record.to_bytes())

    def record(self) -> Record | None:
        """Return the record in `run.json`, or None if there is none; see `Record.read`."""
        return Record.read(self.path / RECORD)

    def start_of(self, stages: Sequence[Stage]) -> dict[str, Any]:
        """Return the fields of a request that state what these stages started from: `edit` and `image`.

        They are those of the record, or of the stages' files if sampling was ended before the record was written. A
        damaged record has none; it is refused or replaced later.
        """
        try:
            record = self.record()
        except UserError:
            return {}
        request: Mapping[str, Any] = {}
        if record is not None:
            request = record.request
        elif stages:
            request = read_start(self.stage_file(stages[-1]))
        edit, image = request.get("edit"), request.get("image")
        start: dict[str, Any] = {}
        if isinstance(edit, dict) and edit.get("stage") in stages:
            start["edit"] = edit
        if isinstance(image, str) and stages:
            start["image"] = image
        return start

    def is_done(self, request: Mapping[str, Any], stages: Sequence[Stage], inputs: Mapping[Stage, str]) -> bool:
        """Return whether these stages of this request have been sampled, with inputs of these hashes.

        Raises:
            UserError: they have been sampled, but one of their files is missing or differs from the record; or the
                record is damaged.
        """
        record = self.record()
        if record is None or not record.matches(request, inputs) or not set(stages) <= set(record.stages):
            return False
        for stage in stages:
            self.check_result(record, stage)
            for suffix in _VIEWABLE:
                self._check_file(record, self.stage_file(stage, suffix))
            if (enlarged := self.stage_file(stage, _ENLARGED)).name in record.files:
                self._check_file(record, enlarged)
        self._check_file(record, self.path / CONTACT_SHEET)
        return True

    def check_result(self, record: Record, stage: Stage) -> None:
        """Compare the hash of a stage's result with the record.

        Raises:
            UserError: the result is missing or damaged, or its hash differs.
        """
        if video_sha256(self.load(stage)) != record.results.get(stage):
            raise UserError(f"{self.stage_file(stage)} is not the one that {RECORD} records; {_RESAMPLE}")

    def _check_file(self, record: Record, path: Path) -> None:
        if not path.exists():
            raise UserError(f"{path} is missing; {_RESAMPLE}")
        expected = record.files.get(path.name)  # older records have no hashes of files
        try:
            is_whole = _has_content(path) if expected is None else sha256(path) == expected
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror}); {_RESAMPLE}") from None
        if not is_whole:
            raise UserError(f"{path} is damaged or was changed: {RECORD} records another; {_RESAMPLE}")

    def existing(self, stages: Sequence[Stage]) -> list[Path]:
        """Return the existing files of these stages; if these are all stages, first those of the whole video."""
        whole = [self.path / RECORD, self.path / CONTACT_SHEET] if tuple(stages) == STAGES else []
        files = [*whole, *(self.stage_file(stage, suffix) for stage in stages for suffix in _SUFFIXES)]
        return [path for path in files if path.exists()]

    def check_replaceable(self, stages: Sequence[Stage]) -> None:
        """Refuse to run these stages if there is a folder with the name of a file that would be written.

        Raises:
            UserError: there is such a folder.
        """
        files = [self.stage_file(stage, suffix) for stage in stages for suffix in _SUFFIXES]
        for path in (self.path / RECORD, self.path / CONTACT_SHEET, *files):
            if path.is_dir() and not path.is_symlink():
                raise UserError(f"{path} is a folder, not a file; remove it, or choose another --out")

    def remove(self, stages: Sequence[Stage]) -> None:
        """Remove the record and the contact sheet, then the files of these stages.

        Raises:
            UserError: a file cannot be removed.
        """
        for path in [self.path / RECORD, self.path / CONTACT_SHEET, *self.existing(stages)]:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise UserError(f"cannot remove {path} ({error.strerror}); choose another place with --out") from error


def _has_content(path: Path) -> bool:
    with open_regular(path) as file:
        return bool(file.read(1))


def describe_edit(edit: VideoEdit, video: Clip | None) -> dict[str, Any]:
    """Return what determines the start of a stage from a video, as stored in `run.json`.

    Args:
        edit: stage that starts from the video, and how.
        video: the video in the shape of the stage's result; None if the stage starts from its input.
    """
    return {**dataclasses.asdict(edit), "video": None if video is None else video_sha256(video)}


def describe_request(
    config: Config,
    prompt: Prompt,
    *,
    precision: str,
    checkpoint: Mapping[str, str],
    start: Mapping[str, Any] = MappingProxyType({}),
) -> dict[str, Any]:
    """Return all inputs that determine a video, as stored in `run.json`.

    Args:
        config: the settings.
        prompt: the prompt, with its seed.
        precision: the resolved precision, e.g. "float32".
        checkpoint: a hash of each component, by name.
        start: what stages start from: `edit`, see `describe_edit`, and `image`, a hash of the picture that the video
            begins with. Empty if all start as usual.
    """
    request: dict[str, Any] = {
        "prompt": prompt.text,
        "negative_prompts": {stage: config.negative_text(stage, prompt.negative) for stage in STAGES},
        "seed": prompt.seed,
        "precision": precision,
        "checkpoint": dict(checkpoint),
        "config": config.to_dict(),
        **start,
    }
    plain: dict[str, Any] = json.loads(json.dumps(request))
    return plain
