"""Objects of buckets on two kinds of server: the same behaviour, and errors of one line."""

import os
from pathlib import Path

import pytest

from show1_jax.buckets.errors import BucketError, translate_error
from show1_jax.buckets.store import Bucket, kvstore_spec
from tests.helpers.buckets import BUCKET
from tests.helpers.gcs_server import Answer, GcsServer


@pytest.fixture(params=["gs", "s3"])
def bucket(request: pytest.FixtureRequest) -> Bucket:
    request.getfixturevalue("gcs" if request.param == "gs" else "s3_session")
    found = Bucket(request.param, BUCKET)
    found.delete_all("")
    return found


def test_objects_are_written_read_listed_and_deleted(bucket: Bucket) -> None:
    assert bucket.read("a/1") is None
    for name in ("a/1", "a/b/2", "a0", "ab/3"):
        bucket.write(name, name.encode())
    assert bucket.names("a/") == ["a/1", "a/b/2"]
    assert bucket.names("none/") == []
    found = bucket.read("a/b/2")
    assert found is not None
    assert found.content == b"a/b/2"
    assert bucket.exists("a/1")
    assert not bucket.exists("a")
    bucket.delete("a/1")
    bucket.delete("a/1")
    bucket.delete_all("a/")
    assert bucket.names("") == ["a0", "ab/3"]


def test_parts_of_objects(bucket: Bucket) -> None:
    bucket.write("ten", b"0123456789")
    bucket.write("empty", b"")
    for start, stop in ((0, 4), (4, 8), (8, 12), (10, 14), (0, 10), (0, 11)):
        assert bucket.read_range("ten", start, stop) == b"0123456789"[start:stop]
    assert bucket.read_range("empty", 0, 4) == b""
    with pytest.raises(FileNotFoundError):
        bucket.read_range("none", 0, 4)
    assert [bucket.exceeds(name, 9) for name in ("ten", "empty", "none")] == [True, False, False]
    assert not bucket.exceeds("ten", 10)


def test_a_write_under_a_condition(bucket: Bucket) -> None:
    first = bucket.write_if("lock", b"1", None)
    assert first is not None
    assert bucket.write_if("lock", b"2", None) is None
    second = bucket.write_if("lock", b"2", first)
    assert second is not None
    assert bucket.write_if("lock", b"3", first) is None
    assert bucket.write_if("lock", None, first) is None
    found = bucket.read("lock")
    assert found is not None
    assert (found.content, found.generation) == (b"2", second)
    bucket.write_if("lock", None, second)
    assert not bucket.exists("lock")


def test_a_bucket_that_does_not_exist(gcs: GcsServer, s3_session: str) -> None:
    for scheme in ("gs", "s3"):
        with pytest.raises(BucketError, match=f"{scheme}://no-such-bucket: there is no such bucket; make it"):
            Bucket(scheme, "no-such-bucket").write("a", b"")


@pytest.mark.parametrize("fault", [Answer(status=503), Answer(status=429), Answer(drops=True), Answer(halves=True)])
def test_faults_that_pass_are_survived(gcs: GcsServer, fault: Answer) -> None:
    bucket = Bucket("gs", BUCKET)
    left = 0

    def twice(_: object) -> Answer | None:
        nonlocal left
        left -= 1
        return fault if left >= 0 else None

    gcs.fault = twice
    for operation in (lambda: bucket.write("a", b"content"), lambda: bucket.read("a"), lambda: bucket.names("")):
        left = 2
        operation()
        assert left < 0
    left = 2
    found = bucket.read("a")
    assert found is not None
    assert found.content == b"content"


def test_a_slow_server_is_waited_for(gcs: GcsServer) -> None:
    gcs.fault = lambda request: Answer(delay=0.3)
    bucket = Bucket("gs", BUCKET)
    bucket.write("a", b"1")
    assert bucket.names("") == ["a"]


@pytest.mark.parametrize(
    ("fault", "line"),
    [
        (Answer(status=503), "gs://tests: the server does not answer (All 3 retry attempts failed: "),
        (Answer(drops=True), "gs://tests: the server does not answer (All 3 retry attempts failed: "),
        (Answer(status=403), "gs://tests: access is denied (a fault of the test); run `gcloud auth"),
        (Answer(status=401), "gs://tests: access is denied (a fault of the test); run `gcloud auth"),
        (Answer(status=400), "gs://tests: the server refuses (a fault of the test); "),
    ],
)
def test_faults_that_stay_are_one_line(gcs: GcsServer, fault: Answer, line: str) -> None:
    gcs.fault = lambda request: fault
    for operation in (lambda: Bucket("gs", BUCKET).write("a", b""), lambda: Bucket("gs", BUCKET).read("a")):
        with pytest.raises(BucketError) as raised:
            operation()
        assert str(raised.value).startswith(line)
        assert "\n" not in str(raised.value)


def test_no_server_is_one_line(gcs: GcsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENSORSTORE_GCS_HTTP_URL", "http://127.0.0.1:9")
    with pytest.raises(BucketError, match=r"gs://tests: the server does not answer \(.*127\.0\.0\.1"):
        Bucket("gs", BUCKET).read("a")


def test_missing_credentials_are_one_line(gcs: GcsServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(BucketError, match="no credentials for S3; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"):
        Bucket("s3", BUCKET).read("a")
    gcs.token = "another"
    try:
        with pytest.raises(BucketError, match=r"access is denied .*; run `gcloud auth application-default login`"):
            Bucket("gs", BUCKET).read("a")
    finally:
        gcs.token = os.environ["GOOGLE_AUTH_TOKEN_FOR_TESTING"]


def test_another_server_of_s3(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    assert "endpoint" not in kvstore_spec("s3", BUCKET, "")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://here")
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    assert kvstore_spec("s3", BUCKET, "")["endpoint"] == "http://here"
    assert kvstore_spec("s3", BUCKET, "")["aws_region"] == "eu-west-1"


def test_a_long_reason_is_cut() -> None:
    assert len(str(translate_error("INTERNAL: " + "x" * 999, "gs", BUCKET))) < 300


def test_a_server_that_has_not_answered_is_asked_less_patiently(
    gcs: GcsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("show1_jax.buckets.store._FIRST_RETRIES", 1)
    bucket = Bucket("gs", BUCKET)

    def num_requests() -> int:
        gcs.fault = lambda request: Answer(status=503)
        gcs.requests.clear()
        with pytest.raises(BucketError):
            bucket.read("a")
        gcs.fault = lambda request: None
        return len(gcs.requests)

    first = num_requests()
    bucket.read("a")
    assert num_requests() > first
    assert num_requests() == first
    bucket.read("a")
    assert num_requests() > first
