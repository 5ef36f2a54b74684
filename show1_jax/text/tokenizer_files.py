"""The files of a released tokenizer, read without `transformers`, with limits and type checks.

The library uses every setting of a `tokenizer_config.json` as an argument, including file names and code. This module
forwards only the few settings that affect the tokens.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from show1_jax.errors import FileError, UserError, shown
from show1_jax.files import read_bounded, read_json

_DOWNLOAD_AGAIN: Final = "download it again"
_MAX_FILE_BYTES: Final = 16 << 20
"""Upper bound of the size of a file; released ones have at most 3 MB."""
_MAX_ID: Final = 2**31 - 1
_SPECIAL_TOKENS: Final = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_FORWARDED_SETTINGS: Final[tuple[str, ...]] = (
    *_SPECIAL_TOKENS,
    "added_tokens_decoder",
    "additional_special_tokens",
    "extra_special_tokens",
    "split_special_tokens",
)
_TOKENIZER_CONFIG, _SPECIAL_TOKENS_MAP, _ADDED_TOKENS = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
_VOCAB, _MERGES, _TOKENIZER_JSON = "vocab.json", "merges.txt", "tokenizer.json"


def special_tokens(folder: Path) -> dict[str, str | None]:
    """Return the special tokens in the settings of a folder, as transformers 4 and 5 find them; None for null.

    Raises:
        UserError: a file is damaged, or a token is not a string.
    """
    settings = _read_object(folder / _TOKENIZER_CONFIG) or {}
    # Releases before 4.34 wrote the tokens to a separate file, which then takes precedence.
    if "added_tokens_decoder" not in settings:
        settings |= _read_object(folder / _SPECIAL_TOKENS_MAP) or {}
    return {name: _token_text(folder, name, settings[name]) for name in _SPECIAL_TOKENS if name in settings}


def clip_max_length(folder: Path) -> float:
    """Return the maximum number of tokens in the settings of a CLIP folder; infinity without one.

    Raises:
        UserError: the settings are damaged, or the value is not a whole number of at least 2.
    """
    value = (_read_object(folder / _TOKENIZER_CONFIG) or {}).get("model_max_length")
    if value is None:
        return float("inf")
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 2 or value % 1:
        problem = f"{folder / _TOKENIZER_CONFIG}: model_max_length={shown(value)} is not a whole number of at least 2"
        raise FileError(problem, "correct it; released tokenizers have 77")
    return value if isinstance(value, int) else int(value)


def clip_files(folder: Path) -> dict[str, bytes]:
    """Return the checked files of a CLIP tokenizer that affect its tokens, by name.

    Raises:
        UserError: a file is missing or damaged, or has settings that are not supported.
    """
    settings = _read_object(folder / _TOKENIZER_CONFIG) or {}
    for side in ("padding_side", "truncation_side"):
        if settings.get(side, "right") != "right":
            raise UserError(
                f"{folder / _TOKENIZER_CONFIG}: {side}={shown(settings[side])} is not supported, only 'right'"
            )
    forwarded = {name: settings[name] for name in _FORWARDED_SETTINGS if name in settings}
    files: dict[str, bytes] = {}
    for name in (_SPECIAL_TOKENS_MAP, _ADDED_TOKENS):
        if (values := _read_object(folder / name)) is not None:
            files[name] = _json_bytes(values)
    if (folder / _VOCAB).is_file() and (folder / _MERGES).is_file():
        vocabulary = _read_object(folder / _VOCAB) or {}
        files[_MERGES] = _read_file_bytes(folder / _MERGES)
    else:
        model = _read_object(folder / _TOKENIZER_JSON) or {}
        vocabulary, merges, added = _split_tokenizer_json(folder / _TOKENIZER_JSON, model)
        files[_MERGES] = "\n".join(["#version: 0.2", *merges, ""]).encode()
        forwarded.setdefault("added_tokens_decoder", added)
    _check_token_ids(folder, vocabulary)
    return files | {_VOCAB: _json_bytes(vocabulary), _TOKENIZER_CONFIG: _json_bytes(forwarded)}


def added_ids(folder: Path, files: Mapping[str, bytes]) -> dict[str, int]:
    """Return the ids of the added tokens in the files of a CLIP tokenizer that `clip_files` returned.

    Raises:
        UserError: an id is not an integer, or the table of tokens is malformed.
    """
    decoder = json.loads(files[_TOKENIZER_CONFIG]).get("added_tokens_decoder")
    try:
        if decoder is None:
            return {token: int(number) for token, number in json.loads(files.get(_ADDED_TOKENS, b"{}")).items()}
        return {token["content"]: int(number) for number, token in decoder.items()}
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError):
        raise FileError(f"{folder}: its added tokens are not a table of ids", _DOWNLOAD_AGAIN) from None


def _split_tokenizer_json(path: Path, whole: Mapping[str, Any]) -> tuple[dict[str, Any], list[str], dict[str, Any]]:
    """Return the vocabulary, the merges and the added tokens of a `tokenizer.json`."""
    try:
        model, added = whole["model"], whole["added_tokens"]
        merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
        decoder = {str(token["id"]): {k: v for k, v in token.items() if k != "id"} for token in added}
        vocabulary = dict(model["vocab"])
    except (KeyError, TypeError, AttributeError, ValueError):
        raise FileError(f"{path}: not a byte-pair tokenizer such as CLIP's", _DOWNLOAD_AGAIN) from None
    return vocabulary, merges, decoder


def _check_token_ids(folder: Path, vocabulary: Mapping[str, Any]) -> None:
    if not vocabulary or not all(type(number) is int and 0 <= number <= _MAX_ID for number in vocabulary.values()):
        raise FileError(f"{folder}: its vocabulary is not a table of ids by token", _DOWNLOAD_AGAIN)


def _token_text(folder: Path, name: str, value: Any) -> str | None:
    """Return the text of a token; in the file it may be an object with matching options."""
    text = value.get("content") if isinstance(value, dict) else value
    if text is not None and not isinstance(text, str):
        raise FileError(f"{folder}: {name}={shown(value)} is not a token", _DOWNLOAD_AGAIN)
    return text


def _read_object(path: Path) -> dict[str, Any] | None:
    """Return the JSON object in a file; None if the file is missing."""
    try:
        values = read_json(path, _DOWNLOAD_AGAIN, max_bytes=_MAX_FILE_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if not isinstance(values, dict):
        raise FileError(f"{path}: not a table of settings", _DOWNLOAD_AGAIN)
    return values


def _read_file_bytes(path: Path) -> bytes:
    try:
        return read_bounded(path, _MAX_FILE_BYTES)
    except OSError as error:
        raise FileError(f"{path}: cannot be read ({error.strerror})", _DOWNLOAD_AGAIN) from None


def _json_bytes(values: Mapping[str, Any]) -> bytes:
    return json.dumps(values, ensure_ascii=False).encode()
