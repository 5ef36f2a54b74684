"""Command lines: flags, config files and overrides; every mistake of the user is reported in one line.

absl parses the flags and ml_collections the config file; commands with sub-commands use argparse. This module checks
their input and writes their errors.
"""

import argparse
import contextlib
import dataclasses
import difflib
import importlib.metadata
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

from absl import flags

from show1_jax.config.config_dict import ConfigDict
from show1_jax.config.config_file import Config, check_paths
from show1_jax.config.running import run_config_file
from show1_jax.errors import BAD_INPUT, PROGRAM_ERROR, UserError, error_line
from show1_jax.terminal import (
    INTERRUPTED,
    ending_at_once,
    exit_process,
    interruptible,
    tell_of_failure,
    tolerant_output,
)

HEARTBEAT_TIMEOUT: Final = 60
"""Default of `--heartbeat_timeout`, in seconds."""

_CONSOLE_COMMANDS: Final = {
    r"(?<![\w./\\-])(?:python\s+)?sample\.py\b": "show1-sample",
    r"(?<![\w./\\-])(?:python\s+)?train\.py\b": "show1-train",
    r"\bpython\s+-m\s+convert\b": "show1-convert",
    r"\bpython\s+-m\s+show1_jax\.evaluation\b(?!\.)": "show1-evaluate",
    r"\bpython\s+-m\s+show1_jax\.data\b": "show1-data",
    r"\bpython\s+-m\s+show1_jax\.web\b": "show1-web",
}
"""Names of the console commands of an installed package, by the text that names the same command of a checkout."""

_JAX_SETTINGS: Final = {
    **dict.fromkeys(("jax_numpy_rank_promotion", "jax_transfer_guard"), "allow"),
    **{f"jax_error_checking_behavior_{kind}": "ignore" for kind in ("nan", "divide", "oob")},
    **dict.fromkeys(("jax_disable_jit", "jax_no_tracing", "jax_no_execution"), False),
}
"""Values of the settings of JAX that can forbid what commands do: a user sets others, e.g. in the environment, for
other programs. With the checks of errors or without jit, programs here cannot be compiled."""


def run_command(program: str, command: Callable[[], None]) -> int:
    """Run a command and return its exit code.

    A mistake of the user, Ctrl-C and an error of the operating system are one line on stderr; any other exception is
    raised, as an error of the program.

    Args:
        program: name of the command, at the start of the line.
        command: function that does the work.

    Returns:
        0 after success, `BAD_INPUT` after a mistake or an `OSError`, `INTERRUPTED` after Ctrl-C.
    """
    with tolerant_output(), interruptible(program) as interrupted:
        try:
            command()
        except (Exception, KeyboardInterrupt) as error:
            line, code = error_line(error), BAD_INPUT
            if interrupted.is_set() or isinstance(error, KeyboardInterrupt):
                line, code = "interrupted", INTERRUPTED
            elif not isinstance(error, UserError | OSError):
                line, code = f"{type(error).__name__}: {line}", PROGRAM_ERROR
            tell_of_failure(error, line, code)
            if code == PROGRAM_ERROR:
                raise
            print(f"{program}: {as_typed(line)}", file=sys.stderr)
            return code
        return 0


def as_typed(text: str) -> str:
    """Return a text for the user in which commands have the names that this user has.

    Texts name the commands of a checkout, such as `python sample.py`. If a console command runs, these become
    `show1-sample` and the others.
    """
    if not Path(sys.argv[0]).name.startswith("show1-"):
        return text
    for pattern, name in _CONSOLE_COMMANDS.items():
        text = re.sub(pattern, name, text)
    return text


@contextlib.contextmanager
def importing_jax(program: str) -> Iterator[None]:
    """Import JAX, which takes seconds, before a block that imports modules which need it; Ctrl-C ends the process.

    Raises:
        UserError: JAX is not installed, or an environment variable of JAX has an invalid value.
    """
    with ending_at_once(program):
        try:
            import jax
        except Exception as error:
            raise UserError(f"JAX does not start ({error_line(error)}); correct its variable, or install it") from error
        for setting, value in _JAX_SETTINGS.items():
            jax.config.update(setting, value)
        yield


def require_jax(program: str) -> None:
    """Import JAX as `importing_jax` does, before modules that need it at once; or end the process with one line."""

    def start() -> None:
        with importing_jax(program):
            pass

    if code := run_command(program, start):
        exit_process(code)


class ArgumentParser(argparse.ArgumentParser):
    """An argparse parser with one-line errors that does not accept abbreviated options."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)
        self.prog = as_typed(self.prog)  # before the help is formatted, for its indentation

    def format_help(self) -> str:
        """Return the help, with the names of commands that this user has."""
        return as_typed(super().format_help())

    def error(self, message: str) -> NoReturn:
        """Refuse the command line.

        Raises:
            UserError: always, with the message.
        """
        raise UserError(f"{message}; see `{self.prog} --help`")


def number_between(least: int | float, most: int | float) -> Callable[[str], int | float]:
    """Return a function that parses a number of the type of `least`, from `least` to `most`."""

    def number(text: str) -> int | float:
        value = type(least)(text)
        if not value >= least:
            raise argparse.ArgumentTypeError(f"{text} must be at least {least}")
        if value > most:
            raise argparse.ArgumentTypeError(f"{text} must be at most {most}")
        return value

    return number


def new_flags() -> flags.FlagValues:
    """Return a set of flags that contains `--config FILE`; a command adds its own."""
    values = flags.FlagValues()
    values.set_gnu_getopt(True)
    help_string = "FILE: settings, or a name such as full; --config.SETTING=VALUE changes one"
    flags.DEFINE_string("config", None, help_string, flag_values=values)
    return values


def define_weight_flags(values: flags.FlagValues) -> None:
    """Add the flags of commands that sample: the weights, and the folder of the videos."""
    text = flags.DEFINE_string
    help_string = "A,B: checkpoints, training runs or hub:OWNER/NAME; later ones replace components"
    text("checkpoint", None, help_string, flag_values=values)
    text("adapter", None, "A:0.8,B: adapters that train.py made, with strengths", flag_values=values)
    text("out", None, "DIR: parent of the videos' directories", flag_values=values)


def define_process_flags(values: flags.FlagValues) -> None:
    """Add the flags of a command that runs in several processes, and `--help`, which is the last flag."""
    number, toggle = flags.DEFINE_integer, flags.DEFINE_bool
    toggle("distributed", False, "join the run's other processes, found by JAX (TPU pods, SLURM)", flag_values=values)
    help_string = "HOST:PORT: address of the first process"
    flags.DEFINE_string("coordinator_address", None, help_string, flag_values=values)
    number("num_processes", None, "N: number of processes", flag_values=values)
    number("process_id", None, "N: number of this process, from 0", flag_values=values)
    help_string = f"N: seconds of silence after which a process is lost, and all end; default {HEARTBEAT_TIMEOUT}"
    number("heartbeat_timeout", HEARTBEAT_TIMEOUT, help_string, flag_values=values)
    toggle("help", False, "show this help", short_name="h", flag_values=values)


def add_process_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `define_process_flags` to a command that uses argparse."""
    group = parser.add_argument_group("several processes")
    group.add_argument(
        "--distributed", action="store_true", help="join the run's other processes, found by JAX (TPU pods, SLURM)"
    )
    group.add_argument("--coordinator_address", metavar="HOST:PORT", help="address of the first process")
    group.add_argument("--num_processes", type=int, metavar="N", help="number of processes")
    group.add_argument("--process_id", type=int, metavar="N", help="number of this process, from 0")
    group.add_argument(
        "--heartbeat_timeout",
        type=int,
        default=HEARTBEAT_TIMEOUT,
        metavar="N",
        help=f"seconds of silence after which a process is lost, and all end; default {HEARTBEAT_TIMEOUT}",
    )


def distributed_arguments(
    values: flags.FlagValues | argparse.Namespace,
) -> tuple[str | None, int | None, int | None, int] | None:
    """Return the arguments of `initialize_distributed`, or None if this process is the only one."""
    processes = (values.coordinator_address, values.num_processes, values.process_id)
    if not values.distributed and all(value is None for value in processes):
        return None
    return *processes, values.heartbeat_timeout


def parse_flags(values: flags.FlagValues, argv: Sequence[str]) -> ConfigDict:
    """Parse a command line and set the flags of `values`.

    Args:
        values: flags from `new_flags`, with all flags of the command.
        argv: command line, with the program's name first.

    Returns:
        The config with its overrides.

    Raises:
        UserError: a flag or an override is unknown (the line has the nearest name) or has a wrong type, or the config
            is missing.
    """
    from ml_collections import config_flags  # here, as commands without overrides run without it

    path, argv = _split_config_path(argv)
    if not path:
        raise UserError("no --config; give --config demo, --config full, or the path of a config file")
    config = run_config_file(path)
    _check_overrides(config, argv)
    del values.config  # until here the file's path, below its settings
    try:
        config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=argv)
        _, *rest = values(argv)
    except flags.UnrecognizedFlagError as error:
        near = difflib.get_close_matches(error.flagname, list(values), n=1, cutoff=0)
        raise UserError(f"there is no flag --{error.flagname}; did you mean --{near[0]}?") from None
    except flags.Error as error:
        raise UserError(f"{error_line(error)}; see --help") from None
    if rest:
        raise UserError(f"{rest[0]!r} belongs to no flag; a prompt is given as --prompt {rest[0]!r}")
    return config


def read_config(
    values: flags.FlagValues, argv: Sequence[str], usage: str | None, settings: Sequence[str]
) -> Config | None:
    """Parse a command line and set the flags of `values`, or print the help if the command line has `--help`.

    Args:
        values: flags from `new_flags`, with all flags of the command.
        argv: command line, with the program's name first.
        usage: text above the flags in the help.
        settings: names of flags that override the settings of the same names in the config.

    Returns:
        The config with its overrides; None if the help was printed.

    Raises:
        UserError: as `parse_flags`; or a setting is not valid, or a path cannot be one.
    """
    if {"--help", "-help", "-h"} & set(argv):
        print(as_typed(f"{usage}\n{flag_help(values)}"))
        return None
    stated = parse_flags(values, argv)
    for name in settings:
        if values[name].value is not None:
            stated[name] = values[name].value
    config = Config.from_dict(stated.to_dict())
    config = dataclasses.replace(config, negative_prompt=decode_argument(config.negative_prompt))
    check_paths(config)
    return config


def installed_version(distribution: str) -> str | None:
    """Return the version of an installed package; None if it is not installed, such as our own run from a checkout."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def decode_argument(text: str) -> str:
    """Return an argument of the command line decoded as UTF-8, also in a locale such as "C" that cannot decode it.

    An argument that is not UTF-8 is returned unchanged.
    """
    try:
        return os.fsencode(text).decode("utf-8")
    except UnicodeError:
        return text


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Return the settings of a config file.

    Args:
        path: path of the Python file, which is run, or the name of one that comes with the package, such as `demo`;
            `FILE:ARGUMENT` passes an argument to its `get_config()`.
        overrides: overrides of settings, as on a command line: `--config.SETTING=VALUE`.

    Raises:
        UserError: the file does not exist, does not run, or does not return a ConfigDict; an override has an unknown
            name (the line has the nearest one); or a value has a wrong type or is outside its bounds.

    Example:
        >>> from show1_jax import load_config
        >>> config = load_config("configs/demo.py", ["--config.keyframes.num_steps=20"])
        >>> config.keyframes.num_steps, config.num_frames
        (20, 29)
    """
    return Config.from_dict(parse_flags(new_flags(), ["", "--config", os.fspath(path), *overrides]).to_dict())


def flag_help(values: flags.FlagValues) -> str:
    """Return the help of the flags, one a line, in the order of their definition.

    The help text of a flag with a value starts with the value's name and a colon.
    """
    entries = []
    for name in values:
        flag = values[name]
        if name == flag.short_name:
            continue
        line = flag.help.splitlines()[0].rstrip(";")  # absl adds lines to some
        kind, _, text = ("", "", line) if flag.boolean else line.partition(": ")
        entries.append((f"  --{name} {kind} ", text))
    column = max(len(label) for label, _ in entries)
    return "\n".join(f"{label:<{column}} {text}" for label, text in entries)


def _split_config_path(argv: Sequence[str]) -> tuple[str | None, list[str]]:
    """Return the file of the last `--config FILE` or `--config=FILE`, and the command line without these flags."""
    path, rest, arguments = None, list(argv[:1]), iter(argv[1:])
    for argument in arguments:
        name, is_given, value = argument.partition("=")
        if name in ("--config", "-config"):
            path = value if is_given else next(arguments, None)
        else:
            rest.append(argument)
    return path, rest


def _check_overrides(config: ConfigDict, argv: Sequence[str]) -> None:
    """Refuse overrides of unknown settings, since the errors of ml_collections are hard to read."""
    settings = list(_setting_names(config))
    for argument in argv[1:]:
        match = re.match(r"--?(?:no)?config\.([^=]*)", argument)
        if match and match[1] not in settings:
            near = difflib.get_close_matches(match[1], settings, n=1, cutoff=0)
            raise UserError(f"there is no setting --config.{match[1]}; did you mean --config.{near[0]}?")


def _setting_names(config: ConfigDict, prefix: str = "") -> Iterator[str]:
    """Yield the dotted path of every setting, without the groups of settings."""
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            yield from _setting_names(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"
