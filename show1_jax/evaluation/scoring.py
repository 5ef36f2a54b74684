"""A metric of a set of videos, from the request of the command line to its result."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from show1_jax.buckets.path import BucketPath
from show1_jax.checkpoints.checkpoint_set import CheckpointSet
from show1_jax.config.sampling import Stage
from show1_jax.config.training import LOCAL_COPIES
from show1_jax.data.transfer.download import local_copies
from show1_jax.data.transfer.record import RECORD
from show1_jax.errors import UserError
from show1_jax.evaluation.extraction import ExtractionOptions, Extractor, check_unreadable, extract
from show1_jax.evaluation.feature_files import FeatureFiles
from show1_jax.evaluation.features.table import FEATURE_NETWORKS
from show1_jax.evaluation.metrics.metric import ClipRange, Metric, Score, own_settings
from show1_jax.evaluation.report import Result, SetResult, versions
from show1_jax.evaluation.videos.clips import ClipRule
from show1_jax.evaluation.videos.video_set import VideoSet, check_frame_rates, open_videos, rate_warnings
from show1_jax.files import check_writable
from show1_jax.parallel import from_first_process


@dataclass(frozen=True)
class ScoringRequest:
    """A request for one metric.

    Attributes:
        metric: the metric.
        videos: folder, dataset or file of the videos; a dataset may be in a bucket.
        rule: choice of the clips, of the reference as well.
        features: folder of saved features.
        reference: folder, dataset or file to compare with, if the metric has a reference.
        weights: names of checkpoints with the metric's network; None if it has no weights.
        captions: file of captions.
        stage: stage of run directories that is scored.
        max_videos: number of videos of each set, chosen at random; None: all.
        seed: seed of that choice, and of the metric's own random order.
        any_frame_rate: compare sets of different frame rates.
        options: options of the network by name; the defaults are used for the others.
        extraction: options that change the speed only.
        local_copies: folder of the local copies of datasets in buckets.
    """

    metric: Metric[Any]
    videos: Path
    rule: ClipRule
    features: Path
    reference: Path | None = None
    weights: str | None = None
    captions: Path | None = None
    stage: Stage | None = None
    max_videos: int | None = None
    seed: int = 0
    any_frame_rate: bool = False
    options: Mapping[str, str] = field(default_factory=dict)
    extraction: ExtractionOptions = field(default_factory=ExtractionOptions)
    local_copies: str | Path = LOCAL_COPIES

    @property
    def places(self) -> dict[str, Path]:
        """The sets of videos, by name."""
        return {"videos": self.videos} | ({} if self.reference is None else {"reference": self.reference})


def check_request(request: ScoringRequest) -> None:
    """Refuse a request that cannot be scored, before videos are read.

    Raises:
        UserError: the clips are too short or too long, a reference or weights are missing, or there are too many.
    """
    facts = request.metric.facts
    network = FEATURE_NETWORKS[facts.network]
    if facts.has_reference and request.reference is None:
        raise UserError(f"{facts.title} compares two sets of videos; give the second as --reference DIR")
    if not facts.has_reference and request.reference is not None:
        raise UserError(f"{facts.title} has no reference; leave out --reference")
    facts.check_num_frames(request.rule.num_frames)
    if request.captions is not None and not facts.has_captions:
        raise UserError(f"{facts.title} uses no captions; leave out --captions")
    if network.has_weights and request.weights is None:
        raise UserError(
            f"{facts.title} needs the weights of {network.kind}; convert them with `python -m convert features "
            f"{network.kind} --from FILE --out DIR`, and give DIR as --weights"
        )
    if not network.has_weights and request.weights is not None:
        raise UserError(f"{facts.title} has no network; leave out --weights")
    for name, value in request.options.items():
        if value not in network.options.get(name, ()):
            raise UserError(
                f"{name}={value}: {network.kind} has {', '.join(network.options.get(name, ('no such option',)))}"
            )


def score(request: ScoringRequest) -> Result:
    """Compute a metric. All processes must call it at the same point; all have the result.

    Raises:
        UserError: the request, the videos, the captions or the weights are wrong; see `check_request`.
    """
    check_request(request)
    request = replace(request, rule=replace(request.rule, least=request.metric.facts.min_frames))
    from_first_process(lambda: check_writable(request.features, "choose another folder with --features"))
    _check_buckets(request.places)
    network = FEATURE_NETWORKS[request.metric.facts.network]
    options = {name: choices[0] for name, choices in network.options.items()} | dict(request.options)
    checkpoints = CheckpointSet([]) if request.weights is None else CheckpointSet.open(request.weights)
    extractor = Extractor(network, checkpoints, options)
    places = request.places
    local = local_copies(list(places.values()), [request.local_copies] * len(places))
    sets = {
        name: replace(_open(request, folder, is_scored=name == "videos"), path=path)
        for (name, path), folder in zip(places.items(), local, strict=True)
    }
    warnings = [line for name, of_one in sets.items() for line in rate_warnings(f"--{name}", of_one)]
    for name, of_one in sets.items():
        _check_size(request, f"--{name}", of_one)
    if "reference" in sets and request.rule.fps is None and not request.any_frame_rate:
        check_frame_rates(sets["videos"], sets["reference"])
    files = {
        name: extract(of_one, request.rule, extractor, request.features, name, request.extraction)
        for name, of_one in sets.items()
    }
    return from_first_process(lambda: _result(request, extractor, sets, files, warnings))


def _check_buckets(places: Mapping[str, Path]) -> None:
    """Refuse folders in buckets that are no datasets."""
    for name, folder in places.items():
        if isinstance(folder, BucketPath) and not (folder / RECORD).is_file():
            raise UserError(
                f"{folder} is no dataset of `python -m show1_jax.data`; copy other videos to this machine first "
                f"(`gcloud storage cp -r`, `aws s3 sync`), and give the copy as --{name}"
            )


def _open(request: ScoringRequest, path: Path, *, is_scored: bool) -> VideoSet:
    return open_videos(
        path,
        stage=request.stage,
        max_videos=request.max_videos,
        seed=request.seed,
        needs_captions=request.metric.facts.has_captions and is_scored,
        captions=request.captions,
    )


def _check_size(request: ScoringRequest, name: str, videos: VideoSet) -> None:
    """Refuse a set with too few videos, or too many that cannot be opened, before anything is computed."""
    total = len(videos.videos) + len(videos.unreadable)
    if videos.unreadable:
        first, why = next(iter(videos.unreadable.items()))
        most = request.extraction.max_unreadable
        check_unreadable(len(videos.unreadable), total, most, f"{first} ({why})")
    _check_clips(request, name, len(videos.videos) * request.rule.per_video)


def _check_clips(request: ScoringRequest, name: str, count: int) -> None:
    facts = request.metric.facts
    if count < facts.min_clips:
        raise UserError(
            f"{name} has {count} clips; {facts.title} needs at least {facts.min_clips}, so give more videos"
        )


def _result(
    request: ScoringRequest,
    extractor: Extractor,
    sets: Mapping[str, VideoSet],
    files: Mapping[str, FeatureFiles],
    warnings: list[str],
) -> Result:
    summaries, reports = {}, {}
    for name, videos in sets.items():
        summaries[name], reports[name] = _summarize(request, f"--{name}", videos, files[name])
    metric = request.metric
    found: Score = metric.score(summaries["videos"], summaries.get("reference"))
    return Result(
        metric=metric.facts.title,
        better=metric.facts.better,
        digits=metric.facts.digits,
        source=metric.facts.source,
        score=found,
        sets=reports,
        settings={
            "clips": request.rule.settings(),
            "clips in words": request.rule.describe(),
            "seed": request.seed,
            "metric": {name: getattr(metric, name) for name in own_settings(metric)},
            "features": extractor.settings(),
            "compared at any frame rate": request.any_frame_rate,
            "max_videos": request.max_videos,
            "max_unreadable": request.extraction.max_unreadable,
        },
        weights=extractor.provenance(),
        versions=versions(),
        warnings=[*warnings, *found.warnings],
    )


def _summarize(request: ScoringRequest, name: str, videos: VideoSet, files: FeatureFiles) -> tuple[Any, SetResult]:
    """Return the statistic of a set of videos, and the facts of the set for a report."""
    total, metric, summary, first = files.num_clips(), request.metric, None, 0
    unreadable = dict(videos.unreadable)
    num_rows = 0
    for shard in files.read():
        unreadable |= shard.unreadable
        if shard.clips:
            part = metric.summarize(shard.clips, ClipRange(first, total, request.seed))
            summary = part if summary is None else metric.merge(summary, part)
            first += len(shard.clips)
            num_rows += sum(map(len, shard.clips))
    if unreadable:
        why = next(iter(unreadable.items()))
        most = request.extraction.max_unreadable
        check_unreadable(len(unreadable), len(videos.videos) + len(videos.unreadable), most, f"{why[0]} ({why[1]})")
    _check_clips(request, name, total)
    about = videos.describe() | ({"sha256 of captions": videos.captions_digest} if videos.captions else {})
    return summary, SetResult(total, num_rows, unreadable, about, files.folder.name)
