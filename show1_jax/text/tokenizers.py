"""From texts to tokens, by tokenizers from `transformers`, with the same ids as the original.

The original used the slow tokenizers of transformers 4. T5's is sentencepiece itself: the fast one differs for texts
with combining marks. CLIP's fast one returns the same ids after ftfy and Python's `lower`.
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
"""Tokens of a prompt, for both released encoders, as in the training of the networks."""
_NUM_MERGES = 128


class Tokens(NamedTuple):
    """The input of a text encoder for a batch of texts, on the host or on the devices.

    Attributes:
        ids: ids of the tokens, int32 (batch, positions).
        mask: 1 for tokens, 0 for padding, int32 (batch, positions).
    """

    ids: Any
    mask: Any


@runtime_checkable
class TextTokenizer(Protocol):
    """The tokenizer of one text encoder: a call returns the tokens of texts, each cut off or padded to `length`."""

    @property
    def length(self) -> int:
        """Positions of every text: tokens and padding together."""

    @property
    def largest_id(self) -> int:
        """The largest id, added tokens included."""

    def __call__(self, texts: Sequence[str]) -> Tokens: ...

    def cut_off(self, text: str) -> str:
        """Return the end of a text that is cut off, decoded from its tokens; empty if the whole text fits."""


class _LibraryTokenizerBase:
    """A `TextTokenizer` that wraps a tokenizer of `transformers`.

    Every text has an end token, also after the cut-off. The empty text has the special tokens and padding alone.

    Attributes:
        library: the tokenizer of `transformers`; its token ids are attributes that it makes when they are read.
        length: see `TextTokenizer`.
    """

    def __init__(self, library: Any, length: int, start: Sequence[int] = ()):
        self.library = library
        self.length = length
        self._start = tuple(start)
        self._max_tokens = length - len(self._start) - 1  # without the special tokens

    @property
    def largest_id(self) -> int:
        """See `TextTokenizer`."""
        return int(max(self.library.get_vocab().values()))

    def cut_off(self, text: str) -> str:
        """See `TextTokenizer`."""
        return str(self.library.decode(self._encode(text)[self._max_tokens :])).strip()

    def _rows(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of texts with their special tokens, without padding."""
        end = self.library.eos_token_id
        return [[*self._start, *self._encode(text)[: self._max_tokens], end] for text in texts]

    def _padded(self, rows: Sequence[Sequence[int]], pad: int) -> Int[np.ndarray, "b n"]:
        out = np.full((len(rows), self.length), pad, np.int32)
        for row, ids in zip(out, rows, strict=True):
            row[: len(ids)] = ids
        return out

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self.library.encode(self._normalise(text), add_special_tokens=False, verbose=False)
        return ids

    def _normalise(self, text: str) -> str:
        raise NotImplementedError


class T5Tokenizer(_LibraryTokenizerBase):
    """The T5 tokenizer: texts are lower-cased and stripped; `</s>` is the end token."""

    def __call__(self, texts: Sequence[str]) -> Tokens:
        rows = self._rows(texts)
        return Tokens(self._padded(rows, self.library.pad_token_id), self._padded([[1] * len(row) for row in rows], 0))

    def _normalise(self, text: str) -> str:
        return text.lower().strip()


class CLIPTokenizer(_LibraryTokenizerBase):
    """The CLIP tokenizer: texts have a start and an end token; the padding token is that of the released files."""

    def __call__(self, texts: Sequence[str]) -> Tokens:
        ids = self._padded(self._rows(texts), self.library.pad_token_id)
        return Tokens(ids, mask_after_end(ids, self.library.eos_token_id))

    def _normalise(self, text: str) -> str:
        import ftfy

        fixed: str = ftfy.fix_text(text)
        return fixed.lower()


def mask_after_end(ids: Int[np.ndarray, "b n"], end: int) -> Int[np.ndarray, "b n"]:
    """Return 1 up to and including the first end token of each row, 0 after it: CLIP may pad with its end token."""
    is_end = ids == end
    ends_before = np.cumsum(is_end, axis=1) - is_end
    return (ends_before == 0).astype(np.int32)


_T5_TOKENS = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}


def load_t5_tokenizer(folder: str | Path) -> T5Tokenizer:
    """Return the T5 tokenizer of a released folder with a `spiece.model`; nothing is downloaded.

    Raises:
      UserError: the file is missing or is not a T5 sentencepiece model, or the settings name other special tokens.
    """
    path = _require_files(folder, "T5", "spiece.model") / "spiece.model"
    for name, token in special_tokens(path.parent).items():
        if token != _T5_TOKENS.get(name, token):
            problem = f"{path.parent}: {name} is {token!r}, and only {_T5_TOKENS[name]!r} is supported"
            raise FileError(problem, "use the released files")
    backend = _import_transformers().SentencePieceBackend
    try:
        tokenizer = backend(vocab_file=str(path), **_T5_TOKENS)
    except Exception:  # OSError, RuntimeError, or UnicodeDecodeError of a damaged piece
        raise UserError(f"{path}: not a sentencepiece model; download it again") from None
    if added := sorted(tokenizer.added_tokens_decoder.keys() - range(tokenizer.vocab_size)):
        lacking = ", ".join(str(tokenizer.added_tokens_decoder[number]) for number in added)
        raise FileError(f"{path}: not a T5 model, because it has no {lacking}", "download it again")
    return T5Tokenizer(tokenizer, MAX_LENGTH)


def load_clip_tokenizer(folder: str | Path) -> CLIPTokenizer:
    """Return the CLIP tokenizer of a released folder, whose config names the padding token; nothing is downloaded.

    Vocabulary and merges are read from `vocab.json` and `merges.txt`, as by the original's slow tokenizer. If these
    files are missing, they are read from the `tokenizer.json` that transformers 5 saves instead.

    Raises:
      UserError: a file is missing or unreadable, names no padding token, or has settings that are not supported.
    """
    path = _require_files(folder, "CLIP", "tokenizer_config.json")
    if not (path / "tokenizer.json").is_file():
        _require_files(folder, "CLIP", "vocab.json", "merges.txt")
    tokens = special_tokens(path)
    if lacking := [name for name in ("bos_token", "eos_token", "pad_token") if tokens.get(name, "") is None]:
        problem = f"{path}: {', '.join(lacking)} is null, and no prompt can be encoded without it"
        raise FileError(problem, "use the released files")
    length = int(min(clip_max_length(path), MAX_LENGTH))
    files = clip_files(path)
    with tempfile.TemporaryDirectory() as scratch:  # it contains no other file that the library would read
        for name, content in files.items():
            (Path(scratch) / name).write_bytes(content)
        try:
            # The clean-up affects the decoding of other tokenizers; the released value only causes a warning.
            tokenizer = _import_transformers().CLIPTokenizer.from_pretrained(
                scratch, local_files_only=True, clean_up_tokenization_spaces=False
            )
        except Exception as error:  # the library and its parsers raise many kinds on a damaged file
            reason = shown_name(" ".join(str(error).split()))
            raise UserError(f"{path}: the CLIP tokenizer cannot be read ({reason}); download it again") from None
    vocabulary = tokenizer.get_vocab()
    for token, number in added_ids(path, files).items():
        if vocabulary.get(token) != number:
            problem = f"{path}: {shown(token)} gets the id {vocabulary.get(token)} here, not {number} as in its files"
            raise FileError(problem, "use the released files")
    return CLIPTokenizer(tokenizer, length, start=(tokenizer.bos_token_id,))


def write_t5_tokenizer(folder: Path, texts: Sequence[str] = ()) -> None:
    """Write a small T5 tokenizer, in the released format, into a folder.

    Args:
        folder: existing folder.
        texts: corpus for at most `_NUM_MERGES` merges of byte-pair encoding (Sennrich et al. 2016): a few dozen
            frequent words become a token each. Without texts there are tokens for bytes alone.
    """
    (folder / "spiece.model").write_bytes(_train_sentencepiece(texts))


def write_clip_tokenizer(folder: Path, texts: Sequence[str] = ()) -> None:
    """Write a small CLIP tokenizer, in the released format, into a folder; see `write_t5_tokenizer`."""
    merges = _learn_merges(texts)
    (folder / "vocab.json").write_text(json.dumps(_clip_vocabulary(merges), ensure_ascii=False), encoding="utf-8")
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


def _import_transformers() -> Any:
    """Import the library late, because it takes a second, and without its advice to install PyTorch for models."""
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    import transformers

    return transformers


def _train_sentencepiece(texts: Sequence[str]) -> bytes:
    """Return a sentencepiece model with the first ids of T5.

    Its pieces are ASCII characters, UTF-8 bytes for all others, and merges.
    """
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


def _learn_merges(texts: Sequence[str]) -> list[tuple[str, str]]:
    """Return the pairs of pieces that CLIP's tokenizer merges, in order."""
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


def _clip_vocabulary(merges: Sequence[tuple[str, str]]) -> dict[str, int]:
    """Return CLIP's ids for bytes within a word, bytes at its end, merged pieces and the two special tokens."""
    from tokenizers.pre_tokenizers import ByteLevel

    alphabet = sorted(ByteLevel.alphabet())
    ends = [letter + "</w>" for letter in alphabet]
    pieces = [*alphabet, *ends, *map("".join, merges), "<|startoftext|>", "<|endoftext|>"]
    return {piece: index for index, piece in enumerate(pieces)}
