"""Folders that one process alone writes."""

import subprocess
import sys
from pathlib import Path

import pytest

from show1_jax.errors import UserError
from show1_jax.folders import locked_folder

HOLD = """
import sys, pathlib
from show1_jax.folders import locked_folder
with locked_folder(pathlib.Path(sys.argv[1])):
    print("locked", flush=True)
    sys.stdin.read()
"""


def test_a_folder_is_locked_until_its_process_ends(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "keyframes"
    waits = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(waits, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "locked\n"
        with pytest.raises(UserError, match="keyframes: another process is writing there"), locked_folder(folder):
            pass
        assert folder.is_dir()
        process.kill()
    with locked_folder(folder):
        (folder / "config.json").touch()
    assert (folder / "config.json").exists()


def test_a_folder_that_nothing_was_written_in_is_not_left(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(UserError, match="bad settings"), locked_folder(folder):
        raise UserError("bad settings")
    assert not folder.exists()
