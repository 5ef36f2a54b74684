"""What `sample.py` does: the videos of a request, batch by batch, each into its run directory."""

import functools
import importlib.metadata
import platform
import shlex
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import repeat
from pathlib import Path
from typing import Any, Final

import jax
import numpy as np

from show1_jax.cascade.cascade import Cascade, HostVideo
from show1_jax.cascade.prompts import Prompt
from show1_jax.cascade.stages import STAGE_TABLE, components, text_encoders
from show1_jax.checkpoints.checkpoint_set import CheckpointSet, is_run, split_names
from show1_jax.checkpoints.manifest import MANIFEST, Manifest
from show1_jax.checkpoints.random import SOURCE as RANDOM
from show1_jax.checkpoints.random import write_random_checkpoint
from show1_jax.checkpoints.recorded_settings import differing_settings
from show1_jax.config.config_file import Config
from show1_jax.config.sampling import STAGES, Stage
from show1_jax.errors import UserError
from show1_jax.media.contact_sheet import CONTACT_SHEET
from show1_jax.media.read import read_video
from show1_jax.media.stage_files import video_sha256
from show1_jax.parallel import from_first_process, is_first_process
from show1_jax.runtime import enable_compilation_cache, memory_errors
from show1_jax.sampling.dry_run import describe_memory
from show1_jax.sampling.progress import StageBars
from show1_jax.sampling.request import Request
from show1_jax.sampling.run_directory import Clip, RunDirectory, describe_request
from show1_jax.sampling.run_record import Record, differences

_DISTRIBUTIONS: Final = ("show1-jax", "jax", "jaxlib", "flax", "orbax-checkpoint", "numpy")


@dataclass(frozen=True)
class Job:
    """One video: its prompt, its directory, and what makes it what it is (see `describe_request`)."""

    prompt: Prompt
    directory: RunDirectory
    request: dict[str, Any]


def sample_videos(config: Config, request: Request) -> None:
    """Sample the videos of a request and write them; those that are done already are skipped.

    Raises:
        UserError: no checkpoint, or a damaged one; settings, sizes or a video that a stage cannot take; saved stages
            that are missing; output of another run in the way; a disk that is full or cannot be written. Whatever can
            be known beforehand is refused before anything is sampled or written.
    """
    enable_compilation_cache(config.compilation_cache)
    from_first_process(lambda: make_random_checkpoint(config))
    checkpoints = CheckpointSet.open(config.checkpoint)
    cascade = Cascade.of(checkpoints, config)
    checkpoints.check_sizes(components(request.stages))
    jobs = _jobs(cascade, config, request)
    own_video = from_first_process(lambda: _read_own_video(config, request))
    pending = from_first_process(lambda: _plan(cascade, jobs, request, own_video))
    if pending:
        from_first_process(
            lambda: _warn(checkpoints, config, [jobs[number].prompt for number in pending], request.stages)
        )
    size = request.batch_size or cascade.spec.mesh.shape["data"]
    for start in range(0, len(pending), size):
        batch = [jobs[number] for number in pending[start : start + size]]
        with ExitStack() as stack:
            stack.enter_context(
                memory_errors("take a smaller --batch_size, or spread the weights with --config.mesh.fsdp")
            )
            claimed = from_first_process(functools.partial(_claim, stack, batch, request, own_video))
            _announce({start + number: batch[number] for number in claimed}, len(pending))
            if claimed:
                _sample(cascade, config, request, [batch[number] for number in claimed], list(claimed.values()))
    if is_first_process():
        print(_how_to_look(_shown(jobs[-1], request)), flush=True)


def print_memory(config: Config, request: Request) -> None:
    """Print what memory each device would need for a request; see `show1_jax.sampling.dry_run.describe_memory`."""
    enable_compilation_cache(config.compilation_cache)
    for line in describe_memory(config, request):
        if is_first_process():
            print(line, flush=True)


def make_random_checkpoint(config: Config) -> None:
    """Make the checkpoint with random weights that a config asks for, where there is none."""
    first = split_names(config.checkpoint)[0]
    if config.random_weights and not (first / MANIFEST).exists() and not is_run(first):
        write_random_checkpoint(first, config.architecture, config.schedulers, config=config)


def _jobs(cascade: Cascade, config: Config, request: Request) -> list[Job]:
    digests = component_digests(cascade.spec.manifest)
    return [
        Job(
            prompt,
            RunDirectory.of(config.out, prompt),
            describe_request(config, prompt, precision=cascade.spec.dtype.name, checkpoint=digests),
        )
        for prompt in request.prompts
    ]


def component_digests(manifest: Manifest) -> dict[str, str]:
    """A hash of every component of a checkpoint."""
    return {name: manifest.digest(name) for name in manifest.components}


def _read_own_video(config: Config, request: Request) -> Clip | None:
    """Read a video of the user as the stage that it stands for: as many frames, evenly spaced, of the same size."""
    if request.video is None or request.video_stage is None:
        return None
    spec = STAGE_TABLE[request.video_stage]
    size = spec.size(config, (config.keyframes.height, config.keyframes.width))
    return read_video(request.video, size, spec.num_frames(config))[0]


def _inputs(job: Job, request: Request, own_video: Clip | None) -> dict[Stage, Clip]:
    if own_video is not None and request.video_stage is not None:
        return {request.video_stage: own_video}
    return {stage: job.directory.load(stage) for stage in request.inputs}


def _digests(videos: Mapping[Stage, Clip]) -> dict[Stage, str]:
    return {stage: video_sha256(video) for stage, video in videos.items()}


def _plan(cascade: Cascade, jobs: Sequence[Job], request: Request, own_video: Clip | None) -> list[int]:
    """The numbers of the jobs that are to be run; refuses what cannot be, before anything is written."""
    pending: list[int] = []
    shapes: dict[Stage, tuple[int, ...]] = {}
    for number, job in enumerate(jobs):
        inputs = _inputs(job, request, own_video)
        if not _is_pending(job, request, inputs):
            continue
        for stage, video in inputs.items():
            if shapes.setdefault(stage, video.shape) != video.shape:
                path = job.directory.stage_file(stage)
                raise UserError(f"{path} has another shape than those of the prompts before; resume it by itself")
        pending.append(number)
    if pending:
        empty = {stage: np.broadcast_to(np.float32(0), (1, *shape)) for stage, shape in shapes.items()}
        cascade.spec.check(request.stages, empty)
        _check_writable(jobs[pending[0]].directory.path)
    return pending


def _is_pending(job: Job, request: Request, inputs: Mapping[Stage, Clip]) -> bool:
    """Whether a job is to be run; refuses to take what is not its own, or to replace it, without `overwrite`."""
    directory = job.directory
    try:
        if directory.is_done(job.request, request.stages, _digests(inputs)):
            print(f"{directory.path}: done already, skipped")
            return False
        if request.video is None and (record := directory.record()) is not None:
            for stage in inputs:
                directory.check_result(record, stage)
    except UserError:
        if not request.overwrite:
            raise
    if directory.existing(request.replaced) and not request.overwrite:
        raise UserError(_in_the_way(job, request))
    directory.check_replaceable(request.replaced)
    return True


def _in_the_way(job: Job, request: Request) -> str:
    """Why a directory is left as it is, and what to do."""
    path, record = job.directory.path, job.directory.record()
    if record is not None:
        names = [name[:60] for name in differences(record.request, job.request)]
        what = f"a video with another {', '.join(names[:3])}" if names else "a video of other stages or inputs"
        return f"{path}: there is {what}; replace it with --overwrite, or choose another place with --out"
    missing = next((stage for stage in STAGES if not job.directory.has(stage)), None)
    resume = f"finish it with --from_stage {missing}, or " if missing not in (STAGES[0], None) else ""
    return f"{path}: there is an unfinished video; {resume}replace it with --overwrite"


def _check_writable(path: Path) -> None:
    """Refuse a place that cannot be written, without leaving anything there."""
    folder = next(parent for parent in [path, *path.absolute().parents] if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(4096))
            file.flush()
    except OSError as error:
        raise UserError(f"cannot write in {folder} ({error.strerror}); choose another place with --out") from error


def _warn(checkpoints: CheckpointSet, config: Config, prompts: Sequence[Prompt], stages: Sequence[Stage]) -> None:
    """Say what the user should know before waiting: random weights, other settings, prompts that are cut off."""
    parts = checkpoints.manifest.components
    random = [name for name in components(stages) if parts[name].provenance.get("source") == RANDOM]
    for folder in dict.fromkeys(map(checkpoints.path, random)):
        print(f"warning: the weights of {folder} are random; noise is what they give", file=sys.stderr)
    if differing := differing_settings(checkpoints.manifest, config, stages):
        print(f"note: not as the checkpoint records it: {', '.join(differing)}", file=sys.stderr)
    texts = dict.fromkeys(prompt.text for prompt in prompts)
    for component, served in text_encoders(stages).items():
        for text in filter(None, map(checkpoints.tokenizer(component).cut_off, texts)):
            who = f"the stages {', '.join(served)} do" if len(served) > 1 else f"stage {served[0]} does"
            print(f"warning: the prompt is too long, {who} not see its end: {text!r}", file=sys.stderr)


def _claim(
    stack: ExitStack, batch: Sequence[Job], request: Request, own_video: Clip | None
) -> dict[int, dict[Stage, Clip]]:
    """Lock the directories of a batch until `stack` ends; the inputs, by the job's number, of those still to be run."""
    claimed = {}
    for number, job in enumerate(batch):
        stack.enter_context(job.directory.locked())
        inputs = _inputs(job, request, own_video)
        if _is_pending(job, request, inputs):  # another process may have come in between
            claimed[number] = inputs
    return claimed


def _announce(jobs: Mapping[int, Job], total: int) -> None:
    if is_first_process():
        for number, job in jobs.items():
            print(f"[{number + 1}/{total}] {job.directory.path}: {' '.join(job.prompt.text.split())}", flush=True)


def _sample(
    cascade: Cascade, config: Config, request: Request, batch: Sequence[Job], inputs: Sequence[dict[Stage, Clip]]
) -> None:
    """Sample a batch and write every stage as soon as it is there. Only the first process writes."""
    given = {stage: np.stack([clips[stage] for clips in inputs]) for stage in inputs[0]}
    results = [_digests(clips) for clips in inputs]
    before = from_first_process(lambda: list(map(_stages_before, batch, repeat(request), results)))
    with closing(StageBars(request.stages, shown=is_first_process())) as bars:

        def write(stage: Stage, videos: HostVideo) -> None:
            for job, video, digests in zip(batch, videos, results, strict=True):
                job.directory.write_stage(stage, video, STAGE_TABLE[stage].fps(config.output))
                digests[stage] = video_sha256(video)

        def on_stage(stage: Stage, videos: HostVideo) -> None:
            from_first_process(lambda: write(stage, videos))
            bars.finish(stage)

        def clear() -> None:
            for job in batch:
                job.directory.remove(request.replaced)

        if request.overwrite:
            from_first_process(clear)
        if request.video is not None:
            for stage, videos in given.items():
                from_first_process(functools.partial(write, stage, videos))
        prompts = [job.prompt for job in batch]
        cascade.sample(prompts, stages=request.stages, given=given, on_step=bars.step, on_stage=on_stage)

    def finish() -> None:
        made = _how_it_was_made(cascade, request, len(batch)) | {"times": bars.times}
        for job, earlier, digests in zip(batch, before, results, strict=True):
            record = Record(job.request, (*earlier, *request.stages), digests, made=made)
            job.directory.finish(job.prompt.text, record)

        for job in batch:
            print(f"done: {_shown(job, request)} (all stages: {CONTACT_SHEET} beside it)", flush=True)

    from_first_process(finish)


def _shown(job: Job, request: Request) -> Path:
    """The video that a request makes of a job, to look at."""
    return job.directory.stage_file(request.stages[-1], ".mp4")


def _how_to_look(video: Path) -> str:
    path = shlex.quote(str(video.absolute()))
    there = f"{platform.node()}:{path}"
    return f"to look at it, open {path} in a video player or a browser; from another computer: scp {there} ."


def _stages_before(job: Job, request: Request, inputs: Mapping[Stage, str]) -> list[Stage]:
    """The kept stages that an earlier run of the same request made."""
    try:
        record = job.directory.record()
    except UserError:
        return []  # a damaged one is replaced
    if record is None or not record.vouches(job.request, inputs):
        return []
    return [stage for stage in request.kept if stage in record.stages]


def _how_it_was_made(cascade: Cascade, request: Request, batch_size: int) -> dict[str, Any]:
    devices = cascade.spec.mesh.devices.flat
    return {
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "video": None if request.video is None else str(request.video),
        "from_stage": request.stages[0] if request.resume else None,
        "batch_size": batch_size,
        "mesh": dict(cascade.spec.mesh.shape),
        "devices": f"{len(devices)} x {devices[0].device_kind}",
        "processes": jax.process_count(),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in _DISTRIBUTIONS}},
    }


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None  # run from a checkout that is not installed
