"""The Dockerfiles, which are not built here: a linter's findings, and the rules that it does not know."""

import json
import re
import subprocess
import sysconfig
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = [ROOT / "docker/Dockerfile", ROOT / "docker/Dockerfile.cuda"]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
BUILD = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]


def instructions(path: Path) -> list[tuple[str, str]]:
    """Return the instructions of a Dockerfile with their arguments, one line each."""
    text = re.sub(r"^\s*#.*\n", "", path.read_text(), flags=re.M)
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [(name, arguments) for name, _, arguments in (line.partition(" ") for line in lines if line)]


def sources(path: Path) -> list[str]:
    """Return the paths of the checkout that a Dockerfile copies."""
    copied = [arguments.split() for name, arguments in instructions(path) if name == "COPY"]
    return [source for words in copied if not words[0].startswith("--from") for source in words[:-1]]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_linter_finds_nothing(path: Path) -> None:
    linter = Path(sysconfig.get_path("scripts")) / "hadolint"
    done = subprocess.run([linter, "--no-color", path], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_images_are_pinned_small_and_without_root(path: Path) -> None:
    found = instructions(path)
    bases = [arguments.split()[0] for name, arguments in found if name == "FROM"]
    assert len(bases) == 2
    assert all(re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+", base) for base in bases)
    last = len(found) - [name for name, _ in found][::-1].index("FROM")
    final = dict(found[last:])
    assert int(final["USER"]) > 0
    assert not any("pip" in arguments for name, arguments in found[last:] if name == "RUN")
    assert final["WORKDIR"] == "/work"
    assert json.loads(final["ENTRYPOINT"])[0] in PROJECT["project"]["scripts"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_all_that_is_installed_is_copied(path: Path) -> None:
    """All that the wheel is built from, with readme and licence, and nothing that `.dockerignore` leaves out."""
    project = PROJECT["project"]
    needed = {
        "pyproject.toml",
        project["readme"],
        *project["license-files"],
        *BUILD["packages"],
        *BUILD["force-include"],
    }
    assert set(sources(path)) == needed
    assert all((ROOT / source).exists() for source in needed)
    ignored, *kept = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert ignored == "*"
    assert {line.removeprefix("!") for line in kept if line.startswith("!")} == needed


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_extras_of_images_exist(path: Path) -> None:
    (extras,) = re.findall(r"'\.\[([\w,]+)\]'", path.read_text())
    assert set(extras.split(",")) <= PROJECT["project"]["optional-dependencies"].keys()
    assert ("cuda" in extras.split(",")) == (path.suffix == ".cuda")
