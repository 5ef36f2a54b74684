"""The networks of a cascade: their compiled programs, and their weights on the devices.

Programs are compiled before weights are loaded, so that weights are loaded in the layouts that the compiler chose. With
one process, both happen in background threads while other stages sample. With several processes they happen at the
first use: compiling and loading exchange data between processes, which must all do it in the same order. JAX's contexts
for one thread, such as `jax.debug_nans`, have no effect on the threads in the background; set them for all threads.

On GPUs, no weights are loaded while a program runs for the first time. cuDNN then prepares its attention by capturing
the stream that the program runs on; a transfer that another thread orders against this stream makes the capture fail
("capturing stream has unjoined work", jax 0.11), and the process cannot use the device any more. `_FirstCallAlone` and
the loading thread therefore share a lock. Of the programs that are compiled at their first call, and do not take the
lock, only that of an inversion has such attention. It is the first one of its stage, before `prefetch` is called.
"""

import os
import threading
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Final, Protocol, runtime_checkable

import jax
from jax.sharding import Mesh
from jax.typing import DTypeLike

from show1_jax.cascade.memory import CompiledStage, compile_stage, component_bytes, resident_limit, stage_limit
from show1_jax.cascade.programs import step_shapes
from show1_jax.cascade.spec import CascadeSpec
from show1_jax.cascade.stages import STAGE_TABLE
from show1_jax.checkpoints.adapter_set import adapted_weights
from show1_jax.checkpoints.networks import LoadedNetwork
from show1_jax.config.sampling import STAGES, Stage
from show1_jax.parallel import platform_of
from show1_jax.parallel.weights import WeightPath, Weights, to_state, to_weights
from show1_jax.terminal import BACKGROUND

_MAX_COMPILERS: Final = 4


@runtime_checkable
class LoadNetwork(Protocol):
    """A function that loads networks, such as `CheckpointSet.load`."""

    def __call__(
        self, component: str, mesh: Mesh, dtype: DTypeLike, part: WeightPath = (), formats: Any = None
    ) -> LoadedNetwork:
        """Return a network, or its module at the path `part`, with weights on the devices of `mesh`.

        `formats` is a state of `jax.experimental.layout.Format`; None: the default layouts.
        """


class Networks:
    """Networks on the devices and their compiled programs, for cascades with the same devices and dtype.

    Attributes:
        load: function that loads a network.
        keeps_weights: weights stay on the devices after their use; see `keeping`.
    """

    def __init__(self, load: LoadNetwork):
        self.keeps_weights = False
        self.load = load
        self._transfers = threading.Lock()
        self._compiled: dict[Hashable, Future[CompiledStage]] = {}
        self._first_compiled: dict[str, Future[CompiledStage]] = {}
        self._loaded: dict[str, LoadedNetwork] = {}
        self._loading: dict[str, Future[LoadedNetwork]] = {}
        self._adapted: dict[str, tuple[Hashable, Weights]] = {}
        self._users: Counter[str] = Counter()
        self._bytes: dict[str, int] = {}
        self._loader: ThreadPoolExecutor | None = None

    @contextmanager
    def in_background(self, stages: Sequence[Stage], batches: Sequence[tuple[CascadeSpec, int]]) -> Iterator[None]:
        """Compile the programs of some stages in the background while the block runs, and let `prefetch` load weights.

        An error is raised where the program or the network is used.

        Args:
            stages: stages that will run.
            batches: spec and number of videos of every batch.
        """
        if jax.process_count() > 1:
            yield
            return
        num_compilers = min(_MAX_COMPILERS, os.cpu_count() or 1)
        compilers = ThreadPoolExecutor(num_compilers, f"{BACKGROUND} compiler")
        loader, outer = ThreadPoolExecutor(1, f"{BACKGROUND} loader"), self._loader
        self._loader = loader
        try:
            for stage in stages:
                for spec, batch_size in batches:
                    self._compile(spec, stage, batch_size, compilers.submit)
            yield
        finally:
            compilers.shutdown(wait=False, cancel_futures=True)
            loader.shutdown(wait=False, cancel_futures=True)
            self._loader = outer  # a callback of a stage may sample, too
            for component, loading in self._loading.items():
                self._bytes.pop(component)
                loading.add_done_callback(_delete_result)
            self._loading.clear()

    def programs(self, spec: CascadeSpec, stage: Stage, batch_size: int) -> CompiledStage:
        """Return the compiled programs of a stage, for a batch of videos with the sizes of the settings."""
        return self._compile(spec, stage, batch_size, _submit_here).result()

    def prefetch(self, spec: CascadeSpec, stage: Stage, batch_size: int, before: Collection[str] = ()) -> None:
        """Load the networks of a stage in the background, if the setting `resident_weights` allows it beside others.

        Args:
            spec: settings, mesh and architectures.
            stage: name of the stage.
            batch_size: number of videos.
            before: components that are loaded one after the other before the stage runs.
        """
        limit = resident_limit(spec)
        if self._loader is None or not limit:
            return
        compiled = self._compile(spec, stage, batch_size, _submit_here)
        coming = max((component_bytes(spec, name) for name in before if name not in self._bytes), default=0)
        for component in STAGE_TABLE[stage].networks:
            size = component_bytes(spec, component)
            if component in self._bytes or sum(self._bytes.values()) + coming + size > limit:
                continue
            self._bytes[component] = size
            self._loading[component] = self._loader.submit(self._load_after, compiled, spec, component)

    def loads_after_first_step(self, spec: CascadeSpec) -> bool:
        """Return whether `prefetch` should wait for the first step of a stage, which would otherwise wait for it."""
        return platform_of(spec.mesh) == "gpu"

    @contextmanager
    def keeping(self, is_kept: bool) -> Iterator[None]:
        """Keep weights on the devices after their use until the block ends, if `is_kept`."""
        before, self.keeps_weights = self.keeps_weights, is_kept or self.keeps_weights
        try:
            yield
        finally:
            self.keeps_weights = before
            if not before:
                self.release()

    @contextmanager
    def loaded(self, spec: CascadeSpec, component: str, part: WeightPath = ()) -> Iterator[LoadedNetwork]:
        """Load a network, or its module at the path `part`, unless it is on the devices already.

        A whole network has the spec's adapters. The weights that they change are then on the devices twice, changed and
        as loaded: to subtract a change would not give the same bits.

        Yields:
            The network. Its weights are deleted when the last such block ends, unless they are kept.
        """
        if part:
            module = self.load(component, spec.mesh, spec.dtype, part)
            try:
                yield module
            finally:
                _delete(module)
            return
        if component not in self._loaded:
            self._loaded[component] = self._take(spec, component)
        self._users[component] += 1
        try:
            yield self._with_adapters(spec, component)
        finally:
            self._users[component] -= 1
            if not self.keeps_weights:
                self.release([component])

    def release(self, components: Sequence[str] | None = None) -> None:
        """Delete the weights of some networks, by default of all, from the devices, except those in use."""
        for component in list(self._loaded) if components is None else components:
            if not self._users[component]:
                _delete(self._loaded.pop(component))
                for array in self._adapted.pop(component, (None, {}))[1].values():
                    array.delete()
                self._bytes.pop(component)

    def _with_adapters(self, spec: CascadeSpec, component: str) -> LoadedNetwork:
        """Return a loaded network with the spec's adapters; those of the last call are replaced."""
        network, adapters = self._loaded[component], spec.adapters_of(component)
        if not adapters:
            return network
        key = tuple((adapter.digest, adapter.strength) for adapter in adapters)
        if component not in self._adapted or self._adapted[component][0] != key:
            self._adapted.pop(component, None)  # their memory is free, unless a network in use still has them
            self._adapted[component] = key, adapted_weights(to_weights(network.weights), adapters, spec.mesh)
            self._bytes[component] = component_bytes(spec, component)
        weights = to_weights(network.weights) | self._adapted[component][1]
        return network._replace(weights=to_state(network.weights, weights))

    def _take(self, spec: CascadeSpec, component: str) -> LoadedNetwork:
        """Return a network that is loaded in the background already, or load it."""
        self._bytes[component] = component_bytes(spec, component)
        loading = self._loading.pop(component, None)
        try:
            return self._load_now(spec, component) if loading is None else loading.result()
        except BaseException:
            self._bytes.pop(component)
            raise

    def _compile(
        self, spec: CascadeSpec, stage: Stage, batch_size: int, submit: Callable[..., Future[CompiledStage]]
    ) -> Future[CompiledStage]:
        """Return the programs of a stage, which `submit` compiles if they are not known yet."""
        key = (
            *(stage, batch_size, step_shapes(spec, stage, batch_size), spec.sampler(stage), spec.step_kinds(stage)),
            *(spec.mesh, spec.dtype, stage_limit(spec, stage)),
        )
        known = self._compiled.get(key)
        if known is None or _has_failed(known):
            first = self._first_compiled.get(stage)
            first = None if first is None or _has_failed(first) else first
            loaded = self._loaded.get(stage)  # perhaps before any program was compiled
            formats = None if loaded is None else jax.tree.map(lambda leaf: leaf.format, loaded.weights)
            transfers = self._transfers if self.loads_after_first_step(spec) else None
            known = self._compiled[key] = submit(_compile_alike, formats, first, transfers, spec, stage, batch_size)
            if first is None:
                self._first_compiled[stage] = known
        return known

    def _load_after(self, compiled: Future[CompiledStage], spec: CascadeSpec, component: str) -> LoadedNetwork:
        formats = compiled.result().formats if component in STAGES else None
        with self._transfers:
            return self._load(spec, component, formats)

    def _load_now(self, spec: CascadeSpec, component: str) -> LoadedNetwork:
        """Load a network in the layouts of its programs, if they are compiled."""
        compiled = self._first_compiled.get(component)
        formats = None if compiled is None or _has_failed(compiled) else compiled.result().formats
        return self._load(spec, component, formats)

    def _load(self, spec: CascadeSpec, component: str, formats: Any) -> LoadedNetwork:
        """Load a network, and wait until its weights are on the devices."""
        network = self.load(component, spec.mesh, spec.dtype, formats=formats)
        jax.block_until_ready(network.weights)
        return network


class _FirstCallAlone:
    """A compiled program that runs alone at its first call: no weights are loaded meanwhile; see the module."""

    def __init__(self, program: Any, transfers: AbstractContextManager[Any]):
        self._program, self._transfers = program, transfers
        self._was_called = False

    def __call__(self, *arguments: Any) -> Any:
        if self._was_called:
            return self._program(*arguments)
        with self._transfers:
            results = jax.block_until_ready(self._program(*jax.block_until_ready(arguments)))
        self._was_called = True
        return results

    def __getattr__(self, name: str) -> Any:
        return getattr(self._program, name)


def _compile_alike(
    formats: Any,
    first: Future[CompiledStage] | None,
    transfers: AbstractContextManager[Any] | None,
    spec: CascadeSpec,
    stage: Stage,
    batch_size: int,
) -> CompiledStage:
    """Compile a stage's programs for weights in these formats, or in those of the programs compiled first, if any."""
    if formats is None and first is not None:
        formats = first.result().formats
    compiled = compile_stage(spec, stage, batch_size, formats)
    if transfers is None:
        return compiled
    steps = {kind: _FirstCallAlone(step, transfers) for kind, step in compiled.steps.items()}
    codec = compiled.codec
    if codec is not None:
        codec = _FirstCallAlone(codec[0], transfers), _FirstCallAlone(codec[1], transfers)
    return compiled._replace(steps=steps, codec=codec)


def _submit_here(work: Callable[..., CompiledStage], *arguments: Any) -> Future[CompiledStage]:
    """Do some work at once, as `Executor.submit` does it in the background; errors are raised at once."""
    future: Future[CompiledStage] = Future()
    future.set_result(work(*arguments))
    return future


def _has_failed(future: Future[Any]) -> bool:
    return future.cancelled() or (future.done() and future.exception() is not None)


def _delete(network: LoadedNetwork) -> None:
    for array in jax.tree.leaves(network.weights):
        array.delete()


def _delete_result(loading: Future[LoadedNetwork]) -> None:
    if not _has_failed(loading):
        _delete(loading.result())
