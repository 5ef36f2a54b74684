"""Paths from the user, untrusted files, and folders that only one process writes."""

import fcntl
import os
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from show1_jax.errors import FileError, UserError
from show1_jax.files import (
    MAX_JSON_DEPTH,
    check_target,
    locked_folder,
    new_folder,
    open_regular,
    parse_json,
    read_json,
    storage_path,
    user_path,
    write_bytes,
)

HOLD = """
import sys, pathlib
from show1_jax.files import locked_folder
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


def test_a_locked_folder_that_stays_empty_is_removed(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(UserError, match="bad settings"), locked_folder(folder):
        raise UserError("bad settings")
    assert not folder.exists()


def test_a_folder_that_another_process_made_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    out = tmp_path / "out"
    making = new_folder(out)
    making.__enter__()
    out.mkdir()
    (out / "theirs").touch()
    with pytest.raises(UserError, match="out: another process has made it meanwhile"):
        making.__exit__(None, None, None)
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "theirs"]
    with new_folder(out) as folder:
        (folder / "mine").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "mine"]


def test_an_empty_folder_that_another_process_filled_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    check_target(out)
    making = new_folder(out)
    making.__enter__()
    (out / "theirs").touch()
    with pytest.raises(UserError, match="out: another process has made it meanwhile"):
        making.__exit__(None, None, None)
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "theirs"]


def test_a_target_is_free_or_holds_our_own_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    check_target(out)
    out.mkdir()
    check_target(out, "album", lambda folder: False)
    (out / "cover").touch()
    with pytest.raises(UserError, match="out: exists; choose another place with --out, or remove it"):
        check_target(out)
    with pytest.raises(UserError, match="out: exists; choose another place, or replace it with --overwrite"):
        check_target(out, "album", lambda folder: True)
    check_target(out, "album", lambda folder: (folder / "cover").exists(), overwrite=True)
    for foreign in (out, out / "cover"):
        with pytest.raises(UserError, match="is no album, so it is not overwritten"):
            check_target(foreign, "album", lambda folder: False, overwrite=True)
    (out / "cover").unlink()
    monkeypatch.setattr(os.path, "ismount", lambda path: True)
    with pytest.raises(UserError, match="exists"):  # a rename cannot replace it
        check_target(out)


def test_a_path_that_cannot_be_accessed_is_one_line() -> None:
    with pytest.raises(UserError, match=r"cannot be accessed \(File name too long\)"):
        user_path("a" * 300)


def test_a_path_from_the_user_has_its_home_expanded_and_is_no_bucket(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_path("~/videos") == tmp_path / "videos"
    assert user_path("a~/b:c") == Path("a~/b:c")
    for bucket in ("gs://bucket/videos", "s3://b", Path("gs://bucket/videos"), "file:///tmp/x"):
        with pytest.raises(UserError, match="buckets and URLs are not supported"):
            user_path(bucket)
    for no_path in ("", "a\0b"):
        with pytest.raises(UserError, match="is not a path"):
            user_path(no_path)


@pytest.mark.parametrize("home", ["", "here"])
def test_a_home_that_is_no_whole_path_is_none(monkeypatch: pytest.MonkeyPatch, home: str) -> None:
    monkeypatch.setenv("HOME", home)
    for path in ("~", "~/videos"):
        with pytest.raises(UserError, match="there is no home directory for ~"):
            user_path(path)
    assert user_path("~root").is_absolute()


@pytest.mark.parametrize("path", ["$HOME/videos", "a/${SCRATCH}/b", "run_$USER", "~/$DATE"])
def test_a_variable_that_no_shell_replaced_is_refused(
    path: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for kind in (user_path, storage_path):
        with pytest.raises(UserError, match="no shell has replaced the variable in "):
            kind(path)
    with pytest.raises(UserError, match=re.escape("gs://bucket/$USER/x: no shell has replaced the variable in $USER")):
        storage_path("gs://bucket/$USER/x")
    assert user_path("cost$5") == Path("cost$5")
    (tmp_path / "a$b").mkdir()
    assert user_path("a$b/new") == Path("a$b/new")


def test_a_new_folder_is_made_where_a_link_leads(tmp_path: Path) -> None:
    (tmp_path / "disk" / "empty").mkdir(parents=True)
    for name in ("empty", "missing"):
        out = tmp_path / name
        out.symlink_to(tmp_path / "disk" / name)
        check_target(out)
        with new_folder(out) as folder:
            (folder / "mine").touch()
        assert out.is_symlink()
        assert (tmp_path / "disk" / name / "mine").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk", "empty", "missing"]
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(UserError, match="the link leads in a circle"):
        check_target(tmp_path / "loop")


def test_the_home_of_an_unknown_user_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="there is no home directory for ~"):
        user_path("~nobody-has-this-name/videos")


@pytest.mark.parametrize("name", ["fifo", "/dev/zero", "."])
def test_only_regular_files_are_opened(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(OSError, match="not a regular file"):
        open_regular(tmp_path / name)


def test_json_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text("[" * MAX_JSON_DEPTH + "]" * MAX_JSON_DEPTH)
    read_json(path, "remove it")
    for text, reason in {
        "[" * (MAX_JSON_DEPTH + 1) + "]" * (MAX_JSON_DEPTH + 1): "nested more than 64 deep",
        "[" * 100_000: "nested more than 64 deep",
        '{"\\ud800": 1}': "not valid Unicode",
        "9" * 5000: "Exceeds the limit",
        '{"a": {"seed": 1, "seed": 2}}': "the name 'seed' twice in one object",
        "": "Expecting value",
    }.items():
        path.write_text(text)
        with pytest.raises(FileError, match=reason) as raised:
            read_json(path, "remove it")
        assert str(raised.value).endswith("; remove it")
        assert "\n" not in str(raised.value)
    path.write_bytes(b'{"a": "\xff"}')
    with pytest.raises(FileError, match="byte 7 is not utf-8"):
        read_json(path, "remove it")
    path.write_text("[1, 2, 3]")
    with pytest.raises(FileError, match="more than 8 bytes"):
        read_json(path, "remove it", max_bytes=8)
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "none.json", "remove it")


@given(st.text() | st.binary())
def test_any_text_is_json_or_is_not(text: str | bytes) -> None:
    with suppress(ValueError):
        parse_json(text)


def test_a_folder_that_was_removed_while_it_was_opened_is_locked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process, which had the lock, removes the folder between its opening and its locking."""
    folder, lock = tmp_path / "folder", fcntl.flock
    folder.mkdir()

    def after_removal(descriptor: int, how: int) -> None:
        monkeypatch.setattr(fcntl, "flock", lock)
        folder.rmdir()
        lock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", after_removal)
    with locked_folder(folder), pytest.raises(UserError, match="another process"), locked_folder(folder):
        pass
    assert not folder.exists()


def test_an_interrupted_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_bytes(tmp_path / "file", b"data")
    assert not list(tmp_path.iterdir())


def test_writing_makes_folders_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file"
    write_bytes(path, b"1")
    write_bytes(path, b"2")
    assert path.read_bytes() == b"2"


def test_a_file_in_the_folders_place_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"")
    with pytest.raises(UserError, match="cannot write"):
        write_bytes(tmp_path / "out" / "clip.mp4", b"")
