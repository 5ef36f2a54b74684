"""Command line `python -m convert`, which converts released PyTorch folders to one checkpoint.

Further commands: `inflate` makes a checkpoint to train from, `merge` makes one checkpoint of several and adds adapters
to its weights, `export` writes released folders again, or an adapter as a LoRA file, `import` makes an adapter of a
LoRA file, `features` converts the networks of metrics, `verify` checks a checkpoint, `card` writes its model card,
`push` uploads it to the hub, and `upload` to a bucket.
"""

import sys

from show1_jax.terminal import end_at_once, exit_process

if __name__ == "__main__":
    end_at_once("convert")  # Ctrl-C while the modules below are imported

from show1_jax.cli import ArgumentParser, load_config, number_between, require_jax, run_command

require_jax("convert")

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from show1_jax.checkpoints.checkpoint_set import is_hub_name
from show1_jax.errors import UserError
from show1_jax.files import storage_path, user_path

from .card import make_card
from .convert import DTYPES, convert
from .export import export
from .features import PUBLISHED_NETWORKS, convert_features
from .inflate import INITIAL_FOLDERS, inflate
from .lora.export import MAX_RANK, export_adapter
from .lora.import_file import import_adapter
from .merge import merge
from .push import Upload, push
from .released import RELEASED_STAGES
from .upload import upload_checkpoint
from .verify import verify


def _path_argument(text: str, to_path: Callable[[str], Path] = user_path) -> Path:
    """Return a path that is given on the command line."""
    if is_hub_name(text):
        raise argparse.ArgumentTypeError(
            f"{text} is a name on the hub; give a folder, e.g. one of `hf download OWNER/NAME --local-dir DIR`"
        )
    try:
        return to_path(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _checkpoint_argument(text: str) -> Path:
    """Return the path of a checkpoint to read or to make, which may be in a bucket."""
    return _path_argument(text, storage_path)


def _checkpoints_argument(text: str) -> str:
    """Return names of checkpoints that are given on the command line; none may be on the hub."""
    for name in text.split(","):
        _checkpoint_argument(name.strip() or ".")
    return text


def _convert_parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(
        prog="python -m convert",
        description="Convert the released folders of Show-1's five stages to one checkpoint. Sources are local folders "
        "or hub ids with an optional @revision; the default is the hub's released repository.",
        epilog="Further commands: `python -m convert inflate --help`, which makes a checkpoint to train from, "
        "`python -m convert merge --help`, which makes one checkpoint of several and adds adapters to its weights, "
        "`python -m convert export --help`, which writes released folders again, or an adapter as a LoRA file, "
        "`python -m convert import --help`, which makes an adapter of a LoRA file, "
        "`python -m convert features --help`, which converts the networks of metrics, "
        "`python -m convert verify CHECKPOINT`, which checks a checkpoint and lists its contents, "
        "`python -m convert card --help`, which writes its model card, "
        "`python -m convert push --help`, which uploads it to the hub, and "
        "`python -m convert upload --help`, which uploads it to a bucket.",
    )
    parser.add_argument(
        "--from",
        dest="folder",
        type=_path_argument,
        metavar="FOLDER",
        help=f"contains the released folders: {', '.join(s.folder for s in RELEASED_STAGES.values())}",
    )
    for stage in RELEASED_STAGES.values():
        parser.add_argument(f"--{stage.name}", metavar="SOURCE", help=f"default: {stage.repository}")
    parser.add_argument(
        "--stages",
        type=lambda text: text.split(","),
        default=list(RELEASED_STAGES),
        metavar="A,B",
        help="convert only these",
    )
    parser.add_argument(
        "--config", metavar="FILE", help="record this config's sampling settings instead of the original's"
    )
    _add_variant(parser)
    _add_output(parser)
    return parser


def _add_variant(parser: argparse.ArgumentParser) -> None:
    """Add the flag of the commands that read released folders."""
    parser.add_argument("--variant", help="weights to prefer if a folder has several, e.g. fp16")


def _add_components(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the commands that read components of our checkpoints."""
    parser.add_argument(
        "checkpoint",
        type=_checkpoints_argument,
        help="a checkpoint or a training run, here or in a bucket; several, separated by commas",
    )
    parser.add_argument(
        "--component", action="append", default=[], metavar="NAME", help="write only this one (can be repeated)"
    )


def _add_output(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the commands that make a checkpoint."""
    _add_out(parser)
    parser.add_argument("--dtype", choices=list(DTYPES), default="keep", help="dtype of the stored weights")


def _add_out(parser: argparse.ArgumentParser, made: str = "the checkpoint to make, here or in a bucket") -> None:
    parser.add_argument("--out", type=_checkpoint_argument, required=True, metavar="DIR", help=made)
    parser.add_argument("--overwrite", action="store_true", help="replace the checkpoint at DIR")


def _inflate_parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(
        prog="python -m convert inflate",
        description="Make a checkpoint to train from, as the paper did: image UNets with initial temporal layers, and "
        "an interpolation UNet that starts as the keyframe UNet. Sources are local folders or hub ids with an optional "
        "@revision; stages without one are omitted.",
    )
    for stage in INITIAL_FOLDERS.values():
        more = "; or a checkpoint, or `keyframes`: the UNet made here" if stage.name == "interpolation" else ""
        parser.add_argument(f"--{stage.name}", metavar="SOURCE", help=f"a folder like {stage.repository}{more}")
    parser.add_argument("--seed", type=int, default=0, help="seed of the initial temporal layers")
    _add_variant(parser)
    _add_output(parser)
    return parser


def _merge_parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(
        prog="python -m convert merge",
        description="Write components of several checkpoints as one checkpoint: later checkpoints replace components "
        "of earlier ones. For a training run, the averaged weights of its newest intact step are used. Without "
        "--component: all of them. With --adapter, their weights are changed for good.",
    )
    _add_components(parser)
    parser.add_argument(
        "--adapter",
        default="",
        metavar="DIR[:STRENGTH],...",
        help="adapters or training runs of them, to add to the weights; the strength is 1 by default",
    )
    parser.add_argument(
        "--config", metavar="FILE", help="record this config's sampling settings instead of the checkpoints' own"
    )
    _add_output(parser)
    return parser


def _export_parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(
        prog="python -m convert export",
        description="Write networks of a checkpoint as diffusers folders. Without --component: all of them, in a "
        "folder for each stage, which `python -m convert --from FOLDER` reads again. With --adapter: write that "
        "adapter alone, as a LoRA file of diffusers, and no network.",
    )
    _add_components(parser)
    parser.add_argument("--adapter", metavar="DIR", help="the adapter to write, or its training run")
    parser.add_argument(
        "--rank",
        type=number_between(1, MAX_RANK),
        metavar="N",
        help="approximate an adapter that replaces whole kernels by pairs of this rank",
    )
    parser.add_argument("--out", type=_path_argument, required=True, metavar="FOLDER", help="the folder to make")
    parser.add_argument("--dtype", choices=list(DTYPES), default="keep", help="dtype of the written weights")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier export at FOLDER")
    return parser


def _import_parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(
        prog="python -m convert import",
        description="Make an adapter of a LoRA file of diffusers, peft or kohya. Every tensor of the file must fit a "
        "layer of the network.",
    )
    parser.add_argument(
        "source", type=_path_argument, metavar="FILE", help="a .safetensors or .bin file, or the folder with it"
    )
    parser.add_argument(
        "--checkpoint",
        type=_checkpoints_argument,
        required=True,
        metavar="DIR",
        help="the checkpoint or training run with the network",
    )
    parser.add_argument(
        "--component", metavar="NAME", help="the network to adapt; default: that of an exported file, or else keyframes"
    )
    _add_out(parser, "the adapter to make, here or in a bucket")
    return parser


def _features_parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(
        prog="python -m convert features",
        description="Convert a published network that metrics compare videos with to a checkpoint. Files to get: "
        + "; ".join(f"{kind}: {network.source}" for kind, network in PUBLISHED_NETWORKS.items())
        + ".",
    )
    parser.add_argument("network", choices=list(PUBLISHED_NETWORKS), metavar="NETWORK", help="the network's name")
    parser.add_argument(
        "--from",
        dest="source",
        type=_path_argument,
        required=True,
        metavar="PATH",
        help="the published file or folder; for some networks also the id of a repository of the hub",
    )
    _add_out(parser)
    return parser


def _verify_parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(prog="python -m convert verify", description="Recompute hashes and shapes of a checkpoint.")
    parser.add_argument("checkpoint", type=_checkpoint_argument, help="the checkpoint, here or in a bucket")
    return parser


def _card_parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(
        prog="python -m convert card",
        description="Write the model card of a checkpoint, README.md. A card that the user edited is not replaced.",
    )
    parser.add_argument("checkpoint", type=_path_argument)
    parser.add_argument(
        "--licence", metavar="NAME", help="licence of the components that record none, such as apache-2.0 or mit"
    )
    parser.add_argument(
        "--contact_sheet", type=_path_argument, metavar="FILE", help="PNG of `sample.py` to copy and show"
    )
    return parser


def _push_parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(
        prog="python -m convert push",
        description="Upload a checkpoint, an adapter, or the newest step of a training run to a repository of the hub, "
        "which is made if it does not exist.",
    )
    parser.add_argument("checkpoint", type=_path_argument)
    parser.add_argument("repository", metavar="OWNER/NAME")
    parser.add_argument("--private", action="store_true", help="make a private repository")
    parser.add_argument("--revision", default=Upload.revision, metavar="BRANCH", help="default: main")
    parser.add_argument("--message", default=Upload.message, metavar="TEXT", help="message of the commit")
    parser.add_argument(
        "--accept_licences",
        action="store_true",
        help="publish weights under licences of others, which you have read and which allow it",
    )
    parser.add_argument(
        "--licence", default=Upload.licence, metavar="NAME", help="licence of the components that record none"
    )
    return parser


def _upload_parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(
        prog="python -m convert upload",
        description="Copy a checkpoint or an adapter to a bucket. Its manifest is written last, so that it counts only "
        "when it is complete.",
    )
    parser.add_argument("checkpoint", type=_path_argument)
    _add_out(parser, "the folder to make, in a bucket")
    return parser


def _sources(arguments: argparse.Namespace) -> dict[str, str]:
    """Return the source of each stage to convert, by the stage's name."""
    unknown = [name for name in arguments.stages if name not in RELEASED_STAGES]
    if unknown:
        raise UserError(f"--stages: unknown {', '.join(unknown)}; choose from {', '.join(RELEASED_STAGES)}")
    named: dict[str, Any] = vars(arguments)
    sources = {}
    for name in RELEASED_STAGES:
        if name in arguments.stages:
            local = (
                str(arguments.folder.absolute() / RELEASED_STAGES[name].folder)
                if arguments.folder
                else RELEASED_STAGES[name].repository
            )
            sources[name] = named[name] or local
        elif named[name]:
            raise UserError(f"--{name} is given but {name} is not among --stages; add it there or omit it")
    return sources


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line, by default that of this process.

    Returns:
        The exit code: 2 after one line on stderr if the input is bad.
    """
    jax.config.update("jax_platforms", "cpu")  # nothing here needs an accelerator
    return run_command("convert", lambda: _run(sys.argv[1:] if arguments is None else arguments))


def _run(arguments: Sequence[str]) -> None:
    commands = {
        "verify": _run_verify,
        "card": _run_card,
        "push": _run_push,
        "upload": _run_upload,
        "inflate": _run_inflate,
        "merge": _run_merge,
        "export": _run_export,
        "import": _run_import,
        "features": _run_features,
    }
    command = commands.get(arguments[0]) if arguments else None
    if command:
        command(arguments[1:])
    else:
        _run_convert(arguments)


def _run_verify(arguments: Sequence[str]) -> None:
    verify(_verify_parser().parse_args(arguments).checkpoint)


def _run_card(arguments: Sequence[str]) -> None:
    parsed = _card_parser().parse_args(arguments)
    make_card(parsed.checkpoint, licence=parsed.licence, sheet=parsed.contact_sheet)


def _run_push(arguments: Sequence[str]) -> None:
    parsed = _push_parser().parse_args(arguments)
    upload = Upload(
        parsed.repository, parsed.private, parsed.revision, parsed.message, parsed.accept_licences, parsed.licence
    )
    push(parsed.checkpoint, upload)


def _run_upload(arguments: Sequence[str]) -> None:
    parsed = _upload_parser().parse_args(arguments)
    upload_checkpoint(parsed.checkpoint, parsed.out, overwrite=parsed.overwrite)


def _run_inflate(arguments: Sequence[str]) -> None:
    parsed = _inflate_parser().parse_args(arguments)
    sources = {name: source for name in INITIAL_FOLDERS if (source := getattr(parsed, name))}
    if not sources:
        raise UserError(f"no sources; give at least one of {', '.join(f'--{name}' for name in INITIAL_FOLDERS)}")
    if not 0 <= parsed.seed < 2**32:
        raise UserError(f"--seed {parsed.seed}: must be from 0 to 2^32 - 1")
    inflate(
        parsed.out,
        sources,
        seed=parsed.seed,
        variant=parsed.variant,
        dtype=DTYPES[parsed.dtype],
        overwrite=parsed.overwrite,
    )


def _run_merge(arguments: Sequence[str]) -> None:
    parsed = _merge_parser().parse_args(arguments)
    merge(
        parsed.checkpoint,
        parsed.out,
        parsed.component,
        adapters=parsed.adapter,
        dtype=DTYPES[parsed.dtype],
        config=load_config(parsed.config) if parsed.config else None,
        overwrite=parsed.overwrite,
    )


def _run_export(arguments: Sequence[str]) -> None:
    parsed = _export_parser().parse_args(arguments)
    dtype = DTYPES[parsed.dtype]
    if parsed.adapter is None:
        if parsed.rank is not None:
            raise UserError("--rank is for an adapter; give it with --adapter, or omit --rank")
        export(parsed.checkpoint, parsed.out, parsed.component, dtype=dtype, overwrite=parsed.overwrite)
        return
    if parsed.component:
        raise UserError("--component and --adapter: an adapter names its network itself; omit --component")
    export_adapter(
        parsed.checkpoint, parsed.adapter, parsed.out, rank=parsed.rank, dtype=dtype, overwrite=parsed.overwrite
    )


def _run_import(arguments: Sequence[str]) -> None:
    parsed = _import_parser().parse_args(arguments)
    import_adapter(parsed.source, parsed.checkpoint, parsed.out, parsed.component, overwrite=parsed.overwrite)


def _run_features(arguments: Sequence[str]) -> None:
    parsed = _features_parser().parse_args(arguments)
    convert_features(PUBLISHED_NETWORKS[parsed.network], parsed.source, parsed.out, overwrite=parsed.overwrite)


def _run_convert(arguments: Sequence[str]) -> None:
    parsed = _convert_parser().parse_args(arguments)
    convert(
        parsed.out,
        _sources(parsed),
        variant=parsed.variant,
        dtype=DTYPES[parsed.dtype],
        config=load_config(parsed.config) if parsed.config else None,
        overwrite=parsed.overwrite,
    )


if __name__ == "__main__":
    exit_process(main())
