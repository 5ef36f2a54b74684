"""Device memory that sampling needs, as the compiler plans it, and the choices that keep it below a limit."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import jax

from show1_jax.cascade.denoise import CompiledSteps
from show1_jax.cascade.programs import (
    Program,
    as_sampled,
    autoencoder_programs,
    denoising_step,
    streamed_text_encoding,
    text_encoding,
    trace_with_formats,
)
from show1_jax.cascade.spec import CascadeSpec
from show1_jax.cascade.stages import AUTOENCODER, STAGE_TABLE, components, text_encoders
from show1_jax.checkpoints.adapters import changed_weight
from show1_jax.checkpoints.networks import LoadedNetwork, abstract_network
from show1_jax.config.sampling import STAGES, Stage
from show1_jax.config.video_edit import VideoEdit
from show1_jax.parallel import device_bytes, from_first_process
from show1_jax.parallel.weights import to_weights
from show1_jax.runtime import weight_formats

GIB: Final = 2**30
_RESIDENT_SHARE: Final = 0.5
"""Share of the memory that all weights may take; the rest is for inputs, results and intermediate arrays."""


class MemoryNeed(NamedTuple):
    """Memory of one device while a part of the cascade runs.

    Attributes:
        weights: bytes of the weights of all networks that are on the device at that time.
        working: bytes of inputs, results, and intermediate arrays.
        sequential_guidance: the two branches of guidance run sequentially.
        is_streamed: a text encoder has the weights of one block at a time on the device.
    """

    weights: int
    working: int
    sequential_guidance: bool = False
    is_streamed: bool = False

    @property
    def total(self) -> int:
        """Bytes of weights and working memory."""
        return self.weights + self.working


def memory_needs(
    spec: CascadeSpec, stages: Sequence[Stage], batch_size: int = 1, edit: VideoEdit | None = None
) -> Iterator[tuple[str, MemoryNeed]]:
    """Yield the name and the memory need of each part of the cascade: text encoders, stages, inversion, autoencoder.

    Every program is compiled and stored in the compilation cache, from which a run loads it. In bfloat16 the compiler
    for CPUs plans far more memory than the one for GPUs.
    """
    for component in text_encoders(stages):
        yield component, text_need(spec, component, batch_size)
    for stage in STAGES:
        if stage in stages:
            compiled = compile_stage(spec, stage, batch_size)
            added = adapted_bytes(spec, stage)
            yield stage, compiled.need._replace(weights=compiled.need.weights + added)
            if edit is not None and edit.stage == stage and edit.inversion_steps and compiled.steps:
                program = denoising_step(spec, stage, batch_size, inversion_steps=edit.inversion_steps)
                need = _program_need(spec, program)
                yield "inversion", need._replace(weights=need.weights + added)
            if compiled.codec is not None:
                programs = zip(compiled.codec, autoencoder_programs(spec, stage, batch_size), strict=True)
                working = max(_need_of(code, program).working for code, program in programs)
                yield AUTOENCODER, MemoryNeed(compiled.need.weights + added, working)


def text_need(spec: CascadeSpec, component: str, batch_size: int = 1) -> MemoryNeed:
    """Return the need of a text encoder; it runs block by block if the whole encoder exceeds `memory_limit_gb`."""
    program = text_encoding(spec, component, batch_size)
    can_stream = spec.text_encoder(component).streams
    if not can_stream or weight_bytes(program) <= _limit_bytes(spec):  # otherwise the whole encoder is not compiled
        whole = _program_need(spec, program)
        if not can_stream or whole.total <= _limit_bytes(spec):
            return whole
    parts = (_program_need(spec, part) for part in streamed_text_encoding(spec, component, batch_size))
    return max(parts, key=lambda need: need.total)._replace(is_streamed=True)


def is_text_streamed(spec: CascadeSpec, component: str, batch_size: int) -> bool:
    """Return whether `memory_limit_gb` makes a text encoder run block by block."""
    can_stream = spec.config.memory_limit_gb > 0 and spec.text_encoder(component).streams
    return can_stream and text_need(spec, component, batch_size).is_streamed


class CompiledStage(NamedTuple):
    """The programs of a stage, compiled ahead of time from shapes.

    Attributes:
        steps: denoising steps by their kind.
        codec: encoding and decoding of a latent stage; None for the others.
        formats: layouts and shardings of the weights of the stage's UNet; None: the default ones.
        need: memory while the stage runs, without adapters.
    """

    steps: CompiledSteps
    codec: tuple[Any, Any] | None
    formats: Any
    need: MemoryNeed


def compile_stage(spec: CascadeSpec, stage: Stage, batch_size: int = 1, formats: Any = None) -> CompiledStage:
    """Compile the programs of a stage; guidance is sequential if it would otherwise exceed `memory_limit_gb`.

    Args:
        spec: settings, mesh and architectures.
        stage: name of the stage.
        batch_size: number of videos.
        formats: formats of the UNet's weights; None: the compiler chooses the layouts.
    """
    if not STAGE_TABLE[stage].num_clips(spec.config):  # there is one keyframe, and nothing between keyframes
        return CompiledStage({}, None, formats, MemoryNeed(_weight_bytes(_network(spec, stage).weights), 0))
    together = _compile_steps(spec, stage, batch_size, formats, sequential_guidance=False)
    if together.need.total <= stage_limit(spec, stage) or spec.config.negative_text(stage) is None:
        return together
    return _compile_steps(spec, stage, batch_size, formats, sequential_guidance=True)


def _compile_steps(
    spec: CascadeSpec, stage: Stage, batch_size: int, formats: Any, *, sequential_guidance: bool
) -> CompiledStage:
    steps, needs = {}, []
    for kind in spec.step_kinds(stage):
        program = denoising_step(spec, stage, batch_size, kind=kind, sequential_guidance=sequential_guidance)
        steps[kind] = trace_with_formats(spec, program, formats).lower().compile()
        formats = weight_formats(steps[kind])  # all kinds read the same weights
        needs.append(_need_of(steps[kind], program))
    step, codec = max(needs, key=lambda need: need.total), None
    if STAGE_TABLE[stage].is_latent:
        programs = autoencoder_programs(spec, stage, batch_size)
        codec = _compile(spec, programs[0]), _compile(spec, programs[1])
        step = step._replace(weights=step.weights + weight_bytes(programs[0]))
    return CompiledStage(steps, codec, formats, step._replace(sequential_guidance=sequential_guidance))


def keeps_all_weights(spec: CascadeSpec, stages: Sequence[Stage]) -> bool:
    """Return whether the weights of all networks of some stages stay on the devices (setting `resident_weights`)."""
    present = [name for name in components(stages) if name in spec.manifest.components]
    total = sum(component_bytes(spec, name) for name in present)
    return from_first_process(lambda: total <= resident_limit(spec))


def resident_limit(spec: CascadeSpec) -> float:
    """Return the bytes of each device that the weights of several networks may take together."""
    choice = spec.config.resident_weights
    if choice == "all":
        return math.inf
    # Needs are compared with memory_limit_gb stage by stage, so that other weights would exceed it.
    return 0 if choice == "one" or spec.config.memory_limit_gb else _RESIDENT_SHARE * memory_bytes(spec)


def component_bytes(spec: CascadeSpec, component: str) -> int:
    """Return the bytes of a component's weights on each device, with those that adapters change."""
    return _weight_bytes(_network(spec, component).weights) + adapted_bytes(spec, component)


def adapted_bytes(spec: CascadeSpec, component: str) -> int:
    """Return the bytes of the changed copies of weights, on each device; 0 without adapters."""
    paths = {changed_weight(path) for adapter in spec.adapters_of(component) for path in adapter.shapes}
    weights = to_weights(_network(spec, component).weights) if paths else {}
    return _weight_bytes([weights[path] for path in paths])


def stage_limit(spec: CascadeSpec, stage: Stage) -> float:
    """Return the bytes of each device that a stage's programs may use with `memory_limit_gb`, beside its adapters."""
    return _limit_bytes(spec) - adapted_bytes(spec, stage)


def _network(spec: CascadeSpec, component: str) -> LoadedNetwork:
    return abstract_network(spec.manifest.component(component), spec.mesh, spec.dtype)


def memory_bytes(spec: CascadeSpec) -> float:
    """Return the memory of each device; 0 if it is not known."""
    devices = spec.mesh.local_devices
    return device_bytes(devices[0], len(devices)) if devices else 0


def weight_bytes(program: Program) -> int:
    """Return the bytes of a program's weights on each device."""
    return _weight_bytes(program.weights)


def _weight_bytes(weights: Any) -> int:
    leaves = jax.tree.leaves(weights)
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves)


def _limit_bytes(spec: CascadeSpec) -> float:
    return spec.config.memory_limit_gb * GIB or math.inf


def _program_need(spec: CascadeSpec, program: Program) -> MemoryNeed:
    return _need_of(_compile(spec, program), program)


def _compile(spec: CascadeSpec, program: Program) -> Any:
    with as_sampled(spec):
        return program.trace().lower().compile()


def _need_of(compiled: Any, program: Program) -> MemoryNeed:
    plan, weights = compiled.memory_analysis(), weight_bytes(program)
    used = plan.argument_size_in_bytes + plan.temp_size_in_bytes + plan.output_size_in_bytes - plan.alias_size_in_bytes
    return MemoryNeed(weights, used - weights)
