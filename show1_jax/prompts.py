"""Prompts from files, and names of files from prompts."""

import hashlib
import json
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from show1_jax.errors import UserError

MAX_SEED = 2**32 - 1
_JSON_TYPES = {"prompt": str, "negative": str, "seed": int}
_SLUG_LENGTH = 40


@dataclass(frozen=True)
class Prompt:
    """What one video is asked for; None leaves the negative prompt or the seed to the config."""

    text: str
    negative: str | None = None
    seed: int | None = None


def check_prompt(text: str) -> str:
    """Return a prompt as it is, once it is known to be one.

    Raises:
      UserError: it is empty or only white space, or holds bytes that were no text (lone surrogates).
    """
    if not text.strip():
        raise UserError("the prompt is empty; say what the video should show")
    return _check_unicode(text)


def read_prompts(path: str | Path) -> list[Prompt]:
    """Read a UTF-8 file of prompts; blank lines and lines that start with # are skipped.

    Each other line is a prompt or, where the file's name ends in `.jsonl` or the first such line starts with a brace, a
    JSON object with `prompt` and optionally `negative` and `seed` (null is the same as absent).

    Raises:
      UserError: the file cannot be read or holds no prompt, or a line is wrong (by its number).
    """
    path = Path(path)
    lines = {
        number: line.strip()
        for number, line in enumerate(re.split(r"\r\n|\r|\n", _read_text(path)), start=1)
        if line.strip() and not line.strip().startswith("#")
    }
    if not lines:
        raise UserError(f"{path}: no prompts in this file; write one a line")
    is_json = path.suffix.lower() == ".jsonl" or next(iter(lines.values())).startswith("{")
    parse: Callable[[str], Prompt] = _json_prompt if is_json else Prompt
    prompts = []
    for number, line in lines.items():
        try:
            prompts.append(parse(line))
        except UserError as error:
            raise UserError(f"{path}, line {number}: {error}") from None
    return prompts


def slug(prompt: str, seed: int) -> str:
    """A part of a file name for a prompt and seed: the prompt's first words, the seed, and a hash of both.

    It matches `[a-z0-9]+(-[a-z0-9]+)*` and, for seeds up to `MAX_SEED`, has at most 60 characters.
    """
    ascii_text = unicodedata.normalize("NFKD", prompt).encode("ascii", "ignore").decode().lower()
    words = re.sub(r"[^a-z0-9]+", "-", ascii_text)[:_SLUG_LENGTH].strip("-") or "prompt"
    digest = hashlib.sha256(f"{seed} {prompt}".encode()).hexdigest()[:8]
    return f"{words}-{abs(seed)}-{digest}"


def _read_text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path of the prompts file") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8") from None


def _check_unicode(text: str) -> str:
    if not text.isprintable() and any("\ud800" <= character <= "\udfff" for character in text):
        raise UserError(f"{text[:40]!a} is not valid Unicode; write it in UTF-8")
    return text


def _json_prompt(line: str) -> Prompt:
    try:
        values: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f'not valid JSON ({error}); write an object such as {{"prompt": "a panda"}}') from None
    if not isinstance(values, dict):
        raise UserError(f'not a JSON object: {line[:40]!r}; write one such as {{"prompt": "a panda"}}')
    for name, value in values.items():
        if name not in _JSON_TYPES:
            raise UserError(f"unknown key {name!r}; known are {', '.join(_JSON_TYPES)}")
        if value is not None and type(value) is not _JSON_TYPES[name]:
            raise UserError(f"{name} must be a {'whole number' if name == 'seed' else 'string'}, not {value!r}")
    prompt, negative, seed = (values.get(name) for name in _JSON_TYPES)
    if prompt is None:
        raise UserError("the key 'prompt' is missing")
    if seed is not None and not 0 <= seed <= MAX_SEED:
        raise UserError(f"seed must be from 0 to {MAX_SEED}, not {seed}")
    return Prompt(check_prompt(prompt), negative and _check_unicode(negative), seed)
