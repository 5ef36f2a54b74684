"""Initial checkpoints for training, as in the paper (Show-1, section 4.1).

Image UNets become video UNets. An inflated UNet has the image UNet's weights, and temporal layers that are initialised
as the identity: its output for every frame is that of the image UNet. A keyframe UNet becomes the interpolation UNet:
it keeps its weights, and its first convolution has zeros for the condition's channels.
"""

import os
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np

from show1_jax.checkpoints.arrays import check_new_checkpoint
from show1_jax.checkpoints.cards.licences import licence_of
from show1_jax.checkpoints.checkpoint_set import CheckpointSet, is_run
from show1_jax.checkpoints.manifest import MANIFEST
from show1_jax.errors import UserError
from show1_jax.files import user_path
from show1_jax.nn.config import UNetConfig
from show1_jax.nn.init import initial_weight
from show1_jax.parallel.weights import WeightPath, to_weights

from .convert import PreparedPart, prepare, write_checkpoint
from .reader import Weights
from .released import OWNERS_LICENCE, RELEASED_STAGES, ReleasedStage, check_unet
from .safetensors_file import read_safetensors, write_safetensors
from .stored import read_weights, stored_architecture
from .tables import parameters

INFLATED_KEYFRAMES: Final = "keyframes"
"""Source of the interpolation stage that selects the keyframe UNet made by the same command."""
_T5: Final = replace(RELEASED_STAGES["keyframes"].parts[1], optional=True)

INITIAL_FOLDERS: Final[Mapping[str, ReleasedStage]] = {
    "keyframes": replace(
        RELEASED_STAGES["keyframes"],
        repository="DeepFloyd/IF-I-L-v1.0",
        parts=(RELEASED_STAGES["keyframes"].parts[0], _T5),
        description="a 2-D pixel UNet with 3 input channels to start from",
        unet={**RELEASED_STAGES["keyframes"].unet, "temporal": False},
    ),
    "interpolation": replace(
        RELEASED_STAGES["keyframes"],
        name="interpolation",
        parts=(*RELEASED_STAGES["interpolation"].parts, _T5),
        description="a 3-D pixel UNet with 3 input channels to start from",
    ),
    "first_frame": replace(RELEASED_STAGES["first_frame"], parts=(*RELEASED_STAGES["first_frame"].parts, _T5)),
    "superres_pixel": replace(
        RELEASED_STAGES["superres_pixel"],
        repository="DeepFloyd/IF-II-L-v1.0",
        parts=(*RELEASED_STAGES["superres_pixel"].parts, _T5),
        description="a 2-D pixel UNet with 6 input channels and a noise level to start from",
        unet={**RELEASED_STAGES["superres_pixel"].unet, "temporal": False},
    ),
    "superres_latent": replace(
        RELEASED_STAGES["superres_latent"],
        repository="damo-vilab/text-to-video-ms-1.7b",
        parts=tuple(replace(part, optional=part.kind != "unet") for part in RELEASED_STAGES["superres_latent"].parts),
    ),
}
"""Folder that each stage starts from. The pixel stages' text encoder comes from the first folder that has one."""


def inflate(
    out: Path,
    sources: Mapping[str, str],
    *,
    seed: int = 0,
    variant: str | None = None,
    dtype: np.dtype | None = None,
    overwrite: bool = False,
) -> None:
    """Make a checkpoint for training to start from.

    Args:
        out: the checkpoint's directory; it appears when everything is written.
        sources: for each stage a local folder, or a hub id with an optional @revision (see `INITIAL_FOLDERS`); for
            interpolation also one of our checkpoints or a training run, or "keyframes" for the keyframe UNet that is
            made here.
        seed: the seed of the initial temporal layers, 0 to 2^32 - 1.
        variant: the variant of the weight files to prefer, e.g. "fp16", if a folder has it.
        dtype: the dtype of the stored weights; None keeps each tensor's, and stores initial tensors in that of their
            network.
        overwrite: replace an existing checkpoint.

    Raises:
        UserError: a problem with sources, weights, `out` or the disk; `out` is then unchanged.
    """
    check_new_checkpoint(out, overwrite=overwrite)
    keyframes = sources.get("interpolation", "")
    if keyframes == INFLATED_KEYFRAMES and "keyframes" not in sources:
        raise UserError(f"--interpolation {INFLATED_KEYFRAMES} starts from the result of --keyframes; give it a folder")
    released = [
        (stage, sources[name])
        for name, stage in INITIAL_FOLDERS.items()
        if name in sources
        and not (name == "interpolation" and (keyframes == INFLATED_KEYFRAMES or _is_checkpoint(keyframes)))
    ]
    prepared_parts = {prepared.part.component: prepared for prepared in prepare(released, variant, dtype)}
    for name in ("keyframes", "superres_pixel"):
        if name in prepared_parts:
            prepared_parts[name] = _with_temporal_layers(prepared_parts[name], seed, dtype)
    if keyframes == INFLATED_KEYFRAMES:
        prepared_parts["interpolation"] = prepared_parts["keyframes"]
    elif _is_checkpoint(keyframes):
        prepared_parts["interpolation"] = _keyframes_of_checkpoint(keyframes, dtype)
    if "interpolation" in prepared_parts:
        prepared_parts["interpolation"] = _with_condition(prepared_parts["interpolation"])
    write_checkpoint(out, list(prepared_parts.values()), overwrite=overwrite)


def _with_temporal_layers(prepared: PreparedPart, seed: int, dtype: np.dtype | None) -> PreparedPart:
    """Return a prepared image UNet as a video UNet, with initial temporal layers."""
    assert isinstance(prepared.architecture, UNetConfig)
    try:
        architecture = replace(prepared.architecture, temporal=True)
    except UserError as error:
        raise UserError(f"{prepared.origin['source']}: cannot be inflated: {error}") from None
    network = to_weights(parameters("unet", architecture))
    initial = {path: leaf.shape for path, leaf in network.items() if path not in prepared.arrays}
    stored = dtype or prepared.arrays["conv_in", "kernel"].dtype
    zero = np.zeros((), stored)
    return replace(
        prepared,
        origin={**prepared.origin, "start": [f"initial temporal layers, seed {seed}"]},
        architecture=architecture,
        config={},
        arrays=prepared.arrays | {path: np.broadcast_to(zero, shape) for path, shape in initial.items()},
        dtypes=prepared.dtypes | dict.fromkeys(initial, stored),
        draw=partial(_initial_weights, initial, stored, seed),
    )


def _initial_weights(
    shapes: Mapping[WeightPath, tuple[int, ...]], dtype: np.dtype, seed: int, scratch: Path
) -> Weights:
    """Return initial weights, in an unlinked mapped file: at full size they are as large as the image UNet's."""
    tensors = {"/".join(path): (shape, dtype) for path, shape in shapes.items()}
    path = scratch / "initial.safetensors"
    write_safetensors(path, tensors, lambda name: initial_weight(tuple(name.split("/")), tensors[name][0], seed))
    weights = Weights(read_safetensors(path))
    path.unlink()
    return weights


def _is_checkpoint(source: str) -> bool:
    """Return whether a source is one of our checkpoints, or a training run."""
    if not source or source == INFLATED_KEYFRAMES:
        return False
    folder = user_path(source)
    return os.path.isdir(folder) and (os.path.isfile(folder / MANIFEST) or is_run(folder))


def _keyframes_of_checkpoint(source: str, dtype: np.dtype | None) -> PreparedPart:
    """Return the keyframe UNet of one of our checkpoints, read into memory."""
    stage = INITIAL_FOLDERS["interpolation"]
    checkpoints = CheckpointSet.open(source)
    record, checkpoint = checkpoints.component("keyframes"), checkpoints.path("keyframes")
    architecture = stored_architecture(checkpoint, "keyframes", record)
    assert isinstance(architecture, UNetConfig)
    check_unet(stage, architecture, f"{checkpoint}: keyframes")
    arrays = read_weights(checkpoint, "keyframes", parameters("unet", architecture), dtype)
    return PreparedPart(
        stage=stage,
        part=stage.parts[0],
        licence=licence_of(record.provenance).text or OWNERS_LICENCE,
        origin={"source": str(checkpoint), "revision": record.provenance.get("revision")},
        files={},
        architecture=architecture,
        config={},
        schedulers=record.schedulers,
        tokenizer={},
        weights=Weights({}),
        arrays=arrays,
        dtypes={path: dtype or array.dtype for path, array in arrays.items()},
    )


def _with_condition(prepared: PreparedPart) -> PreparedPart:
    """Return a prepared keyframe UNet as an interpolation UNet: the kernels of the condition's channels are zero."""
    assert isinstance(prepared.architecture, UNetConfig)
    stage = RELEASED_STAGES["interpolation"]
    architecture = replace(prepared.architecture, in_channels=stage.unet["in_channels"])
    starts = prepared.origin.get("start", [])
    kernel = prepared.arrays["conv_in", "kernel"]
    height, width, in_channels, out_channels = kernel.shape
    zeros = np.zeros((height, width, architecture.in_channels - in_channels, out_channels), kernel.dtype)
    return replace(
        prepared,
        stage=stage,
        part=stage.parts[0],
        origin={**prepared.origin, "start": [*starts, "the keyframe UNet, with zeros for the condition"]},
        architecture=architecture,
        config={},
        arrays=prepared.arrays | {("conv_in", "kernel"): np.concatenate([kernel, zeros], axis=2)},
    )
