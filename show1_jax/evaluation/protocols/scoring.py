"""The scores of an evaluation: every metric on its videos, and the table beside the paper's."""

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from show1_jax.checkpoints.checkpoint_set import CheckpointSet
from show1_jax.errors import UserError
from show1_jax.evaluation.extraction import ExtractionOptions
from show1_jax.evaluation.features.table import FEATURE_NETWORKS
from show1_jax.evaluation.metrics.table import METRICS
from show1_jax.evaluation.protocols.plan_files import StoredPlan
from show1_jax.evaluation.protocols.protocol import PaperScore, Protocol, check_files
from show1_jax.evaluation.protocols.samples import find_samples
from show1_jax.evaluation.report import Result
from show1_jax.evaluation.scoring import ScoringRequest, check_request
from show1_jax.evaluation.scoring import score as score_metric
from show1_jax.evaluation.videos.clips import ClipRule
from show1_jax.files import write_bytes
from show1_jax.parallel import from_first_process

FOLDER: Final = "scores"
"""Folder in that of the evaluation, with lists of the compared videos, saved features, tables and JSON."""
TABLE_FILE: Final = "table.md"
_FORMAT: Final = "show1_jax.protocol_scores.v1"


@dataclass(frozen=True)
class Scores:
    """The scores of an evaluation.

    Attributes:
        stored: the protocol and its plan.
        sampled: settings and hashes of the weights that the videos were sampled with.
        results: the result of each metric, by its name.
    """

    stored: StoredPlan
    sampled: Mapping[str, Any]
    results: Mapping[str, Result]

    @property
    def title(self) -> str:
        """The dataset and the paper's table."""
        protocol = self.stored.protocol
        return f"{protocol.dataset} ({protocol.table} of the paper)"

    def lines(self) -> Iterator[str]:
        """Yield the title, and a line for each metric: its score, the paper's, and the settings that matter most."""
        yield self.title
        for metric, result in self.results.items():
            yield f"  {result.line()}; the paper: {_paper_text(self._paper(metric))}"

    def warnings(self) -> Iterator[str]:
        """Yield the reasons why scores may mislead."""
        yield from self.stored.plan.notes
        for result in self.results.values():
            rates = [", ".join(of_one.about["frame rates"]) for of_one in result.sets.values()]
            if len(set(rates)) > 1 and not self.stored.protocol.fps:
                yield (
                    f"{result.metric}: the sampled videos have {rates[0]} frames a second, those of "
                    f"{self.stored.protocol.dataset} {rates[1]}, and clips are compared frame by frame; --fps of the "
                    "prompts resamples both"
                )
            yield from (f"{result.metric}: {line}" for line in result.warnings)

    def table(self) -> str:
        """Return the scores beside the paper's and all settings, in Markdown."""
        protocol = self.stored.protocol
        rows = [
            f"| {result.metric} ({result.better} is better) | {result.score.value:.{result.digits}f} | "
            f"{_paper_text(self._paper(metric))} |"
            for metric, result in self.results.items()
        ]
        settings = [f"- {name}: {value}" for name, value in protocol.settings().items()]
        parts = [
            [f"# {self.title}", "", "| | here | the paper |", "| --- | --- | --- |", *rows],
            ["Settings:", "", *settings],
            ["Choices that the paper does not state:", "", *(f"- {choice}" for choice in protocol.choices)],
            ["Notes:", "", *(f"- {warning}" for warning in self.warnings())],
            ["The videos were sampled with:", "", *(f"- {name}: {value}" for name, value in self.sampled.items())],
            *([result.table()] for result in self.results.values()),
        ]
        return "\n\n".join("\n".join(part) for part in parts if part != ["Notes:", ""]) + "\n"

    def to_json(self) -> dict[str, Any]:
        """Return all of it as JSON values."""
        protocol = self.stored.protocol
        return {
            "format": _FORMAT,
            "protocol": protocol.name,
            "settings": protocol.settings(),
            "choices": list(protocol.choices),
            "notes": list(self.stored.plan.notes),
            "sampled": dict(self.sampled),
            "scores": {
                metric: {"paper": dataclasses.asdict(self._paper(metric)), "result": result.to_json()}
                for metric, result in self.results.items()
            },
        }

    def write(self, folder: Path) -> Path:
        """Write the table and the JSON in the folder of the evaluation, and return the path of the table.

        Raises:
            UserError: they cannot be written.
        """
        path = folder / FOLDER / TABLE_FILE
        write_bytes(path.with_suffix(".json"), (json.dumps(self.to_json(), indent=1) + "\n").encode())
        write_bytes(path, self.table().encode(errors="replace"))
        return path

    def _paper(self, metric: str) -> PaperScore:
        return self.stored.protocol.paper[metric]


def score(
    folder: Path,
    stored: StoredPlan,
    data: Path,
    weights: str,
    metrics: Sequence[str] | None,
    work: ExtractionOptions,
) -> Scores:
    """Score the sampled videos of an evaluation. All processes must call it at the same point.

    Saved features are used again, so a command that was stopped continues.

    Args:
        folder: folder of the evaluation.
        stored: its plan.
        data: folder of the dataset.
        weights: names of checkpoints with the networks of the metrics.
        metrics: metrics to compute; None: all of the plan.
        work: options that change the speed only.

    Raises:
        UserError: a metric is not in the plan, videos or weights are missing, or videos were sampled with different
            settings. All of this is checked before anything is computed.
    """
    sets = stored.plan.sets
    if metrics is not None and (not metrics or not set(metrics) <= sets.keys()):
        raise UserError(f"--metrics={','.join(metrics)}: the prompts are those of {', '.join(sets)}; choose from these")
    chosen = [metric for metric in sets if metrics is None or metric in metrics]
    requests = {metric: _request(folder, stored.protocol, metric, weights, work) for metric in chosen}
    for request in requests.values():
        check_request(request)
    kinds = {METRICS[metric].facts.network for metric, request in requests.items() if request.weights is not None}
    if kinds:
        CheckpointSet.open(weights).check_sizes(sorted(kinds))
    sampled = from_first_process(lambda: _write_lists(folder, stored, data, requests))
    return Scores(stored, sampled, {metric: score_metric(request) for metric, request in requests.items()})


def _request(folder: Path, protocol: Protocol, metric: str, weights: str, work: ExtractionOptions) -> ScoringRequest:
    facts = METRICS[metric].facts
    is_whole = facts.num_frames is None
    rule = ClipRule(
        None if is_whole else protocol.num_frames,
        fps=None if is_whole else protocol.fps or None,
        position="center",
        square=protocol.size,
    )
    lists = folder / FOLDER
    return ScoringRequest(
        metric=METRICS[metric],
        videos=lists / f"{metric}_videos.txt",
        rule=rule,
        features=lists / "features",
        reference=lists / f"{metric}_reference.txt" if facts.has_reference else None,
        weights=weights if FEATURE_NETWORKS[facts.network].has_weights else None,
        seed=protocol.seed,
        any_frame_rate=True,
        extraction=work,
    )


def _write_lists(
    folder: Path, stored: StoredPlan, data: Path, requests: Mapping[str, ScoringRequest]
) -> dict[str, Any]:
    """Write the lists of the videos that are compared, after all of them were found.

    Returns:
        The settings that the videos were sampled with.
    """
    parts = {metric: stored.plan.sets[metric] for metric in requests}
    for part in parts.values():
        check_files(data, part.references, stored.protocol.dataset)
    samples = find_samples(folder, list(dict.fromkeys(video for part in parts.values() for video in part.videos)))
    for metric, request in requests.items():
        _write_list(request.videos, [samples.folders[video] for video in parts[metric].videos])
        if request.reference is not None:
            _write_list(request.reference, [data / name for name in parts[metric].references])
    return samples.settings()


def _write_list(path: Path, videos: Sequence[Path]) -> None:
    write_bytes(path, b"".join(os.fsencode(video.absolute()) + b"\n" for video in videos))


def _paper_text(paper: PaperScore) -> str:
    return f"{paper.value:g}" + (f" ({paper.note})" if paper.note else "")
