"""A new or resumed training run: plan, mesh, data, frozen networks, state and compiled step."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import jax
import numpy as np
from jax.sharding import Mesh

from show1_jax.checkpoints.adapters import ADAPTER
from show1_jax.checkpoints.arrays import load_weights
from show1_jax.checkpoints.manifest import Component
from show1_jax.checkpoints.run_steps import CHECKPOINTS, TrainingCheckpoints, warn_user
from show1_jax.config.settings import flatten
from show1_jax.config.training import TRAINED_STAGES, TrainedStage, TrainingConfig
from show1_jax.data.clips import open_sources, training_clips, validation_clips
from show1_jax.errors import UserError
from show1_jax.nn.init import initial_weights
from show1_jax.parallel import from_all_processes, local_rows, make_mesh, put_rows, shardings_by_path, weight_shardings
from show1_jax.parallel.weights import Weights, WeightShapes, to_state, to_weights
from show1_jax.training.inputs import Inputs
from show1_jax.training.plan import Plan
from show1_jax.training.run.record import ClipState, StepRecord
from show1_jax.training.state import TrainState, abstract_state, new_state
from show1_jax.training.step import BASE, Batch, Frozen, Metrics, Model, make_evaluation_step, make_train_step
from show1_jax.training.trainable import frozen_shapes, frozen_weights, lora_config, trains_all

_FIXED_SETTINGS: Final = ("batch_size", "seed")
"""Settings that a resumed run must not change."""
_OPTIMIZER_SETTINGS: Final = ("optimizer.kind", "decoder_only", "trainable")
_LORA_SETTINGS: Final = ("lora.rank", "lora.alpha", "lora.layers")
"""Settings that determine the structure of the optimiser's state; a resumed run must not change them either. Those of
low-rank adapters concern only a run that trains them."""
_CHANGEABLE_SETTINGS: Final = {
    *("log_every", "evaluate_every", "save_every", "sample_every", "keep", "keep_every"),
    *("mesh.data", "mesh.fsdp", "mesh.tensor", "data.num_workers", "data.max_failed_share"),
    *("num_microbatches", "remat", "num_bands", "init", "text.cache"),
    *("data.local_copies", "text.local_copies"),
}
"""Settings that a resumed run may change without a warning; all others may change with one."""


class TrainingRun:
    """Everything that the training loop requires.

    Attributes:
        plan: plan of the stage's training.
        workdir: working directory of the run.
        mesh: devices.
        state: the training state.
        saved_step: number of the last saved step; None before the first.
        latent_std: standard deviation of an autoencoder's latents; None until it is measured.
        rows: rows of the whole batch that this process reads.
        clips: iterator over the training batches.
        validation: the validation batches.
        inputs: computes the objective's inputs from batches.
        model: the trained network with its objective.
        base: frozen weights of the trained network, by path; empty if all are trained.
        checkpoints: saved steps.
        compiled_step: maps state, frozen weights and a batch to state and metrics; see `make_train_step`.
    """

    def __init__(self, plan: Plan, workdir: Path, mesh: Mesh):
        config, training = plan.config, plan.training
        self.plan, self.workdir, self.mesh = plan, workdir, mesh
        trained = _trained_shapes(plan)
        self.latent_std: float | None = None
        check_batch(plan, mesh.shape)
        self.rows = local_rows(mesh, training.batch_size)
        data, size = config.train.data, training.batch_size
        sources = open_sources(data, plan.spec, plan.video_seconds)
        self.clips = training_clips(data, plan.spec, batch_size=size, rows=self.rows, sources=sources)
        if len(set(from_all_processes(self.clips.fingerprint))) > 1:
            raise UserError(
                f"the processes have different datasets or files as data.path={data.path}; give all hosts the same"
            )
        self.validation = validation_clips(data, plan.spec, batch_size=size, rows=self.rows, sources=sources)
        self.inputs = Inputs(plan, mesh)
        graph, self.like = plan.network()
        self.model = Model(graph, self.like, plan.objective(), self.inputs.prepare, training, plan.lora_scale)
        keep, keep_every = config.train.keep, config.train.keep_every
        self.checkpoints = TrainingCheckpoints(workdir / CHECKPOINTS, keep=keep, keep_every=keep_every)
        self._check_resumed(self.checkpoints.record())
        self.optimizer = plan.optimizer()
        self._abstract = abstract_state(trained, self.optimizer, mesh)
        self.base: Weights = {}
        if not self.resume():
            weights = self._first_weights()
            self.base = frozen_weights(weights, trained)
            self.state = new_state(self._first_trained(weights), self.optimizer, config.train.seed, mesh)
            self.saved_step: int | None = None
        shardings = jax.tree.map(lambda leaf: leaf.sharding, self._abstract)
        self.compiled_step = make_train_step(self.model, self.optimizer, shardings)
        self._evaluation_step = make_evaluation_step(self.model, mesh)

    @classmethod
    def open(cls, plan: Plan, workdir: Path, devices: Sequence[jax.Device] | None = None) -> "TrainingRun":
        """Start a new run in `workdir`, or resume the run there from its newest intact step.

        Args:
            plan: plan of the stage's training.
            workdir: working directory of the run.
            devices: devices to train on; None: all.

        Raises:
            UserError: the mesh or the batch does not fit the devices; data or a frozen network is missing; the run in
                `workdir` is of another stage, network or data; or none of its saved steps is intact.
        """
        return cls(plan, workdir, make_mesh(plan.config.train.mesh, devices, "train.mesh"))

    @property
    def frozen(self) -> Frozen:
        """Weights that a step takes and does not change: of the frozen networks, and of the trained network."""
        return {**self.inputs.frozen, BASE: self.base} if self.base else self.inputs.frozen

    def averaged_weights(self) -> Weights:
        """Return all weights of the network: the average of those that are trained, and the frozen ones."""
        return self.model.network_weights(self.state.average, self.base)

    def next_batch(self) -> Batch:
        """Draw the next batch: this process's rows of clips and text, sharded over the devices."""
        clips = next(self.clips)
        return self.inputs.put(clips.video, clips.captions, self.rows)

    def train_step(self, batch: Batch) -> Metrics:
        """Start one step and return its metrics, before they are computed."""
        with jax.set_mesh(self.mesh):
            self.state, metrics = self.compiled_step(self.state, self.frozen, batch)
        return metrics

    def evaluate(self) -> float:
        """Return the mean loss of the averaged weights over the validation clips, with the same noise every time.

        Raises:
            UserError: none of the validation clips can be read.
        """
        total = valid = 0.0
        for number, clips in enumerate(self.validation):
            batch = self.inputs.put(clips.video, clips.captions, self.rows)
            weight = put_rows(clips.valid.astype(np.float32), self.rows, self.plan.training.batch_size, self.mesh)
            with jax.set_mesh(self.mesh):
                sums = self._evaluation_step(
                    self.state.average, self.frozen, batch, self.state.key, np.int32(number), weight
                )
            total, valid = total + float(sums[0]), valid + float(sums[1])
        if not valid:
            raise UserError("none of the validation clips can be read; build the dataset again")
        return total / valid

    def save(self, step: int) -> None:
        """Save the state. Writing continues in the background after this returns.

        Raises:
            UserError: the disk is full, this or the earlier save failed, or too many clips cannot be read.
        """
        plan = self.plan
        self.clips.check()
        record = StepRecord(
            stage=plan.stage,
            step=step,
            data=ClipState.from_dict(self.clips.get_state()),
            fingerprint=self.clips.fingerprint,
            network=tuple(_recorded_network(plan)),
            settings=_recorded_run_settings(plan),
            config=plan.config.to_dict(),
            mesh=dict(self.mesh.shape),
            processes=jax.process_count(),
        )
        rest = self.state._replace(average={})
        weights = self.averaged_weights() if plan.adapter() is None else self.state.average
        self.checkpoints.save(step, plan.component, self._published(step), weights, rest, record.to_dict())
        self.saved_step = step

    def _published(self, step: int) -> Component:
        """Return the network's record for a checkpoint, with the measured `scaling_factor` of an autoencoder.

        If an adapter is trained, it is the record of the adapter.
        """
        plan, architecture = self.plan, self.plan.record.architecture
        if self.latent_std and not plan.keeps_latents:
            architecture = architecture | {"scaling_factor": 1 / self.latent_std}
        provenance = {
            "source": "train.py",
            "stage": plan.stage,
            "step": step,
            "settings": _changed_settings(plan),
            "starts_from": plan.record.provenance,
        }
        if (adapter := plan.adapter()) is not None:
            return Component(ADAPTER, adapter.to_dict(), "float32", provenance=provenance)
        return dataclasses.replace(plan.record, architecture=architecture, dtype="float32", provenance=provenance)

    def close(self, *, failed: bool = False) -> None:
        """Stop the data workers and wait for the last save.

        Args:
            failed: this process may be the only one that closes, and does not wait for the others.

        Raises:
            UserError: the last save failed.
        """
        self.clips.close()
        self.checkpoints.close(agree=not failed)

    def resume(self) -> bool:
        """Restore state and position in the data from the newest intact step; return False if there is none."""
        self.checkpoints.wait()
        average: Any = self._abstract.average
        saved = average if self.plan.adapter() else _placed(to_weights(self.like), self.mesh)
        restored = self.checkpoints.restore(self.plan.component, saved, self._abstract._replace(average={}))
        if restored is None:
            return False
        weights = self._first_weights() if self.plan.adapter() else restored.ema
        self.base = frozen_weights(weights, average)
        self.clips.set_state(self._read_record(restored.record).data.to_dict())
        state: TrainState = restored.state
        self.state = state._replace(average={path: restored.ema[path] for path in average})
        self.saved_step = restored.step
        return True

    def _first_weights(self) -> Weights:
        plan, shapes = self.plan, to_weights(self.like)
        if plan.starts_from is None:
            return initial_weights(shapes, shardings_by_path(shapes, self.mesh), plan.config.train.seed)
        checkpoint = plan.starts_from.path(plan.component)
        like = to_state(self.like, shapes | frozen_shapes(plan.training, shapes, self._abstract.weights))
        return to_weights(load_weights(checkpoint, plan.component, like, weight_shardings(like, self.mesh)))

    def _first_trained(self, weights: Weights) -> Weights:
        """Return the initial trained arrays: some of these weights of the network, or new low-rank pairs."""
        trained = self._abstract.weights
        new = {path: leaf for path, leaf in trained.items() if path not in weights}
        shardings = {path: leaf.sharding for path, leaf in new.items()}
        drawn = initial_weights(new, shardings, self.plan.config.train.seed)
        return {path: drawn[path] if path in drawn else weights[path] for path in trained}

    def _read_record(self, values: Mapping[str, Any]) -> StepRecord:
        return StepRecord.read(values, f"{self.checkpoints.directory}: the record of a step")

    def _check_resumed(self, values: Mapping[str, Any] | None) -> None:
        """Refuse to resume a run of another stage, network or data; warn of other settings that differ.

        Args:
            values: record of the newest intact step; None if there is none.
        """
        if values is None:
            return
        record = self._read_record(values)
        plan, where, remedy = self.plan, f"{self.workdir} holds a run", "or use another --workdir"
        if record.stage != plan.stage:
            raise UserError(f"{where} of stage {record.stage}, not {plan.stage}; use another --workdir")
        if not _matches_network(plan, *record.network):
            raise UserError(f"{where} of another network or noise schedule; resume with its config, {remedy}")
        before, now = _stage_settings(TrainingConfig(), plan.stage) | record.settings, _recorded_run_settings(plan)
        for name in _FIXED_SETTINGS:
            if before[name] != now[name]:
                raise UserError(
                    f"{where} with {name}={before[name]}, which clips and noise depend on; resume with that, {remedy}"
                )
        start = "" if "base" in before else f" and start with init={self.workdir}"
        for name in (*_OPTIMIZER_SETTINGS, *(_LORA_SETTINGS if lora_config(plan.training) else ())):
            if before.get(name) != now.get(name):
                raise UserError(
                    f"{where} with {name}={before[name]}, whose state another optimizer cannot use; "
                    f"resume with that, {remedy}{start}"
                )
        if before.get("base") != now.get("base"):
            raise UserError(f"{where} that adapts other weights; give those of its start as init, {remedy}")
        if record.fingerprint != self.clips.fingerprint:
            raise UserError(
                f"{where} on other clips (dataset or files, captions, data.seed, num_validation, pan, zoom, jitter, or "
                f"their size, rate or length); resume with those, {remedy}"
            )
        changed = [name for name in now if name not in _CHANGEABLE_SETTINGS and before.get(name) != now[name]]
        if changed:
            warn_user(f"{where} with another {', '.join(changed)}; it resumes with the new settings")


def _trained_shapes(plan: Plan) -> WeightShapes:
    """Return the shapes of the trained arrays, if the frozen weights have a checkpoint to come from."""
    if plan.starts_from is None and not trains_all(plan.training):
        setting = "decoder_only=True" if plan.keeps_latents else "trainable"
        raise UserError(f"stage {plan.stage}: {setting} freezes weights of a checkpoint; name it with init=DIR")
    return plan.trained_shapes()


def _placed(shapes: WeightShapes, mesh: Mesh) -> WeightShapes:
    """Return shapes of weights with their shardings."""
    shardings = shardings_by_path(shapes, mesh)
    return {
        path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=shardings[path]) for path, leaf in shapes.items()
    }


def _recorded_network(plan: Plan) -> Any:
    """Return architecture and schedulers of a run's network, as its record contains them."""
    return json.loads(json.dumps([plan.architecture.to_dict(), plan.record.schedulers]))


def _matches_network(plan: Plan, architecture: Mapping[str, Any], schedulers: Mapping[str, Any]) -> bool:
    """Return whether a record's network is the plan's; fields that the record lacks have their defaults."""
    return (
        type(plan.architecture).from_dict(architecture) == plan.architecture
        and schedulers == _recorded_network(plan)[1]
    )


def _recorded_run_settings(plan: Plan) -> dict[str, Any]:
    """Return the settings that a stage's run depends on, by dotted name, as its record contains them."""
    others = {"text_padding": plan.config.text_padding, "between": plan.config.interpolation.between}
    frozen = {} if plan.checkpoints is None else {name: plan.checkpoints.manifest.digest(name) for name in plan.frozen}
    adapter = plan.adapter()
    base = {} if adapter is None else {"base": adapter.base}
    return _stage_settings(plan.config.train, plan.stage) | flatten({**others, **base, "frozen": frozen})


def _changed_settings(plan: Plan) -> dict[str, Any]:
    """Return the training settings of the stage that differ from their defaults, by dotted name, as JSON."""
    defaults = _stage_settings(TrainingConfig(), plan.stage)
    own = _stage_settings(plan.config.train, plan.stage)
    changed = {name: value for name, value in own.items() if value != defaults[name]}
    return dict(json.loads(json.dumps(changed)))


def _stage_settings(config: TrainingConfig, stage: TrainedStage) -> dict[str, Any]:
    """Return the settings of a stage's training and those that all stages share, by dotted name."""
    train = config.to_dict()
    shared = {name: value for name, value in train.items() if name not in TRAINED_STAGES}
    return flatten({**shared, **train[stage]})


def check_batch(plan: Plan, mesh: Mapping[str, int]) -> None:
    """Refuse a batch whose microbatches do not divide over the mesh.

    Args:
        plan: plan of the stage's training.
        mesh: sizes of the mesh's axes.

    Raises:
        UserError: names a batch size that divides.
    """
    training, shards = plan.training, mesh["data"] * mesh["fsdp"]
    part = training.batch_size // training.num_microbatches
    if part % shards:
        raise UserError(
            f"batch_size={training.batch_size} in {training.num_microbatches} microbatches is {part} clips at a time, "
            f"which do not divide over the {shards} shards of data x fsdp; use a multiple of "
            f"{shards * training.num_microbatches} as --config.train.{plan.stage}.batch_size"
        )
