"""Prompts, and names of files from prompts. Files of prompts are read by `show1_jax.sampling.prompt_files`."""

import hashlib
import re
import unicodedata
from dataclasses import dataclass
from typing import Final

from show1_jax.errors import UserError

MAX_PROMPT_LENGTH: Final = 10_000
"""In characters. The text encoders see the first 77 tokens, which have a few hundred."""
_SLUG_LENGTH: Final = 40


@dataclass(frozen=True)
class Prompt:
    """What one video is asked for; None leaves the negative prompt or the seed to the config."""

    text: str
    negative: str | None = None
    seed: int | None = None


def check_prompt(text: str) -> str:
    """Return a prompt as it is, once it is known to be one.

    Raises:
      UserError: it is empty or only white space, too long, or holds bytes that were no text (lone surrogates).
    """
    if not text.strip():
        raise UserError("the prompt is empty; say what the video should show")
    return _check_text(text, "prompt")


def check_negative(text: str) -> str:
    """Return a negative prompt as it is, once it is known to be one; it may be empty.

    Raises:
      UserError: as `check_prompt`.
    """
    return _check_text(text, "negative prompt")


def slug(prompt: str, seed: int) -> str:
    """A part of a file name for a prompt and seed: the prompt's first words, the seed, and a hash of both.

    It matches `[a-z0-9]+(-[a-z0-9]+)*` and, for seeds up to 2^32 - 1, has at most 60 characters.
    """
    ascii_text = unicodedata.normalize("NFKD", prompt).encode("ascii", "ignore").decode().lower()
    words = re.sub(r"[^a-z0-9]+", "-", ascii_text)[:_SLUG_LENGTH].strip("-") or "prompt"
    digest = hashlib.sha256(f"{seed} {prompt}".encode()).hexdigest()[:8]
    return f"{words}-{abs(seed)}-{digest}"


def _check_text(text: str, what: str) -> str:
    if len(text) > MAX_PROMPT_LENGTH:
        raise UserError(
            f"the {what} {text[:40]!a}... has {len(text):,} characters, more than {MAX_PROMPT_LENGTH:,}; shorten it: "
            "the text encoders see its first 77 tokens"
        )
    if not text.isprintable() and any("\ud800" <= character <= "\udfff" for character in text):
        raise UserError(f"{text[:40]!a} is not valid Unicode; write it in UTF-8")
    return text
