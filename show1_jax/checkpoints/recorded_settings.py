"""The sampling settings that a checkpoint records for the networks of its stages."""

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
    """Return a component's record with the sampling settings of its stage; unchanged if it is not a stage.

    Args:
        record: record of the component.
        name: name of the component.
        config: settings that the network was made for.
    """
    return dataclasses.replace(record, sampling=_stage_settings(config, name)) if name in STAGES else record


def recorded_config(manifest: Manifest, where: str) -> CascadeConfig:
    """Return the sampling settings that a checkpoint records.

    A stage without recorded settings, as in checkpoints of older versions, gets the original's settings, with a
    warning.

    Args:
        manifest: manifest of the checkpoint.
        where: name of the checkpoint, for messages.

    Raises:
        UserError: the settings of two stages cannot be used together.
    """
    recorded = {stage: manifest.components[stage].sampling for stage in STAGES if stage in manifest.components}
    if assumed := [stage for stage, settings in recorded.items() if not settings]:
        line = f"{where}: records no sampling settings of {', '.join(assumed)}; the original's are assumed"
        warnings.warn(line, stacklevel=3)
    original = CascadeConfig()
    paddings = {stage: settings.get(_TEXT_PADDING, original.text_padding) for stage, settings in recorded.items()}
    if len(set(paddings.values())) > 1:
        listed = ", ".join(f"{stage}: {padding}" for stage, padding in paddings.items())
        raise UserError(f"{where}: networks were made for different text_padding ({listed}); give a config")
    settings = {stage: _without_padding(settings) for stage, settings in recorded.items() if settings}
    shared = {_TEXT_PADDING: next(iter(paddings.values()), original.text_padding)}
    try:
        return CascadeConfig.from_dict(settings | shared)
    except UserError as error:
        raise UserError(f"{where}: its recorded settings cannot be used together ({error}); give a config") from None


def differing_settings(manifest: Manifest, config: CascadeConfig, stages: Sequence[Stage]) -> list[str]:
    """Return one text for each setting of a config that differs from the recorded one.

    Args:
        manifest: manifest of the checkpoint.
        config: the settings to compare.
        stages: stages to compare; those without recorded settings are skipped.
    """
    lines = []
    for stage in stages:
        recorded, stated = manifest.component(stage).sampling, flatten(_stage_settings(config, stage))
        for name, value in flatten(recorded).items():
            if name in stated and stated[name] != value:
                prefix = "" if name == _TEXT_PADDING else f"{stage}."
                lines.append(f"{prefix}{name}={shown(stated[name])} (recorded: {shown(value)})")
    return list(dict.fromkeys(lines))


def check_recorded(name: str, record: Component) -> None:
    """Refuse recorded settings that are invalid for the stage; a component that is not a stage has none.

    Raises:
        UserError: a field is wrong; the line names it.
    """
    if name in STAGES and record.sampling:
        type(getattr(CascadeConfig(), name)).from_dict(_without_padding(record.sampling))
        if _TEXT_PADDING in record.sampling:
            CascadeConfig.from_dict({_TEXT_PADDING: record.sampling[_TEXT_PADDING]})


def _stage_settings(config: CascadeConfig, stage: Any) -> dict[str, Any]:
    return config.stage(stage).to_dict() | {_TEXT_PADDING: config.text_padding}


def _without_padding(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name != _TEXT_PADDING}
