"""Components of several checkpoints and training runs as one checkpoint: none is lost, and damage is refused."""

import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from convert.__main__ import main
from convert.released import check_text_widths
from convert.stored import read_weights, stored_architecture
from convert.tables import parameters
from convert.verify import verify
from show1_jax.buckets.lease import LEASE
from show1_jax.checkpoints.arrays import new_checkpoint, tokenizer_folder, weight_shapes
from show1_jax.checkpoints.manifest import Manifest, read_manifest
from show1_jax.checkpoints.networks import network_kind
from show1_jax.checkpoints.random import write_random_checkpoint
from show1_jax.checkpoints.run_steps import TrainingCheckpoints
from show1_jax.errors import UserError
from show1_jax.files import storage_path
from show1_jax.parallel.weights import WeightPath
from show1_jax.text.tokenizers import load_clip_tokenizer, load_t5_tokenizer
from tests.helpers import tiny_config
from tests.helpers.buckets import BUCKET, upload_folder
from tests.helpers.gcs_server import Answer, GcsServer

Arrays = dict[WeightPath, np.ndarray]
NAMES = ("first_frame", "text_clip", "text_t5")
KERNEL = ("token_embedding", "embedding")
"""The path of a weight of the CLIP text encoder."""


def random_checkpoint(out: Path, *names: str, seed: int = 0) -> Path:
    config = tiny_config.settings()
    write_random_checkpoint(out, {name: config.architecture[name] for name in names}, config.schedulers, seed)
    return out


def weights_of(checkpoint: Path, name: str) -> Arrays:
    record = read_manifest(checkpoint).component(name)
    return read_weights(checkpoint, name, parameters(record.kind, stored_architecture(checkpoint, name, record)))


def assert_equal(ours: Mapping[WeightPath, np.ndarray], theirs: Mapping[WeightPath, np.ndarray]) -> None:
    """Compare components bit for bit."""
    assert ours.keys() == theirs.keys()
    for path, array in ours.items():
        assert (array.dtype, array.shape) == (theirs[path].dtype, theirs[path].shape)
        assert array.tobytes() == theirs[path].tobytes()


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_checkpoint(tmp_path_factory.mktemp("first") / "checkpoint", *NAMES)


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_checkpoint(tmp_path_factory.mktemp("second") / "checkpoint", "text_clip", seed=1)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, first: Path) -> Path:
    """Return a training run whose averaged weights all equal the number of the step."""
    workdir = tmp_path_factory.mktemp("runs") / "first_frame"
    record, shapes = read_manifest(first).component("first_frame"), weight_shapes(first, "first_frame")
    checkpoints = TrainingCheckpoints(workdir / "checkpoints", keep=2, keep_every=0)
    for step in (1, 2):
        average = {path: jnp.full(leaf.shape, step, jnp.float32) for path, leaf in shapes.items()}
        record = replace(record, provenance={"source": "train.py", "step": step})
        checkpoints.save(step, "first_frame", record, average, {"step": jnp.int32(step)}, {})
    checkpoints.close()
    return workdir


Merge = Callable[..., tuple[int, str]]


@pytest.fixture
def merge(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Merge:
    """Merge to `out`; return the exit code and the last line on stderr (bars are erased)."""

    def merge(checkpoints: Path | str, *arguments: str) -> tuple[int, str]:
        code = main(["merge", str(checkpoints), "--out", str(tmp_path / "out"), *arguments])
        error = capsys.readouterr().err.split("\r")[-1].strip("\n")
        assert "\n" not in error
        return code, error

    return merge


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def test_the_same_again(merge: Merge, first: Path, out: Path) -> None:
    assert merge(first) == (0, "")
    assert read_manifest(out).components == read_manifest(first).components
    for name in NAMES:
        assert_equal(weights_of(out, name), weights_of(first, name))
    verify(out)


def test_tokenizers_are_copied(merge: Merge, first: Path, out: Path) -> None:
    assert merge(first, "--component", "text_t5", "--component", "text_clip") == (0, "")
    assert list(read_manifest(out).components) == ["text_t5", "text_clip"]
    assert load_clip_tokenizer(tokenizer_folder(out, "text_clip"))
    assert load_t5_tokenizer(tokenizer_folder(out, "text_t5"))
    for path in (first / "text_clip/tokenizer").iterdir():
        assert (out / "text_clip/tokenizer" / path.name).read_bytes() == path.read_bytes()


def test_later_ones_replace_earlier_ones(merge: Merge, first: Path, second: Path, out: Path) -> None:
    assert merge(f"{first},{second}", "--component", "text_t5", "--component", "text_clip") == (0, "")
    assert_equal(weights_of(out, "text_clip"), weights_of(second, "text_clip"))
    assert_equal(weights_of(out, "text_t5"), weights_of(first, "text_t5"))
    provenance = {name: record.provenance["seed"] for name, record in read_manifest(out).components.items()}
    assert provenance == {"text_t5": 0, "text_clip": 1}


def test_checkpoints_in_a_bucket_are_those_on_disk(
    gcs: GcsServer, merge: Merge, second: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every command that reads a checkpoint; a flipped bit is refused by all."""
    upload_folder(gcs, second, "show1")
    url = f"gs://{BUCKET}/show1"
    assert main(["verify", str(second)]) == main(["verify", url]) == 0
    table = capsys.readouterr().out.splitlines()
    assert table[: len(table) // 2] == table[len(table) // 2 :]
    assert merge(f"{url},{url}") == (0, "")
    assert_equal(weights_of(out, "text_clip"), weights_of(second, "text_clip"))
    for place in (url, str(second)):
        exported = out.parent / f"exported_{place == url}"
        assert main(["export", place, "--component", "text_clip", "--out", str(exported)]) == 0
    assert files_in(out.parent / "exported_True") == files_in(out.parent / "exported_False")
    name = gcs.names(BUCKET, "show1/text_clip/weights/d/")[0]
    content = bytearray(gcs.objects[BUCKET][name][0])
    content[len(content) // 2] ^= 1
    gcs.write(BUCKET, name, bytes(content))
    shutil.rmtree(out)
    assert main(["verify", url]) == 2
    assert f"{url}: damaged: changed {name.removeprefix('show1/')}" in capsys.readouterr().err
    code, error = merge(url)
    assert (code, f"convert: {url}: " in error) == (2, True)
    assert not out.exists()


def test_a_checkpoint_is_made_in_a_bucket(
    gcs: GcsServer, second: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same as on disk; its manifest is written last, it is replaced only when asked, also by itself."""
    url = f"gs://{BUCKET}/merged"
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    arguments = ["merge", str(second), "--out", url]
    assert main(arguments) == 0
    assert f"{url}: written" in capsys.readouterr().out
    written = [request.name for request in gcs.requests if request.method == "POST"]
    written = [name for name in written if not name.endswith(LEASE)]
    assert (written[0], written[-1]) == ("merged/uploading.json", "merged/manifest.json")
    made = storage_path(url)
    assert read_manifest(made).components == read_manifest(second).components
    assert_equal(weights_of(made, "text_clip"), weights_of(second, "text_clip"))
    verify(made)
    assert main(arguments) == 2
    assert f"{url}: exists; choose another place, or replace it with --overwrite" in capsys.readouterr().err
    gcs.write(BUCKET, "merged/README.md", b"my own card")
    gcs.write(BUCKET, "merged/LICENSE", b"mine")
    before = set(gcs.names(BUCKET))
    assert main(["merge", url, "--out", url, "--dtype", "float16", "--overwrite"]) == 0
    assert "README.md: was edited, and is kept" in capsys.readouterr().err
    assert weights_of(made, "text_clip")[KERNEL].dtype == np.float16
    verify(made)
    assert [name for name in set(gcs.names(BUCKET)) & before if "/d/" in name] == []
    assert gcs.objects[BUCKET]["merged/README.md"][0] == b"my own card"
    assert gcs.objects[BUCKET]["merged/LICENSE"][0] == b"mine"
    gcs.write(BUCKET, "merged/thesis.tex", b"")
    assert main([*arguments, "--overwrite"]) == 2
    assert "has thesis.tex, which is no part of a checkpoint; choose another place" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_whose_upload_fails_is_kept_and_uploaded_later(
    gcs: GcsServer, second: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"gs://{BUCKET}/merged"
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    gcs.fault = lambda request: Answer(status=503) if request.name == "merged/text_clip/weights/_METADATA" else None
    assert main(["merge", str(second), "--out", url]) == 2
    (kept,) = tmp_path.glob("*/merged")
    command = f"python -m convert upload {kept} --out {url}"
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"convert: gs://{BUCKET}: the server does not answer")
    assert error.endswith(f"the checkpoint is finished and kept in {kept}; upload it with `{command}`")
    gcs.fault = lambda request: None
    with pytest.raises(UserError, match="no checkpoint, or its upload has not ended"):
        read_manifest(storage_path(url))
    assert "merged/uploading.json" in gcs.names(BUCKET)
    gcs.write(BUCKET, "merged/README.md", b"of the upload that did not end")
    assert main(command.split()[3:]) == 0
    verify(storage_path(url))
    assert sorted(files_in(kept)) == [name.removeprefix("merged/") for name in gcs.names(BUCKET)]
    assert all(gcs.objects[BUCKET][f"merged/{name}"][0] == content for name, content in files_in(kept).items())
    for out in (url, str(tmp_path / "here")):
        assert main(["upload", str(kept), "--out", out]) == 2
    assert "is not in a bucket; give gs://BUCKET/FOLDER" in capsys.readouterr().err


def test_the_command_for_a_kept_checkpoint_replaces_what_is_still_there(
    gcs: GcsServer, second: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also if the process is killed: the command is printed when the upload begins, and when it fails."""
    url = f"gs://{BUCKET}/merged"
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    upload_folder(gcs, second, "merged")
    arguments = ["merge", url, "--out", url, "--dtype", "float16", "--overwrite"]
    gcs.fault = lambda request: Answer(status=403) if request.name == "merged/uploading.json" else None
    assert main(arguments) == 2
    (kept,) = tmp_path.glob("*/merged")
    command = f"python -m convert upload {kept} --out {url} --overwrite"
    error = capsys.readouterr().err
    assert f"{url}: the upload begins; if this process is killed, repeat it with `{command}`" in error
    assert error.endswith(f"the checkpoint is finished and kept in {kept}; upload it with `{command}`\n")
    assert weights_of(storage_path(url), "text_clip")[KERNEL].dtype == np.float32
    gcs.fault = lambda request: None
    assert main(command.split()[3:]) == 0
    assert weights_of(storage_path(url), "text_clip")[KERNEL].dtype == np.float16


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("step", [None, 1])
def test_a_training_run(merge: Merge, first: Path, run: Path, out: Path, step: int | None) -> None:
    trained = run if step is None else run / "checkpoints" / f"{step:08d}"
    assert merge(f"{first},{trained}", "--dtype", "float16") == (0, "")
    assert set(read_manifest(out).components) == set(NAMES)
    record = read_manifest(out).component("first_frame")
    assert record.provenance == {"source": "train.py", "step": step or 2}
    assert record.schedulers == read_manifest(first).component("first_frame").schedulers
    assert {value for array in weights_of(out, "first_frame").values() for value in np.unique(array)} == {step or 2}
    assert {path.name for path in out.iterdir()} == {*NAMES, "manifest.json", "README.md"}
    verify(out)


def with_values(out: Path, source: Path, values: np.ndarray) -> Path:
    """Write a checkpoint of the CLIP text encoder of `source` with these values at the start of one weight."""
    weights = {path: array.copy() for path, array in weights_of(source, "text_clip").items()}
    weights[KERNEL].reshape(-1)[: values.size] = values
    with new_checkpoint(out) as writer:
        dtypes = {path: array.dtype for path, array in weights.items()}
        writer.add("text_clip", read_manifest(source).component("text_clip"), weights, dtypes)
    return out


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_dtypes(merge: Merge, second: Path, tmp_path: Path, out: Path, dtype: str) -> None:
    """Rounding is NumPy's, also for subnormal float16 and just below its overflow."""
    rng = np.random.default_rng(0)
    values = np.ldexp(rng.uniform(-1, 1, 10_000), rng.integers(-30, 15, 10_000)).astype(np.float32)
    values[:4] = (65519.996, -65504, 2**-25, 1 + 2**-11)
    source = with_values(tmp_path / "values", second, values)
    assert merge(source, "--dtype", dtype) == (0, "")
    numpy_dtype = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    expected = {path: array.astype(numpy_dtype) for path, array in weights_of(source, "text_clip").items()}
    assert_equal(weights_of(out, "text_clip"), expected)
    assert read_manifest(out).component("text_clip").dtype == dtype


@pytest.mark.parametrize(
    ("value", "arguments", "message"),
    [
        (65520, ["--dtype", "float16"], "1 weights too large for float16: token_embedding/embedding; "),
        (3.4e38, ["--dtype", "bfloat16"], "1 weights too large for bfloat16: token_embedding/embedding; "),
        (np.nan, [], "1 weights with NaN or infinity: token_embedding/embedding; "),
    ],
)
def test_bad_values(
    merge: Merge, second: Path, tmp_path: Path, value: float, arguments: list[str], message: str
) -> None:
    code, error = merge(with_values(tmp_path / "values", second, np.array([value])), *arguments)
    assert (code, message in error) == (2, True)
    assert [path.name for path in tmp_path.iterdir()] == ["values"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--component", "keyframes"], "has no component 'keyframes', only first_frame, text_clip, text_t5"),
        (["--dtype", "int8"], "--dtype: invalid choice: 'int8'"),
        (["--variant", "fp16"], "unrecognized arguments: --variant fp16"),
    ],
)
def test_bad_arguments(merge: Merge, first: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    code, error = merge(first, *arguments)
    assert (code, message in error) == (2, True)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_no_checkpoint(merge: Merge, first: Path, tmp_path: Path) -> None:
    code, error = merge(f"{first},{tmp_path / 'none'}")
    assert (code, "none: no checkpoint; make one with" in error) == (2, True)
    assert not list(tmp_path.iterdir())


def test_overwriting(merge: Merge, first: Path, second: Path, tmp_path: Path, out: Path) -> None:
    assert merge(first, "--component", "text_clip")[0] == 0
    before = (out / "manifest.json").read_bytes()
    code, error = merge(second)
    assert (code, "out: exists; choose another place, or replace it with --overwrite" in error) == (2, True)
    assert (out / "manifest.json").read_bytes() == before
    assert merge(f"{out},{second}", "--overwrite") == (0, "")  # in place
    assert_equal(weights_of(out, "text_clip"), weights_of(second, "text_clip"))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("folder", ["weights", "tokenizer"])
def test_damaged_files_are_refused(merge: Merge, second: Path, tmp_path: Path, folder: str) -> None:
    copy = Path(shutil.copytree(second, tmp_path / "copy"))
    files = [path for path in (copy / "text_clip" / folder).rglob("*") if path.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    code, error = merge(copy)
    assert (code, f"missing or changed: text_clip/{folder}/" in error) == (2, True)
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]


def test_files_outside_the_manifest_are_not_copied(merge: Merge, second: Path, tmp_path: Path, out: Path) -> None:
    copy = Path(shutil.copytree(second, tmp_path / "copy"))
    (copy / "text_clip/tokenizer/added_tokens.json").write_text("{}")
    assert merge(copy) == (0, "")
    assert not (out / "text_clip/tokenizer/added_tokens.json").exists()


def test_networks_that_do_not_fit_each_other(merge: Merge, first: Path, tmp_path: Path) -> None:
    wider = {**tiny_config.settings().architecture["text_t5"], "d_model": 48}
    write_random_checkpoint(tmp_path / "wider", {"text_t5": wider}, {})
    code, error = merge(f"{first},{tmp_path / 'wider'}")
    assert (code, "first_frame takes text states of width 32, but text_t5 gives 48" in error) == (2, True)
    assert [path.name for path in tmp_path.iterdir()] == ["wider"]


def test_a_component_s_name_leads_nowhere_else(merge: Merge, first: Path, tmp_path: Path) -> None:
    (tmp_path / "evil").mkdir()
    Manifest({"../elsewhere": read_manifest(first).component("text_t5")}, {}).write(tmp_path / "evil")
    code, error = merge(tmp_path / "evil")
    assert (code, "'../elsewhere' is not the name of a component" in error) == (2, True)
    assert [path.name for path in tmp_path.iterdir()] == ["evil"]


def test_too_little_room(merge: Merge, first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")
    needed = sum(2 * array.size for array in weights_of(first, "text_clip").values())
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=needed - 1))
    code, error = merge(first, "--component", "text_clip", "--dtype", "float16")
    assert (code, "free space or choose another place with --out" in error) == (2, True)
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=needed))
    assert merge(first, "--component", "text_clip", "--dtype", "float16") == (0, "")


def test_a_text_encoder_of_another_kind_is_refused() -> None:
    vae = network_kind("vae").architecture.from_dict(tiny_config.VAE)
    with pytest.raises(UserError, match="text_t5 is not a text encoder"):
        check_text_widths({"text_t5": vae})
