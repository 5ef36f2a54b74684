"""Uploads of datasets and text caches, whose `files.json` is written last, and removal of what a killed one left."""

import tempfile
from pathlib import Path

import pytest

from show1_jax.buckets import upload as module
from show1_jax.buckets.lease import LEASE
from show1_jax.buckets.path import BucketPath
from show1_jax.data import __main__ as data
from show1_jax.data.transfer.download import local_copy
from show1_jax.data.transfer.record import RECORD, write_record
from show1_jax.data.transfer.upload import check_data_target, new_data_folder, upload
from show1_jax.errors import UserError
from show1_jax.files import storage_path
from tests.helpers.buckets import BUCKET
from tests.helpers.gcs_server import Answer, GcsServer, Request


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    for name in ("a", "b", "c"):
        (folder / name).write_bytes(name.encode() * 10)
    write_record(folder)
    return folder


@pytest.fixture
def out(gcs: GcsServer) -> BucketPath:
    found = storage_path(f"gs://{BUCKET}/videos")
    assert isinstance(found, BucketPath)
    return found


def names(gcs: GcsServer) -> list[str]:
    return [name.removeprefix("videos/") for name in gcs.names(BUCKET)]


def test_the_list_of_files_is_written_last(
    gcs: GcsServer, out: BucketPath, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gcs.requests.clear()
    upload(source, out)
    written = [request.name.rpartition("/")[2] for request in gcs.requests if request.method == "POST"]
    written = [name for name in written if name != LEASE]
    assert written[0] == "uploading.json"
    assert sorted(written[1:4]) == ["a", "b", "c"]
    assert written[4:] == [RECORD]
    assert names(gcs) == ["a", "b", "c", RECORD]
    assert f"{out}: 3 files of 30 bytes are uploaded\n" in capsys.readouterr().err


def test_what_exists_is_replaced_only_when_asked(gcs: GcsServer, out: BucketPath, source: Path, tmp_path: Path) -> None:
    upload(source, out)
    with pytest.raises(UserError, match="exists; choose another place, or replace it with --overwrite"):
        upload(source, out)
    (source / "b").unlink()
    (source / "d").write_bytes(b"d")
    write_record(source)
    upload(source, out, overwrite=True)
    assert names(gcs) == ["a", "c", "d", RECORD]
    assert (local_copy(out, tmp_path / "copies") / "d").read_bytes() == b"d"


def test_an_upload_that_ends_early_is_no_dataset_and_is_repeated(
    gcs: GcsServer, out: BucketPath, source: Path, tmp_path: Path
) -> None:
    """Also one that replaces another: its old files are removed by the next upload."""
    upload(source, out)
    for name in ("a", "b"):
        (source / name).rename(source / f"new_{name}")
    write_record(source)

    def fault(request: Request) -> Answer | None:
        return Answer(status=403) if request.method == "POST" and request.name == "videos/new_b" else None

    gcs.fault = fault
    with pytest.raises(UserError, match="access is denied"):
        upload(source, out, overwrite=True)
    gcs.fault = lambda request: None
    with pytest.raises(UserError, match="its upload has not ended"):
        local_copy(out, tmp_path / "copies")
    gcs.write(BUCKET, "videos/a", b"as if it had not been removed yet")
    upload(source, out)
    assert names(gcs) == ["c", RECORD, "new_a", "new_b"]
    assert (local_copy(out, tmp_path / "copies") / "new_b").read_bytes() == b"b" * 10


def test_objects_of_others_are_not_touched(gcs: GcsServer, out: BucketPath, source: Path) -> None:
    gcs.write(BUCKET, "videos/thesis.tex", b"")
    for overwrite in (False, True):
        with pytest.raises(UserError, match=r"has thesis.tex, which is no part of a dataset"):
            upload(source, out, overwrite=overwrite)
    assert names(gcs) == ["thesis.tex"]
    bucket = storage_path(f"gs://{BUCKET}")
    assert isinstance(bucket, BucketPath)
    with pytest.raises(UserError, match="a bucket itself is no place"):
        check_data_target(bucket)


def test_a_damaged_list_of_files_is_one_line_that_says_what_helps(
    gcs: GcsServer, out: BucketPath, source: Path
) -> None:
    """Its files are not known, so that nothing is removed."""
    upload(source, out)
    gcs.write(BUCKET, f"videos/{RECORD}", b"{")
    before = names(gcs)
    with pytest.raises(UserError, match="choose another place, or delete this folder first") as raised:
        upload(source, out, overwrite=True)
    assert "\n" not in str(raised.value)
    assert names(gcs) == before


def test_files_that_another_tool_has_not_copied_to_the_end_are_replaced_when_asked(
    gcs: GcsServer, out: BucketPath, source: Path, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        gcs.write(BUCKET, f"videos/{name}", b"cut")
    with pytest.raises(UserError, match="exists; choose another place, or replace it with --overwrite"):
        upload(source, out)
    upload(source, out, overwrite=True)
    assert (local_copy(out, tmp_path / "copies") / "a").read_bytes() == b"a" * 10


def test_a_folder_from_before_the_list_of_files_gets_one(
    gcs: GcsServer, out: BucketPath, source: Path, tmp_path: Path
) -> None:
    (source / RECORD).unlink()
    with pytest.raises(UserError, match="no dataset and no cache of text states"):
        upload(source, out)
    (source / "cache.json").write_bytes(b"{}")
    upload(source, out)
    assert (local_copy(out, tmp_path / "copies") / "cache.json").read_bytes() == b"{}"


def test_changed_and_large_files_are_refused(
    gcs: GcsServer, out: BucketPath, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (source / "b").write_bytes(b"changed")
    with pytest.raises(UserError, match=r"source/b: is not the file of files.json; make the folder again"):
        upload(source, out)
    (source / "b").unlink()
    with pytest.raises(UserError, match=r"source/b: cannot be read \(No such file"):
        upload(source, out)
    monkeypatch.setattr(module, "MAX_OBJECT_BYTES", 5)
    with pytest.raises(UserError, match="copy the folder with the bucket's own tool"):
        upload(source, out)
    assert RECORD not in names(gcs)


def make(place: Path, failure: BaseException | None = None) -> None:
    with new_data_folder(place) as folder:
        (folder / "a").write_bytes(b"a")
        if failure is not None:
            raise failure
    assert not folder.exists()


@pytest.mark.parametrize("failure", [UserError("no video"), KeyboardInterrupt(), OSError(28, "No space left")])
def test_a_new_folder_is_uploaded_or_nothing_is(
    gcs: GcsServer, out: BucketPath, tmp_path: Path, failure: BaseException
) -> None:
    for place in (out, tmp_path / "here"):
        with pytest.raises((UserError, KeyboardInterrupt)):
            make(place, failure)
    assert names(gcs) == []
    assert not (tmp_path / "here").exists()
    make(out)
    make(tmp_path / "here")
    assert names(gcs) == ["a", RECORD]
    assert sorted(path.name for path in (tmp_path / "here").iterdir()) == ["a", RECORD]
    assert (tmp_path / "here" / RECORD).read_bytes() == gcs.objects[BUCKET][f"videos/{RECORD}"][0]


@pytest.mark.parametrize("refused", ["lease.json", "a", RECORD])
def test_a_folder_whose_upload_fails_is_kept(
    gcs: GcsServer, out: BucketPath, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: str
) -> None:
    """The line has the command that uploads it; nothing is made if the bucket refuses writes from the beginning."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    gcs.fault = lambda request: (
        Answer(status=403) if request.method == "POST" and request.name == f"videos/{refused}" else None
    )
    with pytest.raises(UserError, match="access is denied") as raised:
        make(out)
    assert "\n" not in str(raised.value)
    kept = list(tmp_path.glob("*/videos"))
    gcs.fault = lambda request: None
    if refused == LEASE:
        assert (kept, names(gcs)) == ([], [])
        return
    command = f"python -m show1_jax.data upload {kept[0]} --out {out}"
    assert f"the dataset or text cache is finished and kept in {kept[0]}; upload it with `{command}`" in str(
        raised.value
    )
    assert RECORD not in names(gcs)
    data._run(command.split()[3:])
    assert names(gcs) == ["a", RECORD]
    assert (local_copy(out, tmp_path / "copies") / "a").read_bytes() == b"a"


def test_a_folder_whose_upload_is_interrupted_is_kept(
    gcs: GcsServer,
    out: BucketPath,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(module, "upload_folder", interrupt)
    with pytest.raises(KeyboardInterrupt):
        make(out)
    (kept,) = tmp_path.glob("*/videos")
    assert (
        f"kept in {kept}; upload it with `python -m show1_jax.data upload {kept} --out {out}`"
        in capsys.readouterr().err
    )


def test_a_damaged_list_of_a_begun_upload_is_one_line(gcs: GcsServer, out: BucketPath, source: Path) -> None:
    for content in (b"{", b'{"a": 1}', b"[1]", b"[" * 100_000, b"\xff"):
        gcs.write(BUCKET, "videos/uploading.json", content)
        with pytest.raises(UserError, match=r"uploading.json: damaged; choose another place, or delete this folder"):
            upload(source, out)
