"""Entry points of the console commands, and the names of commands in texts for the user."""

import ast
import inspect
import sys
import tomllib
from pathlib import Path

import pytest

from show1_jax.cli import ArgumentParser, as_typed, run_command
from show1_jax.commands import console
from show1_jax.errors import UserError

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EVERY_COMMAND = (
    "python sample.py, sample.py, python train.py, `train.py --adapter`, python -m convert verify, "
    "python -m\n  convert, python -m show1_jax.data build, python -m show1_jax.evaluation fvd, python -m show1_jax.web"
)


def test_every_entry_point_is_a_console_command() -> None:
    source = Path(inspect.getfile(console)).read_text()
    functions = [node.name for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
    points = {f"show1-{name}": f"{console.__name__}:{name}" for name in functions if not name.startswith("_")}
    assert PROJECT["scripts"] == points


def test_a_checkout_is_told_its_own_commands() -> None:
    assert as_typed(EVERY_COMMAND) == EVERY_COMMAND


@pytest.mark.parametrize("program", ["/usr/local/bin/show1-convert", "show1-web.exe"])
def test_an_installed_package_is_told_console_commands(program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [program])
    assert as_typed(EVERY_COMMAND) == (
        "show1-sample, show1-sample, show1-train, `show1-train --adapter`, show1-convert verify, show1-convert, "
        "show1-data build, show1-evaluate fvd, show1-web"
    )
    for text in (
        "the user's own/sample.py",
        "resample.py",
        "python -m show1_jax.evaluation.protocols",
        "configs/full.py",
    ):
        assert as_typed(text) == text


def test_errors_and_help_name_console_commands(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["/bin/show1-convert"])

    def refuse() -> None:
        raise UserError("nothing there; make it with `python -m convert`")

    assert run_command("convert", refuse) == 2
    assert capsys.readouterr().err == "convert: nothing there; make it with `show1-convert`\n"
    parser = ArgumentParser(prog="python -m convert", epilog="After it, `python sample.py`.")
    parser.add_subparsers().add_parser("verify").add_argument("--deep", help="as `python -m show1_jax.data build`")
    assert parser.format_help().startswith("usage: show1-convert [-h]")
    assert "After it, `show1-sample`." in parser.format_help()
