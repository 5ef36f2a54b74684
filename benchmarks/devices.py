"""The costs of a video on several devices: `python -m benchmarks.devices --config configs/full.py --num_devices 8`.

Compiles the denoising step of every stage for one device and for --num_devices, sharded as --config.mesh.SETTING says,
or over `guidance` and `height`. Prints the costs of the compiled program for each device: operations, bytes moved
between memory and cores, weights, working memory and collectives. Nothing is run.

The devices are simulated CPUs, for which code generation is skipped; that changes none of these numbers. With
--topology, they are TPUs, which need not exist, but `pip install libtpu` must have installed their compiler:
`TPU_SKIP_MDS_QUERY=1 python -m benchmarks.devices --config configs/demo.py --topology v5e:2x4`. A TPU's working memory
excludes the values that stay in the cores' own memory.
"""

import sys
from collections.abc import Sequence
from time import perf_counter
from typing import Any, Final, NamedTuple

import jax
from jax.experimental import topologies

from benchmarks import table
from benchmarks.random_cascade import described_spec
from show1_jax.cascade.memory import weight_bytes
from show1_jax.cascade.programs import as_sampled, denoising_step, trace_with_formats
from show1_jax.cascade.spec import CascadeSpec
from show1_jax.cli import ArgumentParser, load_config, run_command
from show1_jax.config.config_file import Config
from show1_jax.config.sampling import STAGES, CascadeConfig, SamplingMeshConfig, Stage
from show1_jax.errors import UserError
from show1_jax.parallel import platform_of

GB: Final = 1e9
HEADER: Final = (
    "| stage | devices | GFLOP each | share | GB moved each | share | working memory each, GB | share "
    "| weights each, GB | collectives | trace and compile s |"
)
NO_CODE_GENERATION: Final = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
COLLECTIVES: Final = ("all-reduce", "all-gather", "all-to-all", "collective-permute", "reduce-scatter")


class Cost(NamedTuple):
    """Costs of one compiled step for each device."""

    flops: float
    num_bytes: float
    working_bytes: int
    weight_bytes: int
    collectives: int
    seconds: float


def measure_cost(spec: CascadeSpec, stage: Stage) -> Cost:
    """Compile a stage's step and return its costs."""
    on_cpu = platform_of(spec.mesh) == "cpu"
    started = perf_counter()
    with as_sampled(spec):
        step = denoising_step(spec, stage)
        lowered = step.trace().lower() if on_cpu else trace_with_formats(spec, step).lower()
        compiled: Any = lowered.compile(compiler_options=NO_CODE_GENERATION if on_cpu else None)
    counted, program = compiled.cost_analysis(), compiled.as_text()
    return Cost(
        counted["flops"],
        counted["bytes accessed"],
        compiled.memory_analysis().temp_size_in_bytes,
        weight_bytes(step),
        sum(program.count(f" {name}{ending}(") for name in COLLECTIVES for ending in ("", "-start")),
        perf_counter() - started,
    )


def table_row(stage: Stage, devices: int, each: Cost, one: Cost | None) -> str:
    """Return a line of the table; shares are those of the costs of one device, if they are known."""

    def pair(value: float, whole: float | None) -> tuple[str, str]:
        return f"{value / GB:.3f}", f"1/{whole / value:.2f}" if value and whole is not None else ""

    return table.row(
        stage,
        str(devices),
        *pair(each.flops, one and one.flops),
        *pair(each.num_bytes, one and one.num_bytes),
        *pair(each.working_bytes, one and one.working_bytes),
        f"{each.weight_bytes / GB:.3f}",
        str(each.collectives),
        f"{each.seconds:.0f}",
    )


def _main(arguments: Sequence[str]) -> None:
    parser = ArgumentParser(prog="python -m benchmarks.devices", description=__doc__)
    parser.add_argument("--config", required=True, metavar="FILE", help="settings; --config.SETTING=VALUE changes one")
    parser.add_argument("--stages", default=",".join(STAGES), metavar="A,B")
    parser.add_argument("--num_devices", type=int, default=8, metavar="N", help="simulated CPU devices (8)")
    parser.add_argument(
        "--topology", metavar="NAME", help="TPUs to compile for, such as v5e:2x4, in place of --num_devices"
    )
    parser.add_argument("--many_only", action="store_true", help="do not compile for one device, to compare with")
    parsed, overrides = parser.parse_known_args(arguments)
    if parsed.topology:
        devices = topologies.get_topology_desc(platform="tpu", topology_name=parsed.topology).devices
        parsed.num_devices = len(devices)
    if parsed.num_devices < 2:
        raise UserError(f"--num_devices={parsed.num_devices} must be at least 2")
    mesh_flags = [f"--config.mesh.{axis}" for axis in SamplingMeshConfig.from_dict({}).to_dict()]
    if not any(override.startswith(axis) for override in overrides for axis in mesh_flags):
        guidance = 2 - parsed.num_devices % 2
        overrides += ["--config.mesh.data=1", f"--config.mesh.guidance={guidance}", "--config.mesh.height=-1"]
    jax.config.update("jax_platforms", "cpu")
    if not parsed.topology:
        jax.config.update("jax_num_cpu_devices", parsed.num_devices)
        devices = jax.devices()
    config, stages = load_config(parsed.config, overrides), CascadeConfig.parse_stages(parsed.stages)
    many = described_spec(config, devices)
    one = described_spec(Config.from_dict(config.to_dict() | {"mesh": {}}), devices[:1])
    kind = many.mesh.devices.flat[0].device_kind
    print(
        f"{kind}, mesh {dict(many.mesh.shape)}, {many.dtype}, jax {jax.__version__}\n\n{table.head(HEADER)}",
        flush=True,
    )
    for stage in stages:
        alone = None if parsed.many_only else measure_cost(one, stage)
        if alone is not None:
            print(table_row(stage, 1, alone, alone), flush=True)
        print(table_row(stage, parsed.num_devices, measure_cost(many, stage), alone), flush=True)


if __name__ == "__main__":
    sys.exit(run_command("benchmarks.devices", lambda: _main(sys.argv[1:])))
