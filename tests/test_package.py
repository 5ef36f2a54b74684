"""The installed package: contents of wheel and sdist, and console commands outside of the checkout, without network."""

import hashlib
import os
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from collections.abc import Callable
from email import message_from_bytes
from pathlib import Path

import pytest

from show1_jax.media.read import read_video
from tests.helpers import processes

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
INSIDE = {"show1_jax": "show1_jax", "configs": "show1_jax/configs", "convert": "show1_jax/convert"}
"""Folders of the checkout with modules, and their places in the wheel."""
DEMO = "checkpoints/demo"
MAX_BYTES = 100e6
"""Largest file that the Python package index accepts."""

Run = Callable[..., subprocess.CompletedProcess[str]]


def build(folder: Path, *options: str) -> None:
    """Build with the tools of this environment: nothing is downloaded."""
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), *options, str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel that was built of the sdist."""
    folder = tmp_path_factory.mktemp("built")
    build(folder)
    return folder


@pytest.fixture(scope="session")
def wheel(built: Path) -> Path:
    (path,) = built.glob("*.whl")
    return path


@pytest.fixture(scope="session")
def sdist(built: Path) -> Path:
    (path,) = built.glob("*.tar.gz")
    return path


@pytest.fixture(scope="session")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel alone, which sees the libraries of this one."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder)
    python = folder / "bin/python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*install, str(wheel)], check=True, capture_output=True)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib"))
    return folder


@pytest.fixture
def run(environment: Path, tmp_path: Path) -> Run:
    """Return a function that runs an installed command in an empty folder."""

    def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        variables = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "COLUMNS")}
        variables |= {"XLA_FLAGS": processes.environment(1)["XLA_FLAGS"], "JAX_PLATFORMS": "cpu"}
        command = [str(environment / "bin" / program), *arguments]
        return subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, check=False)

    return run


def expected_files() -> dict[str, Path]:
    """Return the files of the checkout that are to be installed, by their names in the wheel."""
    found = {}
    for folder, inside in (INSIDE | {DEMO: f"show1_jax/{DEMO}"}).items():
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                found[f"{inside}/{path.relative_to(ROOT / folder).as_posix()}"] = path
    return found


# --- wheel and sdist -------------------------------------------------------------------------------------------------
def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    expected = expected_files()
    with zipfile.ZipFile(wheel) as archive:
        installed = {name for name in archive.namelist() if not name.startswith("show1_jax-")}
        assert installed == set(expected)
        assert all(archive.read(name) == path.read_bytes() for name, path in expected.items())
    assert f"show1_jax/{DEMO}/manifest.json" in installed
    assert wheel.stat().st_size < MAX_BYTES


def test_the_sdist_builds_the_wheel_of_the_checkout(wheel: Path, sdist: Path, tmp_path: Path) -> None:
    build(tmp_path, "--wheel")
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (wheel, tmp_path / wheel.name)]
    assert digests[0] == digests[1]
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"sample.py", "train.py", "LICENSE", "README.md", "CHANGELOG.md", "CITATION.cff"} <= names
    assert not {name.split("/")[0] for name in names} & {"tests", "benchmarks", "build", "outputs"}


def test_the_metadata_are_complete(wheel: Path, sdist: Path) -> None:
    command = [sys.executable, "-m", "twine", "--no-color", "check", "--strict", str(wheel), str(sdist)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    with zipfile.ZipFile(wheel) as archive:
        folder = f"show1_jax-{PROJECT['version']}.dist-info"
        metadata = message_from_bytes(archive.read(f"{folder}/METADATA"))
        assert archive.read(f"{folder}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata.get_payload(decode=True) == (ROOT / "README.md").read_bytes()
    assert set(metadata.get_all("Provides-Extra") or ()) == PROJECT["optional-dependencies"].keys()


# --- installed -------------------------------------------------------------------------------------------------------
def test_the_installed_package_is_imported(run: Run, environment: Path) -> None:
    code = "import show1_jax.convert.reader as r; from show1_jax.configs import full; print(r.__file__, full.__file__)"
    done = run("python", "-c", code)
    assert done.stdout.count(str(environment)) == 2, done.stderr


@pytest.mark.parametrize("name", ["sample", "train", "convert", "evaluate", "data", "web"])
def test_help_names_the_command_that_was_typed(name: str, run: Run) -> None:
    done = run(f"show1-{name}", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"show1-{name} " in done.stdout
    for other in ("sample.py", "train.py", "-m convert", "configs/"):
        assert other not in done.stdout


def test_versions_and_devices_are_printed(run: Run) -> None:
    done = run("show1-sample", "--version", "--devices")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"show1-jax {PROJECT['version']}\nPython {sys.version.split()[0]}\njax ")
    assert "\ndevice 0: cpu, cpu, " in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["show1-sample", "--prompt", "a"], "sample: no --config; give --config demo, --config full, or the path of"),
        (["show1-sample", "--config", "dem"], "sample: there is no config dem; did you mean demo? the names are"),
        (["show1-sample", "--config", "demo", "--promt", "a"], "sample: there is no flag --promt; did you mean"),
        (["show1-train", "--config=demo", "--stage=keyframes"], "train: no --workdir; give the directory of this run"),
        (["show1-sample", "--config", "full", "--prompt=a"], "make one with `show1-convert --out checkpoints/show1`"),
        (["show1-convert", "--form", "x"], "see `show1-convert --help`"),
        (["show1-data", "bild"], "see `show1-data --help`"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], said: str, run: Run, tmp_path: Path) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_the_named_demo_samples_with_the_installed_weights(run: Run, tmp_path: Path) -> None:
    settings = ["--stages=keyframes", "--config.keyframes.num_steps=1", "--config.compilation_cache="]
    done = run("show1-sample", "--config", "demo", "--prompt", "a red circle moves right", *settings)
    assert done.returncode == 0, done.stderr
    (made,) = tmp_path.glob("outputs/*/1_keyframes.mp4")
    assert read_video(made)[0].shape == (8, 10, 16, 3)


def test_a_dry_run_of_the_named_demo(run: Run) -> None:
    done = run("show1-sample", "--config=demo", "--stages=keyframes", "--dry_run", "--config.compilation_cache=")
    assert done.returncode == 0, done.stderr
    assert "all networks" in done.stdout
