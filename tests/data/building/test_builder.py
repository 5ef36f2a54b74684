"""Building a dataset from untrusted folders: files that cannot be used are named, and the others are built."""

import errno
import os
import pwd
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest

from show1_jax.data.__main__ import main
from show1_jax.data.building import builder
from show1_jax.data.decode import VideoFacts, check_file
from show1_jax.data.text_cache import TextCache
from show1_jax.data.videos import VideoSource
from show1_jax.errors import UserError
from show1_jax.files import new_folder
from show1_jax.media.write import write_mp4


@pytest.fixture(scope="session")
def mp4(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("mp4") / "video.mp4"
    write_mp4(path, np.zeros((33, 16, 16, 3), np.uint8), 8)
    return path.read_bytes()


def add(folder: Path, mp4: bytes, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.mp4").write_bytes(mp4)
        (folder / f"{name}.txt").write_text(f"caption of {name.encode('utf-8', 'replace').decode()}")


@pytest.fixture
def folder(tmp_path: Path, mp4: bytes) -> Path:
    """Two good videos with captions."""
    add(tmp_path / "videos", mp4, "a", "b")
    return tmp_path / "videos"


def names_in(dataset: Path) -> list[str]:
    source = VideoSource.open(dataset)
    return sorted(source.name(position) for position in range(len(source)))


def left_out_of(dataset: Path) -> dict[str, str]:
    header, *lines = (dataset / "left_out.tsv").read_text(encoding="utf-8").splitlines()
    assert header == "name\treason"
    return dict(line.split("\t") for line in lines)


def test_names_that_are_not_utf8_are_built_with_escapes(
    folder: Path, mp4: bytes, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    add(folder, mp4, os.fsdecode(b"caf\xe9"), "two\nlines", os.fsdecode(b"d\xff/c"))
    write_mp4(folder / os.fsdecode(b"\xfe.mp4"), np.zeros((3, 16, 16, 3), np.uint8), 8)
    (folder / os.fsdecode(b"\xfe.txt")).write_text("short")
    report = builder.build(folder, tmp_path / "out")
    assert names_in(tmp_path / "out") == ["a", "b", "caf\\xe9", "d\\xff/c", "two\\x0alines"]
    assert list(report.skipped) == ["\\xfe"]
    assert "skipped \\xfe: it lasts" in capfd.readouterr().err


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_file_whose_decoder_fails_is_named_and_the_rest_is_built(
    folder: Path,
    mp4: bytes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    num_workers: int,
) -> None:
    add(folder, mp4, "unknown")
    monkeypatch.setattr(builder, "_check_video", check_but_unknown)
    assert main(build_arguments(folder, tmp_path / "out", "--num_workers", str(num_workers))) == 0
    assert names_in(tmp_path / "out") == ["a", "b"]
    reason = "it cannot be decoded: AttributeError: 'NoneType' object has no attribute 'thread_count'"
    assert left_out_of(tmp_path / "out") == {"unknown": reason}
    assert f"skipped unknown: {reason}" in capfd.readouterr().err


def check_but_unknown(min_seconds: float, path: Path) -> VideoFacts | str:
    """The real check, with a decoder that fails as PyAV does for an unknown codec."""

    def check(path: Path) -> VideoFacts:
        if path.stem == "unknown":
            raise AttributeError("'NoneType' object has no attribute\n'thread_count'")
        return check_file(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builder, "check_file", check)
        return CHECK_VIDEO(min_seconds, path)


CHECK_VIDEO = builder._check_video


def build_arguments(folder: Path, out: Path, *more: str) -> list[str]:
    return ["build", "--videos", str(folder), "--out", str(out), *more]


def die_of_some(path: Path) -> VideoFacts | str:
    if path.name.startswith("crash"):
        os._exit(11)
    return path.name


def test_videos_that_end_their_process_are_found_and_the_rest_is_decoded() -> None:
    names = [f"v{number}" for number in range(200)]
    for number in (3, 4, 150):
        names[number] = f"crash{number}"
    results = list(builder._check_ahead(die_of_some, list(map(Path, names)), 2))
    assert len(results) == 200
    for name, result in zip(names, results, strict=True):
        assert result == name or (name.startswith("crash") and "ends the process" in str(result))


def test_a_process_that_never_works_is_one_line() -> None:
    with pytest.raises(UserError, match="3 videos in a row end the process"):
        builder_with_few_crashes([Path(f"crash{number}") for number in range(50)])


def builder_with_few_crashes(paths: list[Path]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builder, "_MAX_CRASHES", 3)
        list(builder._check_ahead(die_of_some, paths, 1))


def test_all_that_is_left_out_is_named_in_the_dataset(
    folder: Path, mp4: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "b.txt").unlink()
    (folder / "b.txt").mkdir()
    (folder / "empty.mp4").touch()
    (folder / "empty.txt").write_text("nothing")
    (folder / "notes.json").touch()
    for number in range(20):
        (folder / f"c{number}.mp4").write_bytes(mp4)
    assert main(build_arguments(folder, tmp_path / "out")) == 0
    assert names_in(tmp_path / "out") == ["a"]
    uncaptioned = {f"c{number}": "it has no caption" for number in range(20)}
    assert left_out_of(tmp_path / "out") == uncaptioned | {
        "b": "its caption cannot be read (not a regular file)",
        "empty": "the file is empty",
        "notes.json": "its suffix is not one of .mp4 .mov .m4v .webm .mkv .avi",
    }
    err = capsys.readouterr().err
    assert "left out 20: it has no caption: c0, c1, c10, c11, c12, c13, c14, c15, c16, c17, ...\n" in err
    assert f"1 videos, 1 skipped; all 23 that are left out are named in {tmp_path / 'out' / 'left_out.tsv'}\n" in err


def test_a_folder_without_a_video_that_can_be_used_says_why(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "links").mkdir()
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / "links" / name).symlink_to(folder / name)
    assert main(build_arguments(tmp_path / "links", tmp_path / "out")) == 2
    err = capsys.readouterr().err
    assert "left out 2: a link to outside of the folder; copy the file: a.mp4, b.mp4\n" in err
    assert err.endswith("links can be used; the lines above say why\n")
    assert sorted(os.listdir(tmp_path)) == ["links", "videos"]


# The output folder


def test_a_dataset_inside_the_folder_of_videos_is_not_listed(folder: Path) -> None:
    out = folder / "datasets/one"
    for overwrite in (False, True):
        assert builder.build(folder, out, overwrite=overwrite).num_videos == 2
        assert left_out_of(out) == {}
    assert sorted(os.listdir(folder / "datasets")) == ["one"]


def test_a_dataset_is_not_replaced_that_holds_more_than_build_wrote(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    builder.build(folder, out)
    (out / "notes.md").touch()
    with pytest.raises(UserError, match=r"out holds notes.md, which `build` did not write"):
        builder.build(folder, out, overwrite=True)
    (out / "notes.md").unlink()
    shutil.move(folder, out / "videos")
    for videos, table in ((out / "videos", None), (out, None), (tmp_path, out / "table.csv")):
        with pytest.raises(UserError, match=r"is in .*out, which would be replaced"):
            builder.build(videos, out, table, overwrite=True)
    assert (out / "videos/a.mp4").exists()


def test_the_working_directory_may_become_the_dataset(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert main(build_arguments(folder, Path("."))) == 0
    assert names_in(tmp_path / "here") == ["a", "b"]
    assert sorted(os.listdir(tmp_path)) == ["here", "videos"]


def test_a_dataset_has_a_path_that_array_record_can_name(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / os.fsdecode(b"caf\xe9")
    assert main(build_arguments(folder, out)) == 2
    assert "is not UTF-8; rename the folder" in capsys.readouterr().err
    builder.build(folder, tmp_path / "out")
    os.rename(tmp_path / "out", out)
    for read in (lambda: VideoSource.open(out), lambda: TextCache.open(out, "text_t5", "zeros")):
        with pytest.raises(UserError, match=r"is not UTF-8; rename the folder"):
            read()


def test_an_owner_without_a_name_is_one_line(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in containers that run as a number."""

    def unknown(number: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {number}")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    with pytest.raises(UserError, match=r"has no name, and TFDS needs one \(getpwuid\(\): uid not found: "):
        builder.build(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_refused_makes_no_folder(tmp_path: Path) -> None:
    assert main(build_arguments(tmp_path / "missing", tmp_path / "a/b/out")) == 2
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("out", ["x" * 300, "file/out", "missing\0"])
def test_a_place_that_cannot_be_written_is_one_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], out: str
) -> None:
    (tmp_path / "file").touch()
    assert main(build_arguments(folder, tmp_path / out)) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert err.startswith("data: ")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG, errno.EROFS])
def test_a_disk_that_fails_is_one_line_by_its_words_too(tmp_path: Path, number: int) -> None:
    """ArrayRecord raises an error that has only the message."""
    for error in (OSError(number, os.strerror(number)), RuntimeError(f"write() failed: {os.strerror(number)}; x")):
        with (
            pytest.raises(UserError, match=r"out: (the disk is full|cannot be written \()"),
            new_folder(tmp_path / "out"),
        ):
            raise error
    assert not any(tmp_path.iterdir())


# Paths


def test_a_build_leaves_nothing_in_the_temporary_folder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (temporary := tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    builder.build(folder, tmp_path / "out")
    assert names_in(tmp_path / "out")
    assert not list(temporary.iterdir())


def test_home_is_meant_by_a_tilde(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main(["build", "--videos=~/videos", "--out=~/out"]) == 0
    assert names_in(tmp_path / "out") == ["a", "b"]
    assert not any((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--seed", "99999999999999999999"], "--seed: 99999999999999999999 must be at most"),
        (["--seed", "-1"], "--seed: -1 must be at least 0"),
        (["--batch_size", "1000000000000"], "--batch_size: 1000000000000 must be at most"),
        (["--synthetic", "1" + "0" * 30], "must be at most"),
    ],
)
def test_numbers_of_flags_have_bounds(flags: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["encode_text", "--checkpoint", "c", "--component", "text_t5", "--out", "x"]
    assert main([*arguments, *flags]) == 2
    err = capsys.readouterr().err
    assert says in err
    assert err.count("\n") == 1
