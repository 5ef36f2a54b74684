"""Commands that make training data: `python -m show1_jax.data COMMAND`.

`build` makes a dataset from a folder of captioned videos, `export` makes such a folder from a TFDS dataset,
`encode_text` makes a cache of the text states of captions, and `upload` copies a dataset or a cache to a bucket.
"""

import sys

from show1_jax.terminal import end_at_once, exit_process

if __name__ == "__main__":
    end_at_once("data")  # Ctrl-C while the modules below are imported

import argparse
from collections.abc import Sequence
from pathlib import Path

from show1_jax.cli import ArgumentParser, importing_jax, number_between, run_command
from show1_jax.config.bounds import MAX_SEED
from show1_jax.config.training import LOCAL_COPIES
from show1_jax.files import storage_path, user_path


def _make_data_parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(prog="python -m show1_jax.data", description="Make training data.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_build(commands)
    _add_export(commands)
    _add_encode_text(commands)
    _add_upload(commands)
    return parser


def _add_build(commands: "argparse._SubParsersAction[ArgumentParser]") -> None:
    build = commands.add_parser(
        "build",
        help="a dataset from a folder of videos and their captions",
        description="Build a dataset from videos and their captions. Every video is decoded once; files that cannot "
        "be used are left out and listed in the dataset's left_out.tsv.",
    )
    build.add_argument(
        "--videos",
        type=user_path,
        required=True,
        metavar="DIR",
        help="holds the videos (.mp4 .mov .m4v .webm .mkv .avi), also in subfolders",
    )
    build.add_argument(
        "--captions",
        type=user_path,
        metavar="FILE.csv",
        help="WebVid's layout: the columns videoid, page_dir and name (the caption), for DIR/[page_dir/]videoid.mp4; "
        "default: name.txt beside name.mp4",
    )
    build.add_argument(
        "--out", type=storage_path, required=True, metavar="DIR", help="the dataset to make, here or in a bucket"
    )
    build.add_argument(
        "--min_seconds",
        type=number_between(0.0, 1e6),
        default=3.5,
        metavar="S",
        help="leave shorter videos out; default 3.5, the 8 frames at 2 fps of the keyframe stage",
    )
    build.add_argument(
        "--num_workers",
        type=number_between(0, 4096),
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
    export.add_argument("name", help="its name in TFDS, e.g. ucf101/ucf101_1")
    export.add_argument("--out", type=user_path, required=True, metavar="DIR", help="the folder to make")
    export.add_argument("--split", default="train", help="split of the dataset; default train")
    export.add_argument(
        "--fps",
        type=number_between(0.1, 1000.0),
        required=True,
        help="frames a second, which TFDS does not record; 25 for UCF-101",
    )
    export.add_argument("--data_dir", type=user_path, metavar="DIR", help="folder of TFDS's datasets")
    export.set_defaults(run=_export)


def _export(arguments: argparse.Namespace) -> None:
    from show1_jax.data.building.tfds_export import export

    export(arguments.name, arguments.out, fps=arguments.fps, split=arguments.split, data_dir=arguments.data_dir)


def _add_encode_text(commands: "argparse._SubParsersAction[ArgumentParser]") -> None:
    encode = commands.add_parser(
        "encode_text",
        help="a cache of the text states of captions, for training without a text encoder",
        description="Encode captions, each once, and store the states for training with "
        "--config.train.text.source=cache. The empty caption is always added. Captions may come from several "
        "sources: use --captions to add the prompts that training samples.",
    )
    encode.add_argument(
        "--checkpoint", type=storage_path, required=True, metavar="DIR", help="contains the text encoder"
    )
    encode.add_argument("--component", required=True, metavar="NAME", help="the text encoder, such as text_t5")
    encode.add_argument(
        "--out", type=storage_path, required=True, metavar="DIR", help="the cache to make, here or in a bucket"
    )
    encode.add_argument("--data", type=storage_path, metavar="DIR", help="captions of a dataset that `build` made")
    encode.add_argument(
        "--local_copies",
        type=user_path,
        default=Path(LOCAL_COPIES),
        metavar="DIR",
        help=f"folder for a copy of --data, if it is in a bucket; default {LOCAL_COPIES}",
    )
    encode.add_argument(
        "--synthetic",
        type=number_between(1, 10**9),
        metavar="N",
        help="captions of the synthetic world: data.num_synthetic + data.num_validation scenes",
    )
    encode.add_argument(
        "--seed",
        type=number_between(0, MAX_SEED),
        default=0,
        metavar="S",
        help="seed of the synthetic world: data.seed; default 0",
    )
    encode.add_argument("--captions", type=user_path, metavar="FILE", help="text file with one caption per line")
    encode.add_argument(
        "--batch_size",
        type=number_between(1, 100_000),
        default=64,
        metavar="N",
        help="captions per batch, over all devices; default 64",
    )
    encode.add_argument(
        "--text_padding",
        choices=["encoded", "zeros"],
        default="encoded",
        help="the config's text_padding; zeros stores the tokens only; default encoded, as the released networks",
    )
    encode.set_defaults(run=_encode_text)


def _encode_text(arguments: argparse.Namespace) -> None:
    with importing_jax("data"):
        from show1_jax.data.text_cache import check_component, collect_captions, write_text_cache
        from show1_jax.data.transfer.download import local_copy

    check_component(arguments.component)
    data = None if arguments.data is None else local_copy(arguments.data, arguments.local_copies)
    captions = collect_captions(data=data, synthetic=arguments.synthetic, seed=arguments.seed, file=arguments.captions)
    write_text_cache(
        arguments.out,
        captions,
        arguments.checkpoint,
        arguments.component,
        padding=arguments.text_padding,
        batch_size=arguments.batch_size,
    )


def _add_upload(commands: "argparse._SubParsersAction[ArgumentParser]") -> None:
    upload = commands.add_parser(
        "upload",
        help="copy a dataset or a cache to a bucket",
        description="Copy a dataset or a cache of text states to a bucket, from which training reads it. Its list of "
        "files with their hashes is written last.",
    )
    upload.add_argument("folder", type=user_path, metavar="DIR", help="made by `build` or `encode_text`")
    upload.add_argument(
        "--out", type=storage_path, required=True, metavar="URL", help="gs://BUCKET/FOLDER or s3://BUCKET/FOLDER"
    )
    upload.add_argument("--overwrite", action="store_true", help="replace the dataset or the cache at --out")
    upload.set_defaults(run=_upload)


def _upload(arguments: argparse.Namespace) -> None:
    from show1_jax.data.transfer.upload import upload

    upload(arguments.folder, arguments.out, overwrite=arguments.overwrite)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line, by default that of this process.

    Returns:
        The exit code: 2 after one line on stderr if the input is bad.
    """
    return run_command("data", lambda: _run(sys.argv[1:] if arguments is None else arguments))


def _run(arguments: Sequence[str]) -> None:
    parsed = _make_data_parser().parse_args(arguments)
    parsed.run(parsed)


if __name__ == "__main__":
    exit_process(main())
