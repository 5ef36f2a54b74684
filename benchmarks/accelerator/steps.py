"""Denoising steps: their time against the floor, by kernel, with two videos, with options, and against PyTorch."""

import importlib.util
import statistics
from collections.abc import Iterator, Mapping
from typing import Any, Final

import jax

from benchmarks.accelerator.kernels import profile
from benchmarks.accelerator.report import Row
from benchmarks.accelerator.setting import Setting, milliseconds, shape_text
from benchmarks.reference import compare, network_cases, start_torch
from benchmarks.sampling import GB, draw, peak_gb, prepare, timed
from show1_jax.cascade.programs import as_sampled, denoising_step
from show1_jax.checkpoints.networks import random_network
from show1_jax.config.sampling import Stage
from show1_jax.errors import UserError
from show1_jax.runtime import weight_formats, with_weight_formats

Results = Iterator[tuple[str, Row]]

STEPS: Final = "Denoising steps"
KERNELS: Final = "Milliseconds of a step by kind of kernel"
BATCHES: Final = "Videos in one batch"
OPTIONS: Final = "Options of the compiler, and donated state"
PYTORCH: Final = "PyTorch, the same weights and inputs, measured alternately"

OPTIONS_OF_PLATFORM: Final[Mapping[str, Mapping[str, Mapping[str, Any]]]] = {
    "gpu": {
        "conv fusion": {"xla_gpu_experimental_enable_conv_fusion": True},
        "no graphs": {"xla_gpu_enable_command_buffer": ""},
    },
    "cpu": {"fast math": {"xla_cpu_enable_fast_math": True}},
}
"""Options to try by platform and name. Convolutions in CUDA graphs were tried in 2026 and lost (README.md)."""


def device_rates(setting: Setting) -> Results:
    """Measure a large matrix product and a large sum."""
    rates = setting.rates
    yield (
        "Device",
        {
            "dtype": str(setting.spec.dtype),
            "matrix product TFLOP/s": rates.flops / 1e12,
            "sum GB/s": rates.bandwidth / GB,
        },
    )


def step(setting: Setting, stage: Stage) -> Results:
    """Measure a stage's step against its floor, then its kernels."""
    with as_sampled(setting.spec):
        prepared = prepare(setting.spec, stage, batch_size=1, fetch=False)
        seconds = timed(prepared.run, setting.num_steps)
        floor = setting.floor(prepared.flops, prepared.num_bytes)
        median = statistics.median(seconds)
        yield (
            STEPS,
            {
                "stage": stage,
                "sample": shape_text(prepared.sample),
                "GFLOP": prepared.flops / 1e9,
                "step ms": milliseconds(seconds),
                "floor ms": 1e3 * floor,
                "times floor": median / floor,
                "TFLOP/s": prepared.flops / median / 1e12,
                "trace s": prepared.trace_seconds,
                "compile s": prepared.compile_seconds,
                "program GB": prepared.program_bytes / GB,
                "peak GB": peak_gb(),
            },
        )
        kernels = profile(prepared.run)
    (setting.folder / f"kernels_{stage}.txt").write_text(kernels.listing())
    yield KERNELS, {"stage": stage, **kernels.row(), "whole step": 1e3 * median}


def batch_of_two(setting: Setting, stage: Stage) -> Results:
    """Measure a step of one video and of two."""
    medians = []
    for videos in (1, 2):
        with as_sampled(setting.spec):
            prepared = prepare(setting.spec, stage, videos, fetch=False)
            seconds = timed(prepared.run, setting.num_steps)
        medians.append(statistics.median(seconds))
        yield (
            BATCHES,
            {
                "stage": stage,
                "videos": videos,
                "step ms": milliseconds(seconds),
                "a video, relative to one alone": medians[-1] / videos / medians[0],
                "program GB": prepared.program_bytes / GB,
            },
        )
        del prepared


def options(setting: Setting, stage: Stage) -> Results:
    """Measure a stage's step with options of the compiler one by one, and with a donated state."""
    spec, platform = setting.spec, setting.platform
    network = random_network(spec.manifest.component(stage), spec.mesh, spec.dtype)
    program = denoising_step(spec, stage, 1, network)
    weights, state, *inputs = jax.tree.map(draw, program.arguments)
    default_layouts = jax.tree.map(lambda leaf: leaf.format, network.weights)
    network_shapes = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), network.weights
    )
    tried: dict[str, Mapping[str, Any]] = {
        "as sampled": {},
        "default layouts": {},
        "donated state": {},
        **OPTIONS_OF_PLATFORM.get(platform, {}),
    }
    for name, more in tried.items():
        donated = (1,) if name == "donated state" else ()
        formats = default_layouts if name == "default layouts" else None
        try:
            with as_sampled(spec):
                jitted = with_weight_formats(
                    program.function, platform, len(program.arguments), formats, more_options=more, donated=donated
                )
                compiled: Any = jitted.lower(network_shapes, state, *inputs).compile()
                weights = jax.device_put(weights, weight_formats(compiled))  # with another option, other layouts
                seconds = timed(
                    _Loop(compiled, weights, jax.tree.map(jax.numpy.copy, state), inputs), setting.num_steps
                )
        except jax.errors.JaxRuntimeError as error:  # this XLA has no such option, or the program does not run with it
            yield OPTIONS, {"stage": stage, "option": name, "step ms": f"does not run: {str(error)[:80]}"}
            continue
        memory = compiled.memory_analysis().temp_size_in_bytes / GB
        yield OPTIONS, {"stage": stage, "option": name, "step ms": milliseconds(seconds), "working GB": memory}


class _Loop:
    """A step that continues from its own result, as in sampling; a donated state cannot be used twice."""

    def __init__(self, compiled: Any, weights: Any, state: Any, inputs: Any):
        self._compiled, self._weights, self._state, self._inputs = compiled, weights, state, inputs

    def __call__(self) -> Any:
        self._state, _, _ = self._compiled(self._weights, self._state, *self._inputs)
        return self._state


def against_pytorch(setting: Setting, component: str, compiled: bool) -> Results:
    """Measure one call of a network of the size of a step against PyTorch's, with 2-D convolutions channels last.

    Raises:
        UserError: PyTorch, its network or its device is not available.
    """
    if importlib.util.find_spec("torch") is None:
        raise UserError("PyTorch is not installed")
    start_torch()
    case, dtype = network_cases(setting.config)[component], str(setting.spec.dtype)
    is_gpu = setting.platform == "gpu"
    for found in compare(case, dtype, setting.num_steps, compiled=compiled, channels_last=is_gpu):
        yield (
            PYTORCH,
            {
                "network": component,
                "input": case.describe_input(),
                "PyTorch": found.how,
                "ours ms": milliseconds(found.ours),
                "PyTorch ms": milliseconds(found.theirs),
                "PyTorch / ours": found.ratios,
                "difference": found.difference,
            },
        )
