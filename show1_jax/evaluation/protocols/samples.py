"""The sampled videos of a plan: all of them must be there, and all with the same settings and weights."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from show1_jax.cascade.prompts import Prompt
from show1_jax.config.sampling import STAGES
from show1_jax.config.settings import flatten
from show1_jax.errors import UserError
from show1_jax.evaluation.protocols.plan_files import PROMPTS_FILE
from show1_jax.progress import track
from show1_jax.sampling.run_directory import RunDirectory
from show1_jax.sampling.run_record import Record, differences

_OF_THE_VIDEO: Final = {"prompt", "seed"}
_NO_SAMPLING: Final = ("train", "architecture", "schedulers", "prompts", "seed")
"""Settings of a config that say nothing about how a video was sampled."""
_LAST: Final = STAGES[-1]
_PROGRESS_DELAY: Final = 2


@dataclass(frozen=True)
class Samples:
    """Sampled videos.

    Attributes:
        folders: the run directory of every video.
        request: the request that all of them have in common, as `run.json` records it.
    """

    folders: Mapping[Prompt, Path]
    request: Mapping[str, Any]

    def settings(self) -> dict[str, Any]:
        """Return the settings and the hashes of the weights that the videos were sampled with, by dotted name."""
        request = {name: value for name, value in self.request.items() if name not in _OF_THE_VIDEO}
        config = {name: value for name, value in request["config"].items() if name not in _NO_SAMPLING}
        return flatten({**request, "config": config})


def find_samples(folder: Path, videos: Sequence[Prompt]) -> Samples:
    """Find the sampled videos of an evaluation.

    Args:
        folder: folder of the evaluation, the `--out` of `sample.py`.
        videos: prompts with seeds, at least one.

    Raises:
        UserError: videos are missing or unfinished (the line has their number and the command that makes them), have
            been sampled with different settings or weights, or a record is damaged.
    """
    found: dict[Prompt, Path] = {}
    missing: list[Path] = []
    first: tuple[Path, Record] | None = None
    for video in track(videos, "looking for videos", len(videos), leave=False, unit=" videos", delay=_PROGRESS_DELAY):
        directory = RunDirectory.of(folder, video)
        record = directory.record()
        if record is None or _LAST not in record.stages or not directory.has(_LAST):
            missing.append(directory.path)
            continue
        first = first or (directory.path, record)
        if names := set(differences(first[1].request, record.request)) - _OF_THE_VIDEO:
            raise UserError(
                f"{directory.path} and {first[0]} were sampled with another {', '.join(sorted(names)[:3])}; sample all "
                "with the same settings and weights, in another --out or with --overwrite"
            )
        found[video] = directory.path
    if missing:
        raise UserError(
            f"{len(missing):,} of {len(videos):,} videos are missing or unfinished in {folder}, first "
            f"{missing[0].name}; make them: {sample_command(folder)}"
        )
    assert first is not None
    return Samples(found, first[1].request)


def sample_command(folder: Path) -> str:
    """Return the command that samples the missing videos of an evaluation, also after it was stopped."""
    out = shlex.quote(str(folder))
    prompts = shlex.quote(str(folder / PROMPTS_FILE))
    return f"python sample.py --config full --prompts {prompts} --out {out} --overwrite"
