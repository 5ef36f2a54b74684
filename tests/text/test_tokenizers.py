"""Tokenizers against the recorded run (transformers 4.41.2), and texts and files that it does not cover."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from show1_jax.errors import UserError
from show1_jax.text.encoders import TEXT_ENCODERS
from show1_jax.text.tokenizers import CLIPTokenizer, T5Tokenizer, TextTokenizer, load_clip_tokenizer, load_t5_tokenizer
from tests.helpers.encoders import CLIP_FOLDER, T5_FOLDER


def test_recorded_ids(
    t5_tokenizer: T5Tokenizer, clip_tokenizer: CLIPTokenizer, recorded: Mapping[str, str], trace: dict[str, np.ndarray]
) -> None:
    ids, mask = t5_tokenizer([recorded["prompt"]])
    np.testing.assert_array_equal(ids, trace["text/t5_ids"])
    np.testing.assert_array_equal(mask, trace["text/t5_mask"])
    ids = clip_tokenizer([recorded["prompt"], recorded["negative_prompt"]]).ids
    np.testing.assert_array_equal(ids, trace["text/clip_ids"])


def test_recorded_ids_of_a_long_prompt(
    t5_tokenizer: T5Tokenizer, clip_tokenizer: CLIPTokenizer, recorded: Mapping[str, str], trace: dict[str, np.ndarray]
) -> None:
    prompt = " ".join([recorded["prompt"]] * 12)
    np.testing.assert_array_equal(t5_tokenizer([prompt]).ids, trace["text/long_t5_ids"])
    np.testing.assert_array_equal(clip_tokenizer([prompt]).ids, trace["text/long_clip_ids"])


# Ids of the slow tokenizers of transformers 4.41.2, without the special tokens around a prompt.
HARD_PROMPTS = [
    ("", [], []),
    ("  ", [], []),
    (
        "A  Red   CIRCLE, moves\tright!\n",
        [8, 24, 11, 3, 18, 23, 18, 34, 27, 3, 20, 13, 5, 35, 6, 32, 9, 44],
        [320, 513, 518, 267, 522, 526, 256],
    ),
    (
        "\u201ccurly\u201d it\u2019s",
        None,
        [257, 66, 84, 81, 75, 344, 257, 72, 339, 6, 338],
    ),
    ("&lt;b&gt; &amp;", [3, 45, 15, 9, 2, 42, 45, 36, 9, 2, 3, 45, 4, 20, 30, 2], [283, 321, 285, 261]),
    (
        "\ufb01\u0301 \uff1cpad\uff1e",
        [3, 17, 6, 2, 3, 58, 30, 4, 11, 59],
        [69, 127, 511, 283, 564, 323, 285],
    ),
    (
        "caf\u00e9 CAF\u00c9 cafe\u0301",
        [3, 18, 4, 17, 2, 3, 18, 4, 17, 2, 3, 18, 4, 17, 2],
        [66, 64, 69, 127, 358] * 3,
    ),
    ("hello</s>world", [3, 37, 10, 15, 15, 7, 1, 3, 19, 7, 16, 15, 11], None),
    ("a <pad> b <unk> c", [8, 0, 38, 2, 3, 18], None),
    ("<|endoftext|> hi <|startoftext|>", None, [578, 71, 328, 577]),
    ("\u0391\u03a3", [3, 2], [138, 109, 139, 480]),
    ("x\u200by\u200dz", [3, 60, 3, 28, 2, 61], [343, 158, 222, 489, 344, 158, 222, 491, 345]),
]


@pytest.mark.parametrize(("prompt", "t5_ids", "clip_ids"), HARD_PROMPTS)
def test_ids_of_hard_prompts(
    t5_tokenizer: T5Tokenizer,
    clip_tokenizer: CLIPTokenizer,
    prompt: str,
    t5_ids: list[int] | None,
    clip_ids: list[int] | None,
) -> None:
    if t5_ids is not None:
        ids, mask = t5_tokenizer([prompt])
        assert ids[0].tolist() == t5_ids + [1] + [0] * (76 - len(t5_ids))
        assert mask[0].tolist() == [1] * (len(t5_ids) + 1) + [0] * (76 - len(t5_ids))
    if clip_ids is not None:
        ids = clip_tokenizer([prompt]).ids
        assert ids[0].tolist() == [577] + clip_ids + [578] * (76 - len(clip_ids))


def test_clip_padding_is_the_tokenizers_own(golden: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(golden / CLIP_FOLDER / "tokenizer", tmp_path / "tokenizer")
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        (folder / name).unlink()
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 12, "pad_token": "!"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    ids = load_clip_tokenizer(folder)(["a red circle"]).ids
    assert ids.tolist() == [[577, 320, 513, 518, 578] + [0] * 7]


def edited(golden: Path, tmp_path: Path, folder: str, **changes: object) -> Path:
    """Copy a recorded tokenizer and change its settings; `...` removes one."""
    copy = Path(shutil.copytree(golden / folder / "tokenizer", tmp_path / "tokenizer"))
    path = copy / "tokenizer_config.json"
    settings = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in settings.items() if value is not ...}))
    return copy


@pytest.mark.parametrize("name", ["pad_token", "eos_token", "bos_token"])
def test_a_clip_tokenizer_that_cannot_pad_or_end_is_refused_when_it_is_loaded(
    golden: Path, tmp_path: Path, name: str
) -> None:
    folder = edited(golden, tmp_path, CLIP_FOLDER, **{name: None})
    with pytest.raises(UserError, match=rf"tokenizer: {name} is null, and no prompt .*; use the released files"):
        load_clip_tokenizer(folder)


def test_an_absent_padding_token_is_the_class_s_default(golden: Path, tmp_path: Path) -> None:
    folder = edited(golden, tmp_path, CLIP_FOLDER, pad_token=...)
    assert load_clip_tokenizer(folder).library.pad_token_id == 578


def test_old_releases_have_their_tokens_in_another_file(golden: Path, tmp_path: Path) -> None:
    """Without `added_tokens_decoder` the file of special tokens takes precedence, even over null."""
    folder = edited(golden, tmp_path, CLIP_FOLDER, pad_token=None, added_tokens_decoder=...)
    assert load_clip_tokenizer(folder).library.pad_token_id == 578


@pytest.mark.parametrize(
    ("value", "length"),
    [(77, 77), (12, 12), (77.0, 77), (10**30, 77), (1e30, 77), (10**400, 77), (None, 77), (..., 77), (2, 2)],
)
def test_a_clip_tokenizer_s_length_is_a_number_of_any_size(
    golden: Path, tmp_path: Path, value: object, length: int
) -> None:
    tokenizer = load_clip_tokenizer(edited(golden, tmp_path, CLIP_FOLDER, model_max_length=value))
    assert tokenizer(["a red circle " * 50]).ids.shape == (1, length)


@pytest.mark.parametrize("value", ["77", -1, 0, 1, 76.5, float("inf"), float("nan"), True, [77], {}])
def test_a_clip_tokenizer_s_length_that_is_no_number_is_refused_when_it_is_loaded(
    golden: Path, tmp_path: Path, value: object
) -> None:
    folder = edited(golden, tmp_path, CLIP_FOLDER, model_max_length=value)
    with pytest.raises(
        UserError, match=r"tokenizer_config\.json: model_max_length=.* is not a whole number of at least 2"
    ):
        load_clip_tokenizer(folder)


@pytest.mark.parametrize("name", ["padding_side", "truncation_side"])
def test_a_clip_tokenizer_that_pads_or_cuts_at_the_left_is_refused(golden: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=f"{name}='left' is not supported, only 'right'"):
        load_clip_tokenizer(edited(golden, tmp_path, CLIP_FOLDER, **{name: "left"}))


def test_settings_that_name_files_or_code_are_not_followed(golden: Path, tmp_path: Path) -> None:
    changes = {
        "vocab": {"a": 0},
        "merges": [],
        "vocab_file": "/etc/passwd",
        "tokenizer_file": "/etc/passwd",
        "fast_tokenizer_files": ["tokenizer.json", "tokenizer.0.0.1/../../x.json"],
        "init_inputs": [1, 2, 3],
        "auto_map": {"AutoTokenizer": ["evil.Evil", None]},
        "get_vocab": "conflicts with a method",
        "chat_template": "{{ 1 / 0 }}",
    }
    tokenizer = load_clip_tokenizer(edited(golden, tmp_path, CLIP_FOLDER, **changes))
    assert tokenizer(["a red circle"]).ids[0, :5].tolist() == [577, 320, 513, 518, 578]


def test_a_clip_tokenizer_as_transformers_5_saves_it_gives_the_same_ids(
    golden: Path, tmp_path: Path, clip_tokenizer: CLIPTokenizer
) -> None:
    import transformers

    saved = transformers.CLIPTokenizer.from_pretrained(golden / CLIP_FOLDER / "tokenizer")
    saved.save_pretrained(tmp_path)
    assert not (tmp_path / "vocab.json").exists()
    tokenizer = load_clip_tokenizer(tmp_path)
    prompts = [prompt for prompt, *_ in HARD_PROMPTS]
    np.testing.assert_array_equal(tokenizer(prompts).ids, clip_tokenizer(prompts).ids)
    assert tokenizer.largest_id == clip_tokenizer.largest_id == 578


def test_vocabulary_and_merges_take_precedence_over_tokenizer_json(
    golden: Path, tmp_path: Path, clip_tokenizer: CLIPTokenizer
) -> None:
    """The original's slow tokenizer reads no `tokenizer.json`."""
    folder = edited(golden, tmp_path, CLIP_FOLDER)
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {"a": 0}, "merges": []}, "added_tokens": []}))
    ids = load_clip_tokenizer(folder)(["a red circle"]).ids
    np.testing.assert_array_equal(ids, clip_tokenizer(["a red circle"]).ids)


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        "{}",
        '{"model": {"vocab": [["a", -1.5]], "merges": []}, "added_tokens": []}',
        '{"model": {"vocab": {"a": "0"}, "merges": [[1, 2]]}, "added_tokens": []}',
        '{"model": {"vocab": {"a": -1}, "merges": []}, "added_tokens": []}',
        '{"model": {"vocab": {"a": 1e400}, "merges": []}, "added_tokens": [3]}',
        "[" * 100_000,
        "x" * (17 << 20),
    ],
)
def test_damaged_files_of_transformers_5(golden: Path, tmp_path: Path, content: str) -> None:
    folder = edited(golden, tmp_path, CLIP_FOLDER)
    (folder / "vocab.json").unlink()
    (folder / "tokenizer.json").write_text(content)
    with pytest.raises(UserError, match="tokenizer") as refusal:
        load_clip_tokenizer(folder)
    assert len(str(refusal.value)) < 600


@pytest.mark.parametrize(("number", "message"), [(579, ""), (600, "'<new>' gets the id 579 here, not 600")])
def test_added_tokens_have_the_ids_that_their_files_say(
    golden: Path, tmp_path: Path, number: int, message: str
) -> None:
    folder = edited(golden, tmp_path, CLIP_FOLDER, added_tokens_decoder=...)
    (folder / "added_tokens.json").write_text(json.dumps({"<new>": number}))
    if message:
        with pytest.raises(UserError, match=message):
            load_clip_tokenizer(folder)
    else:
        assert load_clip_tokenizer(folder).largest_id == number


@pytest.mark.parametrize("decoder", [[], {"x": {}}, {"3": "a"}, {"1e400": {"content": "a"}}, {"600": {"content": "a"}}])
def test_malformed_added_tokens_are_refused(golden: Path, tmp_path: Path, decoder: object) -> None:
    with pytest.raises(UserError, match=str(tmp_path)):
        load_clip_tokenizer(edited(golden, tmp_path, CLIP_FOLDER, added_tokens_decoder=decoder))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pad_token": None}, "pad_token is None, and only '<pad>' is supported"),
        ({"pad_token": "<extra_id_0>"}, "pad_token is '<extra_id_0>'"),
        ({"eos_token": {"content": "</z>", "lstrip": False}}, "eos_token is '</z>', and only '</s>'"),
        ({"unk_token": 3}, "unk_token=3 is not a token"),
    ],
)
def test_a_t5_tokenizer_with_other_tokens_is_refused_when_it_is_loaded(
    golden: Path, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        load_t5_tokenizer(edited(golden, tmp_path, T5_FOLDER, **changes))


def test_a_sentencepiece_model_of_another_network_is_refused(golden: Path, tmp_path: Path) -> None:
    import sentencepiece

    folder = edited(golden, tmp_path, T5_FOLDER)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a b c d"]), model_prefix=str(folder / "spiece"), vocab_size=8, minloglevel=2
    )
    with pytest.raises(UserError, match=r"spiece\.model: not a T5 model, because it has no <pad>; download it again"):
        load_t5_tokenizer(folder)


@pytest.mark.parametrize("repeats", [1, 4, 5, 12, 15, 16, 40])
def test_cut_off_returns_the_omitted_end(
    t5_tokenizer: T5Tokenizer, clip_tokenizer: CLIPTokenizer, recorded: Mapping[str, str], repeats: int
) -> None:
    prompt = " ".join([recorded["prompt"]] * repeats)
    words = prompt.split()
    # 76 T5 tokens are four prompts of 16 and four words more; CLIP has a token for each word.
    assert t5_tokenizer.cut_off(prompt).split() == words[24:]
    assert clip_tokenizer.cut_off(prompt).split() == words[75:]


@pytest.mark.parametrize(
    ("load", "folder", "missing"),
    [
        (load_t5_tokenizer, T5_FOLDER, "spiece.model"),
        (load_clip_tokenizer, CLIP_FOLDER, "vocab.json"),
        (load_clip_tokenizer, CLIP_FOLDER, "merges.txt"),
        (load_clip_tokenizer, CLIP_FOLDER, "tokenizer_config.json"),
    ],
)
@pytest.mark.parametrize("damage", [b"", b"\xff{not this", None])
def test_damaged_tokenizers(
    golden: Path,
    tmp_path: Path,
    load: Callable[[Path], TextTokenizer],
    folder: str,
    missing: str,
    damage: bytes | None,
) -> None:
    copy = shutil.copytree(golden / folder / "tokenizer", tmp_path / "tokenizer")
    (copy / missing).unlink()
    if damage is not None:
        (copy / missing).write_bytes(damage)
    with pytest.raises(UserError, match=str(copy)) as error:
        load(copy)
    assert "\n" not in str(error.value)


def test_tokenizers_need_no_network_and_no_torch_and_print_nothing(golden: Path) -> None:
    program = f"""
import socket, sys
def refuse(*args, **kwargs): raise AssertionError("network")
socket.socket.connect = socket.getaddrinfo = refuse
from show1_jax.text import tokenizers as text
assert "transformers" not in sys.modules
t5 = text.load_t5_tokenizer({str(golden / T5_FOLDER / "tokenizer")!r})
clip = text.load_clip_tokenizer({str(golden / CLIP_FOLDER / "tokenizer")!r})
t5(["a red circle " * 100]), clip(["a red circle " * 100])
assert not {{"torch", "tensorflow"}} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory: pytest.TempPathFactory) -> tuple[T5Tokenizer, CLIPTokenizer]:
    folders = [tmp_path_factory.mktemp(encoder.kind) for encoder in TEXT_ENCODERS.values()]
    for folder, encoder in zip(folders, TEXT_ENCODERS.values(), strict=True):
        encoder.write_tokenizer(folder, ())
    return load_t5_tokenizer(folders[0]), load_clip_tokenizer(folders[1])


@given(prompt=st.text(max_size=200))
def test_byte_level_ids(byte_level: tuple[T5Tokenizer, CLIPTokenizer], prompt: str) -> None:
    t5, clip = byte_level
    ids, mask = t5([prompt])
    assert ids.shape == mask.shape == (1, 77)
    assert ids.dtype == mask.dtype == np.int32
    length = int(mask.sum())
    assert (mask[0] == (np.arange(77) < length)).all()
    assert ids[0, length - 1] == 1
    assert (ids[0, length:] == 0).all()
    ids = clip([prompt]).ids
    assert ids.shape == (1, 77)
    assert (ids[0, 0], ids[0, -1]) == (512, 513)


def test_byte_level_tokenizers_cover_every_character(byte_level: tuple[T5Tokenizer, CLIPTokenizer]) -> None:
    t5, clip = byte_level
    for prompt in ("A red panda, 4k!", "\u65e5\u672c \U0001f43c \u00fc\u0142"):
        assert t5.library.get_vocab()["<unk>"] not in t5([prompt]).ids
        assert clip.library.decode(clip([prompt]).ids[0].tolist()).count("\ufffd") == 0


def test_byte_level_tokenizers_are_the_same_every_time(tmp_path: Path) -> None:
    for encoder in TEXT_ENCODERS.values():
        for folder in ("a", "b"):
            (tmp_path / folder / encoder.kind).mkdir(parents=True)
            encoder.write_tokenizer(tmp_path / folder / encoder.kind, ())
    for path in (tmp_path / "a").rglob("*.*"):
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()
