"""Run directories: one for every video, named by its prompt and seed. In it lie, for stage number n,

    n_STAGE.safetensors   the stage's result, float32, bit for bit: what `--from_stage` starts from
    n_STAGE.mp4, .gif     the same to look at
    contact_sheet.png     frames of all stages
    run.json              what was asked for and how it was made

A stage's `.safetensors` is written after its other files, and `run.json` after everything: what is there is whole.
"""

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Float32

from show1_jax.cascade.prompts import Prompt, slug
from show1_jax.checkpoints.manifest import sha256
from show1_jax.config.config_file import Config
from show1_jax.config.sampling import STAGES, Stage
from show1_jax.errors import UserError
from show1_jax.files import locked_folder, user_path, write_bytes
from show1_jax.media.contact_sheet import CONTACT_SHEET, contact_sheet
from show1_jax.media.frames import to_uint8
from show1_jax.media.stage_files import load_stage, save_stage, video_sha256
from show1_jax.media.write import write_gif, write_mp4
from show1_jax.sampling.run_record import RECORD, Record

_SHOWN: Final = (".mp4", ".gif")
_SUFFIXES: Final = (*_SHOWN, ".safetensors")
_HASHED: Final = (*_SHOWN, ".png")
_AGAIN: Final = "sample it again with --overwrite"

Clip = Float32[np.ndarray, "t h w c"]


class RunDirectory:
    """The directory of one video: reads, writes and removes what lies there, and leaves other files alone.

    Attributes:
        path: of the directory, which is made with its first file.
    """

    def __init__(self, path: Path):
        self.path = path

    @classmethod
    def of(cls, out: str | Path, prompt: Prompt) -> "RunDirectory":
        """The directory of a prompt, which has a seed."""
        assert prompt.seed is not None
        return cls(user_path(out) / slug(prompt.text, prompt.seed))

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """A block in which no other process writes here; a directory that is left empty is removed.

        Raises:
            UserError: another process has it, or it cannot be made.
        """
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(locked_folder(self.path))
            except OSError as error:
                raise UserError(f"cannot write in {self.path} ({error.strerror}); choose another --out") from error
            yield

    def stage_file(self, stage: Stage, suffix: str = ".safetensors") -> Path:
        """Where a stage's file of that kind is, or would be."""
        return self.path / f"{STAGES.index(stage) + 1}_{stage}{suffix}"

    def has(self, stage: Stage) -> bool:
        """Whether a stage is finished."""
        return self.stage_file(stage).exists()

    def load(self, stage: Stage) -> Clip:
        """A stage's result.

        Raises:
            UserError: it is missing or damaged.
        """
        path = self.stage_file(stage)
        if not path.exists():
            raise UserError(f"there is no {path}; run stage {stage} of this prompt and seed first")
        return load_stage(path, stage)

    def write_stage(self, stage: Stage, video: Clip, fps: float) -> None:
        """Write all files of a stage.

        Raises:
            UserError: the video has NaN values, or the disk is full.
        """
        frames = to_uint8(video)
        write_mp4(self.stage_file(stage, ".mp4"), frames, fps)
        write_gif(self.stage_file(stage, ".gif"), frames, fps)
        save_stage(self.stage_file(stage), video, stage)

    def finish(self, title: str, record: Record) -> None:
        """Write the contact sheet of the stages that are here, then the record, with the hashes of all files.

        Raises:
            UserError: a stage is no longer what the record's `results` say, or the disk is full.
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
        """What `run.json` says; None where there is none. See `Record.read`."""
        return Record.read(self.path / RECORD)

    def is_done(self, request: Mapping[str, Any], stages: Sequence[Stage], inputs: Mapping[Stage, str]) -> bool:
        """Whether these stages of this request have been run, on inputs of these hashes.

        Raises:
            UserError: they have, and a file that they left is missing or is not what the record says; or the record is
                damaged.
        """
        record = self.record()
        if record is None or not record.vouches(request, inputs) or not set(stages) <= set(record.stages):
            return False
        for stage in stages:
            self.check_result(record, stage)
            for suffix in _SHOWN:
                self._check_file(record, self.stage_file(stage, suffix))
        self._check_file(record, self.path / CONTACT_SHEET)
        return True

    def check_result(self, record: Record, stage: Stage) -> None:
        """Compare a stage's result with its record.

        Raises:
            UserError: it is missing or damaged, or not the one that the record has.
        """
        if video_sha256(self.load(stage)) != record.results.get(stage):
            raise UserError(f"{self.stage_file(stage)} is not the one that {RECORD} records; {_AGAIN}")

    def _check_file(self, record: Record, path: Path) -> None:
        if not path.exists():
            raise UserError(f"{path} is missing; {_AGAIN}")
        expected = record.files.get(path.name)  # older records have none
        try:
            is_whole = path.stat().st_size > 0 if expected is None else sha256(path) == expected
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror}); {_AGAIN}") from None
        if not is_whole:
            raise UserError(f"{path} is damaged or was changed: {RECORD} records another; {_AGAIN}")

    def existing(self, stages: Sequence[Stage]) -> list[Path]:
        """The files of these stages that are here and, where these are all stages, first those of the whole video."""
        whole = [self.path / RECORD, self.path / CONTACT_SHEET] if tuple(stages) == STAGES else []
        files = [*whole, *(self.stage_file(stage, suffix) for stage in stages for suffix in _SUFFIXES)]
        return [path for path in files if path.exists()]

    def check_replaceable(self, stages: Sequence[Stage]) -> None:
        """Refuse to run these stages where folders lie in place of the files that would be written.

        Raises:
            UserError: there is one.
        """
        files = [self.stage_file(stage, suffix) for stage in stages for suffix in _SUFFIXES]
        for path in (self.path / RECORD, self.path / CONTACT_SHEET, *files):
            if path.is_dir() and not path.is_symlink():
                raise UserError(f"{path} is a folder, which no run makes; remove it, or choose another --out")

    def remove(self, stages: Sequence[Stage]) -> None:
        """Remove the files of these stages, and first what speaks for the whole.

        Raises:
            UserError: the system refuses.
        """
        for path in [self.path / RECORD, self.path / CONTACT_SHEET, *self.existing(stages)]:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise UserError(f"cannot remove {path} ({error.strerror}); choose another place with --out") from error


def describe_request(
    config: Config, prompt: Prompt, *, precision: str, checkpoint: Mapping[str, str]
) -> dict[str, Any]:
    """What makes a video what it is, as `run.json` holds it.

    Args:
        config: the settings.
        prompt: with its seed.
        precision: the resolved one, e.g. "float32".
        checkpoint: a hash of each component.
    """
    request = {
        "prompt": prompt.text,
        "negative_prompts": {stage: config.negative_text(stage, prompt.negative) for stage in STAGES},
        "seed": prompt.seed,
        "precision": precision,
        "checkpoint": dict(checkpoint),
        "config": config.to_dict(),
    }
    plain: dict[str, Any] = json.loads(json.dumps(request))
    return plain
