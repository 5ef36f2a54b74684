"""Programs are compiled before weights are loaded, in the background; weights are loaded once for many videos."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from jax.experimental.layout import Format, Layout
from jax.sharding import Mesh
from jax.typing import DTypeLike

from show1_jax.cascade import denoise, memory, networks
from show1_jax.cascade.batches import VideoBatch
from show1_jax.cascade.cascade import Cascade
from show1_jax.cascade.spec import CascadeSpec
from show1_jax.checkpoints.checkpoint_set import CheckpointSet
from show1_jax.checkpoints.networks import LoadedNetwork
from show1_jax.config.sampling import STAGES, CascadeConfig, ResidentWeights, Stage
from show1_jax.errors import UserError
from show1_jax.parallel.weights import WeightPath, to_weights
from tests.helpers import tiny_config

COMPONENTS = {*STAGES, "text_t5", "text_clip", "vae"}
PROMPTS = ["a red circle", "a square", "a blue triangle"]


class Loader:
    """A checkpoint that records which components are loaded, and which others are on the devices then."""

    def __init__(self, checkpoint: Path, broken: str = ""):
        self.checkpoints, self.broken = CheckpointSet.open(checkpoint), broken
        self.loaded: list[str] = []
        self.beside: list[set[str]] = []
        self._weights: list[tuple[str, jax.Array]] = []

    def __call__(
        self, component: str, mesh: Mesh, dtype: DTypeLike, part: WeightPath = (), formats: Any = None
    ) -> LoadedNetwork:
        self.loaded.append(component)
        self.beside.append(self.on_devices())
        if component == self.broken:
            raise UserError(f"{component} is damaged")
        network = self.checkpoints.load(component, mesh, dtype, part, formats)
        self._weights += [(component, leaf) for leaf in jax.tree.leaves(network.weights)]
        return network

    def on_devices(self) -> set[str]:
        """Return the components with weights that are not deleted."""
        return {component for component, leaf in self._weights if not leaf.is_deleted()}

    def cascade(self, resident_weights: ResidentWeights = "auto", **settings: Any) -> Cascade:
        """Return a cascade on one device that loads its networks here."""
        config = dataclasses.replace(tiny_config.settings(), resident_weights=resident_weights, **settings)
        spec = CascadeSpec.of(config, self.checkpoints.manifest, jax.devices()[:1])
        return Cascade(spec, self, self.checkpoints.tokenizer)


Load = Callable[..., Loader]


@pytest.fixture
def load(tiny_checkpoint: Path) -> Load:
    return lambda **options: Loader(tiny_checkpoint, **options)


@pytest.fixture(scope="module")
def alone(tiny_checkpoint: Path) -> list[dict[Stage, np.ndarray]]:
    """The videos of each prompt, sampled in a call of its own."""
    cascade = Loader(tiny_checkpoint).cascade()
    return [cascade.sample([prompt], [number]) for number, prompt in enumerate(PROMPTS)]


def sample_batches(
    cascade: Cascade, batches: Sequence[VideoBatch]
) -> tuple[list[dict[Stage, np.ndarray]], list[tuple[int, Stage]]]:
    """Return the videos of every batch, and the batches and stages in the order in which they were finished."""
    results: list[dict[Stage, np.ndarray]] = [{} for _ in batches]
    order: list[tuple[int, Stage]] = []

    def keep(number: int, stage: Stage, video: np.ndarray) -> None:
        results[number][stage] = video
        order.append((number, stage))

    cascade.sample_batches(batches, on_stage=keep)
    return results, order


def assert_equal(found: dict[Stage, np.ndarray], expected: dict[Stage, np.ndarray]) -> None:
    assert list(found) == list(expected)
    for stage, video in expected.items():
        np.testing.assert_array_equal(found[stage], video, err_msg=stage)


@pytest.mark.parametrize("resident_weights", ["auto", "one"])
def test_batches_are_sampled_stage_by_stage_with_one_load_of_each_network(
    load: Load, alone: list[dict[Stage, np.ndarray]], resident_weights: ResidentWeights
) -> None:
    loader = load()
    batches = [VideoBatch([prompt], [number]) for number, prompt in enumerate(PROMPTS)]
    results, order = sample_batches(loader.cascade(resident_weights), batches)
    assert sorted(loader.loaded) == sorted(COMPONENTS)
    assert order == [(number, stage) for stage in STAGES for number in range(3)]
    for found, expected in zip(results, alone, strict=True):
        assert_equal(found, expected)
    assert not loader.on_devices()


def test_the_last_batch_can_be_smaller(load: Load, alone: list[dict[Stage, np.ndarray]]) -> None:
    loader = load()
    results, _ = sample_batches(loader.cascade(), [VideoBatch(PROMPTS[:2], [0, 1]), VideoBatch(PROMPTS[2:], [2])])
    assert sorted(loader.loaded) == sorted(COMPONENTS)
    assert results[0]["keyframes"].shape[0] == 2
    assert_equal(results[1], alone[2])
    np.testing.assert_allclose(results[0]["superres_latent"][:1], alone[0]["superres_latent"], atol=1e-3)


def test_with_one_resident_stage_no_other_weights_are_on_the_devices(load: Load) -> None:
    loader = load()
    loader.cascade("one").sample(PROMPTS[:1])
    beside = dict(zip(loader.loaded, loader.beside, strict=True))
    assert beside.pop("vae") == {"superres_latent"}
    assert not set.union(*beside.values())


def test_weights_of_the_next_stage_are_loaded_beside_those_of_this_one(load: Load) -> None:
    loader = load()
    loader.cascade().sample(PROMPTS[:1], stages=["keyframes", "interpolation"])
    assert loader.loaded[-1] == "interpolation"
    assert "keyframes" in loader.beside[-1]
    assert not loader.on_devices()


def test_networks_stay_between_calls_in_a_context(load: Load, alone: list[dict[Stage, np.ndarray]]) -> None:
    loader = load()
    with loader.cascade("all") as cascade:
        for number in (0, 1):
            assert_equal(cascade.sample(PROMPTS[number : number + 1], [number]), alone[number])
        assert loader.on_devices() == COMPONENTS
        fewer = dataclasses.replace(cascade.spec.config.first_frame, num_steps=1)
        changed = cascade.with_config(dataclasses.replace(cascade.spec.config, first_frame=fewer))
        changed.sample(PROMPTS[:1], [0])
    assert sorted(loader.loaded) == sorted(COMPONENTS)
    assert not loader.on_devices()


def test_prepared_networks_are_loaded_and_compiled_before_the_first_video(
    load: Load, alone: list[dict[Stage, np.ndarray]], monkeypatch: pytest.MonkeyPatch
) -> None:
    loader, parts = load(), list[str]()
    with loader.cascade("all") as cascade:
        cascade.prepare(on_part=parts.append)
        assert parts == ["text_t5", "text_clip", *STAGES]
        assert sorted(loader.loaded) == sorted(COMPONENTS)
        monkeypatch.setattr(networks, "compile_stage", lambda *_: pytest.fail("it was not compiled"))
        assert_equal(cascade.sample(PROMPTS[:1], [0]), alone[0])
    assert sorted(loader.loaded) == sorted(COMPONENTS)
    assert not loader.on_devices()


def test_networks_that_do_not_stay_are_only_compiled_and_an_exception_ends_it(load: Load) -> None:
    loader = load()

    def end(name: str) -> None:
        if name == "interpolation":
            raise UserError("enough")

    with loader.cascade("one") as cascade, pytest.raises(UserError, match="enough"):
        cascade.prepare(on_part=end)
    assert not loader.loaded


def test_a_context_keeps_nothing_if_weights_do_not_fit(load: Load) -> None:
    loader = load()
    with loader.cascade("one") as cascade:
        for _ in range(2):
            cascade.sample(PROMPTS[:1], stages=["keyframes"])
            assert not loader.on_devices()
    assert loader.loaded == ["text_t5", "keyframes"] * 2


def test_networks_of_fewer_stages_stay_if_they_fit(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    loader = load()
    cascade = loader.cascade()
    needed = sum(memory.component_bytes(cascade.spec, name) for name in ("keyframes", "text_t5"))
    monkeypatch.setattr(memory, "memory_bytes", lambda spec: 2 * needed)
    assert not memory.keeps_all_weights(cascade.spec, STAGES)
    with cascade.keeping_networks(["keyframes"]):
        for _ in range(2):
            cascade.sample(PROMPTS[:1], stages=["keyframes"])
        with cascade:  # a block inside ends, and the networks stay
            pass
        assert loader.on_devices() == {"keyframes", "text_t5"}
    assert len(loader.loaded) == 2
    assert not loader.on_devices()


def test_weights_beside_a_text_encoder_count_both(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    loader = load()
    cascade = loader.cascade()
    needed = sum(memory.component_bytes(cascade.spec, name) for name in ("keyframes", "text_t5"))
    monkeypatch.setattr(memory, "memory_bytes", lambda spec: 2 * needed - 2)
    cascade.sample(PROMPTS[:1], stages=["keyframes"])
    assert loader.loaded == ["text_t5", "keyframes"]
    assert not any(loader.beside)


def test_with_a_memory_limit_no_other_weights_are_on_the_devices(load: Load) -> None:
    loader = load()
    with loader.cascade(memory_limit_gb=4) as cascade:
        cascade.sample(PROMPTS[:1], stages=["keyframes", "interpolation"])
    assert loader.loaded == ["text_t5", "keyframes", "interpolation"]
    assert not any(loader.beside)


def test_a_callback_can_sample(load: Load, alone: list[dict[Stage, np.ndarray]]) -> None:
    cascade = load().cascade()
    inner: list[dict[Stage, np.ndarray]] = []

    def sample_another(stage: Stage, video: np.ndarray) -> None:
        if stage == "keyframes":
            inner.append(cascade.sample(PROMPTS[1:2], [1], stages=["keyframes"]))

    found = cascade.sample(PROMPTS[:1], [0], stages=["keyframes", "interpolation"], on_stage=sample_another)
    np.testing.assert_array_equal(inner[0]["keyframes"], alone[1]["keyframes"])
    np.testing.assert_array_equal(found["interpolation"], alone[0]["interpolation"])


def test_one_keyframe_is_a_video_of_one_frame(load: Load) -> None:
    keyframes = dataclasses.replace(tiny_config.settings().keyframes, num_frames=1)
    found = load().cascade(keyframes=keyframes).sample(PROMPTS[:1], stages=["keyframes", "interpolation"])
    np.testing.assert_array_equal(found["interpolation"], found["keyframes"])


def test_an_error_in_the_background_is_raised_where_the_network_is_used(load: Load) -> None:
    loader = load(broken="first_frame")
    finished: list[Stage] = []
    with pytest.raises(UserError, match=r"^first_frame is damaged$"):
        loader.cascade().sample(PROMPTS[:1], on_stage=lambda stage, _: finished.append(stage))
    assert finished == ["keyframes", "interpolation"]
    assert not loader.on_devices()


Interval = tuple[float, float]


class Timed:
    """A program or a loader whose first calls take long and are recorded."""

    def __init__(self, function: Any, intervals: list[Interval]):
        self._function, self._intervals, self._was_called = function, intervals, False

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        begin, is_first = time.monotonic(), not self._was_called
        self._was_called = True
        results = self._function(*arguments, **named)
        if is_first:
            time.sleep(0.1)
            self._intervals.append((begin, time.monotonic()))
        return results

    def __getattr__(self, name: str) -> Any:
        return getattr(self._function, name)


def test_on_gpus_no_weights_are_loaded_while_a_program_runs_for_the_first_time(
    load: Load, alone: list[dict[Stage, np.ndarray]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program of the last, guided steps runs for the first time while the next stage's weights could be loaded."""
    loads: list[Interval] = []
    calls: list[Interval] = []

    def compile_timed(*arguments: Any) -> memory.CompiledStage:
        compiled = memory.compile_stage(*arguments)
        return compiled._replace(steps={kind: Timed(step, calls) for kind, step in compiled.steps.items()})

    def load_timed(*arguments: Any, **named: Any) -> LoadedNetwork:
        network: LoadedNetwork = Timed(loader, loads)(*arguments, **named)
        return network

    monkeypatch.setattr(networks, "compile_stage", compile_timed)
    monkeypatch.setattr(networks, "platform_of", lambda mesh: "gpu")
    loader = load()
    keyframes = dataclasses.replace(tiny_config.settings().keyframes, num_steps=6, guidance_max_timestep=600)
    spec = loader.cascade(keyframes=keyframes).spec
    cascade = Cascade(spec, load_timed, loader.checkpoints.tokenizer)
    found = cascade.sample(PROMPTS[:1], [0], stages=["keyframes", "interpolation"])
    assert len(loads) == len(loader.loaded) == 3
    assert len(calls) == 3
    assert "keyframes" in loader.beside[-1]
    assert not [(load, call) for load in loads for call in calls if load[0] < call[1] and call[0] < load[1]]
    assert np.isfinite(found["interpolation"]).all()


def test_on_gpus_weights_are_loaded_after_the_first_step_of_the_last_batch(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program of an inversion is compiled at its first call, for each size of a batch."""
    events: list[str] = []
    monkeypatch.setattr(networks, "platform_of", lambda mesh: "gpu")
    monkeypatch.setattr(networks.Networks, "prefetch", lambda self, spec, stage, *_, **__: events.append(stage))
    load().cascade().sample_batches(
        [VideoBatch(PROMPTS[:1]), VideoBatch(PROMPTS[1:2])],
        stages=["keyframes", "interpolation"],
        on_step=lambda number, stage, done, total: events.append(f"batch {number}"),
    )
    assert events == ["keyframes", "batch 0", "interpolation", "batch 1", "batch 0", "batch 1"]


def test_no_transfer_of_weights_is_left_when_a_network_is_used(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """Transfers run in threads of JAX, and could overlap with the first call of a program of other weights."""
    waited: list[Any] = []
    monkeypatch.setattr(jax, "block_until_ready", waited.append)
    with load().cascade().network("vae") as network:
        assert network.weights is waited[-1]


def compile_for_transposed_weights(
    spec: CascadeSpec, stage: Stage, batch_size: int, formats: Any
) -> memory.CompiledStage:
    def transposed(leaf: Any) -> Format:
        return Format(Layout(tuple(reversed(range(leaf.ndim)))), leaf.sharding)

    weights = memory.denoising_step(spec, stage).weights
    return memory.compile_stage(spec, stage, batch_size, formats or jax.tree.map(transposed, weights))


def test_weights_have_the_layouts_that_the_compiled_step_asks_for(
    load: Load, alone: list[dict[Stage, np.ndarray]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compilers for CPUs keep the default layouts, so other ones are asked for here."""
    monkeypatch.setattr(networks, "compile_stage", compile_for_transposed_weights)
    with load().cascade("all") as cascade:
        found = cascade.sample(PROMPTS[:1], [0])
        with cascade.network("keyframes") as network:
            kernel = to_weights(network.weights)["conv_in", "kernel"]
            assert kernel.format.layout.major_to_minor == (3, 2, 1, 0)
    for stage, video in alone[0].items():
        np.testing.assert_allclose(found[stage], video, atol=1e-3, err_msg=stage)


def test_programs_take_weights_that_were_loaded_before(
    load: Load, alone: list[dict[Stage, np.ndarray]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(networks, "compile_stage", compile_for_transposed_weights)
    cascade = load().cascade()
    with cascade.network("keyframes"):
        found = cascade.sample(PROMPTS[:1], [0], stages=["keyframes"])
    np.testing.assert_array_equal(found["keyframes"], alone[0]["keyframes"])


def test_videos_of_other_sizes_can_be_given(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs are compiled ahead of time for the sizes of the given videos, and not once more."""
    monkeypatch.setattr(denoise, "step_program", lambda *_: pytest.fail("compiled again"))
    given = np.random.default_rng(0).uniform(-1, 1, (1, 4, 8, 16, 3)).astype(np.float32)
    found = load().cascade().sample(PROMPTS[:1], stages=["interpolation", "first_frame"], given={"keyframes": given})
    keyframes = dataclasses.replace(tiny_config.settings().keyframes, num_frames=4, width=16)
    config: CascadeConfig = dataclasses.replace(tiny_config.settings(), keyframes=keyframes)
    stated = load().cascade().with_config(config)
    expected = stated.sample(PROMPTS[:1], stages=["interpolation", "first_frame"], given={"keyframes": given})
    assert found["interpolation"].shape == (1, 7, 8, 16, 3)
    assert_equal(found, expected)
