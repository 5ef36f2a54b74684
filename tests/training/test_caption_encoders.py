"""Text encoders trained only on captions, and tokenizers whose tokens are words."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from show1_jax.checkpoints.arrays import tokenizer_folder
from show1_jax.checkpoints.manifest import read_manifest
from show1_jax.data.synthetic.world import scene_from_index
from show1_jax.errors import UserError
from show1_jax.nn.t5 import T5Config
from show1_jax.text.encoders import TEXT_ENCODERS
from show1_jax.text.tokenizers import TextTokenizer, load_clip_tokenizer, load_t5_tokenizer
from show1_jax.training import caption_encoders
from show1_jax.training.caption_encoders import LabelledCaptions, main, target_words, train_encoder

CAPTIONS = [scene_from_index(index, held_out=None).scene.sentence() for index in range(2000)]
T5 = {"vocab_size": 512, "d_model": 32, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizers")
    for component, encoder in TEXT_ENCODERS.items():
        (folder / component).mkdir()
        encoder.write_tokenizer(folder / component, CAPTIONS)
    return folder


def tokenizer(folder: Path, component: str) -> TextTokenizer:
    return TEXT_ENCODERS[component].load_tokenizer(folder / component)


def test_every_word_is_a_token(folder: Path) -> None:
    t5, clip = load_t5_tokenizer(folder / "text_t5"), load_clip_tokenizer(folder / "text_clip")
    lengths = np.array([len(caption.split()) for caption in CAPTIONS])
    ids, mask = t5(CAPTIONS)
    assert (mask.sum(axis=1) == lengths + 1).all()
    assert [t5.library.decode(row[:length].tolist()) for row, length in zip(ids, lengths, strict=True)] == CAPTIONS
    ids = clip(CAPTIONS).ids
    assert (np.argmax(ids == clip.library.eos_token_id, axis=1) == lengths + 1).all()


@given(prompt=st.text(max_size=100))
def test_other_text_is_encoded_byte_by_byte(folder: Path, prompt: str) -> None:
    t5, clip = load_t5_tokenizer(folder / "text_t5"), load_clip_tokenizer(folder / "text_clip")
    assert t5.library.get_vocab()["<unk>"] not in t5([prompt]).ids
    assert clip([prompt]).ids.max() <= clip.library.eos_token_id


def test_tokenizers_are_the_same_every_time(folder: Path, tmp_path: Path) -> None:
    for component, encoder in TEXT_ENCODERS.items():
        (tmp_path / component).mkdir()
        encoder.write_tokenizer(tmp_path / component, CAPTIONS)
    for path in folder.rglob("*.*"):
        assert path.read_bytes() == (tmp_path / path.relative_to(folder)).read_bytes()


def test_target_words_of_each_token() -> None:
    caption = "a red circle grows and a small blue square moves up on a navy background"
    shared = {"a", "navy", "background"}
    first = {"a", "red", "circle", "grows"} | shared
    second = {"and", "a", "small", "blue", "square", "moves", "up"} | shared
    everything = set(caption.split())
    assert target_words(caption) == [first] * 4 + [second] * 7 + [everything] * 5
    assert target_words("a red circle grows") == [{"a", "red", "circle", "grows"}] * 5


@pytest.mark.parametrize("component", ["text_t5", "text_clip"])
def test_targets_are_aligned_with_their_tokens(folder: Path, component: str) -> None:
    labelled = LabelledCaptions.from_captions(CAPTIONS[:50], tokenizer(folder, component))
    words = sorted({word for caption in CAPTIONS[:50] for word in caption.split()})
    for caption, mask, targets in zip(CAPTIONS, labelled.mask, labelled.targets, strict=False):
        assert [{words[i] for i in np.flatnonzero(row)} for row in targets[mask > 0]] == target_words(caption)
        assert mask[0] == (component == "text_t5")  # CLIP's start token precedes every word, and has no targets
    assert labelled.accuracy(jnp.asarray(2 * labelled.targets - 1)) == 1
    assert labelled.accuracy(jnp.asarray(1 - 2 * labelled.targets)) == 0


def test_a_word_of_several_tokens_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match="not one per word"):
        LabelledCaptions.from_captions(["a red panda"], tokenizer(folder, "text_t5"))


def test_training_learns_the_words(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caption_encoders, "BATCH_SIZE", 32)
    monkeypatch.setattr(caption_encoders, "LEARNING_RATE", 0.02)
    encoder, architecture = TEXT_ENCODERS["text_t5"], T5Config.from_dict(T5)
    labelled = LabelledCaptions.from_captions(CAPTIONS, tokenizer(folder, "text_t5"))
    _, before = train_encoder(encoder, architecture, labelled, 1)
    _, after = train_encoder(encoder, architecture, labelled, 300)
    assert before == 0
    assert after > 0.5


def config_file(folder: Path, **fields: object) -> str:
    clip = {
        "vocab_size": 642,
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
    }
    architecture = {"text_t5": T5 | fields, "text_clip": clip}
    path = folder / "config.py"
    path.write_text(
        "from ml_collections import ConfigDict\n\n\n"
        f"def get_config():\n    return ConfigDict({{'architecture': {architecture!r}}})\n"
    )
    return str(path)


def test_command_writes_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caption_encoders, "NUM_CAPTIONS", 500)
    main(["--config", config_file(tmp_path), "--out", str(tmp_path / "out"), "--steps", "2"])
    manifest = read_manifest(tmp_path / "out")
    assert {name: record.kind for name, record in manifest.components.items()} == {"text_t5": "t5", "text_clip": "clip"}
    assert manifest.component("text_t5").provenance["steps"] == 2
    t5 = load_t5_tokenizer(tokenizer_folder(tmp_path / "out", "text_t5"))
    assert t5(["a red circle grows"]).mask.sum() == 5


@pytest.mark.parametrize("steps", ["0", "-3"])
def test_command_refuses_to_train_for_no_steps(tmp_path: Path, steps: str) -> None:
    with pytest.raises(UserError, match=rf"--steps={steps} must be at least 1"):
        main(["--config", config_file(tmp_path), "--out", str(tmp_path / "out"), "--steps", steps])
    assert not (tmp_path / "out").exists()


def test_command_refuses_too_few_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caption_encoders, "NUM_CAPTIONS", 500)
    with pytest.raises(UserError, match=r"architecture.text_t5: vocab_size=300 must be at least \d+"):
        main(["--config", config_file(tmp_path, vocab_size=300), "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_command_needs_a_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_devices() -> None:
        raise RuntimeError("Unable to initialize backend 'abacus'")

    monkeypatch.setattr(jax, "devices", no_devices)
    with pytest.raises(UserError, match="JAX finds no devices"):
        main(["--config", config_file(tmp_path), "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
