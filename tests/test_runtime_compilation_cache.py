"""The compilation cache: programs are stored for the next run, and damaged or foreign ones are compiled again."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from show1_jax import runtime
from show1_jax.runtime import ProgramStore, enable_compilation_cache

ROOT = Path(__file__).parents[1]
PROGRAMS = """
import jax, jax.numpy as jnp, sys
from show1_jax.runtime import enable_compilation_cache
enable_compilation_cache(sys.argv[1])
x = jnp.arange(8.0)
print([float(f(x).sum()) for f in (jax.jit(lambda x: x + 1), jax.jit(lambda x: x * x), jax.jit(lambda x: x @ x))])
"""
RIGHT = "[36.0, 140.0, 140.0]\n"


def run(folder: Path | str, **variables: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    command = [sys.executable, "-c", PROGRAMS, str(folder)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True)


def test_every_program_is_kept_and_damaged_or_exchanged_ones_are_compiled_again(tmp_path: Path) -> None:
    """Also programs that compile fast are stored, so that the next start compiles nothing."""
    folder = tmp_path / "kept"
    assert (run(folder).stdout, run(folder).stderr) == (RIGHT, "")
    entries = sorted(folder.iterdir())
    assert len(entries) >= 4
    assert folder.stat().st_mode & 0o777 == 0o700
    written = [entry.stat().st_mtime_ns for entry in entries]
    for entry, other in zip(entries, entries[1:] + entries[:1], strict=True):
        entry.rename(tmp_path / other.name)  # each under the next one's key
    for entry in entries:
        (tmp_path / entry.name).rename(entry)
    entries[0].write_bytes(entries[0].read_bytes()[:100])
    again = run(folder)
    assert again.stdout == RIGHT
    assert again.stderr == f"warning: compiled programs in {folder} are damaged; they are compiled again\n"
    assert sorted(folder.iterdir()) == entries
    assert all(new.stat().st_mtime_ns > old for new, old in zip(entries, written, strict=True))
    assert (run(folder).stdout, run(folder).stderr) == (RIGHT, "")


@pytest.mark.parametrize("mode", [0o777, 0o702])
def test_a_folder_that_others_can_write_is_not_used(tmp_path: Path, mode: int) -> None:
    folder = tmp_path / "kept"
    folder.mkdir()
    folder.chmod(mode)
    done = run(folder)
    assert done.stdout == RIGHT
    assert done.stderr == (
        f"warning: compilation_cache {folder} can be written by others, whose programs are not run: chmod 700 it; "
        "programs are compiled without a cache\n"
    )
    assert not list(folder.iterdir())


def test_without_a_home_nothing_is_kept() -> None:
    done = run("~nobody-has-this-name/programs")
    assert done.stdout == RIGHT
    assert done.stderr.startswith("warning: ~nobody-has-this-name/programs: there is no home directory")
    assert done.stderr.count("\n") == 1


def refusal(folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    enable_compilation_cache(str(folder))
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    return line


def test_in_place_of_a_refused_folder_none_is_used(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Also the folder of JAX's own setting is not used."""
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    refusal(Path("gs://bucket/kept"), capsys)
    assert jax.config.values["jax_compilation_cache_dir"] is None


def test_other_places_that_cannot_be_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    assert "cannot be made (" in refusal(tmp_path / "file", capsys)
    (tmp_path / "loop").symlink_to("loop")
    assert "cannot be made (" in refusal(tmp_path / "loop", capsys)
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    assert "can be written by others" in refusal(tmp_path / "open" / "kept", capsys)
    assert "buckets and URLs are not supported" in refusal(Path("gs://bucket/kept"), capsys)
    monkeypatch.setattr(runtime.os, "geteuid", lambda: 12345)
    (tmp_path / "kept").mkdir()
    assert "belongs to another user" in refusal(tmp_path / "kept", capsys)


@given(st.binary(max_size=40), st.binary(min_size=1, max_size=40))
def test_only_stored_programs_are_returned(
    tmp_path_factory: pytest.TempPathFactory, value: bytes, other: bytes
) -> None:
    store = ProgramStore(tmp_path_factory.mktemp("store"))
    assert store.get("key") is None
    store.put("key", value)
    assert store.get("key") == value
    (entry,) = store._path.iterdir()
    entry.write_bytes(other)
    assert store.get("key") is None
    store.put("key", value)
    assert store.get("key") == value


def test_a_program_that_others_could_have_written_is_not_read(tmp_path: Path) -> None:
    store = ProgramStore(tmp_path)
    store.put("key", b"program")
    (tmp_path / "key.program").chmod(0o666)
    assert store.get("key") is None
    os.mkfifo(tmp_path / "other.program")
    assert store.get("other") is None


def test_a_huge_entry_is_not_read(tmp_path: Path) -> None:
    store = ProgramStore(tmp_path)
    store.put("key", b"program")
    (entry,) = tmp_path.iterdir()
    os.truncate(entry, 1 << 40)
    assert store.get("key") is None
    assert not entry.exists()


def test_a_write_error_is_reported_once(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    store = ProgramStore(tmp_path / "missing")
    store.put("key", b"program")
    store.put("other", b"program")
    assert capsys.readouterr().err.count("cannot be written (No such file or directory)") == 1
