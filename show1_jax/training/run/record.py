"""The record of a saved step, `training/record.json`: everything that a run requires to resume, except its arrays."""

import dataclasses
from typing import Any

from show1_jax.config.settings import Settings
from show1_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class FailureState(Settings):
    """Counts and names of the clips that could not be read; see `show1_jax.data.failures.Counts`."""

    num_read: int = 0
    num_failed: int = 0
    named: dict[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class ClipState(Settings):
    """The position of a run in its data; see `show1_jax.data.clips.ClipIterator.get_state`."""

    next_batch: int
    failures: FailureState = FailureState()


@dataclasses.dataclass(frozen=True)
class StepRecord(Settings):
    """The record of a saved step.

    Attributes:
        stage: trained stage.
        step: number of completed steps.
        data: position of the run in its data.
        fingerprint: hash of the data, see `ClipIterator`.
        network: fields of the network's architecture, and its schedulers by role.
        settings: settings that the run depends on, by dotted name.
        config: all settings.
        mesh: sizes of the mesh's axes.
        processes: number of processes.
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
            values: the JSON of a checkpoint; unknown fields, of other versions, are ignored.
            where: name of the file in errors.

        Raises:
            UserError: a field is missing or of the wrong type; the line names both.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        try:
            return cls.from_dict({name: value for name, value in values.items() if name in known})
        except UserError as error:
            raise UserError(f"{where}: {error}; remove that step, or use another --workdir") from None
