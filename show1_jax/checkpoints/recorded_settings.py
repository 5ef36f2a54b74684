"""The settings that networks are to be sampled with, as their checkpoint records them, stage by stage."""

import dataclasses
import warnings
from collections.abc import Sequence
from typing import Any

from show1_jax.checkpoints.manifest import Component, Manifest
from show1_jax.config.sampling import STAGES, CascadeConfig, Stage
from show1_jax.config.settings import flatten
from show1_jax.errors import UserError, shown

_TEXT_PADDING = "text_padding"


def with_settings(record: Component, name: str, config: CascadeConfig) -> Component:
    """Return a component's record with the settings of its stage; of a component that is no stage, as it is.

    Args:
        record: of the component.
        name: of the component.
        config: settings that its network was made for.
    """
    return dataclasses.replace(record, sampling=_settings(config, name)) if name in STAGES else record


def recorded_config(manifest: Manifest, where: str) -> CascadeConfig:
    """Return the settings that a checkpoint is to be sampled with.

    Stages whose record has none, as in checkpoints of older versions, get the original's, with a warning that says so.

    Args:
        manifest: of the checkpoint.
        where: its name, for messages.

    Raises:
        UserError: the settings of two stages cannot be used together.
    """
    recorded = {stage: manifest.components[stage].sampling for stage in STAGES if stage in manifest.components}
    if assumed := [stage for stage, settings in recorded.items() if not settings]:
        line = f"{where}: records no sampling settings of {', '.join(assumed)}; the original's are assumed"
        warnings.warn(line, stacklevel=3)
    paddings = {stage: settings[_TEXT_PADDING] for stage, settings in recorded.items() if _TEXT_PADDING in settings}
    if len(set(paddings.values())) > 1:
        listed = ", ".join(f"{stage}: {padding}" for stage, padding in paddings.items())
        raise UserError(f"{where}: networks were made for different text_padding ({listed}); give a config")
    settings = {stage: _own(settings) for stage, settings in recorded.items() if settings}
    shared = {_TEXT_PADDING: next(iter(paddings.values()))} if paddings else {}
    return CascadeConfig.from_dict(settings | shared)


def differing_settings(manifest: Manifest, config: CascadeConfig, stages: Sequence[Stage]) -> list[str]:
    """Say where a config differs from the recorded settings of some stages; nothing of stages without a record."""
    lines = []
    for stage in stages:
        recorded, stated = manifest.component(stage).sampling, flatten(_settings(config, stage))
        for name, value in flatten(recorded).items():
            if name in stated and stated[name] != value:
                prefix = "" if name == _TEXT_PADDING else f"{stage}."
                lines.append(f"{prefix}{name}={shown(stated[name])} (recorded: {shown(value)})")
    return list(dict.fromkeys(lines))


def check_recorded(name: str, record: Component) -> None:
    """Refuse recorded settings that no stage can have.

    Raises:
        UserError: names the field.
    """
    if record.sampling and name in STAGES:
        padding = {_TEXT_PADDING: record.sampling[_TEXT_PADDING]} if _TEXT_PADDING in record.sampling else {}
        CascadeConfig.from_dict({name: _own(record.sampling)} | padding)


def _settings(config: CascadeConfig, stage: Any) -> dict[str, Any]:
    return config.stage(stage).to_dict() | {_TEXT_PADDING: config.text_padding}


def _own(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name != _TEXT_PADDING}
