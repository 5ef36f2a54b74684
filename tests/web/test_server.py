"""The server: its address, its other addresses, and the command itself with the demo's weights."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from show1_jax.cli import run_command
from show1_jax.config.config_file import Config
from show1_jax.errors import UserError
from show1_jax.sampling.run_directory import RunDirectory
from show1_jax.web import __main__ as web_command
from show1_jax.web import server
from show1_jax.web.requests import Limits
from show1_jax.web.server import address_of, bind
from tests.helpers.browser import Visitor, chromium, command
from tests.helpers.media_files import encode, numbered
from tests.helpers.processes import environment, without_modules
from tests.helpers.web_pages import ROOT, DrawnSampler, served, settings

SCREENSHOT = "SHOW1_SCREENSHOT"
"""Environment variable: file to which the test of the demo writes a picture of the page, as in README.md."""


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("server") / "out"


@pytest.fixture(scope="module")
def client(out: Path) -> Iterator[httpx.Client]:
    config = settings(out)
    directory = out / "a-red-circle-1-00000000"
    directory.mkdir(parents=True)
    (directory / "1_keyframes.mp4").write_bytes(bytes(range(200)))
    (directory / "1_keyframes.safetensors").write_bytes(b"exact")
    (directory / "page.html").write_text("<script>")
    (out.parent / "secret.txt").write_text("secret")
    limits = Limits(upload_bytes=1 << 20)
    with (
        served(config, DrawnSampler(config), limits=limits) as address,
        httpx.Client(base_url=address, timeout=120) as client,
    ):
        yield client


def test_health_says_how_it_is(client: httpx.Client) -> None:
    answer = client.get("health")
    assert answer.status_code == 200
    assert set(answer.json()) == {"status", "loaded", "waiting", "running"}
    assert answer.json()["status"] in ("starting", "ready")
    assert answer.json()["waiting"] == 0


def test_files_of_videos_are_served_and_no_others(client: httpx.Client) -> None:
    video = "outputs/a-red-circle-1-00000000/1_keyframes.mp4"
    answer = client.get(video)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "video/mp4")
    part = client.get(video, headers={"range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, bytes(range(10, 20)))
    for path in (
        "outputs/a-red-circle-1-00000000/1_keyframes.safetensors",
        "outputs/a-red-circle-1-00000000/page.html",
        "outputs/a-red-circle-1-00000000/..%2f..%2fsecret.txt",
        "outputs/..%2f../secret.txt",
        "outputs/a-red-circle-1-00000000",
        "outputs/",
    ):
        assert client.get(path).status_code == 404, path


@pytest.mark.parametrize("file", ["/etc/passwd", "{out}/../secret.txt", "{out}/a-red-circle-1-00000000/page.html"])
def test_gradio_serves_no_files_of_this_machine(client: httpx.Client, out: Path, file: str) -> None:
    path = file.format(out=out)
    assert Path(path).exists()
    for address in (f"gradio_api/file={path}", f"gradio_api/file%3D{path}", f"gradio_api/file/{path}"):
        answer = client.get(address)
        assert answer.status_code in (403, 404), address
        assert "root:" not in answer.text
        assert "<script>" not in answer.text
        assert not answer.text.startswith("secret")
    assert client.get("gradio_api/file=http://127.0.0.1:1/").status_code == 403


def test_uploads_have_a_limit_and_stay_in_a_folder_of_the_process(client: httpx.Client) -> None:
    small = client.post("gradio_api/upload", files={"files": ("a.mp4", b"0" * 1000)})
    assert small.status_code == 200
    path = Path(small.json()[0])
    assert path.is_relative_to(os.environ["GRADIO_TEMP_DIR"])
    assert path.parents[2].stat().st_mode & 0o077 == 0
    huge = client.post("gradio_api/upload", files={"files": ("a.mp4", b"0" * (3 << 20))})
    assert huge.status_code == 413


def test_an_upload_in_chunks_is_limited_as_a_whole(client: httpx.Client) -> None:
    """Each of its files is small enough, and so is a field that is no file; it states no size."""
    folder = Path(os.environ["GRADIO_TEMP_DIR"])
    before = sorted(folder.rglob("*"))
    for name in ('; filename="a.mp4"', ""):

        def body(name: str = name) -> Iterator[bytes]:
            for number in range(5):
                yield f'--part\r\nContent-Disposition: form-data; name="files"{name}\r\n\r\n{number}'.encode()
                yield b"0" * (1 << 19) + b"\r\n"
            yield b"--part--\r\n"

        form = {"content-type": "multipart/form-data; boundary=part"}
        answer = client.post("gradio_api/upload", content=body(), headers=form)
        assert (answer.status_code, "maximum allowed size of 1 MB" in answer.text) == (413, True)
    assert sorted(folder.rglob("*")) == before


def test_a_file_of_this_machine_is_no_upload(client: httpx.Client, out: Path) -> None:
    own = encode(out.parent / "own.mp4", numbered(12))
    page = client.get("config").json()
    event = next(one["id"] for one in page["dependencies"] for target in one["targets"] if target[1] == "upload")

    def take(path: Path) -> str:
        file = {"path": str(path), "meta": {"_type": "gradio.FileData"}}
        body = {"data": [file], "fn_index": event, "session_hash": "a"}
        return client.post("gradio_api/run/predict", json=body).text

    for path in (own, out / ".." / "own.mp4"):
        assert "frames of your video" not in take(path)
        assert own.exists()
    uploaded = client.post("gradio_api/upload", files={"files": ("own.mp4", own.read_bytes())}).json()[0]
    assert "frames of your video" in take(uploaded)
    assert not Path(uploaded).exists()  # it was moved


def test_the_page_names_no_other_server(client: httpx.Client) -> None:
    page = client.get("").text
    assert "fonts.googleapis" not in page
    assert "cdn." not in page
    assert 'analytics_enabled":false' in page.replace(" ", "")


def test_a_port_is_the_default_one_or_the_next() -> None:
    first, second = bind("127.0.0.1", None), bind("localhost", None)
    with first, second:
        ports = [int(address_of(one).split(":")[-1].strip("/")) for one in (first, second)]
        assert 7860 <= ports[0] < ports[1]
        with pytest.raises(UserError, match=rf"port {ports[0]} of 127.0.0.1 is taken; choose another with --port"):
            bind("127.0.0.1", ports[0])
    with pytest.raises(UserError, match="is no address of this machine"):
        bind("no.such.host.invalid", None)


def test_addresses_for_a_browser() -> None:
    with bind("0.0.0.0", None) as everywhere:
        assert address_of(everywhere).startswith("http://127.0.0.1:")
    if socket.has_ipv6:
        try:
            listener = bind("::1", None)
        except UserError:
            return  # the machine has no IPv6
        with listener:
            assert address_of(listener).startswith("http://[::1]:")


@pytest.fixture
def no_server(monkeypatch: pytest.MonkeyPatch) -> list[Config]:
    """Have the command end before it serves; return the configs with which it would have."""
    configs: list[Config] = []

    @contextlib.contextmanager
    def no_serving(config: Config, manifest: Any, sampler: Any, listener: socket.socket, **_: Any) -> Iterator[Any]:
        configs.append(config)
        with listener:
            yield lambda: False

    monkeypatch.setattr(server, "serving", no_serving)
    return configs


def run(*arguments: str) -> int:
    return run_command("web", lambda: web_command.run(["web", *arguments]))


def test_flags_are_those_of_sampling(no_server: list[Config], tmp_path: Path) -> None:
    assert (
        run("--config", str(ROOT / "configs" / "demo.py"), f"--out={tmp_path}", "--config.keyframes.num_steps=3") == 0
    )
    assert (no_server[0].out, no_server[0].keyframes.num_steps) == (str(tmp_path), 3)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ((), "no --config"),
        (("--prot=1",), "did you mean --port?"),
        (("--port=70000",), "--port=70000 must be from 1 to 65535"),
        (("--batch_size=0",), "--batch_size=0 must be at least 1"),
        (("--share",), "there is no flag --share"),
        (("--checkpoint=nowhere",), "nowhere"),
        (("--out=/proc/none",), "cannot write in /proc"),
    ],
)
def test_mistakes_are_one_line(
    no_server: list[Config], arguments: tuple[str, ...], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = ("--config", str(ROOT / "configs" / "demo.py")) if arguments else ()
    assert run(*config, *arguments) == 2
    error = capsys.readouterr().err
    assert line in error
    assert error.count("\n") == 1
    assert not no_server


def test_credentials_and_hosts_are_checked(
    no_server: list[Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("--config", str(ROOT / "configs" / "demo.py"), f"--out={tmp_path}", "--host=0.0.0.0")
    assert run(*command) == 0
    assert "warning: everybody who reaches 0.0.0.0 can use the page" in capsys.readouterr().err
    monkeypatch.setenv("SHOW1_WEB_USER", "me")
    assert run(*command) == 2
    assert "set both, or neither" in capsys.readouterr().err
    monkeypatch.setenv("SHOW1_WEB_PASSWORD", "word")
    assert run(*command) == 0
    assert capsys.readouterr().err == ""


def test_without_gradio_the_line_says_how_to_install_it(tmp_path: Path) -> None:
    arguments = [sys.executable, "-m", "show1_jax.web", "--config", "configs/demo.py", f"--out={tmp_path}"]
    done = subprocess.run(
        arguments, cwd=ROOT, env=without_modules(tmp_path, "gradio"), capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        done.stderr
        == "web: the page needs Gradio (No module named 'gradio'); install it with pip install 'show1-jax[web]'\n"
    )


@pytest.mark.browser
def test_the_command_in_a_browser_and_its_end(tmp_path: Path, tiny_checkpoint: Path) -> None:
    """The smallest networks, compiled and sampled; for a picture the demo's."""
    picture = os.environ.get(SCREENSHOT)
    prompt = "a large yellow triangle grows on a navy background"
    tiny = ("tests/helpers/tiny_config.py", f"--checkpoint={tiny_checkpoint}", "--config.keyframes.num_steps=200")
    config = ("configs/demo.py",) if picture else tiny
    arguments = [sys.executable, "-m", "show1_jax.web", f"--out={tmp_path / 'out'}", "--config", *config]
    with chromium() as browser, command(arguments, ROOT, environment(1)) as (process, address):
        visitor = Visitor(browser, address, device_scale_factor=1.5 if picture else 1).open()
        visitor.sample(prompt, 11)
        visitor.wait("#new-status .status.done")
        record = next((tmp_path / "out").glob("*/run.json")).parent
        assert RunDirectory(record).record() is not None
        if picture:
            visitor.page.wait_for_timeout(1500)
            visitor.page.screenshot(path=picture, full_page=True)
        assert httpx.get(f"{address}health", timeout=120).json() == {
            "status": "ready",
            "loaded": True,
            "waiting": 0,
            "running": 0,
        }
        visitor.sample(prompt, 12)
        visitor.wait("#new-stop")
        assert not visitor.elsewhere
        visitor.context.close()
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 0
    assert not list((tmp_path / "out").rglob(".*"))
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_dir() and not any(path.iterdir())]
