"""Checkpoints and adapters from a local hub: what is downloaded, checked, pinned and refused."""

import dataclasses
import json
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from huggingface_hub import constants
from hypothesis import given
from hypothesis import strategies as st

from convert.merge import merge
from convert.stored import cpu_mesh
from show1_jax.cascade.cascade import Cascade
from show1_jax.cascade.prompts import Prompt
from show1_jax.checkpoints import hub as our_hub
from show1_jax.checkpoints.checkpoint_set import CheckpointSet, hub_commits, is_checkpoint_or_run, is_hub_name
from show1_jax.checkpoints.manifest import MANIFEST, read_manifest
from show1_jax.config.sampling import STAGES
from show1_jax.errors import UserError
from show1_jax.sampling.job import sample_videos
from show1_jax.sampling.request import Request
from show1_jax.training.plan import make_plan
from tests.helpers import tiny_config, tiny_runs
from tests.helpers.adapter_files import pairs, write_adapter
from tests.helpers.hub_server import TOKEN, FakeHub, Repository, folder_files, serve_hub, use_endpoint

NAME = "hub:me/tiny"


@pytest.fixture(scope="module")
def tiny_files(tiny_checkpoint: Path) -> dict[str, bytes]:
    return folder_files(tiny_checkpoint)


@pytest.fixture
def hub(tiny_files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub with the tiny checkpoint as `me/tiny`."""
    with serve_hub() as hub:
        use_endpoint(monkeypatch, hub.endpoint, tmp_path / "cache")
        hub.repositories["me/tiny"] = Repository()
        hub.repositories["me/tiny"].commit(tiny_files)
        yield hub
    our_hub._opened.clear()


def commit_of(hub: FakeHub, name: str = "me/tiny") -> str:
    return hub.repositories[name].branches["main"]


def forget(monkeypatch: pytest.MonkeyPatch, *, offline: bool = False) -> None:
    """Make the next use of a name like that of a new process."""
    our_hub._opened.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)


def refused(name: str = NAME, component: str = "vae") -> str:
    with pytest.raises(UserError) as caught:
        CheckpointSet.open(name).path(component)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_without_a_home_directory_no_folder_of_that_name_is_made(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The library's default is `~/.cache`, as it is if there is no home."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", "~/.cache/huggingface/hub")
    assert "no home directory for the hub's cache; set HF_HOME" in refused()
    assert not (tmp_path / "~").exists()


def test_only_the_components_that_are_needed_are_downloaded(hub: FakeHub, tiny_checkpoint: Path) -> None:
    checkpoints = CheckpointSet.open(NAME)
    assert checkpoints.manifest == read_manifest(tiny_checkpoint)
    assert hub.downloads() == [MANIFEST]
    sets = [CheckpointSet.open(name) for name in (NAME, str(tiny_checkpoint))]
    theirs, ours = (opened.load("vae", cpu_mesh(), jnp.float32) for opened in sets)
    jax.tree.map(np.testing.assert_array_equal, theirs.weights, ours.weights)
    assert {name.partition("/")[0] for name in hub.downloads()} == {MANIFEST, "vae"}
    checkpoints.tokenizer("text_t5")
    assert {name.partition("/")[0] for name in hub.downloads()} == {MANIFEST, "vae", "text_t5"}
    assert len(hub.downloads()) == len(set(hub.downloads()))
    assert all(commit_of(hub) in request for request in hub.requests if "/resolve/" in request)


def test_a_cascade_is_loaded_from_the_hub(hub: FakeHub, tiny_checkpoint: Path) -> None:
    cascade = Cascade.load(NAME, tiny_config.settings(), devices=jax.devices()[:1])
    assert hub.downloads() == [MANIFEST]
    with cascade.network("keyframes") as network:
        assert jax.tree.leaves(network.weights)
    assert {name.partition("/")[0] for name in hub.downloads()} == {MANIFEST, "keyframes"}
    assert cascade.spec.manifest == read_manifest(tiny_checkpoint)


def test_once_cached_no_network_is_needed(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    CheckpointSet.open(NAME).path("vae")
    commit = commit_of(hub)
    for name in (NAME, f"{NAME}@{commit}"):
        forget(monkeypatch, offline=True)
        hub.requests.clear()
        assert CheckpointSet.open(name).path("vae").name == commit
        assert not hub.requests
    assert capsys.readouterr().err == f"{NAME}: using commit {commit} from the hub's cache\n"
    assert "HF_HUB_OFFLINE is set, and the hub's cache has no copy" in refused(component="keyframes")
    forget(monkeypatch)
    hub.requests.clear()
    CheckpointSet.open(f"{NAME}@{commit}").path("vae")  # a commit is not asked for again
    assert not hub.requests


def test_without_network_and_cache(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        use_endpoint(monkeypatch, f"http://127.0.0.1:{unused.getsockname()[1]}", tmp_path / "other")
        assert "the hub cannot be reached; go online, or download the folder elsewhere" in refused()


def test_the_revision_is_resolved_once(hub: FakeHub, tiny_files: dict[str, bytes]) -> None:
    first = CheckpointSet.open(NAME).path("vae").name
    hub.repositories["me/tiny"].commit({**tiny_files, "README.md": b"new"})
    assert commit_of(hub) != first
    assert CheckpointSet.open(NAME).path("vae").name == first
    hub.repositories["me/tiny"].branches["v1"] = first
    assert CheckpointSet.open(f"{NAME}@v1").path("text_clip").name == first
    assert hub_commits([Path(NAME), Path(f"{NAME}@v1"), Path("checkpoints/demo")]) == {NAME: first, f"{NAME}@v1": first}
    assert CheckpointSet.open(NAME).provenance("vae") == {
        "source": NAME,
        "revision": first,
        "starts_from": CheckpointSet.open(NAME).component("vae").provenance,
    }


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("hub:me/nothing", "me/nothing: no such repository on the hub, or a private one; check the name, or run `hf"),
        (
            "hub:gated/tiny",
            "gated/tiny is gated: log in at https://huggingface.co/gated/tiny, accept its licence there",
        ),
        (f"{NAME}@v9", "me/tiny has no revision 'v9'"),
        ("hub:me/torch", "hub:me/torch: has no manifest.json, so it is no checkpoint of show1_jax; released PyTorch"),
        ("hub:me/private", "me/private: no such repository on the hub, or a private one"),
        ("hub:tiny", "hub:tiny: not a checkpoint on the hub; give hub:OWNER/NAME or hub:OWNER/NAME@REVISION"),
        ("hub:", "hub:: not a checkpoint on the hub"),
        ("hub:../x", "hub:../x: not a checkpoint on the hub"),
        ("hub:me/tiny@../x", "not a checkpoint on the hub"),
        ("hub:me/tiny@/etc/x", "not a checkpoint on the hub"),
    ],
)
def test_refusals_in_one_line(hub: FakeHub, name: str, line: str) -> None:
    for other, private in (("me/torch", False), ("me/private", True)):
        hub.repositories[other] = Repository(private)
        hub.repositories[other].commit({"model_index.json": b"{}"})
    assert line in refused(name)


def test_a_token_opens_a_private_repository(
    hub: FakeHub, tiny_files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repositories["me/private"] = Repository(private=True)
    hub.repositories["me/private"].commit(tiny_files)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert CheckpointSet.open("hub:me/private").path("vae").is_dir()


@pytest.mark.parametrize(
    ("status", "line"),
    [
        (503, "me/tiny: the hub answers 503; try again later"),
        (403, "me/tiny: the token may not do this; run `hf auth login` with one that may, and run this again"),
    ],
)
def test_failures_of_the_hub(hub: FakeHub, status: int, line: str) -> None:
    hub.failures["GET api/models/me/tiny"] = status
    assert refused() == line
    CheckpointSet.open(NAME).path("vae")  # the next try works


def test_an_answer_of_another_server(hub: FakeHub) -> None:
    hub.failures["GET api/models/me/tiny"] = 200
    hub.page = b"<html>log in to this network</html>"
    assert "me/tiny: the answer is not one of the hub; check HF_ENDPOINT" in refused()


def test_a_token_that_cannot_be_sent(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_\u00e9secret")
    line = refused()
    assert "me/tiny: the token for the hub has characters that no token has; correct HF_TOKEN" in line
    assert "secret" not in line


def test_a_missing_component(hub: FakeHub) -> None:
    assert "the checkpoint has no component 'style', only" in refused(component="style")


def test_a_dropped_download_is_resumed(hub: FakeHub, tiny_files: dict[str, bytes]) -> None:
    largest = max((name for name in tiny_files if name.startswith("vae/")), key=lambda name: len(tiny_files[name]))
    hub.dropped.add(largest)
    path = CheckpointSet.open(NAME).path("vae")
    assert (path / largest).read_bytes() == tiny_files[largest]
    assert hub.downloads().count(largest) == 2


def test_a_damaged_download_is_refused_and_not_kept(hub: FakeHub, tiny_files: dict[str, bytes]) -> None:
    damaged = max((name for name in tiny_files if name.startswith("vae/")), key=lambda name: len(tiny_files[name]))
    hub.damaged.add(damaged)
    assert f"{NAME}: {damaged} is damaged (it is not the file of manifest.json); run this again" in refused()
    hub.damaged.clear()
    assert (CheckpointSet.open(NAME).path("vae") / damaged).read_bytes() == tiny_files[damaged]


def test_a_file_that_is_damaged_in_the_cache(hub: FakeHub, tiny_files: dict[str, bytes]) -> None:
    path = CheckpointSet.open(NAME).path("vae")
    damaged = max((name for name in tiny_files if name.startswith("vae/")), key=lambda name: len(tiny_files[name]))
    (path / damaged).resolve().write_bytes(bytes(len(tiny_files[damaged])))
    with pytest.raises(UserError, match=r"missing or changed: .*; remove .*models--me--tiny, and run this again"):
        CheckpointSet.open(NAME).load("vae", cpu_mesh(), jnp.float32)


def test_a_repository_that_lacks_a_file(hub: FakeHub, tiny_files: dict[str, bytes]) -> None:
    missing = next(name for name in tiny_files if name.startswith("vae/weights/"))
    hub.repositories["me/tiny"].commit({name: content for name, content in tiny_files.items() if name != missing})
    assert f"{NAME}: has no {missing}, which its manifest.json lists; ask its owner" in refused()


def test_a_manifest_that_names_files_elsewhere(hub: FakeHub, tiny_files: dict[str, bytes]) -> None:
    hub.repositories["me/tiny"].commit({MANIFEST: tiny_files[MANIFEST].replace(b"vae/weights", b"../../weights")})
    assert "manifest.json: damaged" in refused()


def test_a_full_disk(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    CheckpointSet.open(NAME)
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10))
    assert "the disk has 0.0 GB free; make room, or set HF_HOME to a folder on another disk" in refused()


@given(st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=20))
def test_a_local_name_is_never_a_download(name: str) -> None:
    """Nothing but the prefix makes a name one of the hub: a typo in a path must not download gigabytes."""
    assert is_hub_name(name) == name.startswith("hub:")


def test_a_typo_in_a_path_stays_a_wrong_path(hub: FakeHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="me/tiny: no checkpoint; make one with `python -m convert --out me/tiny`"):
        CheckpointSet.open("me/tiny")
    assert not hub.requests
    assert is_checkpoint_or_run(Path(NAME))  # so that no random weights are written in its place


def test_an_adapter_from_the_hub(hub: FakeHub, tmp_path: Path, tiny_checkpoint: Path) -> None:
    folder = write_adapter(tmp_path / "adapter", tiny_checkpoint, pairs())
    hub.repositories["me/style"] = Repository()
    hub.repositories["me/style"].commit(folder_files(folder))
    cascade = Cascade.load(NAME, tiny_config.settings(), devices=jax.devices()[:1], adapters="hub:me/style:0.5")
    (adapter,) = cascade.spec.adapters
    assert (adapter.component, adapter.strength, adapter.folder.name) == ("keyframes", 0.5, commit_of(hub, "me/style"))
    with pytest.raises(UserError, match="me/none: no such repository"):
        Cascade.load(NAME, tiny_config.settings(), adapters="hub:me/none")
    with pytest.raises(UserError, match="there is no adapter me/style;"):
        Cascade.load(NAME, tiny_config.settings(), adapters="me/style:0.5")


def test_training_starts_from_the_hub(hub: FakeHub) -> None:
    plan = make_plan(tiny_runs.settings(Path(NAME), "keyframes", init=NAME), "keyframes", "cpu")
    assert plan.starts_from is not None
    assert plan.record.provenance["source"] == NAME
    assert plan.record.provenance["revision"] == commit_of(hub)
    assert plan.checkpoints is not None
    assert os.path.isdir(plan.frozen_folder("text_t5") / "text_t5/weights")


def test_one_checkpoint_of_several_with_the_hub(hub: FakeHub, tmp_path: Path, tiny_checkpoint: Path) -> None:
    merge(f"{tiny_checkpoint},{NAME}", tmp_path / "out", ["vae"])
    own = read_manifest(tiny_checkpoint)
    assert read_manifest(tmp_path / "out").component("vae") == own.component("vae")
    assert set(STAGES) <= own.components.keys()


def test_a_sampled_video_records_the_commit(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = dataclasses.replace(tiny_config.settings(), checkpoint=NAME, out=str(tmp_path / "out"))
    request = Request(prompts=(Prompt("a cat", seed=1),), stages=("keyframes",), resume=False)
    sample_videos(config, request)
    (record,) = (tmp_path / "out").glob("*/run.json")
    made = json.loads(record.read_text())["made"]
    assert made["hub"] == {NAME: commit_of(hub)}
    assert {name.partition("/")[0] for name in hub.downloads()} == {MANIFEST, "keyframes", "text_t5"}
