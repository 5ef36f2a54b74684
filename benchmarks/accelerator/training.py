"""A training step of a stage, on random clips and text states: neither data nor frozen networks are needed."""

import time
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.accelerator.setting import Setting, milliseconds
from benchmarks.accelerator.steps import Results
from benchmarks.sampling import GB, peak_gb, timed
from benchmarks.train import with_training
from show1_jax.config.settings import Remat
from show1_jax.config.training import TrainedStage
from show1_jax.nn.array_types import Keys, TextStates, Video
from show1_jax.nn.init import random_weight
from show1_jax.parallel import make_mesh, put_batch
from show1_jax.parallel.weights import to_weights
from show1_jax.runtime import exact_float32
from show1_jax.training.flops import model_flops, peak_flops
from show1_jax.training.inputs import abstract_inputs
from show1_jax.training.plan import Plan, make_plan
from show1_jax.training.state import abstract_state, new_state
from show1_jax.training.step import Batch, Frozen, Model, make_train_step

TRAINING: Final = "Training steps"


def training_step(setting: Setting, stage: TrainedStage, remat: Remat, batch_size: int) -> Results:
    """Measure a training step with a choice of saved activations."""
    plan = make_plan(with_training(setting.config, stage, remat, batch_size), stage, setting.platform)
    mesh, optimizer = make_mesh(plan.config.train.mesh, None, "train.mesh"), plan.optimizer()
    graph, like = plan.network()
    model = Model(graph, like, plan.objective(), _given_states, plan.training)
    abstract = abstract_state(to_weights(like), optimizer, mesh)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    weights = {path: random_weight(path, leaf) for path, leaf in abstract.weights.items()}
    state, batch = new_state(weights, optimizer, plan.config.train.seed, mesh), _random_batch(plan, mesh)
    del weights  # the state has them
    step: Any = make_train_step(model, optimizer, shardings)
    with exact_float32(plan.dtype), jax.set_mesh(mesh):
        started = time.perf_counter()
        compiled = step.lower(state, {}, batch).compile()
        compile_seconds = time.perf_counter() - started
        losses = []

        def run() -> Any:
            nonlocal state
            state, metrics = compiled(state, {}, batch)
            losses.append(metrics.loss)
            return metrics

        seconds = timed(run, setting.num_steps)
        flops = model_flops(plan, model) / float(np.median(seconds))
    memory, peak = compiled.memory_analysis(), peak_flops(mesh.devices.flat[0])
    yield (
        TRAINING,
        {
            "stage": stage,
            "dtype": str(plan.dtype),
            "remat": remat,
            "clips": f"{batch_size} x {plan.spec.num_frames} of {plan.spec.width}x{plan.spec.height}",
            "step ms": milliseconds(seconds),
            "model TFLOP/s": flops / 1e12,
            "utilisation": f"{flops / peak / mesh.size:.1%}" if peak else "peak not known",
            "compile s": compile_seconds,
            "program GB": (memory.argument_size_in_bytes + memory.temp_size_in_bytes) / GB,
            "peak GB": peak_gb(),
            "loss": f"{float(losses[0]):.3g} to {float(losses[-1]):.3g}",
        },
    )


def _given_states(frozen: Frozen, batch: Batch, keys: Keys, *, training: bool) -> tuple[Video, TextStates | None]:
    """Return the video and the text states of a batch that has states and not captions; see `PrepareInputs`."""
    (states,) = batch.text
    return batch.video.astype(jnp.float32) / 127.5 - 1, states


def _random_batch(plan: Plan, mesh: jax.sharding.Mesh) -> Batch:
    video, text = abstract_inputs(plan, plan.training.batch_size)
    rng = np.random.default_rng(0)
    clips = rng.integers(0, 256, video.shape, np.uint8)
    states = rng.standard_normal(text.shape, np.float32).astype(text.dtype)
    return Batch(put_batch(clips, mesh), (put_batch(states, mesh),))
