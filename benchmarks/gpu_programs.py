"""The kernels of every stage's step on an NVIDIA H200, without one.

`python -m benchmarks.gpu_programs --config configs/full.py` compiles the steps for a GPU that is only described, half a
minute each, and prints the number of kernels, and the gigabytes that they read and write: those of convolutions, matrix
products and attention, which mostly compute, and those of all others, which mostly wait for memory. `others ms` is the
time of the latter bytes at the GPU's rate. With --most, the other kernels with the most bytes are listed, by the line
of this project that they come from. Nothing is run, and no time is measured: two programs are compared by what they
move and start.

Matrix products are cuBLAS's, since Triton's are chosen by measuring. It needs the compiler for GPUs (`pip install
'.[cuda]'`), but neither a GPU nor a driver.
"""

import math
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import perf_counter
from typing import Final, NamedTuple

import jax
from jax.experimental import topologies

from benchmarks import table
from benchmarks.accelerator.kernels import kind_of_kernel
from benchmarks.random_cascade import described_spec
from show1_jax.cascade.programs import denoising_step, trace_with_formats
from show1_jax.cascade.spec import CascadeSpec
from show1_jax.cli import ArgumentParser, load_config, run_command
from show1_jax.config.sampling import STAGES, CascadeConfig, Stage
from show1_jax.errors import UserError

GB: Final = 1e9
BYTES_PER_SECOND: Final = 4.8e12
H200: Final = f"""
platform_name: "CUDA"
device_description_str: "NVIDIA H200"
dnn_version_info {{ major: 9 minor: 12 }}
runtime_version {{ major: 12 minor: 9 }}
gpu_device_info {{
  cuda_compute_capability {{ major: 9 }}
  core_count: 132
  fpus_per_core: 128
  clock_rate_ghz: 1.98
  memory_bandwidth: {BYTES_PER_SECOND:.0f}
  device_memory_size: {141 * 10**9}
  l2_cache_size: {60 * 2**20}
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  block_dim_limit_x: {2**31 - 1}
  block_dim_limit_y: {2**16 - 1}
  block_dim_limit_z: {2**16 - 1}
  registers_per_block_limit: {2**16}
  registers_per_core_limit: {2**16}
  shared_memory_per_block: {48 * 2**10}
  shared_memory_per_block_optin: {227 * 2**10}
  shared_memory_per_core: {228 * 2**10}
}}
"""
"""A `xla.gpu.GpuTargetConfigProto`, by NVIDIA's data sheet and CUDA's table of compute capability 9.0."""
WITHOUT_MEASURING: Final = {"xla_gpu_autotune_level": "0", "xla_gpu_enable_triton_gemm": False}
HEADER: Final = (
    "| stage | kernels | conv GB | matmul GB | attention GB | others GB | others ms | program GB "
    "| trace and compile s |"
)
KINDS: Final = ("conv", "matmul", "attention")
OTHERS: Final = "others"
_NO_KERNEL: Final = ("parameter", "constant", "bitcast", "get-tuple-element", "tuple")
_ITEM_BYTES: Final = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8}


class Kernel(NamedTuple):
    """An instruction of a compiled program that starts a kernel.

    Attributes:
        kind: one of `KINDS`, or `OTHERS`.
        name: the compiler's name, without a number.
        num_bytes: bytes of its operands and results; a kernel that reads a part of an operand reads less.
        result: shape of its result.
        line: file, line and function of this project that it comes from, or else the name of the JAX operation.
    """

    kind: str
    name: str
    num_bytes: int
    result: str
    line: str


def kernels(program: str) -> Iterator[Kernel]:
    """Yield the kernels of a compiled program, from its text (`jax.stages.Compiled.as_text`)."""
    lines = program.splitlines()
    frames = _frames(lines)
    first = next(number for number, line in enumerate(lines) if line.startswith("ENTRY"))
    num_bytes: dict[str, int] = {}
    for line in lines[first + 1 :]:
        found = re.match(r"\s+(?:ROOT )?%([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)", line)
        if not found:
            continue
        name, result, operation, rest = found.groups()
        num_bytes[name] = _num_bytes(result)
        if operation in _NO_KERNEL:
            continue
        operands = re.findall(r"%([\w.\-]+)", rest.split("), ", maxsplit=1)[0])
        target = re.search(r'custom_call_target="([^"]*)"', rest)
        frame, of_jax = re.search(r"stack_frame_id=(\d+)", rest), re.search(r'op_name="([^"]*)"', rest)
        source = frames.get(frame[1], "") if frame else ""
        yield Kernel(
            _kind(target[1] if target else "", name),
            re.sub(r"[.\d]+$", "", name),
            num_bytes[name] + sum(num_bytes[operand] for operand in operands if operand in num_bytes),
            re.sub(r"\{[^}]*\}", "", result),
            source or (of_jax[1].split("/", maxsplit=1)[-1] if of_jax else ""),
        )


def _kind(target: str, name: str) -> str:
    kind = kind_of_kernel(target, name)
    return kind if kind in KINDS else OTHERS


def _num_bytes(shapes: str) -> int:
    found = re.findall(rf"\b({'|'.join(_ITEM_BYTES)})\[([\d,]*)\]", shapes)
    return sum(_ITEM_BYTES[dtype] * math.prod(map(int, filter(None, sizes.split(",")))) for dtype, sizes in found)


def _frames(lines: Sequence[str]) -> dict[str, str]:
    """Return the innermost line of this project of every stack frame in the head of a program's text, by its number."""
    tables: dict[str, dict[str, str]] = {}
    rows: dict[str, str] = {}
    for line in lines:
        if line in ("FileNames", "FunctionNames", "FileLocations", "StackFrames"):
            rows = tables[line] = {}
        elif found := re.match(r"(\d+) (.*)", line):
            rows[found[1]] = found[2]
        elif line.startswith("%"):
            break

    def fields(row: str) -> dict[str, str]:
        return dict(re.findall(r"(\w+)=(\d+)", row))

    found_lines: dict[str, str] = {}
    for number, row in tables.get("StackFrames", {}).items():
        frame = fields(row)
        location = fields(tables["FileLocations"][frame["file_location_id"]])
        path = Path(tables["FileNames"][location["file_name_id"]].strip('"'))
        function = tables["FunctionNames"][location["function_name_id"]].strip('"').rsplit(".", maxsplit=1)[-1]
        parent = found_lines.get(frame.get("parent_frame_id", ""), "")  # parents come before their children
        ours = f"{path.name}:{location['line']} {function}" if "show1_jax" in path.parts else parent
        found_lines[number] = ours
    return found_lines


def measure(spec: CascadeSpec, stage: Stage, most: int) -> tuple[str, str]:
    """Compile a stage's step; return its line of the table, and a list of `most` groups of kernels."""
    started = perf_counter()
    lowered = trace_with_formats(spec, denoising_step(spec, stage)).lower(lowering_platforms=("cuda",))
    compiled = lowered.compile(compiler_options=WITHOUT_MEASURING)
    seconds = perf_counter() - started
    found = list(kernels(compiled.as_text()))
    moved: Counter[str] = Counter()
    groups: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    for kernel in found:
        moved[kernel.kind] += kernel.num_bytes
        if kernel.kind == OTHERS:
            group = f"{kernel.name} {kernel.result}, {kernel.line}"
            groups[group] += kernel.num_bytes
            counts[group] += 1
    memory = compiled.memory_analysis()
    row = table.row(
        stage,
        str(len(found)),
        *(f"{moved[kind] / GB:.1f}" for kind in (*KINDS, OTHERS)),
        f"{1e3 * moved[OTHERS] / BYTES_PER_SECOND:.1f}",
        f"{(memory.argument_size_in_bytes + memory.temp_size_in_bytes) / GB:.1f}",
        f"{seconds:.0f}",
    )
    listed = (f"{size / GB:8.3f} GB {counts[group]:5d} x {group}" for group, size in groups.most_common(most))
    return row, "\n".join([f"\n{stage}", *listed])


def _main(arguments: Sequence[str]) -> None:
    parser = ArgumentParser(prog="python -m benchmarks.gpu_programs", description=__doc__)
    parser.add_argument("--config", required=True, metavar="FILE", help="settings; --config.SETTING=VALUE changes one")
    parser.add_argument("--stages", default=",".join(STAGES), metavar="A,B")
    parser.add_argument("--most", type=int, default=0, metavar="N", help="list N groups of other kernels (0)")
    parsed, overrides = parser.parse_known_args(arguments)
    if parsed.most < 0:
        raise UserError(f"--most={parsed.most} must be at least 0")
    os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")  # the check counts the GPUs
    try:
        devices = topologies.get_topology_desc(platform="cuda", target_config=H200, topology="1x1x1").devices
    except NotImplementedError:
        raise UserError("it needs the compiler for NVIDIA GPUs: pip install '.[cuda]'") from None
    config, stages = load_config(parsed.config, overrides), CascadeConfig.parse_stages(parsed.stages)
    spec = described_spec(config, devices)
    print(
        f"{spec.mesh.devices.flat[0].device_kind}, {spec.dtype}, jax {jax.__version__}\n\n{table.head(HEADER)}",
        flush=True,
    )
    lists = []
    for stage in stages:
        row, listing = measure(spec, stage, parsed.most)
        print(row, flush=True)
        lists.append(listing)
    if parsed.most:
        print("\n".join(lists))


if __name__ == "__main__":
    sys.exit(run_command("benchmarks.gpu_programs", lambda: _main(sys.argv[1:])))
