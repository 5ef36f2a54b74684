"""Sample videos during training: only the trained stage, on validation clips, with the averaged weights."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import jax
import jax.numpy as jnp
import numpy as np
from einops import reduce
from flax import nnx
from jaxtyping import Array, Float, Float32, UInt8

from show1_jax.cascade.conditions import SAMPLING, StageContext, StageVideo
from show1_jax.cascade.denoise import Denoise, denoise
from show1_jax.cascade.latents import AutoencoderCodec
from show1_jax.cascade.noise import SeededNoise
from show1_jax.cascade.resize import resize_bilinear
from show1_jax.cascade.stages import STAGE_TABLE
from show1_jax.checkpoints.networks import LoadedNetwork
from show1_jax.config.sampling import Stage
from show1_jax.errors import UserError
from show1_jax.media.contact_sheet import CONTACT_SHEET, contact_sheet
from show1_jax.media.frames import from_uint8, to_uint8
from show1_jax.media.write import write_mp4
from show1_jax.nn.array_types import Video
from show1_jax.nn.vae import Autoencoder
from show1_jax.parallel import from_all_processes, from_first_process, gather, put_batch, put_rows
from show1_jax.parallel.weights import to_state
from show1_jax.runtime import network_program
from show1_jax.training.plan import Plan
from show1_jax.training.run.training_run import TrainingRun

NUM_SAMPLES: Final = 4
"""Number of clips to sample, rounded up to a multiple of the size of the mesh's data axis."""


def write_samples(run: TrainingRun, step: int, denoise: Denoise = denoise) -> Path:
    """Sample the stage of a run into `WORKDIR/samples/STEP`, with a contact sheet of samples and true clips.

    The inputs of every stage but the keyframes come from the true clip: its end frames, or the clip at low resolution.

    Args:
        run: run whose averaged weights are sampled.
        step: number of the step, which is the folder's name.
        denoise: function that runs the sampler.

    Returns:
        The path of the contact sheet.
    """
    folder = run.workdir / "samples" / f"{step:08d}"
    videos, captions = _true_clips(run)
    with jax.set_mesh(run.mesh):
        samples = _sample_stage(run, put_batch(from_uint8(videos), run.mesh), captions, denoise)
    made = to_uint8(gather(samples, run.mesh))
    from_first_process(lambda: _write_videos(folder, made, videos, captions, run))
    return folder / CONTACT_SHEET


def _write_videos(folder: Path, made: np.ndarray, true: np.ndarray, captions: Sequence[str], run: TrainingRun) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {folder} ({error.strerror}); make room, then resume") from error
    for number, clip in enumerate(made):
        write_mp4(folder / f"{number}.mp4", clip, run.plan.spec.fps)
    rows: dict[str, UInt8[np.ndarray, "t h w 3"]] = {}
    for number, caption in enumerate(captions):
        rows[f"{number} {caption}"] = made[number]
        rows[f"{number} true clip"] = true[number]
    contact_sheet(folder / CONTACT_SHEET, rows, f"{run.plan.stage}, {folder.name} steps")


def _true_clips(run: TrainingRun) -> tuple[UInt8[np.ndarray, "b t h w 3"], list[str]]:
    """Return the first validation clips, uint8, and their captions; complete on every process."""
    size = run.mesh.shape["data"]
    num = -(-NUM_SAMPLES // size) * size
    batch_size = run.plan.training.batch_size
    first = next(iter(run.validation))
    videos = gather(put_rows(first.video, run.rows, batch_size, run.mesh), run.mesh)
    parts = from_all_processes(dict(zip(run.rows, first.captions, strict=True)))
    captions = {row: caption for part in parts for row, caption in part.items()}
    chosen = np.arange(num) % batch_size
    return videos[chosen], [captions[row] for row in chosen]


def _sample_stage(run: TrainingRun, clips: Video, captions: Sequence[str], denoise: Denoise) -> StageVideo:
    plan, config = run.plan, run.plan.config
    graph, like = plan.network()
    network = LoadedNetwork(graph, to_state(like, run.averaged_weights()), plan.architecture)
    if plan.row is None:
        return network_program(_reconstruct, run.mesh, network.graph)(network.weights, clips)
    scheduler, autoencoder = plan.scheduler("scheduler"), run.inputs.autoencoder
    assert scheduler is not None
    context = StageContext(
        stage=plan.row.name,
        network=network,
        scheduler=scheduler,
        noising_scheduler=plan.scheduler("image_noising_scheduler"),
        text=_text_states(run, captions),
        noise=SeededNoise(list(range(len(clips))), run.mesh),
        mesh=run.mesh,
        on_step=lambda done, total: None,
        denoise=denoise,
        codec=None if autoencoder is None else AutoencoderCodec(autoencoder, run.mesh),
    )
    return SAMPLING[plan.row.name](context, config, _stage_inputs(plan, clips))


def _stage_inputs(plan: Plan, clips: Video) -> dict[Stage, StageVideo]:
    """Compute the inputs of a stage from true clips of its result."""
    config, row = plan.config, plan.row
    assert row is not None
    upscaled = STAGE_TABLE["superres_pixel"].size(config, config.keyframes.size)
    made: dict[Stage, Callable[[], StageVideo]] = {
        "keyframes": lambda: clips[:, [0, -1]],
        "interpolation": lambda: _downsampled(clips, config.first_frame.scale),
        "first_frame": lambda: clips[:, :1],
        "superres_pixel": lambda: resize_bilinear(clips, *upscaled),
    }
    return {stage: made[stage]() for stage in row.inputs}


def _downsampled(clips: Video, scale: int) -> Float32[Array, "b t h//{scale} w//{scale} c"]:
    return reduce(clips, "b t (h i) (w j) c -> b t h w c", "mean", i=scale, j=scale)


def _text_states(run: TrainingRun, captions: Sequence[str]) -> Float[Array, "b g n d"]:
    """Encode the negative and the true captions, or only the captions; a cache contains only the empty negative."""
    config, row, source = run.plan.config, run.plan.row, run.inputs.text
    assert row is not None
    assert source is not None
    negative = config.negative_text(row.name)
    if negative is not None and config.train.text.source == "cache":
        negative = ""
    branches = [list(captions)] if negative is None else [[negative] * len(captions), list(captions)]
    states = [
        run.inputs.encode(source.weights, tuple(put_batch(array, run.mesh) for array in source.prepare(lines)))
        for lines in branches
    ]
    return jnp.stack(states, axis=1)


def _reconstruct(graph: "nnx.GraphDef[nnx.Module]", weights: nnx.State, clips: Video) -> Video:
    network = nnx.merge(graph, weights)
    assert isinstance(network, Autoencoder)
    mean, _ = network.encode(clips)
    return network.decode(mean)
