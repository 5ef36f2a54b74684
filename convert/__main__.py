"""`python -m convert`: released PyTorch folders in, one checkpoint out; `python -m convert verify`: is it whole?"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import jax

from convert.convert import DTYPES, convert
from convert.released import STAGES
from convert.verify import verify
from show1_jax.cli import run_command
from show1_jax.errors import UserError


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as everything here does."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see `{self.prog} --help`")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m convert",
        description="Convert the released folders of Show-1's five stages to one checkpoint. Sources are local folders "
        "or hub ids with an optional @revision; the default is the hub's released repository.",
        epilog="`python -m convert verify CHECKPOINT` checks a checkpoint and says what is in it.",
        allow_abbrev=False,
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the checkpoint to make")
    parser.add_argument(
        "--from",
        dest="folder",
        type=Path,
        metavar="FOLDER",
        help=f"holds the released folders by name: {', '.join(s.folder for s in STAGES.values())}",
    )
    for stage in STAGES.values():
        parser.add_argument(f"--{stage.name}", metavar="SOURCE", help=f"default: {stage.repository}")
    parser.add_argument(
        "--stages", type=lambda text: text.split(","), default=list(STAGES), metavar="A,B", help="convert these only"
    )
    parser.add_argument("--variant", help="weights to prefer where a folder has several, e.g. fp16")
    parser.add_argument("--dtype", choices=list(DTYPES), default="keep", help="of the stored weights")
    parser.add_argument("--overwrite", action="store_true", help="replace the checkpoint at DIR")
    return parser


def _verify_parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m convert verify", description="Recompute hashes and shapes of a checkpoint.")
    parser.add_argument("checkpoint", type=Path)
    return parser


def _sources(arguments: argparse.Namespace) -> dict[str, str]:
    """Where each wanted stage comes from."""
    unknown = [name for name in arguments.stages if name not in STAGES]
    if unknown:
        raise UserError(f"--stages: unknown {', '.join(unknown)}; there are {', '.join(STAGES)}")
    named: dict[str, Any] = vars(arguments)
    sources = {}
    for name in STAGES:
        if name in arguments.stages:
            local = (
                str(arguments.folder.absolute() / STAGES[name].folder) if arguments.folder else STAGES[name].repository
            )
            sources[name] = named[name] or local
        elif named[name]:
            raise UserError(f"--{name} is given but {name} is not among --stages; add it there or leave it out")
    return sources


def main(arguments: Sequence[str]) -> int:
    """Runs the command line. Returns the exit code: 2 after one line on stderr if the input is bad."""
    return run_command("convert", lambda: _run(arguments))


def _run(arguments: Sequence[str]) -> None:
    if arguments[:1] == ["verify"]:
        verify(_verify_parser().parse_args(arguments[1:]).checkpoint)
        return
    parsed = _parser().parse_args(arguments)
    convert(
        parsed.out,
        _sources(parsed),
        variant=parsed.variant,
        dtype=DTYPES[parsed.dtype],
        overwrite=parsed.overwrite,
    )


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")  # nothing here needs an accelerator
    sys.exit(main(sys.argv[1:]))
