"""Text in training: padding, tokens and states, text dropout, and the cache of states."""

import functools
import json
import pickle
import random
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import Mesh

from show1_jax.cascade.cascade import Cascade
from show1_jax.checkpoints.manifest import read_manifest
from show1_jax.checkpoints.random import write_random_checkpoint
from show1_jax.config.sampling import CascadeConfig, TextPadding
from show1_jax.config.training import DataConfig, TextConfig
from show1_jax.data import text_cache
from show1_jax.data.__main__ import main
from show1_jax.data.clips import training_clips, validation_clips
from show1_jax.data.dataset import features
from show1_jax.data.records import Records
from show1_jax.data.spec import ClipSpec
from show1_jax.data.text_cache import TextCache, write_text_cache
from show1_jax.data.videos import VideoSource
from show1_jax.errors import UserError
from show1_jax.parallel import MeshConfig, make_mesh, put_batch
from show1_jax.text.encoders import TEXT_ENCODERS
from show1_jax.text.tokenizers import mask_after_end
from show1_jax.training.text import (
    FrozenEncoder,
    StoredStates,
    TextSource,
    drop_captions,
    empty_caption,
    load_text_source,
)
from tests.helpers import tiny_config
from tests.helpers.buckets import BUCKET, upload_folder
from tests.helpers.gcs_server import GcsServer

CAPTIONS = ["A red circle moves left", "", "a \u00fc\u0142 \U0001f43c square", "x" * 300, " a red circle moves left "]
COMPONENTS = ["text_t5", "text_clip"]
PADDINGS: list[TextPadding] = ["encoded", "zeros"]
CACHES: list[tuple[str, TextPadding]] = [("text_t5", "encoded"), ("text_t5", "zeros"), ("text_clip", "zeros")]
BFLOAT16_STEP = 2.0**-8


@functools.cache
def sampled_states(checkpoint: Path, component: str, padding: TextPadding) -> np.ndarray:
    """Return the captions' states that the cascade's networks are conditioned on, on one device in float32."""
    cascade = Cascade.load(checkpoint, CascadeConfig(text_padding=padding), jax.devices()[:1])
    return np.asarray(cascade.encode_texts(component, [CAPTIONS])[0])


def token_mask(checkpoint: Path, component: str, captions: list[str]) -> np.ndarray:
    tokenizer = TEXT_ENCODERS[component].load_tokenizer(checkpoint / component / "tokenizer")
    mask: np.ndarray = tokenizer(captions).mask
    return mask > 0


def text_source(
    checkpoint: Path, component: str, padding: TextPadding, config: TextConfig | None = None
) -> tuple[TextSource, Mesh]:
    mesh = make_mesh(MeshConfig(data=2, fsdp=4))
    config = config or TextConfig()
    return load_text_source(config, checkpoint, component, padding=padding, mesh=mesh, dtype=jnp.float32), mesh


@pytest.fixture(scope="module")
def caches(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, TextPadding], Path]:
    """Write caches; return their folders by text encoder and padding."""
    folder = tmp_path_factory.mktemp("caches")
    paths = {(component, padding): folder / component / padding for component, padding in CACHES}
    for (component, padding), path in paths.items():
        write_text_cache(path, CAPTIONS * 2, tiny_checkpoint, component, padding=padding, batch_size=5)
    return paths


def test_a_large_cache_has_several_files(
    tiny_checkpoint: Path,
    caches: dict[tuple[str, TextPadding], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(text_cache, "FILE_BYTES", 2 * 77 * 32 * 2)
    write_text_cache(tmp_path / "cache", CAPTIONS, tiny_checkpoint, "text_t5", batch_size=5)
    names = sorted(path.name for path in (tmp_path / "cache").glob("*.array_record"))
    assert names == [f"states-0000{number}.array_record" for number in range(3)]
    ours, whole = (TextCache.open(one, "text_t5", "encoded") for one in (tmp_path / "cache", caches[CACHES[0]]))
    np.testing.assert_array_equal(ours.read(CAPTIONS), whole.read(CAPTIONS))


def test_a_cache_is_made_in_a_bucket(
    gcs: GcsServer, tiny_checkpoint: Path, caches: dict[tuple[str, TextPadding], Path], tmp_path: Path
) -> None:
    """Also with a checkpoint in a bucket; the files are those on disk."""
    upload_folder(gcs, tiny_checkpoint, "show1")
    (tmp_path / "captions").write_text("\n".join(CAPTIONS))
    arguments = ["--checkpoint", f"gs://{BUCKET}/show1", "--captions", str(tmp_path / "captions"), "--batch_size", "5"]
    assert main(["encode_text", *arguments, "--component", "text_t5", "--out", f"gs://{BUCKET}/cache"]) == 0
    names = gcs.names(BUCKET, "cache/")
    assert names == [f"cache/{name}" for name in ("cache.json", "files.json", "keys.bin", "states.array_record")]
    for name in names:
        path = caches["text_t5", "encoded"] / name.removeprefix("cache/")
        assert gcs.objects[BUCKET][name][0] == path.read_bytes()


# Padding


def test_mask_ends_with_the_first_end_token() -> None:
    ids = np.array([[5, 1, 9, 9, 9], [5, 9, 1, 9, 3], [5, 1, 2, 3, 9]])
    assert mask_after_end(ids, 9).tolist() == [[1, 1, 1, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 1, 1]]


@pytest.mark.parametrize("component", COMPONENTS)
def test_zeros_replace_the_states_of_padding_alone(tiny_checkpoint: Path, component: str) -> None:
    encoded, zeros = (sampled_states(tiny_checkpoint, component, padding) for padding in PADDINGS)
    mask = token_mask(tiny_checkpoint, component, CAPTIONS)
    assert mask[1].sum() == (1 if component == "text_t5" else 2)
    assert not mask[0].all()
    assert mask[3].all(), "a long caption has no padding"
    assert np.abs(encoded[~mask]).max() > 0
    np.testing.assert_array_equal(zeros, np.where(mask[..., None], encoded, 0))


def test_config_refuses_other_paddings() -> None:
    with pytest.raises(UserError, match="text_padding='none' is not one of"):
        CascadeConfig(text_padding="none")  # type: ignore[arg-type]


# Training and sampling use the same states


@pytest.mark.parametrize(("component", "padding"), [("text_t5", "encoded"), ("text_clip", "zeros")])
def test_sources_return_the_states_of_sampling(
    tiny_checkpoint: Path, caches: dict[tuple[str, TextPadding], Path], component: str, padding: TextPadding
) -> None:
    order = [3, 1, 4, 0, 2, 0]
    captions, wanted = [CAPTIONS[index] for index in order], sampled_states(tiny_checkpoint, component, padding)[order]
    cached = TextConfig(source="cache", cache=str(caches[component, padding]))
    for config, kind, tolerance in ((TextConfig(), FrozenEncoder, 1e-5), (cached, StoredStates, BFLOAT16_STEP)):
        source, mesh = text_source(tiny_checkpoint, component, padding, config)
        assert isinstance(source, kind)
        text = tuple(put_batch(array, mesh) for array in source.prepare(captions))
        states = np.asarray(jax.jit(source.encode)(source.weights, text), np.float32)
        np.testing.assert_allclose(states, wanted, rtol=tolerance, atol=1e-5)


# Text dropout


@pytest.mark.parametrize("config", ["encoder", "cache"])
def test_dropped_captions_are_the_empty_one(
    tiny_checkpoint: Path, caches: dict[tuple[str, TextPadding], Path], config: str
) -> None:
    settings_of = {"encoder": TextConfig(), "cache": TextConfig("cache", str(caches["text_t5", "encoded"]))}
    source, _ = text_source(tiny_checkpoint, "text_t5", "encoded", settings_of[config])
    text, empty = source.prepare(CAPTIONS), source.prepare([""] * len(CAPTIONS))
    keys = jax.random.split(jax.random.key(0), len(CAPTIONS))
    drop = jax.jit(lambda text, keys, rate: drop_captions(text, empty_caption(source), keys, rate))
    for rate, wanted in ((0.0, text), (1.0, empty)):
        for left, array in zip(drop(text, keys, rate), wanted, strict=True):
            assert left.dtype == array.dtype
            np.testing.assert_array_equal(left, array)


def test_examples_are_dropped_independently() -> None:
    keys = jax.random.split(jax.random.key(3), 2000)
    text = (np.ones((2000, 3), np.int32), np.ones((2000, 3, 2), ml_dtypes.bfloat16))
    empty = (np.zeros(3, np.int32), np.zeros((3, 2), ml_dtypes.bfloat16))
    drop = jax.jit(lambda text, keys: drop_captions(text, empty, keys, 0.1))
    ids, states = drop(text, keys)
    remains = np.asarray(ids[:, 0], bool)
    assert 0.07 < 1 - remains.mean() < 0.13
    assert (np.asarray(ids, bool) == remains[:, None]).all(), "a caption is dropped whole"
    assert (np.asarray(states, bool) == remains[:, None, None]).all(), "in all arrays"
    np.testing.assert_array_equal(drop(text, keys[::-1])[0], ids[::-1])


# The cache


def test_cache_has_every_caption_once_in_bfloat16(
    tiny_checkpoint: Path, caches: dict[tuple[str, TextPadding], Path]
) -> None:
    for (component, padding), path in caches.items():
        cache = TextCache.open(path, component, padding)
        assert cache.record.num_captions == len(CAPTIONS)
        states = cache.read(CAPTIONS)
        assert (states.dtype, states.shape) == (ml_dtypes.bfloat16, (5, 77, 32))
        wanted = sampled_states(tiny_checkpoint, component, padding)
        np.testing.assert_allclose(states.astype(np.float32), wanted, rtol=BFLOAT16_STEP, atol=1e-5)


def test_zeros_store_only_tokens(
    tiny_checkpoint: Path,
    caches: dict[tuple[str, TextPadding], Path],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    num_tokens = {component: token_mask(tiny_checkpoint, component, CAPTIONS).sum() for component in COMPONENTS}
    for (component, padding), path in caches.items():
        num_states = 77 * len(CAPTIONS) if padding == "encoded" else num_tokens[component]
        # ArrayRecord adds a header to each record, and its footer is a block of 64 KiB.
        assert 0 <= (path / "states.array_record").stat().st_size - num_states * 32 * 2 <= 2**17 + 1024
    write_text_cache(tmp_path / "cache", CAPTIONS, tiny_checkpoint, "text_clip", padding="zeros", batch_size=8)
    megabytes = num_tokens["text_clip"] * 32 * 2 / 5 / 1e6
    assert f"5 captions of {megabytes:.3g} MB take {megabytes * 5 / 1e3:.3g} GB" in capsys.readouterr().out


def test_cache_is_read_in_threads_and_in_other_processes(caches: dict[tuple[str, TextPadding], Path]) -> None:
    cache = TextCache.open(caches["text_t5", "zeros"], "text_t5", "zeros")
    wanted = {caption: cache.read([caption])[0] for caption in CAPTIONS}
    sent = pickle.loads(pickle.dumps(cache))
    assert len(pickle.dumps(cache)) < 2000, "states are not pickled"
    with ThreadPoolExecutor(8) as threads:
        read = list(threads.map(lambda caption: sent.read([caption])[0], CAPTIONS * 20))
    for caption, states in zip(CAPTIONS * 20, read, strict=True):
        np.testing.assert_array_equal(states, wanted[caption])


@pytest.mark.parametrize(
    ("ask", "line"),
    [
        (("text_clip", "encoded", None), "a cache of text_t5, but text_clip is wanted"),
        (("text_t5", "zeros", None), "made with text_padding='encoded', but the config has 'zeros'"),
        (("text_t5", "encoded", "0" * 64), "a cache of another text_t5 than the checkpoint's"),
    ],
)
def test_cache_of_another_kind(
    caches: dict[tuple[str, TextPadding], Path], ask: tuple[str, TextPadding, str | None], line: str
) -> None:
    with pytest.raises(UserError, match=line) as error:
        TextCache.open(caches["text_t5", "encoded"], *ask)
    assert "\n" not in str(error.value)


def test_cache_of_another_encoder_is_refused_if_there_is_a_checkpoint(
    caches: dict[tuple[str, TextPadding], Path], tmp_path: Path
) -> None:
    architecture = tiny_config.settings().architecture
    for component in COMPONENTS:
        write_random_checkpoint(tmp_path / component, {component: architecture[component]}, {}, seed=1)
    config = TextConfig("cache", str(caches["text_t5", "encoded"]))
    with pytest.raises(UserError, match="a cache of another text_t5 than the checkpoint's"):
        text_source(tmp_path / "text_t5", "text_t5", "encoded", config)
    for without in (tmp_path / "text_clip", tmp_path / "nowhere"):
        assert isinstance(text_source(without, "text_t5", "encoded", config)[0], StoredStates)


@settings(max_examples=30)
@given(caption=st.text(st.characters(exclude_categories=()), max_size=30))
def test_missing_caption_is_named(caches: dict[tuple[str, TextPadding], Path], caption: str) -> None:
    cache = TextCache.open(caches["text_t5", "encoded"], "text_t5", "encoded")
    if caption in CAPTIONS:
        return
    with pytest.raises(UserError) as error:
        cache.read([caption])
    assert repr(caption) in str(error.value)


def test_missing_cache(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no cache of text states; make one with"):
        TextCache.open(tmp_path, "text_t5", "encoded")


def test_damaged_caches_never_give_wrong_states(caches: dict[tuple[str, TextPadding], Path], tmp_path: Path) -> None:
    source = caches["text_t5", "zeros"]
    wanted = TextCache.open(source, "text_t5", "zeros").read(CAPTIONS)
    rng = random.Random(0)
    refused = 0
    for number in range(60):
        copy = shutil.copytree(source, tmp_path / str(number))
        path = copy / ["states.array_record", "keys.bin"][number % 2]
        data = bytearray(path.read_bytes())
        if rng.random() < 0.3:
            del data[rng.randrange(len(data)) :]
        else:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
        try:
            states = TextCache.open(copy, "text_t5", "zeros").read(CAPTIONS)
        except UserError:
            refused += 1
        else:
            np.testing.assert_array_equal(states, wanted)
    assert refused > 20


# Refusals of the command


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"component": "vae"}, "--component=vae is not one of text_t5, text_clip"),
        ({"checkpoint": Path("nowhere")}, "nowhere: no checkpoint"),
        ({"batch_size": 0}, "--batch_size=0 must be at least 1"),
    ],
)
def test_bad_arguments_of_encoding(tiny_checkpoint: Path, tmp_path: Path, changes: dict[str, Any], line: str) -> None:
    asked: dict[str, Any] = {
        "out": tmp_path / "cache",
        "captions": ["a"],
        "checkpoint": tiny_checkpoint,
        "component": "text_t5",
    }
    with pytest.raises(UserError, match=line):
        write_text_cache(**asked | changes)
    assert not list(tmp_path.iterdir())


def test_a_cache_is_not_overwritten(tiny_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "notes").touch()
    with pytest.raises(UserError, match="exists; choose another place with --out"):
        write_text_cache(tmp_path, ["a"], tiny_checkpoint, "text_t5")


def test_too_small_a_disk_is_refused_before_anything_is_written(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 99, 1))
    with pytest.raises(UserError, match=r"the disk has 0\.0 GB free; .*--text_padding=zeros"):
        write_text_cache(tmp_path / "cache", ["a"], tiny_checkpoint, "text_t5")
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_nothing(tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        (tmp_path / "was_here").touch()
        raise RuntimeError("write() failed: No space left on device; writing states")

    monkeypatch.setattr(text_cache, "_write_states", fail)
    with pytest.raises(UserError, match="cache: the disk is full, nothing was kept"):
        write_text_cache(tmp_path / "cache", ["a"], tiny_checkpoint, "text_t5")
    assert [path.name for path in tmp_path.iterdir()] == ["was_here"]


def test_record_is_plain_json(tiny_checkpoint: Path, caches: dict[tuple[str, TextPadding], Path]) -> None:
    record = json.loads((caches["text_clip", "zeros"] / "cache.json").read_text())
    assert record == {
        "component": "text_clip",
        "encoder": read_manifest(tiny_checkpoint).digest("text_clip"),
        "text_padding": "zeros",
        "num_captions": 5,
        "positions": 77,
        "width": 32,
        "captions_per_file": 0,
        "format": "show1_jax.text_cache.v1",
    }


# The command


def test_captions_of_a_dataset_but_of_damaged_records() -> None:
    video = {"name": "", "video": b"", "start": 0.0, "duration": 4.0, "fps": 8.0}

    class SecondIsDamaged(Records):
        def __init__(self) -> None:
            pass

        def __len__(self) -> int:
            return 4

        def __getitem__(self, index: int) -> bytes:
            if index == 1:
                raise RuntimeError("chunk data hash mismatch")
            record: bytes = features().serialize_example(video | {"caption": f"l\u00e4st {index}"})
            return record

    source = VideoSource(SecondIsDamaged(), range(4), sha256="", shortest_seconds=4.0)
    assert sorted(source.captions()) == ["l\u00e4st 0", "l\u00e4st 2", "l\u00e4st 3"]


def run(*arguments: object) -> int:
    return main(["encode_text", *map(str, arguments)])


def test_command_encodes_the_captions_of_training(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """These are those of the synthetic world's training and validation scenes, and the lines of a file."""
    (tmp_path / "prompts.txt").write_text("a prompt\n\na prompt\nl\u00e4st line", encoding="utf-8")
    out = tmp_path / "caches" / "clip"
    arguments = ["--checkpoint", tiny_checkpoint, "--component", "text_clip", "--out", out, "--text_padding", "zeros"]
    arguments += ["--batch_size", 8]
    assert run(*arguments, "--synthetic", 12, "--seed", 5, "--captions", tmp_path / "prompts.txt") == 0
    printed = capsys.readouterr()
    assert "MB take" in printed.out
    assert "encoding captions" in printed.err
    config = DataConfig(name="synthetic", num_synthetic=8, num_validation=4, seed=5)
    spec = ClipSpec(2, 2.0, 8, 8)
    asked: list[Sequence[str]] = [["", "a prompt", "l\u00e4st line"]]
    asked.append(next(training_clips(config, spec, batch_size=8, rows=range(8))).captions)
    asked += [batch.captions for batch in validation_clips(config, spec, batch_size=4, rows=range(4))]
    cache = TextCache.open(out, "text_clip", "zeros")
    for captions in asked:
        cache.read(captions)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "no captions; give --data, --synthetic or --captions"),
        (["--data", "nowhere"], "there is no dataset nowhere"),
        (["--captions", "nowhere"], "nowhere: cannot be read as UTF-8 text"),
        (["--synthetic", "0"], "--synthetic: 0 must be at least 1"),
        (["--text_padding", "none"], "--text_padding: invalid choice"),
    ],
)
def test_command_refuses(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], line: str
) -> None:
    rest = ["--checkpoint", tiny_checkpoint, "--component", "text_t5", "--out", tmp_path / "cache"]
    assert run(*rest, *arguments) == 2
    error = capsys.readouterr().err
    assert line in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())
