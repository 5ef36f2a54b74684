"""Evaluation cases and results, and their report: a table, numbers and pictures."""

import dataclasses
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import UInt8

from show1_jax.data.synthetic.world import PlacedScene
from show1_jax.evaluation.demo_world.measure import TRUE_GROWTH, Measurement, Verdict
from show1_jax.files import write_bytes
from show1_jax.media.contact_sheet import contact_sheet

REPORT: Final = "report.json"
TABLE_FILE: Final = "report.md"
FAILURES: Final = "failures"
MAX_FAILURES: Final = 30
"""Maximum number of pictures, shared equally by the kinds of prompts."""

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
"""The table's rows; a video with None is not counted in that row."""


@dataclasses.dataclass(frozen=True)
class EvalCase:
    """A scene, whose sentence is the prompt, and the seed of its video."""

    kind: str
    index: int
    placed: PlacedScene
    seed: int

    @property
    def prompt(self) -> str:
        """The sentence that describes the scene."""
        return self.placed.scene.sentence()


@dataclasses.dataclass(frozen=True)
class EvalResult:
    """The measurement of a case's video, and its comparison with the prompt."""

    case: EvalCase
    measured: Measurement
    verdict: Verdict

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON values; paths are rounded to 0.01 pixel."""
        case, verdict = self.case, self.verdict
        measured = dataclasses.asdict(self.measured)
        for thing in measured["things"]:
            thing["path"] = thing["path"].round(2).tolist()
        return {
            "kind": case.kind,
            "index": case.index,
            "seed": case.seed,
            "prompt": case.prompt,
            "right": dataclasses.asdict(verdict) | {"core": verdict.core, "all": verdict.all},
            "measured": measured,
        }


class Report:
    """The results so far; the report in the folder is complete after every batch."""

    def __init__(self, folder: Path, kinds: Sequence[str], settings: Mapping[str, Any]) -> None:
        self.results: list[EvalResult] = []
        self._folder = folder
        self._settings = settings
        self._pictures_left = {kind: MAX_FAILURES // len(kinds) for kind in kinds}

    def add(self, results: Sequence[EvalResult], videos: UInt8[np.ndarray, "b t h w 3"]) -> None:
        """Add the results of a batch; draw pictures of the first failures of every kind."""
        self.results += results
        for result, video in zip(results, videos, strict=True):
            kind = result.case.kind
            if not result.verdict.all and self._pictures_left[kind]:
                self._pictures_left[kind] -= 1
                self._draw(result, video)

    def write(self, costs: Mapping[str, float]) -> str:
        """Write the table and the numbers, and return the table.

        Args:
            costs: time and memory of sampling; a key has name and unit, e.g. "seconds per video".
        """
        table = "\n".join([self._table(), "", *(f"{name}: {cost:.2f}  " for name, cost in costs.items())])
        settings = "\n".join(f"- {name}: `{value}`" for name, value in self._settings.items())
        write_bytes(self._folder / TABLE_FILE, f"# Alignment\n\n{settings}\n\n{table}\n".encode())
        answers = [result.to_dict() for result in self.results]
        report = {"settings": dict(self._settings), "costs": dict(costs), "answers": answers}
        write_bytes(self._folder / REPORT, json.dumps(report).encode())
        return table

    def _table(self) -> str:
        kinds = list(self._pictures_left)
        columns = [[result for result in self.results if result.case.kind == kind] for kind in kinds]
        rows = [
            [name, *(_rate(right(result.verdict) for result in column) for column in columns)]
            for name, right in _RATES.items()
        ]
        noise = ["background noise, mean and largest", *(_noise_summary(column) for column in columns)]
        growth = [f"growth, {TRUE_GROWTH:.1f} in the world: median, least", *(_growth_summary(c) for c in columns)]
        table = [["", *kinds], ["---"] * (len(kinds) + 1), *rows, growth, noise]
        return "\n".join(f"| {' | '.join(row)} |" for row in table)

    def _draw(self, result: EvalResult, video: UInt8[np.ndarray, "t h w 3"]) -> None:
        case = result.case
        wrong = [name for name, right in dataclasses.asdict(result.verdict).items() if right is False]
        slug = re.sub(r"\W+", "_", case.prompt)
        path = self._folder / FAILURES / f"{case.kind}_{case.index:05}_{slug}.png"
        contact_sheet(path, {f"wrong: {', '.join(wrong)}": video}, case.prompt)


def _rate(rights: Iterable[bool | None]) -> str:
    known = [right for right in rights if right is not None]
    return f"{sum(known) / len(known):.1%} ({sum(known)}/{len(known)})" if known else "-"


def _growth_summary(results: Iterable[EvalResult]) -> str:
    growths = [growth for result in results for growth in result.verdict.growths]
    return f"{np.median(growths):.2f}, {min(growths):.2f}" if growths else "-"


def _noise_summary(results: Iterable[EvalResult]) -> str:
    known = [noise for result in results if (noise := result.measured.background_noise) is not None]
    return f"{np.mean(known):.2f}, {max(known):.2f}" if known else "-"
