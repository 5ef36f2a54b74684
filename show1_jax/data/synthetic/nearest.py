"""The sentence of the synthetic world that is nearest to any text, for users who do not know its words."""

import difflib
import re
from collections.abc import Iterable
from typing import Final

from show1_jax.data.synthetic.shapes import SHAPES
from show1_jax.data.synthetic.world import BACKGROUNDS, COLORS, MOTIONS, SIZES, Scene, Thing, parse_sentence
from show1_jax.errors import UserError

WORLD_SOURCE: Final = "show1_jax.training.caption_encoders"
"""Source, in a checkpoint's record, of text encoders that know the captions of this world and nothing else."""


def _one_of(words: Iterable[str]) -> str:
    *first, last = filter(None, words)
    return f"{', '.join(first)} or {last}"


WORLD_EXAMPLE: Final = "a small red circle moves right on a navy background"
WORLD_WORDS: Final = (
    f"sentences like {WORLD_EXAMPLE!r}, about one thing or two joined by 'and'; sizes, if any: {_one_of(SIZES)}; "
    f"colours: {_one_of(COLORS)}; shapes: {_one_of(SHAPES)}; motions: {_one_of(MOTIONS)}; "
    f"backgrounds, if any: {_one_of(BACKGROUNDS)}"
)
"""The parts of the world's sentences, in one line for people who do not program."""

_MOTION_WORDS: Final = {motion.split()[-1]: motion for motion in MOTIONS}
_SLOTS: Final[dict[str, dict[str, str]]] = {
    "size": {"large": "large", "big": "large", "huge": "large", "small": "small", "little": "small", "tiny": "small"},
    "color": {**{color: color for color in COLORS}, "violet": "purple"},
    "shape": {**{shape: shape for shape in SHAPES}, "ball": "circle", "disc": "circle", "box": "square"},
    "motion": {
        **_MOTION_WORDS,
        **{"upwards": "moves up", "rises": "moves up", "downwards": "moves down", "falls": "moves down"},
        **{"stands": "stays still", "rests": "stays still", "growing": "grows", "shrinking": "shrinks"},
    },
    "background": {**{background: background for background in BACKGROUNDS}, "grey": "gray"},
}
"""Words by the part of a sentence that they stand for, with that part's words: the world's own, and common others."""
_WORDS: Final = {word: (slot, meaning) for slot, words in _SLOTS.items() for word, meaning in words.items()}
_DEFAULTS: Final = {"color": "red", "shape": "circle", "motion": "moves right"}
_LIKENESS: Final = 0.8
"""Smallest likeness of a word to one of the table (`difflib`), so that "circles" is "circle"."""
_MIN_LIKE: Final = 4
"""Fewest letters of a word that may be like another: "car" is no "star"."""
_MAX_WORDS: Final = 200


def is_sentence(text: str) -> bool:
    """Return whether a text is a sentence of the world; see `parse_sentence`."""
    try:
        parse_sentence(text)
    except UserError:
        return False
    return True


def nearest_sentence(text: str) -> str:
    """Return a sentence of the world with as many of the text's words as fit, in their order.

    A word that is given twice begins the second thing; what the text does not say is that of "a red circle moves
    right". A sentence of the world is returned as it is written there.
    """
    if is_sentence(text):
        return parse_sentence(text).sentence()
    things: list[dict[str, str]] = [{}]
    scene: dict[str, str] = {}
    for word in re.findall(r"[a-z]+", text.lower())[:_MAX_WORDS]:
        if (found := _meaning(word)) is None:
            continue
        slot, meaning = found
        if slot == "background":
            scene.setdefault(slot, meaning)
            continue
        if slot in things[-1]:
            if len(things) == 2:
                break
            things.append({})
        things[-1][slot] = meaning
    return Scene(tuple(Thing(**_DEFAULTS | thing) for thing in things), **scene).sentence()


def _meaning(word: str) -> tuple[str, str] | None:
    """Return the part of a sentence that a word stands for, and that part's words; None if it stands for nothing."""
    if word not in _WORDS and len(word) >= _MIN_LIKE:
        word = next(iter(difflib.get_close_matches(word, _WORDS, 1, _LIKENESS)), word)
    return _WORDS.get(word)
