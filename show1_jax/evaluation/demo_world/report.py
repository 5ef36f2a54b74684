"""What is asked of the cascade and what comes back, as a table, as numbers and as pictures."""

import dataclasses
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import UInt8

from show1_jax.data.synthetic.world import PlacedScene
from show1_jax.evaluation.demo_world.measure import Measured, Verdict
from show1_jax.files import write_bytes
from show1_jax.media.contact_sheet import contact_sheet

REPORT: Final = "report.json"
TABLE_FILE: Final = "report.md"
FAILURES: Final = "failures"
MAX_FAILURES: Final = 30
"""Pictures, shared equally by the kinds of prompts."""

_RATES: Final[dict[str, Callable[[Verdict], bool | None]]] = {
    "colour": lambda verdict: verdict.color,
    "shape": lambda verdict: verdict.shape,
    "motion": lambda verdict: verdict.motion,
    "count": lambda verdict: verdict.count,
    "**colour, shape, motion and count**": lambda verdict: verdict.core,
    "size": lambda verdict: verdict.size,
    "background": lambda verdict: verdict.background,
    "**everything**": lambda verdict: verdict.all,
    "monotone paths, of prompts with travelling things": lambda verdict: verdict.is_monotone,
}
"""The table's rows; None leaves a video out."""


@dataclasses.dataclass(frozen=True)
class Question:
    """A prompt, the scene that it is the caption of, and the seed to sample it with."""

    kind: str
    index: int
    placed: PlacedScene
    seed: int

    @property
    def prompt(self) -> str:
        """The scene's sentence."""
        return self.placed.scene.sentence()


@dataclasses.dataclass(frozen=True)
class Answer:
    """What the video of a prompt shows, and what of it is right."""

    question: Question
    measured: Measured
    verdict: Verdict

    def to_dict(self) -> dict[str, Any]:
        """For JSON; paths in hundredths of a pixel."""
        question, verdict = self.question, self.verdict
        measured = dataclasses.asdict(self.measured)
        for thing in measured["things"]:
            thing["path"] = thing["path"].round(2).tolist()
        return {
            "kind": question.kind,
            "index": question.index,
            "seed": question.seed,
            "prompt": question.prompt,
            "right": dataclasses.asdict(verdict) | {"core": verdict.core, "all": verdict.all},
            "measured": measured,
        }


class Report:
    """The answers so far, in a folder that is complete after every batch."""

    def __init__(self, folder: Path, kinds: Sequence[str], settings: Mapping[str, Any]) -> None:
        self.answers: list[Answer] = []
        self._folder = folder
        self._settings = settings
        self._pictures_left = {kind: MAX_FAILURES // len(kinds) for kind in kinds}

    def add(self, answers: Sequence[Answer], videos: UInt8[np.ndarray, "b t h w 3"]) -> None:
        """Take the answers of a batch; pictures are made of the first failures of every kind."""
        self.answers += answers
        for answer, video in zip(answers, videos, strict=True):
            kind = answer.question.kind
            if not answer.verdict.all and self._pictures_left[kind]:
                self._pictures_left[kind] -= 1
                self._draw(answer, video)

    def write(self, costs: Mapping[str, float]) -> str:
        """Write the table and the numbers; returns the table.

        Args:
            costs: what sampling took, by its name and unit.
        """
        table = "\n".join([self._table(), "", *(f"{name}: {cost:.2f}  " for name, cost in costs.items())])
        settings = "\n".join(f"- {name}: `{value}`" for name, value in self._settings.items())
        write_bytes(self._folder / TABLE_FILE, f"# Alignment\n\n{settings}\n\n{table}\n".encode())
        answers = [answer.to_dict() for answer in self.answers]
        report = {"settings": dict(self._settings), "costs": dict(costs), "answers": answers}
        write_bytes(self._folder / REPORT, json.dumps(report).encode())
        return table

    def _table(self) -> str:
        kinds = list(self._pictures_left)
        answers = [[answer for answer in self.answers if answer.question.kind == kind] for kind in kinds]
        rows = [
            [name, *(_rate(right(a.verdict) for a in column) for column in answers)] for name, right in _RATES.items()
        ]
        noise = ["background noise, mean and largest", *(_noise(column) for column in answers)]
        return "\n".join(f"| {' | '.join(row)} |" for row in [["", *kinds], ["---"] * (len(kinds) + 1), *rows, noise])

    def _draw(self, answer: Answer, video: UInt8[np.ndarray, "t h w 3"]) -> None:
        question = answer.question
        wrong = [name for name, right in dataclasses.asdict(answer.verdict).items() if right is False]
        slug = re.sub(r"\W+", "_", question.prompt)
        path = self._folder / FAILURES / f"{question.kind}_{question.index:05}_{slug}.png"
        contact_sheet(path, {f"wrong: {', '.join(wrong)}": video}, question.prompt)


def _rate(rights: Iterable[bool | None]) -> str:
    known = [right for right in rights if right is not None]
    return f"{sum(known) / len(known):.1%} ({sum(known)}/{len(known)})" if known else "-"


def _noise(answers: Iterable[Answer]) -> str:
    known = [noise for answer in answers if (noise := answer.measured.background_noise) is not None]
    return f"{np.mean(known):.2f}, {max(known):.2f}" if known else "-"
