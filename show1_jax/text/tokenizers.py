"""Texts to tokens, by tokenizers from `transformers`, with the ids that the original's gave.

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
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int

from show1_jax.errors import FileError, UserError, shown, shown_name
from show1_jax.text.tokenizer_files import added_ids, clip_files, clip_max_length, special_tokens

MAX_LENGTH = 77
"""Tokens of a prompt, for both released encoders: as many as the networks were trained with."""
_NUM_MERGES = 128


class Tokens(NamedTuple):
    """A batch of texts as an encoder takes it, on the host or on the devices.

    Attributes:
        ids: of the tokens, int32 (batch, positions).
        mask: 1 for tokens, 0 for padding, int32 (batch, positions).
    """

    ids: Any
    mask: Any


@runtime_checkable
class TextTokenizer(Protocol):
    """The tokenizer of one text encoder: a call gives the tokens of texts, each cut off or padded to `length`."""

    @property
    def length(self) -> int:
        """Positions of every text, of tokens and padding together."""

    @property
    def largest_id(self) -> int:
        """The largest id that it gives, added tokens among them."""

    def __call__(self, texts: Sequence[str]) -> Tokens: ...

    def cut_off(self, text: str) -> str:
        """Return the end of a text that has no place, as the tokenizer spells it; empty where everything fits."""


@runtime_checkable
class LibraryTokenizer(Protocol):
    """The part of a tokenizer of `transformers` that is used."""

    eos_token_id: int
    pad_token_id: int

    def get_vocab(self) -> dict[str, int]: ...

    def encode(self, text: str, *, add_special_tokens: bool, verbose: bool) -> list[int]: ...

    def decode(self, token_ids: list[int]) -> str: ...


class _Tokenizer:
    """A `TextTokenizer` on one of `transformers`.

    An end token ends even a text that is cut off; the empty text is the special tokens and padding.

    Attributes:
        library: the tokenizer of `transformers`.
        length: see `TextTokenizer`.
    """

    def __init__(self, library: LibraryTokenizer, length: int, start: Sequence[int] = ()):
        self.library = library
        self.length = length
        self._start = tuple(start)
        self._room = length - len(self._start) - 1

    @property
    def largest_id(self) -> int:
        """See `TextTokenizer`."""
        return max(self.library.get_vocab().values())

    def cut_off(self, text: str) -> str:
        """See `TextTokenizer`."""
        return self.library.decode(self._encode(text)[self._room :]).strip()

    def _rows(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of texts between their special tokens, without padding."""
        end = self.library.eos_token_id
        return [[*self._start, *self._encode(text)[: self._room], end] for text in texts]

    def _padded(self, rows: Sequence[Sequence[int]], pad: int) -> Int[np.ndarray, "b n"]:
        out = np.full((len(rows), self.length), pad, np.int32)
        for row, ids in zip(out, rows, strict=True):
            row[: len(ids)] = ids
        return out

    def _encode(self, text: str) -> list[int]:
        return self.library.encode(self._normalise(text), add_special_tokens=False, verbose=False)

    def _normalise(self, text: str) -> str:
        raise NotImplementedError


class T5Tokenizer(_Tokenizer):
    """T5's: texts are lower-cased and stripped, `</s>` ends them."""

    def __call__(self, texts: Sequence[str]) -> Tokens:
        rows = self._rows(texts)
        return Tokens(self._padded(rows, self.library.pad_token_id), self._padded([[1] * len(row) for row in rows], 0))

    def _normalise(self, text: str) -> str:
        return text.lower().strip()


class CLIPTokenizer(_Tokenizer):
    """CLIP's: texts stand between a start and an end token, and the tokenizer's own token pads them."""

    def __call__(self, texts: Sequence[str]) -> Tokens:
        ids = self._padded(self._rows(texts), self.library.pad_token_id)
        return Tokens(ids, mask_after_end(ids, self.library.eos_token_id))

    def _normalise(self, text: str) -> str:
        import ftfy

        fixed: str = ftfy.fix_text(text)
        return fixed.lower()


def mask_after_end(ids: Int[np.ndarray, "b n"], end: int) -> Int[np.ndarray, "b n"]:
    """Return 1 up to and with the first end token of each row, 0 after it: CLIP may pad with its end token."""
    is_end = ids == end
    ends_before = np.cumsum(is_end, axis=1) - is_end
    return (ends_before == 0).astype(np.int32)


_T5_TOKENS = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}


def load_t5_tokenizer(folder: str | Path) -> T5Tokenizer:
    """Return the T5 tokenizer of a released folder with a `spiece.model`; nothing is downloaded.

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
    return T5Tokenizer(tokenizer, MAX_LENGTH)


def load_clip_tokenizer(folder: str | Path) -> CLIPTokenizer:
    """Return the CLIP tokenizer of a released folder, whose config names the padding token; nothing is downloaded.

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
    length = int(min(clip_max_length(path), MAX_LENGTH))
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
    return CLIPTokenizer(tokenizer, length, start=(tokenizer.bos_token_id,))


def write_t5_tokenizer(folder: Path, texts: Sequence[str] = ()) -> None:
    """Write a small T5 tokenizer, in the released format, into a folder.

    Args:
        folder: exists.
        texts: byte-pair encoding (Sennrich et al. 2016) merges what is frequent in them, by at most `_NUM_MERGES`
            merges: a few dozen words become a token each. Without any it knows the bytes alone.
    """
    (folder / "spiece.model").write_bytes(_sentencepiece(texts))


def write_clip_tokenizer(folder: Path, texts: Sequence[str] = ()) -> None:
    """Write a small CLIP tokenizer, in the released format, into a folder; see `write_t5_tokenizer`."""
    merges = _merges(texts)
    (folder / "vocab.json").write_text(json.dumps(_vocabulary(merges), ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": MAX_LENGTH, "pad_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")


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
