"""The paper's tables on a local copy of a dataset, in three commands.

  python -m show1_jax.evaluation.protocols ucf101 prompts --data datasets/ucf101 --out outputs/ucf101
  python sample.py --config full --prompts outputs/ucf101/prompts.jsonl --out outputs/ucf101 --overwrite
  python -m show1_jax.evaluation.protocols ucf101 score --samples outputs/ucf101 --data datasets/ucf101 --weights W

The same with msrvtt. Every command continues its work if it is called again. `prompts --dry_run` states videos, hours
and bytes; `sample.py --shard I/N` samples the part of one of N hosts.
"""

import argparse
import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from show1_jax.cli import (
    ArgumentParser,
    add_process_arguments,
    distributed_arguments,
    load_config,
    number_between,
    run_command,
)
from show1_jax.config.config_file import Config
from show1_jax.errors import UserError
from show1_jax.evaluation.arguments import add_speed_arguments
from show1_jax.evaluation.metrics.table import METRICS
from show1_jax.evaluation.protocols.cost import describe_cost
from show1_jax.evaluation.protocols.plan_files import PROMPTS_FILE, read_plan, write_plan
from show1_jax.evaluation.protocols.protocol import Protocol
from show1_jax.evaluation.protocols.samples import sample_command
from show1_jax.evaluation.protocols.table import PROTOCOLS
from show1_jax.files import user_path
from show1_jax.progress import say


def _make_parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(
        prog="python -m show1_jax.evaluation.protocols",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    protocols = parser.add_subparsers(required=True, metavar="PROTOCOL")
    for name, kind in PROTOCOLS.items():
        chosen = protocols.add_parser(name, help=f"{kind.table} of the paper, {kind.dataset}")
        commands = chosen.add_subparsers(required=True, metavar="COMMAND")
        _add_prompts(commands, kind)
        _add_score(commands, kind)
    return parser


def _add_prompts(commands: "argparse._SubParsersAction[ArgumentParser]", kind: type[Protocol]) -> None:
    parser = commands.add_parser(
        "prompts",
        help="make the file of prompts for sample.py",
        description=f"Make the prompts of {kind.dataset} for sample.py, and the plan for the scores.",
    )
    add = parser.add_argument
    add("--data", type=user_path, required=True, metavar="DIR", help=f"{kind.dataset}, as unpacked")
    add("--out", type=user_path, metavar="DIR", help="folder of the evaluation, also the --out of sample.py")
    names = ",".join(kind.paper)
    add("--metrics", type=_names, default=tuple(kind.paper), metavar="A,B", help=f"only some metrics; default {names}")
    for field in dataclasses.fields(kind):
        parse, metavar = _SETTING_KINDS[type(field.default)]
        add(f"--{field.name}", type=parse, default=field.default, metavar=metavar, help=field.metadata["help"])
    add("--overwrite", action="store_true", help="replace the prompts of other settings in DIR")
    add("--dry_run", action="store_true", help="state videos, hours and bytes; write nothing")
    add("--config", metavar="FILE", help="for --dry_run: the config of the videos; default: the released settings")
    add(
        "--hosts",
        type=number_between(1, 1_000_000),
        default=1,
        metavar="N",
        help="for --dry_run: number of hosts; default 1",
    )
    seconds = number_between(0.001, 1e6)
    add("--seconds_per_video", type=seconds, metavar="S", help="for --dry_run: default: measured on an H200")
    parser.set_defaults(run=make_prompts, kind=kind)


def _add_score(commands: "argparse._SubParsersAction[ArgumentParser]", kind: type[Protocol]) -> None:
    parser = commands.add_parser(
        "score",
        help="compute the metrics of the sampled videos",
        description="Compute the metrics of the sampled videos, and print them beside the paper's. DIR/scores gets "
        "tables and JSON with every setting.",
    )
    add = parser.add_argument
    add("--samples", type=user_path, required=True, metavar="DIR", help="folder of the evaluation")
    add("--data", type=user_path, required=True, metavar="DIR", help=f"{kind.dataset}, as unpacked")
    add("--weights", required=True, metavar="A,B", help="checkpoints of `python -m convert features` for the metrics")
    add("--metrics", type=_names, metavar="A,B", help="only some metrics; default: all that have prompts")
    add_speed_arguments(parser)
    add_process_arguments(parser)
    parser.set_defaults(run=score_samples, kind=kind)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


_SETTING_KINDS: Final[Mapping[type, tuple[Callable[[str], Any], str]]] = {
    int: (int, "N"),
    float: (float, "X"),
    str: (str, "NAME"),
    tuple: (_names, "A,B"),
}
"""For each type of a setting: the function that parses it, and the name of its value in the help."""


def make_prompts(parsed: argparse.Namespace) -> None:
    """Write the files of an evaluation, or print its dry run."""
    kind: type[Protocol] = parsed.kind
    settings: dict[str, Any] = {field.name: getattr(parsed, field.name) for field in dataclasses.fields(kind)}
    protocol = kind(**settings)
    metrics: tuple[str, ...] = parsed.metrics
    if not metrics or not set(metrics) <= kind.paper.keys():
        raise UserError(f"--metrics={','.join(metrics)}: {kind.name} has {', '.join(kind.paper)}; choose from these")
    for metric in metrics:
        facts = METRICS[metric].facts
        if facts.num_frames is not None:
            facts.check_num_frames(protocol.num_frames)
    if parsed.out is None and not parsed.dry_run:
        raise UserError("no --out; give the folder of the evaluation, or --dry_run")
    if not parsed.data.is_dir():
        raise UserError(f"there is no folder {parsed.data}; give {kind.dataset}, as unpacked, as --data")
    plan = protocol.plan(parsed.data, metrics)
    if parsed.dry_run:
        config = Config() if parsed.config is None else load_config(parsed.config)
        for line in describe_cost(protocol, plan, config, parsed.data, parsed.seconds_per_video, parsed.hosts):
            print(line)
        return
    is_new = write_plan(parsed.out, protocol, plan, overwrite=parsed.overwrite)
    for note in plan.notes:
        print(f"note: {note}", file=sys.stderr)
    state = "written" if is_new else "there already"
    print(
        f"{parsed.out / PROMPTS_FILE}: {len(plan.videos):,} videos, {state}; sample them: {sample_command(parsed.out)}"
    )


def score_samples(parsed: argparse.Namespace) -> None:
    """Score the sampled videos of an evaluation."""
    stored = read_plan(parsed.samples)
    if not isinstance(stored.protocol, parsed.kind):
        raise UserError(f"{parsed.samples} has the prompts of {stored.protocol.name}, not of {parsed.kind.name}")
    from show1_jax.evaluation.extraction import ExtractionOptions
    from show1_jax.evaluation.protocols.scoring import score
    from show1_jax.parallel import initialize_distributed, is_first_process
    from show1_jax.runtime import enable_compilation_cache

    if processes := distributed_arguments(parsed):
        initialize_distributed(*processes)
    enable_compilation_cache(Config.compilation_cache)
    work = ExtractionOptions(parsed.batch_size, parsed.num_workers)
    scores = score(parsed.samples, stored, parsed.data, parsed.weights, parsed.metrics, work)
    if is_first_process():
        for warning in scores.warnings():
            say(f"warning: {warning}")
        say(f"all settings: {scores.write(parsed.samples)}")
        print("\n".join(scores.lines()))


def main(arguments: Sequence[str]) -> int:
    """Run the command line and return the exit code: 2 after one line on stderr if the input is bad."""
    return run_command("protocols", lambda: run(arguments))


def run(arguments: Sequence[str]) -> None:
    """Run the command line.

    Raises:
        UserError: the input is bad.
    """
    parsed = _make_parser().parse_args(arguments)
    parsed.run(parsed)
