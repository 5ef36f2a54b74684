"""Sampling of a request's videos, batch by batch, each into its run directory; called by `sample.py`."""

import functools
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import jax
import numpy as np

from show1_jax.buckets.path import BucketPath
from show1_jax.cascade.batches import VideoBatch
from show1_jax.cascade.cascade import Cascade, HostVideo
from show1_jax.cascade.prompts import Prompt
from show1_jax.cascade.spec import CascadeSpec
from show1_jax.cascade.stages import STAGE_TABLE, components, stages_from, text_encoders, uses_image
from show1_jax.checkpoints.adapter_set import Adapter, open_adapters, split_adapters
from show1_jax.checkpoints.checkpoint_set import CheckpointSet, hub_commits, is_checkpoint_or_run, split_names
from show1_jax.checkpoints.manifest import Manifest
from show1_jax.checkpoints.random import SOURCE as RANDOM
from show1_jax.checkpoints.random import write_random_checkpoint
from show1_jax.checkpoints.recorded_settings import differing_settings
from show1_jax.cli import installed_version
from show1_jax.config.config_file import Config
from show1_jax.config.sampling import STAGES, Stage
from show1_jax.data.synthetic.nearest import WORLD_SOURCE, WORLD_WORDS, is_sentence, nearest_sentence
from show1_jax.errors import UserError, shown
from show1_jax.files import check_writable
from show1_jax.media.contact_sheet import CONTACT_SHEET
from show1_jax.media.read import local_media, read_picture, read_video
from show1_jax.media.stage_files import video_sha256
from show1_jax.parallel import from_first_process, is_first_process
from show1_jax.progress import say
from show1_jax.runtime import enable_compilation_cache, memory_errors
from show1_jax.sampling.dry_run import describe_memory
from show1_jax.sampling.progress import Observer, StageBars
from show1_jax.sampling.request import Request
from show1_jax.sampling.run_directory import START_FIELDS, Clip, RunDirectory, describe_edit, describe_request
from show1_jax.sampling.run_record import Record, differences

MEMORY_ADVICE: Final = (
    "use a smaller --batch_size, --config.resident_weights=one, or shard the weights with --config.mesh.fsdp"
)
_MAX_WAITING: Final = 64
"""Videos that are sampled together stage by stage: their directories are locked, and their results wait in memory."""
_MAX_UNKNOWN: Final = 3
"""Prompts outside the world of the weights that are answered with their nearest sentences."""
_DISTRIBUTIONS: Final = ("show1-jax", "jax", "jaxlib", "flax", "orbax-checkpoint", "numpy")


@dataclass(frozen=True)
class VideoJob:
    """One video: its prompt, its run directory, and the description of its inputs (see `describe_request`)."""

    prompt: Prompt
    directory: RunDirectory
    request: dict[str, Any]


Item = TypeVar("Item")


class _UserMedia(NamedTuple):
    """The user's video and picture, fitted.

    Attributes:
        given: the video as results of stages that do not run.
        start: the video as the start of the first stage that runs; None: it starts as usual.
        image: the picture that the videos begin with, as one frame; None: there is none.
    """

    given: dict[Stage, Clip]
    start: Clip | None
    image: Clip | None

    def describe(self, request: Request) -> dict[str, Any]:
        """Return what stages start from; see `describe_request`."""
        start: dict[str, Any] = {}
        if request.edit is not None:
            start["edit"] = describe_edit(request.edit, self.start)
        if self.image is not None:
            start["image"] = video_sha256(self.image)
        return start


class _Claimed(NamedTuple):
    """A job whose directory is locked by this process, and its inputs."""

    job: VideoJob
    inputs: dict[Stage, Clip]


class OpenedWeights(NamedTuple):
    """The checkpoints and adapters of a config, and their cascade."""

    checkpoints: CheckpointSet
    adapters: Sequence[Adapter]
    cascade: Cascade


def open_checkpoints(config: Config) -> CheckpointSet:
    """Open the checkpoints of a config; random weights that it describes are made if they do not exist.

    Raises:
        UserError: the checkpoint is missing or damaged.
    """
    from_first_process(lambda: make_random_checkpoint(config))
    return CheckpointSet.open(config.checkpoint)


def open_weights(config: Config, checkpoints: CheckpointSet | None = None) -> OpenedWeights:
    """Open the checkpoints and adapters of a config; weights are read when they are needed.

    Args:
        config: the settings.
        checkpoints: the config's checkpoints, if they are open already.

    Raises:
        UserError: the checkpoint is missing or damaged, or the settings do not fit the devices.
    """
    enable_compilation_cache(config.compilation_cache)
    checkpoints = checkpoints or open_checkpoints(config)
    adapters = open_adapters(config.adapter, checkpoints.manifest)
    return OpenedWeights(checkpoints, adapters, Cascade.of(checkpoints, config, adapters=adapters))


def sample_videos(
    config: Config, request: Request, opened: OpenedWeights | None = None, observer: Observer | None = None
) -> None:
    """Sample the videos of a request and write them; finished videos are skipped.

    Args:
        config: the settings.
        request: the videos.
        opened: the config's weights, if they are open already, with any sampling settings.
        observer: told about the progress.

    Raises:
        UserError: the checkpoint is missing or damaged; settings, sizes or a video are invalid for a stage; saved
            stages are missing; the directory contains another video; the disk is full or cannot be written. All checks
            that are possible in advance are made before anything is sampled or written.
    """
    settings, observer = request.settings(config), observer or Observer()
    checkpoints, adapters, cascade = opened or open_weights(settings)
    if cascade.spec.config != settings:
        cascade = cascade.with_config(settings)
    sampled = request.sampled(config)
    checkpoints.check_sizes(components(sampled))
    media = from_first_process(lambda: _read_media(cascade.spec, request))
    jobs = from_first_process(lambda: _video_jobs(cascade, config, request, adapters, media))
    pending = from_first_process(lambda: _pending_jobs(cascade, jobs, request, media))
    if pending:
        from_first_process(
            lambda: _print_warnings(checkpoints, config, [jobs[number].prompt for number in pending], sampled)
        )
    size = request.batch_size or cascade.spec.mesh.shape["data"]
    batches = _groups(pending, size)
    with ExitStack() as stack:
        stack.enter_context(memory_errors(MEMORY_ADVICE))
        keeps_all = len(batches) > 1 and stack.enter_context(cascade.keeping_networks(sampled))
        places = {number: place for place, number in enumerate(pending, 1)}
        rounds = _groups(batches, 1 if keeps_all else max(1, _MAX_WAITING // size))
        paths = [job.directory.path for job in jobs]
        observer.on_videos(paths, [[paths[number] for batch in together for number in batch] for together in rounds])
        for together in rounds:
            with ExitStack() as locks:
                round_jobs = {number: jobs[number] for batch in together for number in batch}
                claimed = from_first_process(functools.partial(_lock_pending, locks, round_jobs, request, media))
                _print_jobs({places[number]: jobs[number] for number in claimed}, len(pending))
                parts = [[_Claimed(jobs[n], claimed[n]) for n in batch if n in claimed] for batch in together]
                if claimed:
                    _sample_batches(cascade, config, request, list(filter(None, parts)), media, observer)
    if is_first_process():
        print(_viewing_hint(_video_file(jobs[-1], request)), flush=True)


def _groups(items: Sequence[Item], size: int) -> list[Sequence[Item]]:
    """Return the items in groups of a size; the last group may be smaller."""
    return [items[start : start + size] for start in range(0, len(items), size)]


def print_memory(config: Config, request: Request) -> None:
    """Print the memory that each device needs for a request; see `show1_jax.sampling.dry_run.describe_memory`."""
    enable_compilation_cache(config.compilation_cache)
    for line in describe_memory(request.settings(config), request):
        if is_first_process():
            print(line, flush=True)


def make_random_checkpoint(config: Config) -> None:
    """Make a checkpoint with random weights if the config has `random_weights` and there is no checkpoint."""
    first = split_names(config.checkpoint)[0]
    if config.random_weights and not is_checkpoint_or_run(first):
        write_random_checkpoint(first, config.architecture, config.schedulers, config=config)


def _video_jobs(
    cascade: Cascade, config: Config, request: Request, adapters: Sequence[Adapter], media: _UserMedia
) -> list[VideoJob]:
    digests = component_digests(cascade.spec.manifest, adapters)
    own = media.describe(request)
    jobs = []
    for prompt in request.prompts:
        directory = RunDirectory.of(config.out, prompt)
        kept = directory.start_of(request.kept)  # that of an earlier request, which made the kept stages
        is_other = "image" in kept and kept["image"] != own.get("image")
        if is_other and any(STAGE_TABLE[stage].is_image for stage in request.stages):
            raise UserError(f"{directory.path} begins with a picture; give the same one with --image")
        described = describe_request(
            config,
            prompt,
            precision=cascade.spec.dtype.name,
            checkpoint=digests,
            start=kept | own,
        )
        jobs.append(VideoJob(prompt, directory, described))
    return jobs


def component_digests(manifest: Manifest, adapters: Sequence[Adapter] = ()) -> dict[str, str]:
    """Return a text that identifies every component of a checkpoint with its adapters, by name."""
    digests = {name: manifest.digest(name) for name in manifest.components}
    for adapter in adapters:
        if adapter.strength:
            digests[adapter.component] += f" + {adapter.strength!r} x {adapter.digest}"
    return digests


def _read_media(spec: CascadeSpec, request: Request) -> _UserMedia:
    """Read the user's video, with evenly spaced frames, and picture; both are resized to the stages they stand for."""
    sizes, config = spec.sizes({}), spec.config if request.edit is None else request.edit.settings(spec.config)

    def fitted(path: Path, stage: Stage) -> Clip:
        return read_video(path, sizes[stage], STAGE_TABLE[stage].num_frames(config))[0]

    given, start, image = {}, None, None
    if request.image is not None:  # at this size its hash is recorded, and `Cascade` takes it as it is
        image = read_picture(request.image, spec.size_of_image)[None]
    if request.video is not None:
        with local_media(request.video) as video:
            given = {stage: fitted(video, stage) for stage in request.video_stages}
            if request.edit is not None and not STAGE_TABLE[request.edit.stage].is_latent:
                start = fitted(video, request.edit.stage)
    return _UserMedia(given, start, image)


def _inputs(job: VideoJob, request: Request, media: _UserMedia) -> dict[Stage, Clip]:
    if request.video is not None:
        return dict(media.given)
    return {stage: job.directory.load(stage) for stage in request.inputs}


def _digests(videos: Mapping[Stage, Clip]) -> dict[Stage, str]:
    return {stage: video_sha256(video) for stage, video in videos.items()}


def _pending_jobs(cascade: Cascade, jobs: Sequence[VideoJob], request: Request, media: _UserMedia) -> list[int]:
    """Return the indices of the jobs that must be run; refuse impossible ones before anything is written."""
    pending: list[int] = []
    shapes: dict[Stage, tuple[int, ...]] = {}
    for number, job in enumerate(jobs):
        inputs = _inputs(job, request, media)
        if not _is_pending(job, request, inputs):
            continue
        for stage, video in inputs.items():
            if shapes.setdefault(stage, video.shape) != video.shape:
                path = job.directory.stage_file(stage)
                raise UserError(f"{path} has another shape than those of earlier prompts; resume it separately")
        pending.append(number)
    if pending:
        empty = {stage: np.broadcast_to(np.float32(0), (1, *shape)) for stage, shape in shapes.items()}
        cascade.spec.check(request.stages, empty, has_image=request.image is not None)
        cascade.spec.check_edit(request.edit, request.stages, None if media.start is None else media.start[None], 1)
        check_writable(jobs[pending[0]].directory.path)
    return pending


def _is_pending(job: VideoJob, request: Request, inputs: Mapping[Stage, Clip]) -> bool:
    """Return whether a job must be run.

    Raises:
        UserError: without `overwrite`, the directory contains files of another video or damaged files.
    """
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
        raise UserError(_conflict_line(job, request))
    directory.check_replaceable(request.replaced)
    return True


def _conflict_line(job: VideoJob, request: Request) -> str:
    """Return the error line for a directory that contains another video: the difference and the remedy."""
    path, record = job.directory.path, job.directory.record()
    if record is not None:
        names = [name[:60] for name in differences(record.request, job.request)]
        found = f"a video with another {', '.join(names[:3])}" if names else "a video of other stages or inputs"
        return f"{path}: there is {found}; replace it with --overwrite, or choose another place with --out"
    missing = next((stage for stage in STAGES if not job.directory.has(stage)), None)
    resume = ""
    if missing not in (STAGES[0], None):
        flags = f"--from_stage {missing}"
        if request.video is not None:
            flags += " and without --video"
        elif request.image is not None:
            needs_image = uses_image(stages_from(missing))
            flags = f"the same --image and {flags}" if needs_image else f"{flags} and without --image"
        resume = f"finish it with {flags}, or "
    return f"{path}: there is an unfinished video; {resume}replace it with --overwrite"


def _print_warnings(
    checkpoints: CheckpointSet, config: Config, prompts: Sequence[Prompt], stages: Sequence[Stage]
) -> None:
    """Print warnings before sampling: random weights, settings that differ from the recorded ones, long prompts."""
    parts = checkpoints.manifest.components
    random = [name for name in components(stages) if parts[name].provenance.get("source") == RANDOM]
    for folder in dict.fromkeys(map(checkpoints.path, random)):
        print(f"warning: the weights of {folder} are random; the videos will be noise", file=sys.stderr)
    if differing := differing_settings(checkpoints.manifest, config, stages):
        print(f"note: different from the checkpoint: {', '.join(differing)}", file=sys.stderr)
    texts = dict.fromkeys(prompt.text for prompt in prompts)
    for component, served in text_encoders(stages).items():
        for text in filter(None, map(checkpoints.tokenizer(component).cut_off, texts)):
            names = f"stage{'s' if len(served) > 1 else ''} {', '.join(served)}"
            print(f"warning: the prompt is too long, its end is cut off for {names}: {text!r}", file=sys.stderr)
    if any(parts[component].provenance.get("source") == WORLD_SOURCE for component in text_encoders(stages)):
        _print_unknown([text for text in texts if not is_sentence(text)])


def _print_unknown(texts: Sequence[str]) -> None:
    """Print what the weights of the synthetic world know, and the nearest sentences to texts that they do not know."""
    for number, text in enumerate(texts[:_MAX_UNKNOWN]):
        known = "" if number else f"these weights know only {WORLD_WORDS} (docs/demo.md); "
        print(f"note: {known}nearest to {shown(text)}: {nearest_sentence(text)!r}", file=sys.stderr)
    if len(texts) > _MAX_UNKNOWN:
        print(f"note: {len(texts) - _MAX_UNKNOWN} more prompts are not known, either", file=sys.stderr)


def _lock_pending(
    stack: ExitStack, jobs: Mapping[int, VideoJob], request: Request, media: _UserMedia
) -> dict[int, dict[Stage, Clip]]:
    """Lock the directories of some jobs until `stack` ends; return the inputs of the jobs still to be run, by index."""
    claimed = {}
    for number, job in jobs.items():
        stack.enter_context(job.directory.locked())
        inputs = _inputs(job, request, media)
        if _is_pending(job, request, inputs):  # another process may have written here since the first check
            claimed[number] = inputs
    return claimed


def _print_jobs(jobs: Mapping[int, VideoJob], total: int) -> None:
    if is_first_process():
        for number, job in jobs.items():
            print(f"[{number}/{total}] {job.directory.path}: {' '.join(job.prompt.text.split())}", flush=True)


class _Output:
    """The files of a batch of videos, written stage by stage; only the first process writes."""

    def __init__(self, batch: Sequence[_Claimed], config: Config, request: Request):
        self._jobs = [claimed.job for claimed in batch]
        self._config, self._request = config, request
        self._results = [_digests(claimed.inputs) for claimed in batch]
        self._earlier = [
            _recorded_stages(job, request, digests) for job, digests in zip(self._jobs, self._results, strict=True)
        ]

    def prepare(self, given: Mapping[Stage, HostVideo]) -> None:
        """Remove the files that the request replaces, and write the user's video, if there is one."""
        if self._request.overwrite:
            for job in self._jobs:
                job.directory.remove(self._request.replaced)
        if self._request.video is not None:
            for stage, videos in given.items():
                self.write(stage, videos)

    def write(self, stage: Stage, videos: HostVideo) -> None:
        """Write a stage's results."""
        for job, video, digests in zip(self._jobs, videos, self._results, strict=True):
            start: dict[str, Any] = {name: job.request[name] for name in START_FIELDS if name in job.request}
            job.directory.write_stage(stage, video, STAGE_TABLE[stage].fps(self._config.output), start)
            digests[stage] = video_sha256(video)

    def finish(self, made: Mapping[str, Any]) -> None:
        """Write the contact sheets and the records, and print the paths of the videos."""
        for job, earlier, digests in zip(self._jobs, self._earlier, self._results, strict=True):
            record = Record(job.request, (*earlier, *self._request.stages), digests, made=made)
            job.directory.finish(job.prompt.text, record)
            say(f"done: {_video_file(job, self._request)} (all stages: {CONTACT_SHEET} beside it)", sys.stdout)


def _sample_batches(
    cascade: Cascade,
    config: Config,
    request: Request,
    batches: Sequence[Sequence[_Claimed]],
    media: _UserMedia,
    observer: Observer,
) -> None:
    """Sample batches stage by stage, and write the result of every stage as soon as it exists."""
    videos = [
        VideoBatch(
            [claimed.job.prompt for claimed in batch],
            given={stage: np.stack([claimed.inputs[stage] for claimed in batch]) for stage in batch[0].inputs},
            video=None if media.start is None else np.stack([media.start] * len(batch)),
            image=None if media.image is None else np.concatenate([media.image] * len(batch)),
        )
        for batch in batches
    ]
    outputs = from_first_process(lambda: [_Output(batch, config, request) for batch in batches])
    directories = [[claimed.job.directory.path for claimed in batch] for batch in batches]
    shown = is_first_process() and observer.shows_bars
    with closing(StageBars(request.stages, len(batches), sampled=request.sampled(config), shown=shown)) as bars:

        def on_step(number: int, stage: Stage, done: int, total: int) -> None:
            bars.step(stage, done, total, number)
            observer.on_step(directories[number], stage, done, total)

        def on_stage(number: int, stage: Stage, result: HostVideo) -> None:
            from_first_process(lambda: outputs[number].write(stage, result))
            bars.finish(stage, number)
            if stage == request.stages[-1]:
                made = _provenance(cascade, config, request, len(batches[number])) | {"times": bars.times[number]}
                from_first_process(lambda: outputs[number].finish(made))
            observer.on_stage(directories[number], stage)

        for output, batch in zip(outputs, videos, strict=True):
            from_first_process(functools.partial(output.prepare, batch.given))
        cascade.sample_batches(
            videos,
            stages=request.stages,
            edit=request.edit,
            on_step=on_step,
            on_stage=on_stage,
        )


def _video_file(job: VideoJob, request: Request) -> Path:
    """Return the path of the MP4 to look at, of the last stage that a request samples."""
    return job.directory.viewed(request.stages[-1])


def _viewing_hint(video: Path) -> str:
    if isinstance(video, BucketPath):
        command = {"gs": "gcloud storage cp", "s3": "aws s3 cp"}[video.bucket.scheme]
        return f"to look at it: {command} {shlex.quote(str(video))} ."
    path = shlex.quote(str(video.absolute()))
    there = f"{platform.node()}:{path}"
    return f"to look at it, open {path} in a video player or a browser; from another computer: scp {there} ."


def _recorded_stages(job: VideoJob, request: Request, inputs: Mapping[Stage, str]) -> list[Stage]:
    """Return the kept stages that were sampled earlier for the same request, according to the record."""
    try:
        record = job.directory.record()
    except UserError:
        return []  # a damaged record is replaced
    if record is None or not record.matches(job.request, inputs):
        return []
    return [stage for stage in request.kept if stage in record.stages]


def _provenance(cascade: Cascade, config: Config, request: Request, batch_size: int) -> dict[str, Any]:
    devices = cascade.spec.mesh.devices.flat
    adapters = [folder for folder, _ in split_adapters(config.adapter)]
    commits = hub_commits([*split_names(config.checkpoint), *adapters])
    return {
        **({"hub": commits} if commits else {}),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "video": None if request.video is None else str(request.video),
        "image": None if request.image is None else str(request.image),
        "from_stage": request.stages[0] if request.resume else None,
        "batch_size": batch_size,
        "mesh": dict(cascade.spec.mesh.shape),
        "devices": f"{len(devices)} x {devices[0].device_kind}",
        "processes": jax.process_count(),
        "versions": {"python": platform.python_version(), **{name: installed_version(name) for name in _DISTRIBUTIONS}},
    }
