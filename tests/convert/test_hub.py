"""Downloads from a local hub that imitates the few endpoints needed."""

import hashlib
import json
import re
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import constants

from convert.__main__ import main
from convert.hub import download
from convert.inflate import INITIAL_FOLDERS
from convert.released import RELEASED_STAGES, repository_licence
from show1_jax.checkpoints.hub import is_hub_id
from show1_jax.checkpoints.manifest import read_manifest
from show1_jax.errors import UserError
from tests.helpers.small_networks import write_clip

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """Repositories `owner/name` are the folders `root/name`; `gated/...` refuses everyone."""

    root: Path
    requests: list[str]

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path).strip("/")
        self.requests.append(path)
        api = path.startswith("api/models/")
        owner, name, *rest = path.removeprefix("api/models/").split("/")
        revision = rest[1] if len(rest) > 1 else "main"
        if owner == "gated":
            self._error(403, "GatedRepo")
        elif not (self.root / name).is_dir():
            self._error(404, "RepoNotFound")
        elif revision not in ("main", COMMIT):
            self._error(404, "RevisionNotFound")
        elif api:
            files = (file.relative_to(self.root / name) for file in (self.root / name).rglob("*") if file.is_file())
            siblings = [{"rfilename": file.as_posix()} for file in files]
            self._send(json.dumps({"id": f"{owner}/{name}", "sha": COMMIT, "siblings": siblings}).encode())
        else:
            self._send((self.root / name / "/".join(rest[2:])).read_bytes())

    def _send(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def _error(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def use_endpoint(monkeypatch: pytest.MonkeyPatch, endpoint: str, cache: Path) -> None:
    """Apply HF_ENDPOINT and HF_HOME, which the library reads only at import."""
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_XET_CACHE", str(cache / "xet"))


@pytest.fixture
def hub(golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    handler = type("Handler", (Hub,), {"root": golden / "checkpoints", "requests": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    use_endpoint(monkeypatch, f"http://127.0.0.1:{server.server_port}", tmp_path / "cache")
    yield handler
    server.shutdown()
    server.server_close()
    thread.join()


def test_hub_ids() -> None:
    assert is_hub_id("showlab/show-1-base")
    assert is_hub_id("showlab/show-1-base@main")
    assert is_hub_id("showlab/show-1-base@refs/pr/1")
    assert not any(
        map(is_hub_id, ("show-1-base", "/showlab/show-1-base", "a/b/c", "../a/b", "a/b@", "a/b@../../c", ""))
    )


def test_a_repository_is_downloaded_at_its_commit(hub: type[Hub], golden: Path) -> None:
    folder, commit = download("showlab/show-1-sr2", RELEASED_STAGES["superres_latent"])
    assert commit == COMMIT
    assert folder.name == COMMIT
    taken = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    original = golden / "checkpoints/show-1-sr2"
    assert taken == sorted(path.relative_to(original).as_posix() for path in original.rglob("*") if path.is_file())
    assert all((folder / name).read_bytes() == (original / name).read_bytes() for name in taken)
    assert not any("/resolve/main/" in request for request in hub.requests)


def test_only_what_is_needed_is_downloaded(
    hub: type[Hub], golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = golden / "checkpoints/show-1-interpolation"
    copy = tmp_path / "hub/show-1-interpolation"
    for name in ("unet/config.json", "scheduler/scheduler_config.json", "model_index.json"):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes((released / name).read_bytes())
    for name in ("unet/diffusion_pytorch_model.bin", "text_encoder/pytorch_model.bin", "README.md", "unet/run.py"):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_text("not needed")
    shard = "diffusion_pytorch_model.fp16-00001-of-00001.safetensors"
    (copy / "unet" / shard).write_bytes(b"weights")
    index = "diffusion_pytorch_model.safetensors.index.fp16.json"
    (copy / "unet" / index).write_text(json.dumps({"weight_map": {"conv_in.weight": shard}}))
    monkeypatch.setattr(hub, "root", copy.parent)
    folder, _ = download("showlab/show-1-interpolation", RELEASED_STAGES["interpolation"], "fp16")
    taken = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    assert taken == sorted(
        ["model_index.json", "scheduler/scheduler_config.json", "unet/config.json", f"unet/{index}", f"unet/{shard}"]
    )


@pytest.mark.parametrize(
    ("stage", "source", "has_text"),
    [("superres_pixel", "DeepFloyd/IF-II-L-v1.0", False), ("interpolation", "showlab/show-1-base", True)],
)
def test_optional_parts_are_downloaded_if_present(hub: type[Hub], stage: str, source: str, has_text: bool) -> None:
    folder, _ = download(source, INITIAL_FOLDERS[stage])
    assert (folder / "unet/config.json").is_file()
    assert (folder / "text_encoder/config.json").is_file() == has_text


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("gated/IF-II-L-v1.0", r"log in at https://huggingface\.co/gated/IF-II-L-v1\.0, accept .*`hf auth login`"),
        ("showlab/show-2", "no such repository"),
        ("showlab/show-1-interpolation@v9", r"no revision 'v9'"),
        ("showlab/show-1-base", r"image_noising_scheduler/scheduler_config\.json"),
    ],
)
def test_refusals_in_one_line(hub: type[Hub], source: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        download(source, RELEASED_STAGES["first_frame"])
    assert "\n" not in str(caught.value)


def test_no_network_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        use_endpoint(monkeypatch, f"http://127.0.0.1:{unused.getsockname()[1]}", tmp_path)
        with pytest.raises(UserError, match="the hub cannot be reached; go online, or download the folder elsewhere"):
            download("showlab/show-1-base", RELEASED_STAGES["keyframes"])


@pytest.fixture
def cache(hub: type[Hub], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the hub's cache after a conversion of two stages, with HF_HUB_OFFLINE set since."""
    for stage in ("interpolation", "superres_latent"):
        download(RELEASED_STAGES[stage].repository, RELEASED_STAGES[stage])
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.requests.clear()
    return tmp_path / "cache"


def test_without_the_hub_a_complete_cache_is_converted(
    cache: Path, hub: type[Hub], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--out", str(tmp_path / "out"), "--stages", "interpolation,superres_latent"]) == 0
    manifest = read_manifest(tmp_path / "out")
    assert list(manifest.components) == ["interpolation", "superres_latent", "text_clip", "vae"]
    provenance = manifest.component("text_clip").provenance
    assert (provenance["source"], provenance["revision"]) == ("showlab/show-1-sr2", COMMIT)
    assert not hub.requests
    assert f"showlab/show-1-sr2: using commit {COMMIT} from the hub's cache" in capsys.readouterr().err


def test_the_cache_is_used_if_the_hub_cannot_be_reached(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        use_endpoint(monkeypatch, f"http://127.0.0.1:{unused.getsockname()[1]}", cache)
        folder, commit = download("showlab/show-1-interpolation", RELEASED_STAGES["interpolation"])
    assert (folder.name, commit) == (COMMIT, COMMIT)


def test_a_branch_in_the_cache_keeps_its_commit(cache: Path) -> None:
    """A cache of `hf download`: the commit of every requested branch, and older commits beside it."""
    repository = cache / "models--showlab--show-1-interpolation"
    other = "f" * 40
    (repository / "snapshots" / other).mkdir()
    stage = RELEASED_STAGES["interpolation"]
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set, and the hub's cache has no copy; unset it"):
        download(stage.repository, stage)  # two commits, and no record of the branch
    (repository / "refs").mkdir(exist_ok=True)
    (repository / "refs/main").write_text(COMMIT)
    (repository / "refs/old").write_text(other)
    assert download(stage.repository, stage)[1] == COMMIT
    assert download(f"{stage.repository}@main", stage)[1] == COMMIT
    assert download(f"{stage.repository}@{COMMIT}", stage)[1] == COMMIT
    with pytest.raises(UserError, match="show-1-interpolation@old in the hub's cache/unet: no weights"):
        download(f"{stage.repository}@old", stage)
    for revision in ("new", "0" * 40):
        with pytest.raises(UserError, match="the hub's cache has no copy"):
            download(f"{stage.repository}@{revision}", stage)


@pytest.mark.parametrize("name", ["scheduler/scheduler_config.json", "tokenizer/tokenizer_config.json"])
def test_a_cache_that_lacks_a_file_is_refused_by_its_name(cache: Path, name: str) -> None:
    (path,) = cache.glob(f"models--showlab--show-1-sr2/snapshots/*/{name}")
    path.resolve().unlink()
    with pytest.raises(UserError, match=rf"its cache of commit {COMMIT} has no {re.escape(name)}; go online"):
        download("showlab/show-1-sr2", RELEASED_STAGES["superres_latent"])


@pytest.mark.parametrize("content", ["../../../elsewhere", "\xff", "", "x" * 10**6])
def test_a_damaged_record_of_a_branch_leads_nowhere_else(cache: Path, content: str) -> None:
    repository = cache / "models--showlab--show-1-interpolation"
    (cache / "elsewhere").mkdir()
    (repository / "refs").mkdir(exist_ok=True)
    (repository / "refs/main").write_bytes(content.encode("latin-1"))
    assert (
        download("showlab/show-1-interpolation", RELEASED_STAGES["interpolation"])[0]
        == repository / "snapshots" / COMMIT
    )


def test_the_command_line_converts_from_the_hub_by_default(
    hub: type[Hub], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--out", str(tmp_path / "out"), "--stages", "interpolation,first_frame"]) == 0
    provenance = read_manifest(tmp_path / "out").component("first_frame").provenance
    assert provenance["source"] == "DeepFloyd/IF-II-L-v1.0"
    assert provenance["revision"] == COMMIT
    assert "DeepFloyd IF License" in provenance["licence"]
    printed = capsys.readouterr().out
    assert "licence of interpolation: CC BY-NC 4.0" in printed
    assert "licence of first_frame: DeepFloyd IF License Agreement" in printed


def test_the_licence_of_another_repository_is_its_own() -> None:
    assert repository_licence("someone/show-1-base") == "as https://huggingface.co/someone/show-1-base says"
    assert repository_licence("showlab/show-1-sr2").startswith("CC BY-NC 4.0")
    assert "DeepFloyd IF License" in repository_licence("DeepFloyd/IF-I-L-v1.0")


def test_the_command_line_says_what_a_gated_repository_needs(
    hub: type[Hub], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--out", str(tmp_path / "out"), "--stages", "first_frame", "--first_frame", "gated/IF-II-L-v1.0"]
    assert main(arguments) == 2
    assert capsys.readouterr().err.splitlines() == [
        "convert: gated/IF-II-L-v1.0 is gated: log in at https://huggingface.co/gated/IF-II-L-v1.0, accept its licence "
        "there, then run `hf auth login` and convert again"
    ]
    assert not (tmp_path / "out").exists()


def test_clip_is_converted_from_a_hub_id(hub: type[Hub], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hub.root = tmp_path / "repositories"
    folder = hub.root / "clip-vit-base-patch32"
    folder.mkdir(parents=True)
    write_clip(folder)
    (folder / "tf_model.h5").write_bytes(b"other weights")
    source, out = "openai/clip-vit-base-patch32", tmp_path / "out"
    assert main(["features", "clip_model", "--from", source, "--out", str(out)]) == 0
    provenance = read_manifest(out).component("clip_model").provenance
    assert provenance["source"] == source
    assert provenance["revision"] == COMMIT
    assert provenance["licence"] == f"as https://huggingface.co/{source} says"
    assert not any("tf_model" in request for request in hub.requests)
    (folder / "tokenizer_config.json").unlink()
    capsys.readouterr()
    assert main(["features", "clip_model", "--from", source, "--out", str(tmp_path / "other")]) == 2
    assert "has no tokenizer_config.json; clip_model needs a repository like openai/" in capsys.readouterr().err
    assert main(["features", "c3d", "--from", source, "--out", str(tmp_path / "other")]) == 2
    assert "no such file; get a folder with" in capsys.readouterr().err
