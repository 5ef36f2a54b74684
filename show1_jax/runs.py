"""Run directories: one for every video, named by its prompt and seed. In it lie, for stage number n,

    n_STAGE.safetensors   the stage's result, float32, bit for bit: what `--from_stage` starts from
    n_STAGE.mp4, .gif     the same to look at
    contact_sheet.png     frames of all stages
    run.json              what was asked for and how it was made

A stage's `.safetensors` is written after its other files, and `run.json` after everything: what is there is whole.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Float32

from show1_jax.config import flatten
from show1_jax.errors import UserError
from show1_jax.prompts import Prompt, slug
from show1_jax.request import SampleConfig
from show1_jax.sampling_config import STAGES, Stage
from show1_jax.video import contact_sheet, digest, load_stage, save_stage, to_uint8, write_bytes, write_gif, write_mp4

RECORD: Final = "run.json"
CONTACT_SHEET: Final = "contact_sheet.png"
FORMAT: Final = "show1_jax.run.v1"
_SUFFIXES: Final = (".mp4", ".gif", ".safetensors")
_NOT_COMPARED: Final = {
    *("checkpoint", "out", "compilation_cache", "mesh"),  # where things are
    *("prompts", "seed", "negative_prompt", "precision"),  # a request has what became of them
    *("random_weights", "architecture", "schedulers", "train"),  # the checkpoint's hashes cover what came of them
}

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
        return cls(Path(out) / slug(prompt.text, prompt.seed))

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

    def finish(self, title: str, record: Mapping[str, Any]) -> None:
        """Write the contact sheet of the stages that are here, then the record, with their hashes."""
        videos = {stage: self.load(stage) for stage in STAGES if self.has(stage)}
        contact_sheet(self.path / CONTACT_SHEET, {stage: to_uint8(video) for stage, video in videos.items()}, title)
        record = {"format": FORMAT, **record, "results": {stage: digest(video) for stage, video in videos.items()}}
        text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
        write_bytes(self.path / RECORD, text.encode())

    def record(self) -> dict[str, Any]:
        """What `run.json` says; empty where there is none that can be read."""
        try:
            record = json.loads((self.path / RECORD).read_bytes())
        except (OSError, ValueError, RecursionError):
            return {}
        is_ours = isinstance(record, dict) and record.get("format") == FORMAT
        return record if is_ours and {"request", "stages", "results"} <= record.keys() else {}

    def vouches(self, request: Mapping[str, Any], results: Mapping[Stage, str]) -> bool:
        """Whether `run.json` is of this request, and of these results (by hash) among others."""
        record = self.record()
        return (
            bool(record)
            and not differences(record["request"], request)
            and results.items() <= record["results"].items()
        )

    def is_done(self, request: Mapping[str, Any], stages: Sequence[Stage], inputs: Mapping[Stage, str]) -> bool:
        """Whether these stages of this request have been run, on inputs of these hashes, and all they left is here."""
        made = self.vouches(request, inputs) and set(stages) <= set(self.record().get("stages", ()))
        return made and all(self.stage_file(stage, suffix).exists() for stage in stages for suffix in _SUFFIXES)

    def existing(self, stages: Sequence[Stage]) -> list[Path]:
        """The files of these stages that are here and, where these are all stages, first those of the whole video."""
        whole = [self.path / RECORD, self.path / CONTACT_SHEET] if tuple(stages) == STAGES else []
        files = [*whole, *(self.stage_file(stage, suffix) for stage in stages for suffix in _SUFFIXES)]
        return [path for path in files if path.exists()]

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
    config: SampleConfig, prompt: Prompt, *, precision: str, checkpoint: Mapping[str, str]
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
        "negative_prompts": {stage: config.guided_away_from(stage, prompt.negative) for stage in STAGES},
        "seed": prompt.seed,
        "precision": precision,
        "checkpoint": dict(checkpoint),
        "config": config.to_dict(),
    }
    plain: dict[str, Any] = json.loads(json.dumps(request))
    return plain


def differences(request: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """The dotted names of what differs between two requests; where nothing does, they give the same files."""
    flat, other_flat = _compared(request), _compared(other)
    return sorted(
        name for name in flat.keys() | other_flat.keys() if flat.get(name, _ABSENT) != other_flat.get(name, _ABSENT)
    )


_ABSENT = object()


def _compared(request: Mapping[str, Any]) -> dict[str, Any]:
    config = {name: value for name, value in request["config"].items() if name not in _NOT_COMPARED}
    return flatten({**request, "config": config})
