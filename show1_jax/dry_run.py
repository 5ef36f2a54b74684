"""What `sample.py --dry_run` says: the memory that sampling would need of each device, without a weight being read."""

from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

from jax.sharding import Mesh
from jax.typing import DTypeLike

from show1_jax.cascade import Cascade, Networks
from show1_jax.checkpoint_set import CheckpointSet, is_run, split_names
from show1_jax.manifest import MANIFEST, Manifest
from show1_jax.memory import GIB, Need, needs
from show1_jax.models import LoadedNetwork
from show1_jax.random_checkpoint import new_component
from show1_jax.request import Request, SampleConfig
from show1_jax.text.tokenizers import TextTokenizer
from show1_jax.weights import WeightPath


class NetworksToBe:
    """Stands in for a checkpoint that is not there yet: what a config says of its networks."""

    def __init__(self, architecture: Mapping[str, Any], schedulers: Mapping[str, Any]):
        records = {
            name: new_component(name, fields, schedulers.get(name, {}), {}) for name, fields in architecture.items()
        }
        self.manifest = Manifest(records, {})

    def load(self, component: str, mesh: Mesh, dtype: DTypeLike, part: WeightPath = ()) -> LoadedNetwork:
        """There is nothing to load."""
        _no_weights()

    def tokenizer(self, component: str) -> TextTokenizer:
        """There is no tokenizer either."""
        _no_weights()


def _no_weights() -> NoReturn:
    raise AssertionError("a dry run reads no weights")


def describe(config: SampleConfig, request: Request) -> Iterator[str]:
    """The lines of a table of what each device needs while each part of the cascade runs, and at most.

    They come as they are known: at full size every part takes minutes to compile. The architectures are the
    checkpoint's or, where there is none yet, the config's.

    Raises:
        UserError: settings or sizes that a stage cannot take, or that do not fit the devices.
    """
    cascade = Cascade(_networks(config), config)
    cascade.check_settings(request.stages)
    batch_size = request.batch_size or cascade.mesh.shape["data"]
    devices = cascade.mesh.devices.flat
    mesh = " x ".join(f"{axis}={size}" for axis, size in cascade.mesh.shape.items())
    yield f"{len(devices)} x {devices[0].device_kind}, mesh {mesh}, {cascade.dtype}, videos at a time: {batch_size}"
    yield f"{'GiB of each device':<18}{'weights':>10}{'working':>10}{'together':>10}"
    most = 0
    for name, need in needs(cascade, request.stages, batch_size):
        yield _line(name, need, config.memory_limit_gb)
        most = max(most, need.total)
    yield f"{'at most':<38}{most / GIB:>10.3f}"


def _networks(config: SampleConfig) -> Networks:
    first = split_names(config.checkpoint)[0]
    if config.architecture and not (first / MANIFEST).exists() and not is_run(first):
        return NetworksToBe(config.architecture, config.schedulers)
    return CheckpointSet.open(config.checkpoint)


def _line(name: str, need: Need, limit: float) -> str:
    sizes = "".join(f"{size / GIB:>10.3f}" for size in (need.weights, need.working, need.total))
    notes = ["the halves of guidance in turn"] if need.halves_in_turn else []
    notes += ["its blocks in turn"] if need.blocks_in_turn else []
    notes += ["more than memory_limit_gb"] if 0 < limit < need.total / GIB else []
    return f"{name:<18}{sizes}{'  ' if notes else ''}{', '.join(notes)}"
