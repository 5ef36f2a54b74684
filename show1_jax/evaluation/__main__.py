"""Score videos with a metric of the field.

  python -m show1_jax.evaluation fvd --videos outputs --reference DIR --weights checkpoints/i3d
  python -m show1_jax.evaluation flicker --videos outputs

Videos are a folder of mp4, GIF and others, of folders of frames, or of run directories of sample.py (the last stage's
exact result); or a dataset of `python -m show1_jax.data build`, here or in a bucket. The score is one line; OUT gets it
as a table and as JSON, with every setting. Features are saved: a command that was stopped continues, and a reference is
computed once.
Devices are chosen as for sample.py: with JAX_PLATFORMS, and all devices of all processes compute.
"""

import sys

from show1_jax.terminal import end_at_once, exit_process

if __name__ == "__main__":
    end_at_once("evaluation")  # Ctrl-C while the modules below are imported

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from show1_jax import cli
from show1_jax.config.bounds import MAX_SEED
from show1_jax.config.config_file import Config
from show1_jax.config.sampling import STAGES
from show1_jax.config.training import LOCAL_COPIES
from show1_jax.errors import UserError
from show1_jax.evaluation.arguments import add_speed_arguments
from show1_jax.files import check_writable, storage_path, user_path

if TYPE_CHECKING:
    from show1_jax.evaluation.metrics.metric import MetricFacts
    from show1_jax.evaluation.scoring import ScoringRequest

_MAX: Final = 10**9
_MAX_NAMED: Final = 20
"""Number of unreadable videos that are named on stderr; the table names all."""


def _make_parser() -> argparse.ArgumentParser:
    from show1_jax.evaluation.features.table import FEATURE_NETWORKS
    from show1_jax.evaluation.metrics.metric import own_settings
    from show1_jax.evaluation.metrics.table import METRICS

    raw = argparse.RawDescriptionHelpFormatter
    parser = cli.ArgumentParser(prog="python -m show1_jax.evaluation", description=__doc__, formatter_class=raw)
    commands = parser.add_subparsers(required=True, metavar="METRIC", dest="metric")
    for name, metric in METRICS.items():
        facts = metric.facts
        command = commands.add_parser(
            name,
            help=facts.summary,
            description=f"{facts.title}: {facts.summary}.\nFollows {facts.source}.",
            formatter_class=raw,
        )
        _add_videos(command, facts, has_weights=FEATURE_NETWORKS[facts.network].has_weights)
        _add_clips(command, facts)
        for option, own in own_settings(metric).items():
            least, text = own.metadata["least"], f"{own.metadata['help']}; default {own.default}"
            kind = cli.number_between(least, _MAX)
            command.add_argument(f"--{option}", type=kind, default=own.default, metavar="N", help=text)
        for option, choices in FEATURE_NETWORKS[facts.network].options.items():
            command.add_argument(f"--{option}", choices=choices, default=choices[0], help=f"default {choices[0]}")
        _add_work(command)
        add_speed_arguments(command)
        cli.add_process_arguments(command)
    return parser


def _add_videos(command: argparse.ArgumentParser, facts: "MetricFacts", *, has_weights: bool) -> None:
    add = command.add_argument
    add("--videos", type=storage_path, required=True, metavar="DIR", help="the videos to score")
    if facts.has_reference:
        add("--reference", type=storage_path, metavar="DIR", help="the videos to compare with")
        add("--any_frame_rate", action="store_true", help="compare sets of different frame rates frame by frame")
    if has_weights:
        add("--weights", metavar="A,B", help=f"checkpoints, one of `python -m convert features {facts.network}`")
    if facts.has_captions:
        add(
            "--captions",
            type=storage_path,
            metavar="FILE",
            help="captions: .txt (a line a video), .csv, .tsv or .jsonl (video, caption), .json (an object by video); "
            "default: the prompts of run directories, the dataset's captions, or NAME.txt beside each video",
        )
    add("--stage", choices=STAGES, help="stage of run directories to score; default: the last one there is")
    add("--max_videos", type=cli.number_between(1, _MAX), metavar="N", help="score N videos, drawn with --seed")
    seed = cli.number_between(0, MAX_SEED)
    add("--seed", type=seed, default=0, help="of --max_videos, of random clips and of the metric's order; default 0")


def _add_clips(command: argparse.ArgumentParser, facts: "MetricFacts") -> None:
    from show1_jax.evaluation.videos.clips import POSITIONS

    add = command.add_argument_group("clips").add_argument
    default = "whole videos" if facts.num_frames is None else str(facts.num_frames)
    count = cli.number_between(1, 100_000)
    add("--num_frames", type=count, metavar="N", help=f"frames of a clip; default {default}")
    add("--whole", action="store_true", help="a clip is a whole video")
    add("--stride", type=count, default=1, metavar="N", help="take every N-th frame; default 1")
    add("--fps", type=cli.number_between(0.01, 1000.0), help="resample to FPS frames a second; default: all frames")
    add("--clip", choices=POSITIONS, default="first", help="place of the clip; default first")
    add("--square", type=count, metavar="N", help="crop the centre to a square and resize it to N x N; default: no")
    add("--clips_per_video", type=count, default=1, metavar="N", help="clips of each video; default 1")


def _add_work(command: argparse.ArgumentParser) -> None:
    add = command.add_argument_group("work and results").add_argument
    out = Path("outputs/evaluation")
    add("--out", type=storage_path, default=out, metavar="DIR", help="default outputs/evaluation; may be in a bucket")
    add("--features", type=storage_path, metavar="DIR", help="saved features; default OUT/features")
    add(
        "--local_copies",
        type=user_path,
        default=Path(LOCAL_COPIES),
        metavar="DIR",
        help=f"folder for copies of datasets that are in buckets; default {LOCAL_COPIES}",
    )
    add(
        "--max_unreadable",
        type=cli.number_between(0.0, 1.0),
        default=0.01,
        metavar="SHARE",
        help="largest share of videos that may be unreadable or too short; they are named; default 0.01",
    )


def _evaluate(arguments: Sequence[str]) -> None:
    with cli.importing_jax("evaluation"):
        from show1_jax.evaluation.scoring import score
        from show1_jax.parallel import from_first_process, initialize_distributed, is_first_process
        from show1_jax.progress import say
        from show1_jax.runtime import enable_compilation_cache

    parsed = _make_parser().parse_args(arguments)
    request = _request(parsed)
    if processes := cli.distributed_arguments(parsed):
        initialize_distributed(*processes)
    enable_compilation_cache(Config.compilation_cache)
    from_first_process(lambda: check_writable(parsed.out))
    result = score(request)
    if is_first_process():
        path = result.write(parsed.out)
        lost = [(name, *one) for name, of_set in result.sets.items() for one in of_set.unreadable.items()]
        lines = [
            *result.warnings,
            *(f"--{name}: {video} is not scored: {why}" for name, video, why in lost[:_MAX_NAMED]),
        ]
        for line in lines:
            say(f"warning: {line}")
        if len(lost) > _MAX_NAMED:
            say(f"warning: {len(lost) - _MAX_NAMED} more videos are not scored; {path} names them")
        say(f"all settings: {path}")
        print(result.line())


def _request(parsed: argparse.Namespace) -> "ScoringRequest":
    from show1_jax.evaluation.extraction import ExtractionOptions
    from show1_jax.evaluation.features.table import FEATURE_NETWORKS
    from show1_jax.evaluation.metrics.metric import own_settings
    from show1_jax.evaluation.metrics.table import METRICS
    from show1_jax.evaluation.scoring import ScoringRequest, check_request
    from show1_jax.evaluation.videos.clips import ClipRule

    metric = METRICS[parsed.metric]
    metric = dataclasses.replace(metric, **{name: getattr(parsed, name) for name in own_settings(metric)})
    if parsed.whole and parsed.num_frames is not None:
        raise UserError("--whole and --num_frames exclude each other; give one")
    num_frames = None if parsed.whole else parsed.num_frames or metric.facts.num_frames
    rule = ClipRule(
        num_frames,
        stride=parsed.stride,
        fps=parsed.fps,
        position=parsed.clip,
        per_video=parsed.clips_per_video,
        seed=parsed.seed,
        square=parsed.square,
    )
    request = ScoringRequest(
        metric=metric,
        videos=parsed.videos,
        rule=rule,
        features=parsed.features or parsed.out / "features",
        reference=getattr(parsed, "reference", None),
        weights=getattr(parsed, "weights", None),
        captions=getattr(parsed, "captions", None),
        stage=parsed.stage,
        max_videos=parsed.max_videos,
        seed=parsed.seed,
        any_frame_rate=getattr(parsed, "any_frame_rate", False),
        options={name: getattr(parsed, name) for name in FEATURE_NETWORKS[metric.facts.network].options},
        extraction=ExtractionOptions(parsed.batch_size, parsed.num_workers, parsed.max_unreadable),
        local_copies=parsed.local_copies,
    )
    check_request(request)
    return request


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line, by default that of this process.

    Returns:
        The exit code: 2 after one line on stderr if the input is bad.
    """
    return cli.run_command("evaluation", lambda: _evaluate(sys.argv[1:] if arguments is None else arguments))


if __name__ == "__main__":
    exit_process(main())
