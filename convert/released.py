"""The five released folders: the files that each stage needs, and the checks that a folder belongs to its stage."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from show1_jax.cascade.stages import STAGE_TABLE
from show1_jax.diffusion.schedule import SchedulerConfig, alphas_cumprod
from show1_jax.errors import UserError, shown_name
from show1_jax.nn.config import Architecture, UNetConfig
from show1_jax.nn.text_architecture import TextArchitecture
from show1_jax.text.encoders import TEXT_ENCODERS

from .folders import allowed_roots, read_settings
from .tables import KINDS

_SHOW1_LICENCE: Final = "CC BY-NC 4.0 (https://creativecommons.org/licenses/by-nc/4.0)"
_DEEPFLOYD_LICENCE: Final = (
    "DeepFloyd IF License Agreement (https://huggingface.co/spaces/DeepFloyd/deepfloyd-if-license)"
)
_LICENCES: Final[Mapping[str, str]] = {"showlab/show-1-": _SHOW1_LICENCE, "DeepFloyd/IF-": _DEEPFLOYD_LICENCE}
"""Licences of released weights, by the beginning of their repository's name."""
OWNERS_LICENCE: Final = "as the owner of the folder says"

MODEL_INDEX: Final = "model_index.json"
TOKENIZER_FILES: Final = (
    "spiece.model",
    "vocab.json",
    "merges.txt",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)


@dataclass(frozen=True)
class ReleasedPart:
    """One component of a released folder.

    Attributes:
        component: its name in the checkpoint.
        kind: the kind of its network, see `KINDS`.
        folder: the folder of its config and weights.
        schedulers: folders of the scheduler configurations that belong to it.
        tokenizer: names of the tokenizer files that it must have.
        optional: the released folder may lack it.
    """

    component: str
    kind: str
    folder: str
    schedulers: tuple[str, ...] = ()
    tokenizer: tuple[str, ...] = ()
    optional: bool = False

    @property
    def config(self) -> str:
        """Path of its `config.json` in the released folder."""
        return f"{self.folder}/config.json"


@dataclass(frozen=True)
class ReleasedStage:
    """A stage's released folder, and the required architecture of its UNet.

    Attributes:
        name: the name of the stage.
        repository: the hub id of the released weights.
        parts: the components to convert, the UNet first.
        description: a description of the UNet, for messages to the user.
        unet: fields that distinguish its architecture from the other stages'.
    """

    name: str
    repository: str
    parts: tuple[ReleasedPart, ...]
    description: str
    unet: Mapping[str, Any]

    @property
    def folder(self) -> str:
        """Name of the repository without its owner; `--from` expects a folder of this name."""
        return self.repository.partition("/")[2]


_NOISED: Final = ("scheduler", "image_noising_scheduler")
_CLIP_TOKENIZER: Final = ("tokenizer_config.json",)  # the files of its vocabulary depend on the library that saved it

RELEASED_STAGES: Final[Mapping[str, ReleasedStage]] = {
    stage.name: stage
    for stage in (
        ReleasedStage(
            "keyframes",
            "showlab/show-1-base",
            (
                ReleasedPart("keyframes", "unet", "unet", ("scheduler",)),
                ReleasedPart("text_t5", "t5", "text_encoder", tokenizer=("spiece.model",)),
            ),
            "a 3-D pixel UNet with 3 input channels",
            {"temporal": True, "attention": "added_kv", "in_channels": 3, "noise_level_embedding": False},
        ),
        ReleasedStage(
            "interpolation",
            "showlab/show-1-interpolation",
            (ReleasedPart("interpolation", "unet", "unet", ("scheduler",)),),
            "a 3-D pixel UNet with 7 input channels",
            {"temporal": True, "attention": "added_kv", "in_channels": 7, "noise_level_embedding": False},
        ),
        ReleasedStage(
            "first_frame",
            "DeepFloyd/IF-II-L-v1.0",
            (ReleasedPart("first_frame", "unet", "unet", _NOISED),),
            "a 2-D pixel UNet with 6 input channels and a noise level",
            {"temporal": False, "attention": "added_kv", "in_channels": 6, "noise_level_embedding": True},
        ),
        ReleasedStage(
            "superres_pixel",
            "showlab/show-1-sr1",
            (ReleasedPart("superres_pixel", "unet", "unet", _NOISED),),
            "a 3-D pixel UNet with 6 input channels and a noise level",
            {"temporal": True, "attention": "added_kv", "in_channels": 6, "noise_level_embedding": True},
        ),
        ReleasedStage(
            "superres_latent",
            "showlab/show-1-sr2",
            (
                ReleasedPart("superres_latent", "unet", "unet", ("scheduler",)),
                ReleasedPart("text_clip", "clip", "text_encoder", tokenizer=_CLIP_TOKENIZER),
                ReleasedPart("vae", "vae", "vae"),
            ),
            "a 3-D latent UNet with 4 input channels",
            {"temporal": True, "attention": "transformer", "in_channels": 4},
        ),
    )
}


def repository_licence(repository: str) -> str:
    """Return the licence of the weights in a repository of the hub."""
    known = (licence for beginning, licence in _LICENCES.items() if repository.startswith(beginning))
    return next(known, f"as https://huggingface.co/{repository} says")


def check_folder(stage: ReleasedStage, folder: Path) -> None:
    """Refuse a path that is not a folder.

    The folder of another stage is refused later, by its UNet and not by the pipeline that it names.
    """
    if not os.path.isdir(folder):
        raise UserError(f"{shown_name(str(folder))}: no such folder; give the one of {stage.name} ({stage.repository})")


def read_architecture(stage: ReleasedStage, part: ReleasedPart, folder: Path) -> tuple[Architecture, dict[str, Any]]:
    """Return a part's architecture, and the unchanged content of its `config.json`.

    Raises:
        UserError: missing or damaged file, unsupported settings, or a UNet of another stage.
    """
    path = folder / part.config
    config = read_settings(path, allowed_roots(folder))
    try:
        architecture = KINDS[part.kind].read_config(config)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    if isinstance(architecture, UNetConfig):
        check_unet(stage, architecture, str(path))
    return architecture, config


def scheduler_file(role: str) -> str:
    """Return the path of a scheduler's settings in a released folder."""
    return f"{role}/scheduler_config.json"


def read_scheduler(role: str, folder: Path) -> dict[str, Any]:
    """Return a scheduler's settings, unchanged, after checking that sampling supports them.

    Raises:
        UserError: missing or damaged file, or unsupported settings.
    """
    path = folder / scheduler_file(role)
    settings = read_settings(path, allowed_roots(folder))
    try:
        alphas_cumprod(SchedulerConfig.from_json(settings))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return settings


def check_unet(stage: ReleasedStage, architecture: UNetConfig, where: str) -> None:
    """Refuse the UNet of another stage.

    Raises:
        UserError: a field differs from `stage.unet`; the message names the stage that has such a UNet.
    """

    def fits(other: ReleasedStage) -> bool:
        return all(getattr(architecture, name) == value for name, value in other.unet.items())

    if not fits(stage):
        owners = [other.name for other in RELEASED_STAGES.values() if fits(other)]
        actual = (
            f"the UNet of {owners[0]}"
            if owners
            else ", ".join(f"{name}={getattr(architecture, name)!r}" for name in stage.unet)
        )
        raise UserError(
            f"{where}: is {actual}, but {stage.name} needs {stage.description}; give a folder like {stage.repository}"
        )


def check_text_widths(architectures: Mapping[str, Architecture]) -> None:
    """Check that the widths of the converted text encoders are those that the UNets require.

    Raises:
        UserError: a width differs, or a component with the name of a text encoder is none.
    """
    for encoder in TEXT_ENCODERS:
        if encoder not in architectures:
            continue
        served = [stage for stage, spec in STAGE_TABLE.items() if spec.text_encoder == encoder]
        text = architectures[encoder]
        if not isinstance(text, TextArchitecture):
            raise UserError(f"{encoder} is not a text encoder; give folders or checkpoints that belong together")
        width = text.state_width
        for name, unet in architectures.items():
            if name in served and isinstance(unet, UNetConfig) and unet.raw_text_dim != width:
                raise UserError(
                    f"the UNet of {name} takes text states of width {unet.raw_text_dim}, but {encoder} "
                    f"gives {width}; give folders that belong together"
                )
