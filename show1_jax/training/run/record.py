"""`training/record.json` of a step: what a run must know to resume, besides its arrays."""

import dataclasses
from typing import Any

from show1_jax.config.settings import Settings
from show1_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class FailureState(Settings):
    """The clips that could not be read; see `show1_jax.data.failures.Counts`."""

    num_read: int = 0
    num_failed: int = 0
    named: dict[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class ClipState(Settings):
    """Where a run is in its data; see `show1_jax.data.clips.ClipIterator.get_state`."""

    next_batch: int
    failures: FailureState = FailureState()


@dataclasses.dataclass(frozen=True)
class StepRecord(Settings):
    """What a step's record says.

    Attributes:
        stage: that is trained.
        step: its number.
        data: where the run was in its data.
        fingerprint: of the data, see `ClipIterator`.
        network: the fields of its architecture, and its schedulers by role.
        settings: those that the run depends on, by dotted name.
        config: all settings.
        mesh: sizes of its axes.
        processes: how many there were.
    """

    stage: str
    step: int
    data: ClipState
    fingerprint: str
    network: tuple[dict[str, Any], ...]
    settings: dict[str, Any]
    config: dict[str, Any] = dataclasses.field(default_factory=dict)
    mesh: dict[str, Any] = dataclasses.field(default_factory=dict)
    processes: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(len(self.network) == 2, "network must be an architecture and its schedulers")

    @classmethod
    def read(cls, values: Any, where: str) -> "StepRecord":
        """Build from the JSON of a record.

        Args:
            values: as a checkpoint holds them; fields of other versions are passed over.
            where: names the file in errors.

        Raises:
            UserError: a field is missing or of the wrong type; the line names both.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        try:
            return cls.from_dict({name: value for name, value in values.items() if name in known})
        except UserError as error:
            raise UserError(f"{where}: {error}; remove that step, or take another --workdir") from None
