"""Tokenizers of the two text encoders, from `transformers`, with the ids that the original's gave.

The original's were the slow ones of transformers 4. T5's is sentencepiece itself, which the fast one differs from where
combining marks are; CLIP's fast one gives the same ids once the text has gone through ftfy and Python's `lower`.
"""

import io
import json
import os
import string
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int

from show1_jax.errors import FileError, UserError, shown, shown_name
from show1_jax.text.tokenizer_files import added_ids, clip_files, clip_max_length, special_tokens

MAX_LENGTH = 77
"""Tokens of a prompt, for both encoders: what the networks were trained with."""
_NUM_MERGES = 128


@runtime_checkable
class Tokenizer(Protocol):
    """What is used of a tokenizer of `transformers`."""

    eos_token_id: int
    pad_token_id: int

    def get_vocab(self) -> dict[str, int]: ...

    def encode(self, text: str, *, add_special_tokens: bool, verbose: bool) -> list[int]: ...

    def decode(self, token_ids: list[int]) -> str: ...


@runtime_checkable
class CLIPTokenizer(Tokenizer, Protocol):
    """A tokenizer that also starts its prompts with a token and knows how many its encoder takes."""

    bos_token_id: int
    model_max_length: int


_T5_TOKENS = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}


def load_t5_tokenizer(folder: str | Path) -> Tokenizer:
    """The T5 tokenizer of a released folder with a `spiece.model`; nothing is downloaded.

    Raises:
      UserError: the file is missing or is no sentencepiece model of T5, or the folder's settings name other tokens.
    """
    path = _require_files(folder, "T5", "spiece.model") / "spiece.model"
    for name, token in special_tokens(path.parent).items():
        if token != _T5_TOKENS.get(name, token):
            problem = f"{path.parent}: {name} is {token!r}, and only {_T5_TOKENS[name]!r} is supported"
            raise FileError(problem, "take the released files")
    backend = _transformers().SentencePieceBackend
    try:
        tokenizer = backend(vocab_file=str(path), **_T5_TOKENS)
    except Exception:  # OSError, RuntimeError, or UnicodeDecodeError of a damaged piece
        raise UserError(f"{path}: not a sentencepiece model; download it again") from None
    if added := sorted(tokenizer.added_tokens_decoder.keys() - range(tokenizer.vocab_size)):
        lacking = ", ".join(str(tokenizer.added_tokens_decoder[number]) for number in added)
        raise FileError(f"{path}: no model of T5's, as it has no {lacking}", "download it again")
    return tokenizer


def load_clip_tokenizer(folder: str | Path) -> CLIPTokenizer:
    """The CLIP tokenizer of a released folder, whose config names the padding token; nothing is downloaded.

    Its vocabulary and merges are `vocab.json` and `merges.txt`, as the original's slow tokenizer has them, or in their
    absence those of the `tokenizer.json` that transformers 5 saves alone.

    Raises:
      UserError: a file is missing or cannot be read, names no padding token, or has settings that are not supported.
    """
    path = _require_files(folder, "CLIP", "tokenizer_config.json")
    if not (path / "tokenizer.json").is_file():
        _require_files(folder, "CLIP", "vocab.json", "merges.txt")
    tokens = special_tokens(path)
    if lacking := [name for name in ("bos_token", "eos_token", "pad_token") if tokens.get(name, "") is None]:
        problem = f"{path}: {', '.join(lacking)} is null, and no prompt can be made as the encoder takes it"
        raise FileError(problem, "take the released files")
    length = min(clip_max_length(path), MAX_LENGTH)
    files = clip_files(path)
    with tempfile.TemporaryDirectory() as scratch:  # with nothing in it that the library would read besides
        for name, content in files.items():
            (Path(scratch) / name).write_bytes(content)
        try:
            # The clean-up is for decoding other kinds of tokenizers; the released value only makes a warning.
            tokenizer = _transformers().CLIPTokenizer.from_pretrained(
                scratch, local_files_only=True, clean_up_tokenization_spaces=False
            )
        except Exception as error:  # whatever the library and its parsers raise on a damaged file
            reason = shown_name(" ".join(str(error).split()))
            raise UserError(f"{path}: the CLIP tokenizer cannot be read ({reason}); download it again") from None
    given = tokenizer.get_vocab()
    for token, number in added_ids(path, files).items():
        if given.get(token) != number:
            problem = f"{path}: {shown(token)} gets the id {given.get(token)} here, not {number} as its files say"
            raise FileError(problem, "take the released files")
    tokenizer.model_max_length = length
    return tokenizer


def largest_id(tokenizer: Tokenizer) -> int:
    """The largest id that a tokenizer gives, added tokens among them."""
    return max(tokenizer.get_vocab().values())


def tokenize_t5(
    tokenizer: Tokenizer, prompts: Sequence[str], max_length: int = MAX_LENGTH
) -> tuple[Int[np.ndarray, "b n"], Int[np.ndarray, "b n"]]:
    """Ids and mask (1 for tokens, 0 for padding) of the prompts, lower-cased and stripped.

    `</s>` ends even a prompt that is cut off; the empty prompt is `</s>` and padding.
    """
    rows = [[*_t5_body(tokenizer, prompt)[: max_length - 1], tokenizer.eos_token_id] for prompt in prompts]
    mask = [[1] * len(row) for row in rows]
    return _padded(rows, max_length, tokenizer.pad_token_id), _padded(mask, max_length, 0)


def tokenize_clip(tokenizer: CLIPTokenizer, prompts: Sequence[str]) -> Int[np.ndarray, "b n"]:
    """Ids of the prompts between start and end tokens, padded with the tokenizer's own token to its model's length."""
    length = tokenizer.model_max_length
    rows = [
        [tokenizer.bos_token_id, *_clip_body(tokenizer, prompt)[: length - 2], tokenizer.eos_token_id]
        for prompt in prompts
    ]
    return _padded(rows, length, tokenizer.pad_token_id)


def t5_cut_off(tokenizer: Tokenizer, prompt: str, max_length: int = MAX_LENGTH) -> str:
    """The end of a prompt that `tokenize_t5` leaves out, as the tokenizer spells it; empty where everything fits."""
    return tokenizer.decode(_t5_body(tokenizer, prompt)[max_length - 1 :]).strip()


def clip_cut_off(tokenizer: CLIPTokenizer, prompt: str) -> str:
    """The end of a prompt that `tokenize_clip` leaves out, as the tokenizer spells it; empty where everything fits."""
    return tokenizer.decode(_clip_body(tokenizer, prompt)[tokenizer.model_max_length - 2 :]).strip()


def write_tokenizers(folder: str | Path, texts: Sequence[str] = ()) -> None:
    """Write a small tokenizer of each kind, in the released formats, into `folder`/t5 and `folder`/clip.

    Both know every byte, and what byte-pair encoding (Sennrich et al. 2016) merges in `texts` by at most
    `_NUM_MERGES` merges: a few dozen words become a token each.
    """
    t5, clip = Path(folder) / "t5", Path(folder) / "clip"
    for path in (t5, clip):
        path.mkdir(parents=True, exist_ok=True)
    (t5 / "spiece.model").write_bytes(_sentencepiece(texts))
    merges = _merges(texts)
    (clip / "vocab.json").write_text(json.dumps(_vocabulary(merges), ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (clip / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": MAX_LENGTH, "pad_token": "<|endoftext|>"}
    (clip / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")


def _t5_body(tokenizer: Tokenizer, prompt: str) -> list[int]:
    return tokenizer.encode(prompt.lower().strip(), add_special_tokens=False, verbose=False)


def _clip_body(tokenizer: CLIPTokenizer, prompt: str) -> list[int]:
    import ftfy

    return tokenizer.encode(ftfy.fix_text(prompt).lower(), add_special_tokens=False, verbose=False)


def _padded(rows: Sequence[Sequence[int]], length: int, pad: int) -> Int[np.ndarray, "b n"]:
    out = np.full((len(rows), length), pad, np.int32)
    for row, ids in zip(out, rows, strict=True):
        row[: len(ids)] = ids
    return out


def _require_files(folder: str | Path, kind: str, *names: str) -> Path:
    path = Path(folder)
    lacking = [name for name in names if not (path / name).is_file() or not (path / name).stat().st_size]
    if lacking:
        raise UserError(
            f"{path}: no {kind} tokenizer: {', '.join(lacking)} missing or empty; download the folder again"
        )
    return path


def _transformers() -> Any:
    """The library, imported late: it takes a second. Its advice to install PyTorch, for models, is not for us."""
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    import transformers

    return transformers


def _sentencepiece(texts: Sequence[str]) -> bytes:
    """A sentencepiece model of ASCII characters, UTF-8 bytes for all others, and merges; its first ids are T5's."""
    import sentencepiece

    alphabet = [letter for letter in string.printable if not letter.isspace()]
    merged = {"model_type": "bpe"} if texts else {"max_sentencepiece_length": 1}
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*alphabet, *texts]),
        model_writer=model,
        vocab_size=3 + 256 + len(alphabet) + 1 + _NUM_MERGES * bool(texts),
        hard_vocab_limit=False,
        character_coverage=1.0,
        byte_fallback=True,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
        **merged,
    )
    return model.getvalue()


def _merges(texts: Sequence[str]) -> list[tuple[str, str]]:
    """The pairs of pieces that CLIP's tokenizer merges, in their order."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    if not texts:
        return []
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    letters = {letter for text in texts for letter in text if not letter.isspace()}
    size = 2 * len(letters) + _NUM_MERGES
    trainer = trainers.BpeTrainer(vocab_size=size, end_of_word_suffix="</w>", show_progress=False)
    learner.train_from_iterator(texts, trainer)
    return [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]]


def _vocabulary(merges: Sequence[tuple[str, str]]) -> dict[str, int]:
    """CLIP's ids for bytes within a word, bytes that end one, merged pieces, and the two special tokens."""
    from tokenizers.pre_tokenizers import ByteLevel

    alphabet = sorted(ByteLevel.alphabet())
    ends = [letter + "</w>" for letter in alphabet]
    pieces = [*alphabet, *ends, *map("".join, merges), "<|startoftext|>", "<|endoftext|>"]
    return {piece: index for index, piece in enumerate(pieces)}
