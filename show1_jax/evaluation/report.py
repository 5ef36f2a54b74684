"""A metric's result as a line, a table and JSON: a number never appears without its settings."""

import hashlib
import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import jax
import numpy as np

from show1_jax.cli import installed_version
from show1_jax.evaluation.metrics.metric import Score
from show1_jax.files import write_bytes

_FORMAT: Final = "show1_jax.evaluation.v1"
_NOT_IN_LINES: Final = ("kind", "weights", "network", "dtype")
_PACKAGES: Final = ("show1-jax", "jax", "jaxlib", "flax", "numpy", "scipy", "av", "pillow")


@dataclass(frozen=True)
class SetResult:
    """The facts of a set of videos in a report.

    Attributes:
        clips: number of scored clips.
        rows: number of rows of features of these clips.
        unreadable: the reason for every video that could not be scored, by name.
        about: path, numbers, frame rates and hashes, JSON.
        features: name of the folder of its saved features.
    """

    clips: int
    rows: int
    unreadable: Mapping[str, str]
    about: Mapping[str, Any]
    features: str

    def describe(self) -> str:
        """Return the set in a few words: clips, path, stage of run directories, and frame rates."""
        stage = self.about["stage of run directories"]
        rates = [f"{rate} frames a second" for rate in self.about["frame rates"] if rate != "unknown"]
        facts = [*([] if stage == "none" else [stage]), *(rates if len(rates) <= 1 else ["several frame rates"])]
        return f"{self.clips} clips of {self.about['path']}" + (f" ({', '.join(facts)})" if facts else "")


@dataclass(frozen=True)
class Result:
    """The result of a metric, with all that is needed to compute it again.

    Attributes:
        metric: title of the metric.
        better: better direction.
        digits: digits after the point in lines and tables; JSON has all.
        source: implementation that the metric follows.
        score: the score, its parts and its warnings.
        sets: the videos, and the reference if the metric has one.
        settings: every setting, JSON.
        weights: origin of the network's weights.
        versions: versions of the packages and of Python, and the devices.
        warnings: reasons why the score may mislead.
    """

    metric: str
    better: str
    digits: int
    source: str
    score: Score
    sets: Mapping[str, SetResult]
    settings: Mapping[str, Any]
    weights: Mapping[str, Any]
    versions: Mapping[str, str]
    warnings: list[str]

    def line(self) -> str:
        """Return the score with the settings that matter most, on one line."""
        videos, *reference = self.sets.values()
        against = f" against {reference[0].describe()}" if reference else ""
        return (
            f"{self.metric} {self._number(self.score.value)} ({self.better} is better): {videos.describe()}{against}; "
            f"{self.settings['clips in words']}; {self._network()}"
        )

    def table(self) -> str:
        """Return the score and every setting as a table in Markdown."""
        rows = [(self.metric, f"{self._number(self.score.value)} ({self.better} is better)")]
        rows += [(name, self._number(value)) for name, value in self.score.parts.items()]
        for name, of_one in self.sets.items():
            rows += [(f"{name}: clips", str(of_one.clips)), (f"{name}: rows of features", str(of_one.rows))]
            rows += [(f"{name}: {key}", _text(value)) for key, value in of_one.about.items()]
            rows += [(f"{name}: unreadable", str(len(of_one.unreadable)))]
            rows += [(f"{name}: unreadable: {key}", why) for key, why in of_one.unreadable.items()]
        rows += [("implementation", self.source)]
        for name, value in self.settings.items():
            parts = value.items() if isinstance(value, Mapping) else ((None, value),)
            rows += [(name if key is None else f"{name}: {key}", _text(part)) for key, part in parts]
        rows += [(f"weights: {name}", _text(value)) for name, value in self.weights.items()]
        rows += [(f"version: {name}", value) for name, value in self.versions.items()]
        rows += [("warning", line) for line in self.warnings]
        cells = [f"| {_cell(name)} | {_cell(value)} |" for name, value in rows]
        return "\n".join([f"# {self.metric}", "", "| | |", "| --- | --- |", *cells, ""])

    def to_json(self) -> dict[str, Any]:
        """Return all of it, with every digit of the numbers."""
        return {"format": _FORMAT, **asdict(self)}

    @property
    def name(self) -> str:
        """Name of its files: the metric, and a hash of settings and videos, so that no other result is replaced."""
        sets = {name: [of_one.about["path"], of_one.features, of_one.clips] for name, of_one in self.sets.items()}
        text = json.dumps([self.metric, self.settings, sets], sort_keys=True)
        return f"{self.metric.lower().replace(' ', '_')}_{hashlib.sha256(text.encode()).hexdigest()[:10]}"

    def write(self, folder: Path) -> Path:
        """Write the table and the JSON, and return the path of the table.

        Raises:
            UserError: they cannot be written.
        """
        write_bytes(folder / f"{self.name}.json", (json.dumps(self.to_json(), indent=1) + "\n").encode())
        write_bytes(folder / f"{self.name}.md", self.table().encode(errors="replace"))
        return folder / f"{self.name}.md"

    def _network(self) -> str:
        features = self.settings["features"]
        weights = f", weights {features['weights'][:12]}" if features["weights"] else ""
        others = (f"{name}: {_text(value)}" for name, value in features.items() if name not in _NOT_IN_LINES)
        return f"{features['kind']}{weights}; {'; '.join(others)}"

    def _number(self, value: Any) -> str:
        if isinstance(value, float):
            return f"{value:.{self.digits}f}"
        return "unknown" if value is None else str(value)


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that compute scores, and the devices."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        found[name] = installed_version(name) or "a checkout, not installed"
    devices = jax.devices()
    return found | {"devices": f"{len(devices)} x {devices[0].device_kind}"}


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {_text(part)}" for name, part in value.items()) or "none"
    if isinstance(value, np.generic):
        value = value.item()
    return "none" if value is None else str(value)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
