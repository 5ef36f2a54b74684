"""Paths in buckets behave like paths of folders and files, and never reach the file system."""

import inspect
import os
import pickle
from pathlib import Path, PurePath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from show1_jax.buckets.path import BucketPath, parse_url
from show1_jax.errors import UserError
from show1_jax.files import is_folder, is_present, local_files, open_regular, storage_path, write_bytes
from tests.helpers.gcs_server import GcsServer

_PURE = {name for name in dir(PurePath) if not name.startswith("_")}


def path_of(url: str) -> BucketPath:
    path = storage_path(url)
    assert isinstance(path, BucketPath)
    return path


def test_parts_and_text() -> None:
    path = path_of("gs://tests/runs//a/")
    assert str(path) == "gs://tests/runs/a"
    assert f"{path}" == str(path)
    assert (path.key, path.name, str(path.parent)) == ("runs/a", "a", "gs://tests/runs")
    assert str(path / "b" / "c.json") == "gs://tests/runs/a/b/c.json"
    assert path.absolute() == path.resolve() == path.expanduser() == path
    assert path.is_absolute()
    assert pickle.loads(pickle.dumps(path)) == path
    assert path != Path("gs:/tests/runs/a")
    assert path_of("s3://tests").key == ""
    assert len({path, path_of("gs://tests/runs/a"), path_of("s3://tests/runs/a")}) == 2


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=30), st.sampled_from(["gs", "s3"]))
def test_any_name_is_a_path_or_is_refused(name: str, scheme: str) -> None:
    try:
        path = parse_url(f"{scheme}://tests/{name}")
    except ValueError:
        return
    if path is not None:
        assert str(path).startswith(f"{scheme}://tests")
        assert parse_url(str(path)) == path
        assert not {".", ".."} & set(path.parts)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("gs://Tests/x", "'Tests' is not the name of a bucket"),
        ("s3://a/x", "'a' is not the name of a bucket"),
        ("gs://tests/../x", "a folder in a bucket has no '.'"),
        ("gs://tests/a*", "a folder in a bucket has no"),
        ("gs://tests/a\nb", "a folder in a bucket has no"),
        ("gs://tests/" + "a" * 901, "more than 900 bytes"),
        ("gs://tests/x ", "it begins or ends with a blank"),
        (" gs://tests/x", "not a URL that is supported"),
        ('"s3://tests/x"', "not a URL that is supported"),
        ("GS://tests/x", "not a URL that is supported"),
        ("gs:tests/x", "not a URL that is supported"),
        ("gs:///x", "not a URL that is supported"),
        ("az://tests/x", "not a URL that is supported; a bucket is gs://BUCKET/FOLDER"),
        (Path("gs://tests/x"), "gs:/tests/x: not a URL that is supported"),
    ],
)
def test_bad_urls(url: str | Path, said: str) -> None:
    with pytest.raises(UserError) as raised:
        storage_path(url)
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


def test_no_operation_reaches_the_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A method of `Path` is one of `PurePath`, ours, or refused; and a local folder of the same name is not used."""
    names = {name for name, _ in inspect.getmembers(Path, callable) if not name.startswith("_")} - _PURE
    assert names - {"cwd", "home", "from_uri"} <= vars(BucketPath).keys()
    monkeypatch.chdir(tmp_path)
    Path("gs:/tests").mkdir(parents=True)
    Path("gs:/tests/x").touch()
    path = path_of("gs://tests/x")
    for function in (os.stat, os.path.exists, os.listdir, open, os.fspath):
        with pytest.raises(TypeError, match="is not a path of the file system"):
            function(path)
    for name in ("stat", "open", "rename", "touch"):
        with pytest.raises(NotImplementedError, match="needs a file system"):
            getattr(path, name)()


def test_folders_and_files(gcs: GcsServer) -> None:
    folder = path_of("gs://tests/runs/a")
    assert not folder.exists()
    assert list(folder.iterdir()) == []
    write_bytes(folder / "b" / "1", b"one")
    write_bytes(str(folder / "2"), b"two")
    assert [path.name for path in folder.iterdir()] == ["2", "b"]
    assert sorted(map(str, folder.rglob("*"))) == [f"{folder}/2", f"{folder}/b/1"]
    assert folder.is_dir()
    assert is_folder(folder / "b")
    assert is_present(folder / "2")
    assert not is_present(folder / "3")
    assert (folder / "2").is_file()
    assert not (folder / "2").is_dir()
    assert (folder / "2").has_size(3)
    assert not (folder / "2").has_size(2)
    assert not (folder / "2").has_size(4)
    assert (folder / "2").read_text() == "two"
    with pytest.raises(OSError, match="more than 2 bytes"):
        (folder / "2").read_bounded(2)
    with local_files(folder) as local:
        assert [path.name for path in local.iterdir()] == ["2"]
    with local_files(folder / "2") as local:
        assert local.read_bytes() == b"two"
    assert not local.exists()
    with local_files(folder / "3") as local:
        assert not local.exists()
    (folder / "2").unlink()
    (folder / "2").unlink(missing_ok=True)
    for missing in (lambda: (folder / "2").unlink(), (folder / "2").read_bytes, lambda: open_regular(folder / "2")):
        with pytest.raises(FileNotFoundError, match="gs://tests/runs/a/2"):
            missing()
    folder.remove_all()
    assert gcs.names("tests") == []


def test_empty_objects_that_stand_for_folders_are_no_files(gcs: GcsServer) -> None:
    """The consoles of both services, and mounts, make them."""
    folder = path_of("gs://tests/runs/a")
    for name in ("runs/a/", "runs/a/b/"):
        gcs.write("tests", name, b"")
    assert not is_present(folder)
    (folder / "b/c").write_bytes(b"c")
    assert folder.names() == ["b/c"]
    folder.remove_all()
    assert gcs.names("tests") == []


def test_a_large_object_is_read_part_by_part(gcs: GcsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("show1_jax.buckets.path._PART_BYTES", 1000)
    content = os.urandom(3500)
    gcs.write("tests", "large", content)
    with open_regular(path_of("gs://tests/large")) as file:
        assert file.read(1) == content[:1]
        assert file.read() == content[1:]
