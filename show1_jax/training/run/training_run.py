"""A training run put together: plan, mesh, data, frozen networks, state and compiled step, new or resumed."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from show1_jax.checkpoints.arrays import load_weights
from show1_jax.checkpoints.manifest import Component
from show1_jax.checkpoints.run_steps import CHECKPOINTS, TrainingCheckpoints, warn_user
from show1_jax.config.settings import flatten
from show1_jax.config.training import TRAINED_STAGES, TrainedStage, TrainingConfig
from show1_jax.data.clips import training_clips, validation_clips
from show1_jax.errors import UserError
from show1_jax.nn.init import initial_weights
from show1_jax.parallel import local_rows, make_mesh, put_rows, shardings_by_path, weight_shardings
from show1_jax.parallel.weights import Weights, to_weights
from show1_jax.training.inputs import Inputs
from show1_jax.training.plan import Plan
from show1_jax.training.run.record import ClipState, StepRecord
from show1_jax.training.state import TrainState, abstract_state, new_state
from show1_jax.training.step import Batch, Metrics, Model, make_evaluation_step, make_train_step

_FIXED: Final = ("batch_size", "seed")
"""Settings that a resumed run must not have differently."""
_OF_OPTIMIZER: Final = {"optimizer.kind", "decoder_only"}
"""Settings that decide what an optimiser keeps."""
_MAY_CHANGE: Final = {
    *("log_every", "evaluate_every", "save_every", "sample_every", "keep", "keep_every"),
    *("mesh.data", "mesh.fsdp", "mesh.tensor", "data.num_workers", "data.max_failed_share"),
    *("num_microbatches", "remat", "num_bands", "init", "text.cache"),
}
"""Settings that it may have differently without a word."""


class TrainingRun:
    """Everything that the loop needs.

    Attributes:
        plan: what is trained.
        mesh: of devices.
        state: what training changes.
        saved_step: of the last checkpoint; None before the first.
        latent_std: of an autoencoder's latents, once it is known.
        clips: where the next batch comes from.
        checkpoints: where the state is saved.
        compiled_step: state, frozen weights and a batch to state and metrics; see `make_train_step`.
    """

    def __init__(self, plan: Plan, workdir: Path, mesh: Mesh):
        config, training = plan.config, plan.training
        self.plan, self.workdir, self.mesh = plan, workdir, mesh
        self.latent_std: float | None = None
        check_batch(plan, mesh.shape)
        self.rows = local_rows(mesh, training.batch_size)
        data, size = config.train.data, training.batch_size
        self.clips = training_clips(data, plan.spec, batch_size=size, rows=self.rows)
        self.validation = validation_clips(data, plan.spec, batch_size=size, rows=self.rows)
        self.inputs = Inputs(plan, mesh)
        graph, self.like = plan.network()
        self.model = Model(graph, self.like, plan.objective(), self.inputs.prepare, training)
        keep, keep_every = config.train.keep, config.train.keep_every
        self.checkpoints = TrainingCheckpoints(workdir / CHECKPOINTS, keep=keep, keep_every=keep_every)
        self._check_resumed(self.checkpoints.record())
        self.optimizer = plan.optimizer()
        self._abstract = abstract_state(to_weights(self.like), self.optimizer, mesh)
        if not self.resume():
            self.state = new_state(self._first_weights(), self.optimizer, config.train.seed, mesh)
            self.saved_step: int | None = None
        shardings = jax.tree.map(lambda leaf: leaf.sharding, self._abstract)
        self.compiled_step = make_train_step(self.model, self.optimizer, shardings)
        self._evaluation_step = make_evaluation_step(self.model, mesh)

    @classmethod
    def open(cls, plan: Plan, workdir: Path, devices: Sequence[jax.Device] | None = None) -> "TrainingRun":
        """A new run in `workdir`, or the one there, from its last good checkpoint, on these devices or on all.

        Raises:
            UserError: a mesh or a batch that does not fit the devices; no data; a checkpoint of another stage or of
                other data; no frozen network; or no checkpoint that can be used.
        """
        return cls(plan, workdir, make_mesh(plan.config.train.mesh, devices, "train.mesh"))

    def next_batch(self) -> Batch:
        """Draw a batch: this process's rows of it, with their text, spread over the devices."""
        clips = next(self.clips)
        return self.inputs.put(clips.video, clips.captions, self.rows)

    def train_step(self, batch: Batch) -> Metrics:
        """One step; returns before it is computed."""
        with jax.set_mesh(self.mesh):
            self.state, metrics = self.compiled_step(self.state, self.inputs.frozen, batch)
        return metrics

    def evaluate(self) -> float:
        """Mean loss of the averaged weights over the validation clips, at noise that is always the same."""
        total = valid = 0.0
        for number, clips in enumerate(self.validation):
            batch = self.inputs.put(clips.video, clips.captions, self.rows)
            weight = put_rows(clips.valid.astype(np.float32), self.rows, self.plan.training.batch_size, self.mesh)
            with jax.set_mesh(self.mesh):
                sums = self._evaluation_step(
                    self.state.average, self.inputs.frozen, batch, self.state.key, np.int32(number), weight
                )
            total, valid = total + float(sums[0]), valid + float(sums[1])
        if not valid:
            raise UserError("none of the validation clips can be read; build the dataset again")
        return total / valid

    def save(self, step: int) -> None:
        """Save the state; the writing goes on in the background.

        Raises:
            UserError: the disk is full, or this or the earlier save failed.
        """
        plan = self.plan
        self.clips.check()
        record = StepRecord(
            stage=plan.stage,
            step=step,
            data=ClipState.from_dict(self.clips.get_state()),
            fingerprint=self.clips.fingerprint,
            network=tuple(_network(plan)),
            settings=_settings(plan),
            config=plan.config.to_dict(),
            mesh=dict(self.mesh.shape),
            processes=jax.process_count(),
        )
        rest = self.state._replace(average={})
        self.checkpoints.save(step, plan.component, self._published(step), self.state.average, rest, record.to_dict())
        self.saved_step = step

    def _published(self, step: int) -> Component:
        """What a checkpoint says of the network: of an autoencoder, also how its latents are to be scaled."""
        plan, architecture = self.plan, self.plan.record.architecture
        if self.latent_std and not plan.keeps_latents:
            architecture = architecture | {"scaling_factor": 1 / self.latent_std}
        provenance = {"source": "train.py", "step": step, "starts_from": plan.record.provenance}
        return dataclasses.replace(plan.record, architecture=architecture, dtype="float32", provenance=provenance)

    def close(self, *, failed: bool = False) -> None:
        """End the data's workers and wait for the last save.

        Args:
            failed: this process alone may be here, so that it must not wait for the others.

        Raises:
            UserError: the last save failed.
        """
        self.clips.close()
        self.checkpoints.close(agree=not failed)

    def resume(self) -> bool:
        """Take state and place in the data from the last good checkpoint; False if there is none."""
        self.checkpoints.wait()
        average: Any = self._abstract.average
        restored = self.checkpoints.restore(self.plan.component, average, self._abstract._replace(average={}))
        if restored is None:
            return False
        self.clips.set_state(self._read_record(restored.record).data.to_dict())
        state: TrainState = restored.state
        self.state = state._replace(average=restored.ema)
        self.saved_step = restored.step
        return True

    def _first_weights(self) -> Weights:
        plan, shapes = self.plan, to_weights(self.like)
        if plan.starts_from is None:
            return initial_weights(shapes, shardings_by_path(shapes, self.mesh), plan.config.train.seed)
        checkpoint = plan.starts_from.path(plan.component)
        shardings = weight_shardings(self.like, self.mesh)
        return to_weights(load_weights(checkpoint, plan.component, self.like, shardings, jnp.float32))

    def _read_record(self, values: Mapping[str, Any]) -> StepRecord:
        return StepRecord.read(values, f"{self.checkpoints.directory}: the record of a step")

    def _check_resumed(self, values: Mapping[str, Any] | None) -> None:
        """Refuse to go on with a run of something else, and say what is different where that is allowed."""
        if values is None:
            return
        record = self._read_record(values)
        plan, where, remedy = self.plan, f"{self.workdir} holds a run", "or take another --workdir"
        if record.stage != plan.stage:
            raise UserError(f"{where} of stage {record.stage}, not {plan.stage}; take another --workdir")
        if not _is_of(plan, *record.network):
            raise UserError(f"{where} of another network or noise schedule; go on with the config it had, {remedy}")
        before, now = _of_stage(TrainingConfig(), plan.stage) | record.settings, _settings(plan)
        for name in _FIXED:
            if before[name] != now[name]:
                raise UserError(
                    f"{where} with {name}={before[name]}, which clips and noise depend on; go on with that, {remedy}"
                )
        for name in _OF_OPTIMIZER & now.keys():
            if before[name] != now[name]:
                raise UserError(
                    f"{where} with {name}={before[name]}, whose state another optimizer cannot take; "
                    f"go on with that, or take another --workdir and start there with init={self.workdir}"
                )
        if record.fingerprint != self.clips.fingerprint:
            raise UserError(
                f"{where} on other clips (dataset, data.seed, num_validation, or their size, rate or length); "
                f"go on with those, {remedy}"
            )
        changed = [name for name in now if name not in _MAY_CHANGE and before.get(name) != now[name]]
        if changed:
            warn_user(f"{where} with another {', '.join(changed)}; it goes on with the new settings")


def _network(plan: Plan) -> Any:
    """What a run's network is, as its record holds it."""
    return json.loads(json.dumps([plan.architecture.to_dict(), plan.record.schedulers]))


def _is_of(plan: Plan, architecture: Mapping[str, Any], schedulers: Mapping[str, Any]) -> bool:
    """Whether a record's network is the plan's; settings that are newer than the record had their default there."""
    return type(plan.architecture).from_dict(architecture) == plan.architecture and schedulers == _network(plan)[1]


def _settings(plan: Plan) -> dict[str, Any]:
    """The settings that a stage's run depends on, by dotted name, as its record holds them."""
    others = {"text_padding": plan.config.text_padding, "between": plan.config.interpolation.between}
    frozen = {} if plan.checkpoints is None else {name: plan.checkpoints.manifest.digest(name) for name in plan.frozen}
    return _of_stage(plan.config.train, plan.stage) | flatten({**others, "frozen": frozen})


def _of_stage(config: TrainingConfig, stage: TrainedStage) -> dict[str, Any]:
    """The settings of a stage's training and those that all stages share, by dotted name."""
    train = config.to_dict()
    shared = {name: value for name, value in train.items() if name not in TRAINED_STAGES}
    return flatten({**shared, **train[stage]})


def check_batch(plan: Plan, mesh: Mapping[str, int]) -> None:
    """Refuse a batch whose parts do not divide over the mesh.

    Raises:
        UserError: says what would.
    """
    training, places = plan.training, mesh["data"] * mesh["fsdp"]
    part = training.batch_size // training.num_microbatches
    if part % places:
        raise UserError(
            f"batch_size={training.batch_size} in {training.num_microbatches} microbatches is {part} clips at a time, "
            f"which do not divide over the {places} places of data x fsdp; take a multiple of "
            f"{places * training.num_microbatches} as --config.train.{plan.stage}.batch_size"
        )
