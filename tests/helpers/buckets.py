"""Servers of buckets on loopback, and the environment that sends processes to them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from show1_jax.buckets import store
from tests.helpers.gcs_server import GcsServer

BUCKET = "tests"
QUICK = {"max_retries": 3, "initial_delay": "10ms", "max_delay": "20ms"}
_TOKEN = "token-of-tests"
_ENVIRONMENT = {
    "GOOGLE_AUTH_TOKEN_FOR_TESTING": _TOKEN,
    "AWS_ACCESS_KEY_ID": "tests",
    "AWS_SECRET_ACCESS_KEY": "tests",
}


@contextmanager
def gcs_server() -> Iterator[GcsServer]:
    """Yield a server of `gs://tests`, to which this process and its children are sent."""
    with GcsServer(BUCKET) as server:
        server.token = _TOKEN
        os.environ.update(_ENVIRONMENT | server.environment)
        yield server


def upload_folder(server: GcsServer, folder: Path, name: str) -> None:
    """Copy the files of a local folder to `gs://tests/name`, as another tool does it."""
    for path in folder.rglob("*"):
        if path.is_file():
            server.write(BUCKET, f"{name}/{path.relative_to(folder).as_posix()}", path.read_bytes())


@contextmanager
def quick_retries() -> Iterator[None]:
    """Repeat the requests of this process at once, and not for minutes, while the block lasts."""
    usual = dict(store.RETRIES)
    store.RETRIES.update(QUICK)
    store.open_bucket.cache_clear()
    try:
        yield
    finally:
        store.RETRIES.update(usual)
        store.open_bucket.cache_clear()


@contextmanager
def s3_server() -> Iterator[str]:
    """Yield the address of a server of `s3://tests`, to which this process and its children are sent."""
    import boto3  # type: ignore[import-untyped]
    from moto.server import ThreadedMotoServer

    os.environ.update(_ENVIRONMENT)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        os.environ["AWS_ENDPOINT_URL"] = address = f"http://{host}:{port}"
        boto3.client("s3", endpoint_url=address, region_name="us-east-1").create_bucket(Bucket=BUCKET)
        yield address
    finally:
        os.environ.pop("AWS_ENDPOINT_URL", None)
        server.stop()
