"""Uploads to a local hub: what arrives, what is refused, and that a failure leaves nothing visible."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from convert.__main__ import main
from convert.push import Upload, push
from show1_jax.checkpoints import hub as our_hub
from show1_jax.checkpoints.cards.model_card import is_own_card
from show1_jax.checkpoints.checkpoint_set import CheckpointSet
from show1_jax.checkpoints.manifest import CARD, MANIFEST, read_manifest, verify_files
from show1_jax.checkpoints.run_steps import TrainingCheckpoints
from show1_jax.errors import UserError
from tests.helpers.adapter_files import pairs, write_adapter
from tests.helpers.hub_server import TOKEN, FakeHub, Repository, folder_files, serve_hub, use_endpoint

# the hub's library calls its own HTTP library in an old way
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub, and a token for it."""
    with serve_hub() as hub:
        use_endpoint(monkeypatch, hub.endpoint, tmp_path / "cache")
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub
    our_hub._opened.clear()


@pytest.fixture
def checkpoint(tmp_path: Path, tiny_checkpoint: Path) -> Path:
    """An adapter of the tiny cascade, whose licence is recorded: a small checkpoint."""
    return with_licence(write_adapter(tmp_path / "adapter", tiny_checkpoint, pairs()), "mit")


def with_licence(checkpoint: Path, licence: str) -> Path:
    manifest = read_manifest(checkpoint)
    parts = {
        name: dataclasses.replace(part, provenance={"licence": licence}) for name, part in manifest.components.items()
    }
    dataclasses.replace(manifest, components=parts).write(checkpoint)
    return checkpoint


def refused(checkpoint: Path, upload: Upload) -> str:
    with pytest.raises(UserError) as caught:
        push(checkpoint, upload)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_was_pushed_is_loaded_again(
    hub: FakeHub, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["push", str(checkpoint), "me/style", "--message", "The first one"]) == 0
    repository = hub.repositories["me/style"]
    commit = repository.branches["main"]
    assert capsys.readouterr().out == f"hub:me/style: commit {commit} in main, {len(repository.files())} files\n"
    assert hub.messages == ["The first one"]
    own = folder_files(checkpoint)
    assert {name: content for name, content in repository.files().items() if name != CARD} == {
        name: content for name, content in own.items() if name != CARD
    }
    assert "--adapter hub:me/style" in repository.files()[CARD].decode()
    assert "--adapter DIR" in own[CARD].decode()
    assert len(hub.objects) >= 1  # large files went another way
    for name, content in repository.files().items():
        (tmp_path / "again" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "again" / name).write_bytes(content)
    verify_files(tmp_path / "again")
    with pytest.raises(UserError, match="is an adapter of keyframes"):
        CheckpointSet.open("hub:me/style")


def test_another_push_replaces_files_and_keeps_an_edited_card(
    hub: FakeHub, checkpoint: Path, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    push(checkpoint, Upload("me/style"))
    repository = hub.repositories["me/style"]
    own = {CARD: b"edited on the hub", "LICENSE": b"mine", "pictures/a.png": b"for the card"}
    repository.commit({**repository.files(), **own})
    other = with_licence(write_adapter(tmp_path / "other", tiny_checkpoint, pairs(seed=5)), "mit")
    push(other, Upload("me/style"))
    files = repository.files()
    assert {name: files[name] for name in own} == own
    assert files.keys() - own.keys() == folder_files(other).keys() - {CARD}
    assert files[MANIFEST] == (other / MANIFEST).read_bytes()
    (other / CARD).write_text("edited here")
    (other / "LICENSE").write_text("terms")
    push(other, Upload("me/style"))
    assert (repository.files()[CARD], repository.files()["LICENSE"]) == (b"edited here", b"terms")
    (other / CARD).unlink()
    repository.commit({name: content for name, content in repository.files().items() if name != CARD})
    push(other, Upload("me/style"))
    assert is_own_card(repository.files()[CARD].decode())


@pytest.mark.parametrize("manifest", [None, b"{}"])
def test_files_of_another_repository_are_not_removed(hub: FakeHub, checkpoint: Path, manifest: bytes | None) -> None:
    theirs = {"unet/weights.bin": b"theirs", **({} if manifest is None else {MANIFEST: manifest})}
    hub.repositories["me/style"] = Repository()
    hub.repositories["me/style"].commit(theirs)
    push(checkpoint, Upload("me/style"))
    assert hub.repositories["me/style"].files()["unet/weights.bin"] == b"theirs"


def test_a_branch_is_made(hub: FakeHub, checkpoint: Path) -> None:
    hub.repositories["me/style"] = Repository()
    hub.repositories["me/style"].commit({"README.md": b"a card"})
    push(checkpoint, Upload("me/style", revision="v2"))
    assert hub.repositories["me/style"].files().keys() == {"README.md"}
    assert MANIFEST in hub.repositories["me/style"].files("v2")


def test_a_training_run_is_pushed_without_its_state(hub: FakeHub, tmp_path: Path, tiny_checkpoint: Path) -> None:
    import jax
    import jax.numpy as jnp

    record = read_manifest(tiny_checkpoint).component("vae")
    run = TrainingCheckpoints(tmp_path / "run/checkpoints", keep=2, keep_every=0)
    run.save(1, "vae", record, {("bias",): jax.device_put(jnp.ones(3))}, {"step": jnp.int32(1)}, {})
    run.close()
    push(tmp_path / "run", Upload("me/run", licence="mit"))
    files = hub.repositories["me/run"].files()
    assert 'license: "mit"' in files[CARD].decode()
    assert not any(name.startswith("training/") for name in files)
    opened = CheckpointSet.open("hub:me/run")
    assert (opened.path("vae") / "vae/weights").is_dir()
    assert opened.manifest.component("vae").provenance["licence"] == "mit"
    assert opened.manifest.digest("vae") == read_manifest(tmp_path / "run/checkpoints/00000001").digest("vae")


@pytest.mark.parametrize(
    ("licence", "reason"),
    [
        ("CC BY-NC 4.0 (https://creativecommons.org/licenses/by-nc/4.0)", "forbids commercial use"),
        ("DeepFloyd IF License Agreement", "research only"),
        ("as the owner of the folder says", "not known here"),
    ],
)
def test_weights_of_others_are_published_only_knowingly(
    hub: FakeHub, checkpoint: Path, licence: str, reason: str
) -> None:
    with_licence(checkpoint, licence)
    line = refused(checkpoint, Upload("me/style"))
    assert f"me/style would be public, with weights under licences of others: keyframes: {licence} (" in line
    assert reason in line
    assert not hub.repositories
    push(checkpoint, Upload("me/style", is_private=True))
    assert hub.repositories["me/style"].private
    push(checkpoint, Upload("me/style"))  # it is private already
    hub.repositories["me/style"].private = False
    assert "would be public" in refused(checkpoint, Upload("me/style", is_private=True))
    push(checkpoint, Upload("me/style", accepts_licences=True))


def test_weights_without_a_licence_are_not_published_by_accident(
    hub: FakeHub, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    adapter = write_adapter(tmp_path / "adapter", tiny_checkpoint, pairs())
    line = refused(adapter, Upload("me/style"))
    assert "me/style would be public, with weights whose licence is not recorded: keyframes; state it" in line
    assert "whose licence is not recorded" in refused(adapter, Upload("me/style", accepts_licences=True))
    assert "the licence My own is no name of one" in refused(adapter, Upload("me/style", licence="My own"))
    assert not hub.repositories
    push(adapter, Upload("me/private", is_private=True))
    push(adapter, Upload("me/style", licence="mit"))
    assert 'license: "mit"' in hub.repositories["me/style"].files()[CARD].decode()
    assert "recorded already; omit --licence" in refused(
        with_licence(adapter, "mit"), Upload("me/style", licence="mit")
    )


def test_private_is_not_promised_for_a_public_repository(hub: FakeHub, checkpoint: Path) -> None:
    hub.repositories["me/style"] = Repository()
    assert "me/style: exists and is public; make it private" in refused(checkpoint, Upload("me/style", is_private=True))


def test_a_damaged_checkpoint_is_not_uploaded(hub: FakeHub, checkpoint: Path) -> None:
    largest = max((checkpoint / "keyframes").rglob("*"), key=lambda path: path.stat().st_size * path.is_file())
    largest.write_bytes(bytes(largest.stat().st_size))
    assert "damaged: changed keyframes/weights/" in refused(checkpoint, Upload("me/style"))
    assert not hub.requests


def test_no_token_and_refused_tokens(hub: FakeHub, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    line = refused(checkpoint, Upload("me/style"))
    assert "hf_other" not in line
    assert (
        line == "me/style: the token is missing or refused; run `hf auth login` with one that may, and run this again"
    )
    monkeypatch.delenv("HF_TOKEN")
    assert refused(checkpoint, Upload("me/style")).startswith("there is no token for the hub; run `hf auth login`")
    assert not hub.repositories


@pytest.mark.parametrize("name", ["style", "me/style@v1", "../style", "me/a/b", ""])
def test_names_of_repositories(hub: FakeHub, checkpoint: Path, name: str) -> None:
    assert "not the name of a repository; give OWNER/NAME, and --revision" in refused(checkpoint, Upload(name))
    assert not hub.requests


@pytest.mark.parametrize(
    ("upload", "line"),
    [
        (Upload("me/style", revision=""), "--revision= is not the name of a branch; give e.g. main or v2"),
        (Upload("me/style", revision="../x"), "--revision=../x is not the name of a branch"),
        (Upload("me/style", message=" "), "--message is empty; give the message of the commit"),
    ],
)
def test_a_target_is_checked_before_anything_is_uploaded(
    hub: FakeHub, checkpoint: Path, upload: Upload, line: str
) -> None:
    assert refused(checkpoint, upload).startswith(line)
    assert not hub.requests


def test_what_is_on_the_hub_is_no_folder(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["push", "hub:me/a", "me/b"], ["card", "hub:me/a"], ["verify", "hub:me/a"]):
        assert main(arguments) == 2
        assert "hub:me/a is a name on the hub; give a folder, e.g. one of `hf download" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("request_line", "status", "line"),
    [
        ("POST api/repos/create", 503, "me/style: the hub answers 503; try again later"),
        ("POST api/repos/create", 403, "me/style: the token may not do this"),
        ("POST api/models/me/style/commit", 503, "me/style: the hub answers 503; try again later"),
        ("PUT objects", 403, "me/style: the upload failed ("),
    ],
)
def test_a_failure_leaves_nothing_visible_and_is_continued(
    hub: FakeHub, checkpoint: Path, request_line: str, status: int, line: str
) -> None:
    hub.failures[request_line] = status
    reported = refused(checkpoint, Upload("me/style"))
    assert reported.startswith(line)
    assert "signature" not in reported
    assert not hub.repositories.get("me/style", Repository()).commits
    uploaded = set(hub.objects)
    hub.requests.clear()
    push(checkpoint, Upload("me/style"))
    again = {request.removeprefix("PUT objects/") for request in hub.requests if request.startswith("PUT objects/")}
    assert not uploaded & again  # what the hub has is not uploaded again
    assert MANIFEST in hub.repositories["me/style"].files()


def test_a_dropped_connection_is_tried_again(hub: FakeHub, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the library waits between its tries
    hub.failures["PUT objects"] = 500
    push(checkpoint, Upload("me/style"))
    assert MANIFEST in hub.repositories["me/style"].files()


def test_cards_on_the_command_line(tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = write_adapter(tmp_path / "adapter", tiny_checkpoint, pairs())
    before = (checkpoint / MANIFEST).read_bytes()
    assert main(["card", str(checkpoint), "--licence", "mit", "--contact_sheet", str(checkpoint / CARD)]) == 2
    assert "not a PNG" in capsys.readouterr().err
    assert (checkpoint / MANIFEST).read_bytes() == before
    assert main(["card", str(checkpoint), "--licence", "mit"]) == 0
    assert capsys.readouterr().out == f"{checkpoint / CARD}: written\n"
    assert read_manifest(checkpoint).component("keyframes").provenance == {"licence": "mit"}
    verify_files(checkpoint)
    assert 'license: "mit"' in (checkpoint / CARD).read_text()
    for arguments, line in (
        (["--licence", "mit"], "the licence of every component is recorded already; omit --licence"),
        (["--licence", "My own"], "the licence My own is no name of one"),
        (["--contact_sheet", str(checkpoint / CARD)], "not a PNG"),
    ):
        assert main(["card", str(checkpoint), *arguments]) == 2
        assert line in capsys.readouterr().err
    (checkpoint / CARD).write_text("mine")
    assert main(["card", str(checkpoint)]) == 2
    assert "was edited, so it is not replaced; remove it to get a new one" in capsys.readouterr().err
    assert main(["card", str(tmp_path / "nothing")]) == 2
    assert "no checkpoint" in capsys.readouterr().err
