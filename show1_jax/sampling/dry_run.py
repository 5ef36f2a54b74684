"""The report of `sample.py --dry_run`: the memory that sampling needs on each device; no weights are read."""

from collections.abc import Iterator

from show1_jax.cascade.memory import GIB, MemoryNeed, component_bytes, keeps_all_weights, memory_needs
from show1_jax.cascade.spec import CascadeSpec
from show1_jax.cascade.stages import components
from show1_jax.checkpoints.adapter_set import open_adapters
from show1_jax.checkpoints.checkpoint_set import CheckpointSet, is_checkpoint_or_run, split_names
from show1_jax.checkpoints.manifest import Manifest
from show1_jax.checkpoints.random import described_manifest
from show1_jax.config.config_file import Config
from show1_jax.sampling.request import Request


def describe_memory(config: Config, request: Request) -> Iterator[str]:
    """Yield the lines of a table: the memory of each device for each part of the cascade, in GiB, and the maximum.

    The last line is the memory with the weights of all networks, and states whether several batches are sampled so.

    Lines are yielded one at a time, because every part takes minutes to compile at full size. The architectures come
    from the checkpoint or, if it does not exist yet, from the config.

    Raises:
        UserError: settings, sizes or adapters are invalid for a stage, or do not fit the devices.
    """
    manifest = _manifest(config)
    spec = CascadeSpec.of(config, manifest, adapters=open_adapters(config.adapter, manifest))
    spec.check_settings(request.computed)
    stages = request.sampled(config)
    batch_size = request.batch_size or spec.mesh.shape["data"]
    devices = spec.mesh.devices.flat
    mesh = " x ".join(f"{axis}={size}" for axis, size in spec.mesh.shape.items())
    yield f"{len(devices)} x {devices[0].device_kind}, mesh {mesh}, {spec.dtype}, videos at a time: {batch_size}"
    yield f"{'GiB of each device':<18}{'weights':>10}{'working':>10}{'together':>10}"
    largest = working = 0
    for name, need in memory_needs(spec, stages, batch_size, request.edit):
        yield _line(name, need, config.memory_limit_gb)
        largest, working = max(largest, need.total), max(working, need.working)
    yield f"{'at most':<38}{largest / GIB:>10.3f}"
    together = MemoryNeed(sum(component_bytes(spec, name) for name in components(stages)), working)
    is_kept = keeps_all_weights(spec, stages)
    note = "all networks stay loaded" if is_kept else "one stage is loaded at a time"
    yield f"{_line('all networks', together, 0)}  resident_weights={config.resident_weights}: {note}"


def _manifest(config: Config) -> Manifest:
    first = split_names(config.checkpoint)[0]
    if config.architecture and not is_checkpoint_or_run(first):
        return described_manifest(config.architecture, config.schedulers, {})
    return CheckpointSet.open(config.checkpoint).manifest


def _line(name: str, need: MemoryNeed, limit: float) -> str:
    sizes = "".join(f"{size / GIB:>10.3f}" for size in (need.weights, need.working, need.total))
    notes = ["guidance branches run sequentially"] if need.sequential_guidance else []
    notes += ["runs block by block"] if need.is_streamed else []
    notes += ["more than memory_limit_gb"] if 0 < limit < need.total / GIB else []
    return f"{name:<18}{sizes}{'  ' if notes else ''}{', '.join(notes)}"
