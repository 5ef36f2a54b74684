"""Command lines: flags and config overrides in, and every mistake as one line.

absl parses the flags and ml_collections the config file, or argparse where there are sub-commands; what is wrong is
found, or put into words, here.
"""

import argparse
import contextlib
import difflib
import os
import re
import runpy
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

from absl import flags
from ml_collections import ConfigDict, config_flags

from show1_jax.config.config_file import Config
from show1_jax.errors import BAD_INPUT, UserError
from show1_jax.files import user_path
from show1_jax.terminal import INTERRUPTED, ending_at_once, interruptible, steady_output


def run_command(program: str, command: Callable[[], None]) -> int:
    """Run a command and return its exit code; what is no fault of ours is one line on stderr, not a traceback.

    That is a mistake of the user, Ctrl-C, and what the operating system refuses where nothing better was said of it.
    """
    with steady_output(), interruptible(program) as interrupted:
        try:
            command()
        except (Exception, KeyboardInterrupt) as error:
            if interrupted.is_set() or isinstance(error, KeyboardInterrupt):
                print(f"{program}: interrupted", file=sys.stderr)
                return INTERRUPTED
            if not isinstance(error, UserError | OSError):
                raise
            print(f"{program}: {_one_line(error)}", file=sys.stderr)
            return BAD_INPUT
        return 0


@contextlib.contextmanager
def importing_jax(program: str) -> Iterator[None]:
    """A block that imports what imports JAX, which takes seconds: Ctrl-C ends it at once.

    Raises:
        UserError: JAX cannot be imported, or not with its environment variables as they are.
    """
    with ending_at_once(program):
        try:
            import jax
        except Exception as error:
            raise UserError(f"JAX does not start ({_one_line(error)}); correct its variable, or install it") from error
        for setting in ("jax_numpy_rank_promotion", "jax_transfer_guard"):
            jax.config.update(setting, "allow")  # a user who forbids them elsewhere means his own programs
        yield


class ArgumentParser(argparse.ArgumentParser):
    """Argparse whose refusals are one line, and whose options are not guessed from their beginnings."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """Refuse the command line."""
        raise UserError(f"{message}; see `{self.prog} --help`")


def new_flags() -> flags.FlagValues:
    """Flags to define more in, with `--config FILE` in them."""
    values = flags.FlagValues()
    values.set_gnu_getopt(True)
    help_string = "FILE: settings; --config.SETTING=VALUE changes one"
    flags.DEFINE_string("config", None, help_string, flag_values=values)
    return values


def define_process_flags(values: flags.FlagValues) -> None:
    """The flags with which a command is one of several processes, and `--help`, which comes last."""
    number, toggle = flags.DEFINE_integer, flags.DEFINE_bool
    toggle("distributed", False, "join the job's other processes, found by JAX (TPU pods, SLURM)", flag_values=values)
    help_string = "HOST:PORT: of the first of several processes"
    flags.DEFINE_string("coordinator_address", None, help_string, flag_values=values)
    number("num_processes", None, "N: how many processes there are", flag_values=values)
    number("process_id", None, "N: which process this is, from 0", flag_values=values)
    toggle("help", False, "show this", short_name="h", flag_values=values)


def asked_processes(values: flags.FlagValues) -> tuple[str | None, int | None, int | None] | None:
    """What `initialize_distributed` takes; None where the command line names no other processes."""
    processes = (values.coordinator_address, values.num_processes, values.process_id)
    return processes if values.distributed or any(value is not None for value in processes) else None


def parse_flags(values: flags.FlagValues, argv: Sequence[str]) -> ConfigDict:
    """Parse a command line; the flags of `values` then have their values.

    Args:
        values: of `new_flags`, with all flags defined.
        argv: the command line, the program first.

    Returns:
        The config with its overrides.

    Raises:
        UserError: a flag or an override is unknown (the line has the nearest name) or of the wrong type, or there is
            no config.
    """
    path, argv = _take_config_path(argv)
    if not path:
        raise UserError("no --config; give --config configs/demo.py or --config configs/full.py")
    config = _run_config_file(path)
    _check_overrides(config, argv)
    del values.config  # the file's path; from here on its settings
    try:
        config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=argv)
        _, *rest = values(argv)
    except flags.UnrecognizedFlagError as error:
        near = difflib.get_close_matches(error.flagname, list(values), n=1, cutoff=0)
        raise UserError(f"there is no flag --{error.flagname}; did you mean --{near[0]}?") from None
    except flags.Error as error:
        raise UserError(f"{_one_line(error)}; see --help") from None
    if rest:
        raise UserError(f"{rest[0]!r} belongs to no flag; a prompt is given as --prompt {rest[0]!r}")
    return config


def read_command(
    values: flags.FlagValues, argv: Sequence[str], usage: str | None, settings: Sequence[str]
) -> ConfigDict | None:
    """Parse a command line, or print its help where it asks for that; the flags of `values` then have their values.

    Args:
        values: of `new_flags`, with all flags defined.
        argv: the command line, the program first.
        usage: stands above the flags in the help.
        settings: flags that, where they are given, are settings of the config too.

    Returns:
        The config with its overrides; None where the help is all that was asked for.

    Raises:
        UserError: as `parse_flags`.
    """
    if {"--help", "-help", "-h"} & set(argv):
        print(usage, flag_help(values), sep="\n")
        return None
    config = parse_flags(values, argv)
    for name in settings:
        if values[name].value is not None:
            config[name] = values[name].value
    return config


def argument_text(text: str) -> str:
    """Return a text of the command line; where the locale cannot read it, such as "C" an emoji, it is read as UTF-8."""
    try:
        return os.fsencode(text).decode("utf-8")
    except UnicodeError:
        return text


def load_config(path: str, overrides: Sequence[str] = ()) -> Config:
    """Return the settings of a config file.

    Args:
        path: of the file, which is run; `FILE:ARGUMENT` hands an argument to its `get_config()`.
        overrides: of settings, as on a command line: `--config.SETTING=VALUE`.

    Raises:
        UserError: there is no such file, it does not run, or it returns no ConfigDict; an override is of no setting
            (the line has the nearest name); or a value is of the wrong type or outside its bounds.
    """
    return Config.from_dict(parse_flags(new_flags(), ["", "--config", path, *overrides]).to_dict())


def _run_config_file(path: str) -> ConfigDict:
    user_path(path)  # a URL, before its colon is taken for that of an argument
    name, *argument = path.split(":", 1)
    file = user_path(name)
    if not file.is_file():
        raise UserError(f"there is no config {path}; give --config configs/demo.py or --config configs/full.py")
    try:
        config = runpy.run_path(str(file))["get_config"](*argument)
    except Exception as error:  # whatever the user's Python raises
        raise UserError(f"the config {path} does not run ({_one_line(error)}); correct it") from error
    if not isinstance(config, ConfigDict):
        raise UserError(f"get_config() of {path} must return an ml_collections.ConfigDict; correct it")
    return config


def flag_help(values: flags.FlagValues) -> str:
    """The flags in the order of their definition. A help text starts with the value's name and a colon, if any."""
    entries = []
    for name in values:
        flag = values[name]
        if name == flag.short_name:
            continue
        what = flag.help.splitlines()[0].rstrip(";")  # absl adds lines to some
        kind, _, text = ("", "", what) if flag.boolean else what.partition(": ")
        entries.append((f"  --{name} {kind} ", text))
    column = max(len(label) for label, _ in entries)
    return "\n".join(f"{label:<{column}} {text}" for label, text in entries)


def _take_config_path(argv: Sequence[str]) -> tuple[str | None, list[str]]:
    """The last `--config FILE` or `--config=FILE`, and the command line without any."""
    path, rest, arguments = None, list(argv[:1]), iter(argv[1:])
    for argument in arguments:
        name, is_given, value = argument.partition("=")
        if name in ("--config", "-config"):
            path = value if is_given else next(arguments, None)
        else:
            rest.append(argument)
    return path, rest


def _check_overrides(config: ConfigDict, argv: Sequence[str]) -> None:
    """Refuse overrides of what is no setting of the config: ml_collections' words for it are hard to read."""
    settings = list(_settings(config))
    for argument in argv[1:]:
        match = re.match(r"--?(?:no)?config\.([^=]*)", argument)
        if match and match[1] not in settings:
            near = difflib.get_close_matches(match[1], settings, n=1, cutoff=0)
            raise UserError(f"there is no setting --config.{match[1]}; did you mean --config.{near[0]}?")


def _settings(config: ConfigDict, prefix: str = "") -> Iterator[str]:
    """The dotted path of every setting that is no group of settings."""
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            yield from _settings(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def _one_line(error: Exception) -> str:
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        where = "" if error.filename is None else f"{error.filename}: "
        text = f"{where}{error.strerror}; check the path, its permissions and the disk"
    return " ".join(text.split()) or type(error).__name__
