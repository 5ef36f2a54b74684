"""Sources of the credentials for S3: the first one that has some, read without any line on stderr."""

import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from show1_jax.buckets import s3_credentials as module
from show1_jax.buckets.errors import BucketError
from show1_jax.buckets.s3_credentials import _profile, s3_credentials
from show1_jax.buckets.store import Bucket
from tests.helpers.buckets import BUCKET

KEYS = "aws_access_key_id = {}\naws_secret_access_key = secret\n"


@pytest.fixture(autouse=True)
def aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The user's `.aws`, empty; nothing is known of the machine."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(module, "_VENDOR", tmp_path / "vendor")
    (tmp_path / ".aws").mkdir()
    return tmp_path / ".aws"


@pytest.fixture
def signers(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The key of each request to a server that has no objects."""
    keys: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            keys.append((self.headers["Authorization"] or "").partition("Credential=")[2].partition("/")[0])
            self.send_error(404)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_address[1]}")
        yield keys
        server.shutdown()


@pytest.mark.parametrize(
    ("file", "section", "profile"),
    [
        ("credentials", "default", ""),
        ("credentials", "other", "other"),
        ("config", "default", ""),
        ("config", "profile other", "other"),
    ],
)
def test_the_keys_of_a_profile_sign_requests(
    aws: Path,
    signers: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    file: str,
    section: str,
    profile: str,
) -> None:
    (aws / file).write_text(f"[{section}]\n{KEYS.format('KEY')}")
    monkeypatch.setenv("AWS_PROFILE", profile)
    assert Bucket("s3", BUCKET).read("a") is None
    assert signers == ["KEY"]
    assert capfd.readouterr().err == ""


def test_without_a_home_directory_there_are_no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user id without an entry in the system's list of users, and without HOME."""
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    with pytest.raises(BucketError, match="there are no credentials for S3"):
        s3_credentials()


def test_the_keys_of_the_environment_come_first(
    aws: Path, signers: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (aws / "credentials").write_text(f"[default]\n{KEYS.format('KEY')}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "MINE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    assert Bucket("s3", BUCKET).read("a") is None
    assert signers == ["MINE"]
    assert capfd.readouterr().err == ""


def test_the_role_of_a_machine_is_used_where_there_may_be_one(aws: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (aws / "config").write_text("[default]\nregion = eu-west-1\n")  # on such a machine as well
    assert s3_credentials() == {"type": "imds"}
    for vendor in ("Amazon EC2\n", "Xen\n", ""):
        module._VENDOR.write_text(vendor)
        assert s3_credentials() == {"type": "imds"}
    module._VENDOR.write_text("LENOVO\n")
    with pytest.raises(BucketError, match=r"^there are no credentials for S3; set AWS_ACCESS_KEY_ID and"):
        s3_credentials()
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:9")
    assert s3_credentials() == {"type": "imds"}
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(BucketError, match=r"^there are no credentials for S3"):
        s3_credentials()


def test_other_sources_are_left_to_tensorstore(aws: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (aws / "config").write_text("[profile mine]\ncredential_process = tool\n")
    monkeypatch.setenv("AWS_PROFILE", "mine")
    assert s3_credentials() == {"type": "default", "profile": "mine"}
    role = "[profile mine]\nrole_arn = arn:aws:iam::1:role/a\n"
    (aws / "config").write_text(f"{role}web_identity_token_file = token\n")  # as in a pod of Kubernetes
    assert s3_credentials() == {"type": "default", "profile": "mine"}
    (aws / "config").write_text(f"{role}source_profile = other\n")
    assert s3_credentials()["type"] == "profile"
    monkeypatch.setenv("AWS_PROFILE", "none")
    with pytest.raises(BucketError, match=r"^AWS_PROFILE=none: there is no such profile in .*/credentials and"):
        s3_credentials()
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", "token")
    assert s3_credentials() == {"type": "default", "profile": "none"}


@given(st.binary(max_size=60))
def test_any_file_is_read(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("aws") / "config"
    path.write_bytes(b"[default]\nregion = x\n" + content)
    assert isinstance(_profile(path, "default"), set)
    path.write_bytes(b"[other]\n" + content.replace(b"[", b""))
    assert _profile(path, "default") == set()
