"""The prompts that the loaded weights know, with examples; other prompts are answered with the nearest that they do."""

import dataclasses
from collections.abc import Sequence
from typing import Final

from show1_jax.cascade.stages import text_encoders
from show1_jax.checkpoints.manifest import Manifest
from show1_jax.config.config_file import Config
from show1_jax.config.sampling import STAGES
from show1_jax.data.synthetic.nearest import WORLD_SOURCE, WORLD_WORDS, is_sentence, nearest_sentence
from show1_jax.data.synthetic.world import BACKGROUNDS, MOTIONS, parse_sentence
from show1_jax.errors import UserError

_MIN_EXAMPLES: Final = 3
_WORLD_EXAMPLES: Final = (
    "a red circle moves right",
    "a large yellow triangle grows on a navy background",
    "a small green square moves up on a gray background",
    "a blue square moves left and a white circle stays still",
    "a purple triangle shrinks",
)
_EXAMPLES: Final = (
    "A burning lamborghini driving on rainbow.",
    "A red fox trots through fresh snow at dawn, its breath visible.",
    "A paper boat sails down a rainy city gutter, close-up.",
    "An astronaut waters tomato plants in a greenhouse on Mars.",
)


class UnknownPromptError(UserError):
    """A prompt that the weights do not know.

    Attributes:
        known: line that says what they know.
        near: the nearest prompts that they know.
    """

    def __init__(self, known: str, near: Sequence[str]):
        super().__init__(f"{known}; nearest: {near[0]!r}")
        self.known, self.near = known, tuple(near)


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """The prompts that some weights know.

    Attributes:
        examples: prompts that show what they can do.
        is_world: they know the sentences of the synthetic world alone; otherwise every text is accepted.
    """

    examples: tuple[str, ...]
    is_world: bool = False

    @classmethod
    def of(cls, config: Config, manifest: Manifest) -> "Vocabulary":
        """Return the vocabulary of the text encoders that a checkpoint's manifest records."""
        records = [manifest.components.get(name) for name in text_encoders(STAGES)]
        if any(record is not None and record.provenance.get("source") == WORLD_SOURCE for record in records):
            return cls(_WORLD_EXAMPLES, is_world=True)
        return cls(config.prompts if len(config.prompts) >= _MIN_EXAMPLES else _EXAMPLES)

    @property
    def known(self) -> str | None:
        """A line that says what the weights know; None if it is no closed set."""
        return f"These weights know only {WORLD_WORDS}." if self.is_world else None

    def check(self, prompt: str) -> None:
        """Refuse a prompt that the weights do not know.

        Raises:
            UnknownPromptError: with the nearest prompts.
        """
        if self.is_world and prompt.strip() and not is_sentence(prompt):
            assert self.known is not None
            raise UnknownPromptError(self.known, _near(prompt))


def _near(prompt: str) -> list[str]:
    """Return the nearest sentence of the world, and two like it with another motion and another background."""
    scene = parse_sentence(nearest_sentence(prompt))
    first = scene.things[0]
    motions, backgrounds = list(MOTIONS), list(BACKGROUNDS)
    motion = motions[(motions.index(first.motion) + 1) % len(motions)]
    background = backgrounds[(backgrounds.index(scene.background) + 1) % len(backgrounds)]
    moved = dataclasses.replace(scene, things=(dataclasses.replace(first, motion=motion), *scene.things[1:]))
    return [scene.sentence(), moved.sentence(), dataclasses.replace(scene, background=background).sentence()]
