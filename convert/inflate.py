"""The paper's starting points (Show-1, section 4.1): image UNets become video UNets, a keyframe UNet interpolates.

An inflated UNet has the image UNet's weights and initial temporal layers, which are the identity: it makes of every
frame what the image UNet makes of it. An interpolation UNet has the keyframe UNet's weights, and a first convolution
that does not see its condition yet.
"""

import os
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np

from convert.convert import Job, prepare, write_checkpoint
from convert.reader import Weights
from convert.released import OWNERS_LICENCE, STAGES, Stage, check_unet
from convert.safetensors_file import read_safetensors, write_safetensors
from convert.stored import read_weights, stored_architecture
from convert.tables import parameters
from show1_jax.checkpoints.arrays import check_new_checkpoint
from show1_jax.checkpoints.checkpoint_set import CheckpointSet, is_run
from show1_jax.checkpoints.manifest import MANIFEST
from show1_jax.errors import UserError
from show1_jax.files import user_path
from show1_jax.nn.config import UNetConfig
from show1_jax.nn.init import initial_weight
from show1_jax.parallel.weights import WeightPath, to_weights

MADE_HERE: Final = "keyframes"
"""As a source of interpolation: the keyframe UNet that the same command makes."""
_T5: Final = replace(STAGES["keyframes"].parts[1], optional=True)

STARTS: Final[Mapping[str, Stage]] = {
    "keyframes": replace(
        STAGES["keyframes"],
        repository="DeepFloyd/IF-I-L-v1.0",
        parts=(STAGES["keyframes"].parts[0], _T5),
        description="a 2-D pixel UNet with 3 input channels to start from",
        unet={**STAGES["keyframes"].unet, "temporal": False},
    ),
    "interpolation": replace(
        STAGES["keyframes"],
        name="interpolation",
        parts=(*STAGES["interpolation"].parts, _T5),
        description="a 3-D pixel UNet with 3 input channels to start from",
    ),
    "first_frame": replace(STAGES["first_frame"], parts=(*STAGES["first_frame"].parts, _T5)),
    "superres_pixel": replace(
        STAGES["superres_pixel"],
        repository="DeepFloyd/IF-II-L-v1.0",
        parts=(*STAGES["superres_pixel"].parts, _T5),
        description="a 2-D pixel UNet with 6 input channels and a noise level to start from",
        unet={**STAGES["superres_pixel"].unet, "temporal": False},
    ),
    "superres_latent": replace(
        STAGES["superres_latent"],
        repository="damo-vilab/text-to-video-ms-1.7b",
        parts=tuple(replace(part, optional=part.kind != "unet") for part in STAGES["superres_latent"].parts),
    ),
}
"""What each stage starts from. The pixel stages' text encoder comes from the first folder that has one."""


def inflate(
    out: Path,
    sources: Mapping[str, str],
    *,
    seed: int = 0,
    variant: str | None = None,
    dtype: np.dtype | None = None,
    overwrite: bool = False,
) -> None:
    """Makes a checkpoint for training to start from.

    Args:
      out: the checkpoint's directory; it appears when everything is written.
      sources: for each stage a local folder, or a hub id with an optional @revision (see `STARTS`); for interpolation
        also a checkpoint of ours or a training run, or "keyframes" for the keyframe UNet that is made here.
      seed: of the initial temporal layers, 0 to 2^32 - 1.
      variant: of the weight files, e.g. "fp16", where a folder has it.
      dtype: of the stored weights; None keeps each tensor's, and gives initial ones that of their network.
      overwrite: replace a checkpoint that is there.

    Raises:
      UserError: anything wrong with sources, weights, `out` or the disk; `out` is then as it was.
    """
    check_new_checkpoint(out, overwrite=overwrite)
    keyframes = sources.get("interpolation", "")
    if keyframes == MADE_HERE and "keyframes" not in sources:
        raise UserError(f"--interpolation {MADE_HERE} starts from what --keyframes makes; give a folder there")
    released = [
        (stage, sources[name])
        for name, stage in STARTS.items()
        if name in sources and not (name == "interpolation" and (keyframes == MADE_HERE or _is_checkpoint(keyframes)))
    ]
    jobs = {job.part.component: job for job in prepare(released, variant, dtype)}
    for name in ("keyframes", "superres_pixel"):
        if name in jobs:
            jobs[name] = _with_temporal_layers(jobs[name], seed, dtype)
    if keyframes == MADE_HERE:
        jobs["interpolation"] = jobs["keyframes"]
    elif _is_checkpoint(keyframes):
        jobs["interpolation"] = _keyframes_of_checkpoint(keyframes, dtype)
    if "interpolation" in jobs:
        jobs["interpolation"] = _with_condition(jobs["interpolation"])
    write_checkpoint(out, list(jobs.values()), overwrite=overwrite)


def _with_temporal_layers(job: Job, seed: int, dtype: np.dtype | None) -> Job:
    """The image UNet's job as the video UNet's."""
    assert isinstance(job.architecture, UNetConfig)
    try:
        architecture = replace(job.architecture, temporal=True)
    except UserError as error:
        raise UserError(f"{job.origin['source']}: cannot be inflated: {error}") from None
    network = to_weights(parameters("unet", architecture))
    initial = {path: leaf.shape for path, leaf in network.items() if path not in job.arrays}
    stored = dtype or job.arrays["conv_in", "kernel"].dtype
    return replace(
        job,
        origin={**job.origin, "start": [f"newborn temporal layers, seed {seed}"]},
        architecture=architecture,
        config={},
        arrays=job.arrays | {path: np.broadcast_to(np.zeros((), stored), shape) for path, shape in initial.items()},
        dtypes=job.dtypes | dict.fromkeys(initial, stored),
        draw=partial(_draw, initial, stored, seed),
    )


def _draw(shapes: Mapping[WeightPath, tuple[int, ...]], dtype: np.dtype, seed: int, scratch: Path) -> Weights:
    """Return initial weights, in a mapped file without a name: at full size they are as large as the image UNet's."""
    tensors = {"/".join(path): (shape, dtype) for path, shape in shapes.items()}
    path = scratch / "initial.safetensors"
    write_safetensors(path, tensors, lambda name: initial_weight(tuple(name.split("/")), tensors[name][0], seed))
    weights = Weights(read_safetensors(path))
    path.unlink()
    return weights


def _is_checkpoint(source: str) -> bool:
    """Whether it is a checkpoint of ours, or a training run."""
    if not source or source == MADE_HERE:
        return False
    folder = user_path(source)
    return os.path.isdir(folder) and (os.path.isfile(folder / MANIFEST) or is_run(folder))


def _keyframes_of_checkpoint(source: str, dtype: np.dtype | None) -> Job:
    """The keyframe UNet of a checkpoint of ours, read into memory."""
    stage = STARTS["interpolation"]
    checkpoints = CheckpointSet.open(source)
    record, checkpoint = checkpoints.component("keyframes"), checkpoints.path("keyframes")
    architecture = stored_architecture(checkpoint, "keyframes", record)
    assert isinstance(architecture, UNetConfig)
    check_unet(stage, architecture, f"{checkpoint}: keyframes")
    arrays = read_weights(checkpoint, "keyframes", parameters("unet", architecture), dtype)
    return Job(
        stage=stage,
        part=stage.parts[0],
        licence=record.provenance.get("licence", OWNERS_LICENCE),
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


def _with_condition(job: Job) -> Job:
    """The keyframe UNet's job as the interpolation UNet's: the condition's channels come last and count for nothing."""
    assert isinstance(job.architecture, UNetConfig)
    stage = STAGES["interpolation"]
    architecture = replace(job.architecture, in_channels=stage.unet["in_channels"])
    kernel = job.arrays["conv_in", "kernel"]
    height, width, given, out_channels = kernel.shape
    unseen = np.zeros((height, width, architecture.in_channels - given, out_channels), kernel.dtype)
    return replace(
        job,
        stage=stage,
        part=stage.parts[0],
        origin={**job.origin, "start": [*job.origin.get("start", []), "the keyframe UNet, which sees no condition"]},
        architecture=architecture,
        config={},
        arrays=job.arrays | {("conv_in", "kernel"): np.concatenate([kernel, unseen], axis=2)},
    )
