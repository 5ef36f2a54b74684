"""Entry points of the console commands, and of `sample.py` and `train.py`.

This module imports only modules that load fast. Each command imports its own after Ctrl-C is handled: from then on it
ends the command with one line.
"""

import importlib
import importlib.util
from typing import NoReturn

from show1_jax.terminal import end_at_once, exit_process


def sample() -> NoReturn:
    """Run `show1-sample`, or `sample.py`."""
    _run("sample", "show1_jax.commands.sample")


def train() -> NoReturn:
    """Run `show1-train`, or `train.py`."""
    _run("train", "show1_jax.commands.train")


def convert() -> NoReturn:
    """Run `show1-convert`; an installed package has `convert/` inside, a checkout beside it."""
    inside = importlib.util.find_spec("show1_jax.convert")
    _run("convert", "show1_jax.convert.__main__" if inside else "convert.__main__")


def evaluate() -> NoReturn:
    """Run `show1-evaluate`."""
    _run("evaluation", "show1_jax.evaluation.__main__")


def data() -> NoReturn:
    """Run `show1-data`."""
    _run("data", "show1_jax.data.__main__")


def web() -> NoReturn:
    """Run `show1-web`."""
    _run("web", "show1_jax.web.__main__")


def _run(program: str, module: str) -> NoReturn:
    """Run the command line of this process by the `main` of a module, and end the process with its exit code."""
    end_at_once(program)
    exit_process(importlib.import_module(module).main())
