"""What the files of a released tokenizer say, read without `transformers`: bounded, typed, and what matters alone.

The library takes every setting of a `tokenizer_config.json` as an argument, file names and code among them; here the
few that change what it gives are passed on.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from show1_jax.errors import FileError, UserError, shown
from show1_jax.files import read_bounded, read_json

_REMEDY: Final = "download it again"
_MAX_BYTES: Final = 16 << 20
"""Of a file; released ones have at most 3 MB."""
_MAX_ID: Final = 2**31 - 1
_SPECIAL_TOKENS: Final = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_PASSED_ON: Final[tuple[str, ...]] = (
    *_SPECIAL_TOKENS,
    "added_tokens_decoder",
    "additional_special_tokens",
    "extra_special_tokens",
    "split_special_tokens",
)
_CONFIG, _SPECIAL, _ADDED = "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"
_VOCABULARY, _MERGES, _WHOLE = "vocab.json", "merges.txt", "tokenizer.json"


def special_tokens(folder: Path) -> dict[str, str | None]:
    """Return the special tokens that a folder's settings name, as transformers 4 and 5 find them; None is null.

    Raises:
        UserError: a file is damaged, or a token is no text.
    """
    settings = _table(folder / _CONFIG) or {}
    # Files of releases before 4.34 have the tokens in a file of their own, which then counts.
    if "added_tokens_decoder" not in settings:
        settings |= _table(folder / _SPECIAL) or {}
    return {name: _content(folder, name, settings[name]) for name in _SPECIAL_TOKENS if name in settings}


def clip_max_length(folder: Path) -> float:
    """Return how many tokens a CLIP folder's settings allow; infinity where they do not say.

    Raises:
        UserError: the settings are damaged, or have no number there.
    """
    value = (_table(folder / _CONFIG) or {}).get("model_max_length")
    if value is None:
        return float("inf")
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 2 or value % 1:
        problem = f"{folder / _CONFIG}: model_max_length={shown(value)} is no whole number of at least 2"
        raise FileError(problem, "correct it; released tokenizers have 77")
    return value if isinstance(value, int) else int(value)


def clip_files(folder: Path) -> dict[str, bytes]:
    """Return the files of a CLIP tokenizer that say what it gives, by name, each known to be what it should be.

    Raises:
        UserError: a file is missing or damaged, or has settings that are not supported.
    """
    settings = _table(folder / _CONFIG) or {}
    for side in ("padding_side", "truncation_side"):
        if settings.get(side, "right") != "right":
            raise UserError(f"{folder / _CONFIG}: {side}={shown(settings[side])} is not supported, only 'right'")
    passed_on = {name: settings[name] for name in _PASSED_ON if name in settings}
    files: dict[str, bytes] = {}
    for name in (_SPECIAL, _ADDED):
        if (values := _table(folder / name)) is not None:
            files[name] = _written(values)
    if (folder / _VOCABULARY).is_file() and (folder / _MERGES).is_file():
        vocabulary = _table(folder / _VOCABULARY) or {}
        files[_MERGES] = _read(folder / _MERGES)
    else:
        model = _table(folder / _WHOLE) or {}
        vocabulary, merges, added = _parts_of(folder / _WHOLE, model)
        files[_MERGES] = "\n".join(["#version: 0.2", *merges, ""]).encode()
        passed_on.setdefault("added_tokens_decoder", added)
    _check_ids(folder, vocabulary)
    return files | {_VOCABULARY: _written(vocabulary), _CONFIG: _written(passed_on)}


def added_ids(folder: Path, files: Mapping[str, bytes]) -> dict[str, int]:
    """Return the ids that the files of a CLIP tokenizer, as `clip_files` gives them, state of its added tokens.

    Raises:
        UserError: one is no id.
    """
    decoder = json.loads(files[_CONFIG]).get("added_tokens_decoder")
    try:
        if decoder is None:
            return {token: int(number) for token, number in json.loads(files.get(_ADDED, b"{}")).items()}
        return {token["content"]: int(number) for number, token in decoder.items()}
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError):
        raise FileError(f"{folder}: its added tokens are no table of ids", _REMEDY) from None


def _parts_of(path: Path, whole: Mapping[str, Any]) -> tuple[dict[str, Any], list[str], dict[str, Any]]:
    """Vocabulary, merges and added tokens of a `tokenizer.json`."""
    try:
        model, added = whole["model"], whole["added_tokens"]
        merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
        decoder = {str(token["id"]): {k: v for k, v in token.items() if k != "id"} for token in added}
        vocabulary = dict(model["vocab"])
    except (KeyError, TypeError, AttributeError, ValueError):
        raise FileError(f"{path}: no tokenizer of merges, as CLIP's", _REMEDY) from None
    return vocabulary, merges, decoder


def _check_ids(folder: Path, vocabulary: Mapping[str, Any]) -> None:
    if not vocabulary or not all(type(number) is int and 0 <= number <= _MAX_ID for number in vocabulary.values()):
        raise FileError(f"{folder}: its vocabulary is no table of ids by token", _REMEDY)


def _content(folder: Path, name: str, value: Any) -> str | None:
    """The text of a token, which may be written with how it is matched."""
    text = value.get("content") if isinstance(value, dict) else value
    if text is not None and not isinstance(text, str):
        raise FileError(f"{folder}: {name}={shown(value)} is no token", _REMEDY)
    return text


def _table(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file; None without one."""
    try:
        values = read_json(path, _REMEDY, max_bytes=_MAX_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if not isinstance(values, dict):
        raise FileError(f"{path}: not a table of settings", _REMEDY)
    return values


def _read(path: Path) -> bytes:
    try:
        return read_bounded(path, _MAX_BYTES)
    except OSError as error:
        raise FileError(f"{path}: cannot be read ({error.strerror})", _REMEDY) from None


def _written(values: Mapping[str, Any]) -> bytes:
    return json.dumps(values, ensure_ascii=False).encode()
