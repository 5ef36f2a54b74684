"""Prompts and their checks, and file names of prompts. `show1_jax.sampling.prompt_files` reads files of prompts."""

import hashlib
import re
import unicodedata
from dataclasses import dataclass
from typing import Final

from show1_jax.errors import UserError

MAX_PROMPT_LENGTH: Final = 10_000
"""Characters of the longest prompt. The text encoders read the first 77 tokens, which have a few hundred characters."""
_SLUG_LENGTH: Final = 40


@dataclass(frozen=True)
class Prompt:
    """Prompt of one video. If the negative prompt or the seed is None, the config's is used.

    Attributes:
        text: description of the video, at most 10,000 characters.
        negative: content that the video should not show, for the stages that use it.
        seed: seed of all random draws of the video, 0 to 2^32 - 1.

    Example:
        >>> from show1_jax import Prompt
        >>> Prompt("a panda eating bamboo", negative="blur", seed=7)
        Prompt(text='a panda eating bamboo', negative='blur', seed=7)
    """

    text: str
    negative: str | None = None
    seed: int | None = None


def check_prompt(text: str) -> str:
    """Return a prompt unchanged, or refuse it.

    Raises:
        UserError: it is empty or only white space, too long, or contains bytes that are not text (lone surrogates).
    """
    if not text.strip():
        raise UserError("the prompt is empty; describe the video")
    return _check_text(text, "prompt")


def check_negative(text: str) -> str:
    """Return a negative prompt unchanged, or refuse it; it may be empty.

    Raises:
        UserError: it is too long, or contains bytes that are not text (lone surrogates).
    """
    return _check_text(text, "negative prompt")


def slug(prompt: str, seed: int) -> str:
    """Return a part of a file name for a prompt and seed: the prompt's first words, the seed, and a hash of both.

    It matches `[a-z0-9]+(-[a-z0-9]+)*` and, for seeds up to 2^32 - 1, has at most 60 characters.
    """
    ascii_text = unicodedata.normalize("NFKD", prompt).encode("ascii", "ignore").decode().lower()
    words = re.sub(r"[^a-z0-9]+", "-", ascii_text)[:_SLUG_LENGTH].strip("-") or "prompt"
    digest = hashlib.sha256(f"{seed} {prompt}".encode()).hexdigest()[:8]
    return f"{words}-{abs(seed)}-{digest}"


def _check_text(text: str, name: str) -> str:
    if len(text) > MAX_PROMPT_LENGTH:
        raise UserError(
            f"the {name} {text[:40]!a}... has {len(text):,} characters, more than {MAX_PROMPT_LENGTH:,}; shorten it: "
            "the text encoders read its first 77 tokens"
        )
    if not text.isprintable() and any("\ud800" <= character <= "\udfff" for character in text):
        raise UserError(f"{text[:40]!a} is not valid Unicode; write it in UTF-8")
    return text
