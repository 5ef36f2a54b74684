"""A metric: the facts that the command needs, statistics that merge, and the score."""

from collections.abc import Mapping, Sequence
from dataclasses import Field, dataclass, field, fields
from typing import Any, ClassVar, Literal, Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Float32

from show1_jax.errors import UserError

ClipFeatures = Float32[np.ndarray, "rows width"]
"""Features of one clip, as a `FeatureNetwork` gives them."""


@dataclass(frozen=True)
class MetricFacts:
    """Facts about a metric.

    Attributes:
        title: name in reports.
        summary: one line for the help.
        network: kind of its network, a row of `show1_jax.evaluation.features.table.FEATURE_NETWORKS`.
        better: better direction of the score.
        has_reference: the videos are compared with a second set of videos.
        has_captions: every video needs a caption.
        num_frames: default number of frames in a clip; None: whole videos.
        min_frames: smallest number of frames in a clip.
        max_frames: largest number of frames in a clip, or None.
        min_clips: smallest number of clips; fewer are refused.
        digits: digits after the point in lines and tables.
        source: implementation that it follows.
    """

    title: str
    summary: str
    network: str
    better: Literal["lower", "higher"]
    has_reference: bool
    has_captions: bool
    num_frames: int | None
    min_frames: int
    min_clips: int
    digits: int
    source: str
    max_frames: int | None = None

    def check_num_frames(self, num_frames: int | None) -> None:
        """Refuse clips of a length that the metric's network does not take; None: whole videos.

        Raises:
            UserError: they are too short or too long.
        """
        if num_frames is not None and num_frames < self.min_frames:
            raise UserError(f"--num_frames={num_frames}: {self.title} needs clips of at least {self.min_frames} frames")
        if self.max_frames is not None and (num_frames is None or num_frames > self.max_frames):
            asked = "--whole" if num_frames is None else f"--num_frames={num_frames}"
            raise UserError(f"{asked}: {self.title} needs clips of {self.max_frames} frames")


@dataclass(frozen=True)
class ClipRange:
    """The place of some clips among all clips of a set.

    Attributes:
        first: number of the first one.
        total: number of clips in the set.
        seed: seed of the random order, for metrics that divide the clips.
    """

    first: int
    total: int
    seed: int


@dataclass(frozen=True)
class Score:
    """The result of a metric.

    Attributes:
        value: the score.
        parts: further numbers of the same computation, by name.
        warnings: reasons why the score may mislead, one line each.
    """

    value: float
    parts: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


Summary = TypeVar("Summary")


@runtime_checkable
class Metric(Protocol[Summary]):
    """A metric: a frozen dataclass. Its fields with a `help` in their metadata become options of the command.

    `Summary` is its statistic: of constant size, in float64, and independent of how the clips were divided up to
    rounding.
    """

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    @property
    def facts(self) -> MetricFacts:
        """Facts that the command needs before any video is read."""

    def summarize(self, clips: Sequence[ClipFeatures], place: ClipRange) -> Summary:
        """Return the statistic of some clips, at least one."""

    def merge(self, first: Summary, second: Summary) -> Summary:
        """Return the statistic of the clips of both."""

    def score(self, videos: Summary, reference: Summary | None) -> Score:
        """Return the score.

        Args:
            videos: statistic of all videos.
            reference: statistic of the videos to compare with, if the metric has a reference.
        """


def own_settings(metric: Metric[Any]) -> dict[str, Field[Any]]:
    """Return the settings of a metric that a user may change, by name; their metadata has `help` and `least`."""
    return {setting.name: setting for setting in fields(metric) if "help" in setting.metadata}
