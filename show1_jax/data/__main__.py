"""Data to train on: `python -m show1_jax.data COMMAND`.

`build` makes a dataset of a folder of captioned videos, `export` such a folder of a TFDS dataset, `encode_text` a cache
of the text states of captions.
"""

import sys

from show1_jax.terminal import end_at_once, exit_process

if __name__ == "__main__":
    end_at_once("data")  # Ctrl-C while the modules below are imported

import argparse
from collections.abc import Callable, Sequence

from show1_jax.cli import ArgumentParser, run_command
from show1_jax.config.bounds import MAX_SEED
from show1_jax.files import user_path


def _parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(prog="python -m show1_jax.data", description="Make data to train on.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_build(commands)
    _add_export(commands)
    _add_encode_text(commands)
    return parser


def _number(least: int | float, most: int | float) -> Callable[[str], int | float]:
    """Return a reader of numbers of the type of `least`."""

    def number(text: str) -> int | float:
        value = type(least)(text)
        if not value >= least:
            raise argparse.ArgumentTypeError(f"{text} must be at least {least}")
        if value > most:
            raise argparse.ArgumentTypeError(f"{text} must be at most {most}")
        return value

    return number


def _add_build(commands: "argparse._SubParsersAction[ArgumentParser]") -> None:
    build = commands.add_parser(
        "build",
        help="a dataset from a folder of videos and their captions",
        description="Build a dataset from videos and their captions. Every video is decoded once; what cannot be used "
        "is left out and named in the dataset's left_out.tsv.",
    )
    build.add_argument(
        "--videos",
        type=user_path,
        required=True,
        metavar="DIR",
        help="holds the videos (.mp4 .mov .m4v .webm .mkv .avi), also in folders",
    )
    build.add_argument(
        "--captions",
        type=user_path,
        metavar="FILE.csv",
        help="WebVid's layout: the columns videoid, page_dir and name (the caption), for DIR/[page_dir/]videoid.mp4; "
        "default: name.txt beside name.mp4",
    )
    build.add_argument("--out", type=user_path, required=True, metavar="DIR", help="the dataset to make")
    build.add_argument(
        "--min_seconds",
        type=_number(0.0, 1e6),
        default=3.5,
        metavar="S",
        help="leave shorter videos out; default 3.5, the 8 frames at 2 fps of the keyframe stage",
    )
    build.add_argument(
        "--num_workers",
        type=_number(0, 4096),
        default=0,
        metavar="N",
        help="processes that decode, so that a video that crashes its decoder is left out; default: threads",
    )
    build.add_argument("--overwrite", action="store_true", help="replace the dataset at --out")
    build.set_defaults(run=_build)


def _build(arguments: argparse.Namespace) -> None:
    from show1_jax.data.building.builder import build

    build(
        arguments.videos,
        arguments.out,
        arguments.captions,
        min_seconds=arguments.min_seconds,
        num_workers=arguments.num_workers,
        overwrite=arguments.overwrite,
    )


def _add_export(commands: "argparse._SubParsersAction[ArgumentParser]") -> None:
    export = commands.add_parser(
        "export",
        help="videos and captions for `build` from a TFDS video dataset, such as UCF-101",
        description="Write the videos of a TFDS dataset as mp4 files, with their captions or classes as text files; "
        "needs TensorFlow: pip install 'show1-jax[tfds-video]'.",
    )
    export.add_argument("name", help="as TFDS has it, e.g. ucf101/ucf101_1")
    export.add_argument("--out", type=user_path, required=True, metavar="DIR", help="the folder to make")
    export.add_argument("--split", default="train", help="of the dataset; default train")
    export.add_argument(
        "--fps",
        type=_number(0.1, 1000.0),
        required=True,
        help="of the videos, which TFDS does not say; UCF-101's is 25",
    )
    export.add_argument("--data_dir", type=user_path, metavar="DIR", help="where TFDS keeps its datasets")
    export.set_defaults(run=_export)


def _export(arguments: argparse.Namespace) -> None:
    from show1_jax.data.building.tfds_export import export

    export(arguments.name, arguments.out, fps=arguments.fps, split=arguments.split, data_dir=arguments.data_dir)


def _add_encode_text(commands: "argparse._SubParsersAction[ArgumentParser]") -> None:
    encode = commands.add_parser(
        "encode_text",
        help="a cache of the text states of captions, for training without a text encoder",
        description="Run a text encoder over captions, each once, and keep its states for training with "
        "--config.train.text.source=cache. The empty caption is always among them. Captions may come from several "
        "places: add those of the prompts that training samples with --captions.",
    )
    encode.add_argument("--checkpoint", type=user_path, required=True, metavar="DIR", help="has the text encoder")
    encode.add_argument("--component", required=True, metavar="NAME", help="the text encoder, such as text_t5")
    encode.add_argument("--out", type=user_path, required=True, metavar="DIR", help="the cache to make")
    encode.add_argument("--data", type=user_path, metavar="DIR", help="captions of a dataset that `build` made")
    encode.add_argument(
        "--synthetic",
        type=_number(1, 10**9),
        metavar="N",
        help="captions of the synthetic world: data.num_synthetic + data.num_validation scenes",
    )
    encode.add_argument(
        "--seed", type=_number(0, MAX_SEED), default=0, metavar="S", help="of the synthetic world: data.seed; default 0"
    )
    encode.add_argument("--captions", type=user_path, metavar="FILE", help="a caption a line")
    encode.add_argument(
        "--batch_size",
        type=_number(1, 100_000),
        default=64,
        metavar="N",
        help="captions at a time, over all devices; default 64",
    )
    encode.add_argument(
        "--text_padding",
        choices=["encoded", "zeros"],
        default="encoded",
        help="the config's text_padding; zeros stores the tokens alone; default encoded, as the released networks",
    )
    encode.set_defaults(run=_encode_text)


def _encode_text(arguments: argparse.Namespace) -> None:
    from show1_jax.data.text_cache import check_component, collect_captions, write_text_cache

    check_component(arguments.component)
    captions = collect_captions(
        data=arguments.data, synthetic=arguments.synthetic, seed=arguments.seed, file=arguments.captions
    )
    write_text_cache(
        arguments.out,
        captions,
        arguments.checkpoint,
        arguments.component,
        padding=arguments.text_padding,
        batch_size=arguments.batch_size,
    )


def main(arguments: Sequence[str]) -> int:
    """Runs the command line. Returns the exit code: 2 after one line on stderr if the input is bad."""
    return run_command("data", lambda: _run(arguments))


def _run(arguments: Sequence[str]) -> None:
    parsed = _parser().parse_args(arguments)
    parsed.run(parsed)


if __name__ == "__main__":
    exit_process(main(sys.argv[1:]))
