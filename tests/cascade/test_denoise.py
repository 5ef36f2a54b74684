"""Kinds of denoising steps: with fewer branches of guidance, and with reused features."""

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import Array

from show1_jax.cascade import denoise as denoising
from show1_jax.cascade.cascade import Cascade
from show1_jax.cascade.denoise import (
    Condition,
    KnownFrames,
    StepKind,
    StepResult,
    denoise,
    step_kinds,
    step_program,
)
from show1_jax.cascade.memory import compile_stage
from show1_jax.cascade.programs import as_sampled, denoising_step
from show1_jax.checkpoints.networks import LoadedNetwork
from show1_jax.config.sampling import STAGES, CascadeConfig, KeyframesConfig, SamplingMeshConfig, StageConfig
from show1_jax.diffusion.samplers import Coefficients, SamplerState, make_sampler
from show1_jax.diffusion.schedule import SchedulerConfig
from show1_jax.errors import UserError
from show1_jax.parallel import make_mesh
from tests.helpers import tiny_config

PROMPT, SEED = "a red circle moves right", 5
SCHEDULER = SchedulerConfig.from_json(tiny_config.DPM_SOLVER)
FEWER: dict[str, Any] = {"guidance_min_timestep": 200, "guidance_max_timestep": 800, "deep_every": 2}
UNGUIDED = StepKind(is_guided=False)
TOLERANCE = 1e-5

timesteps = st.integers(0, 999)


@settings(max_examples=50)
@given(
    num_steps=st.integers(1, 40),
    interval=st.tuples(timesteps, timesteps).map(sorted),
    deep_every=st.integers(1, 50),
    scale=st.sampled_from([1.0, 7.0]),
)
def test_guidance_is_in_the_interval_and_features_are_as_old_as_allowed(
    num_steps: int, interval: list[int], deep_every: int, scale: float
) -> None:
    low, high = interval
    config = StageConfig(num_steps, scale, guidance_min_timestep=low, guidance_max_timestep=high, deep_every=deep_every)
    sampler = make_sampler(SCHEDULER, num_steps)
    kinds = step_kinds(config, sampler)
    assert [kind.is_guided for kind in kinds] == [scale > 1 and low <= t <= high for t in sampler.timesteps]
    if deep_every == 1:
        assert {kind.deep for kind in kinds} == {"computed"}
        return
    computed = [step for step, kind in enumerate(kinds) if kind.deep == "kept"]
    for step, kind in enumerate(kinds):
        newest = max(before for before in computed if before <= step)
        assert step - newest < deep_every
        assert kinds[newest].is_guided == kind.is_guided
        assert (step == newest) or kind.deep == "reused"
    changes = sum(one.is_guided != other.is_guided for one, other in itertools.pairwise(kinds))
    assert len(computed) <= -(-num_steps // deep_every) + changes


def test_by_default_every_step_is_the_same() -> None:
    config = CascadeConfig()
    for stage in STAGES:
        assert set(step_kinds(config.stage(stage), make_sampler(SCHEDULER, 9))) == {StepKind()}


def test_the_last_steps_of_an_interval() -> None:
    config = KeyframesConfig(guidance_min_timestep=400, deep_every=2, fine_levels=3)
    kinds = step_kinds(config, make_sampler(SCHEDULER.with_sampler("ddim"), 6))  # 830, 664, 498, 332, 166, 0
    deep = ["kept", "reused", "kept", "kept", "reused", "kept"]
    assert kinds == tuple(StepKind(step < 3, kind, 3) for step, kind in enumerate(deep))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def cascade(tiny_checkpoint: Path) -> Cascade:
    return Cascade.load(tiny_checkpoint, tiny_config.settings(), jax.devices()[:1])


def changed(cascade: Cascade, keyframes: dict[str, Any], **others: Any) -> Cascade:
    config = cascade.spec.config
    stage = dataclasses.replace(config.keyframes, num_steps=5, **keyframes)
    return cascade.with_config(dataclasses.replace(config, keyframes=stage, **others))


@pytest.fixture(scope="module")
def keyframes(cascade: Cascade) -> Callable[..., np.ndarray]:
    """Return a function that samples keyframes with some kinds of steps, from the same noise and text."""
    text = cascade.encode_prompts(["keyframes"], [PROMPT])["keyframes"]
    sampler = make_sampler(SCHEDULER, 3)
    noise = jax.random.normal(jax.random.key(0), (1, 3, 8, 8, 3))

    def run(kinds: tuple[StepKind, ...], text: Array = text, **options: Any) -> np.ndarray:
        with cascade.network("keyframes") as network:
            return np.asarray(
                denoise(
                    network,
                    sampler,
                    noise,
                    condition=Condition(text),
                    guidance_scale=3.0,
                    step_noise=lambda step: noise,
                    mesh=cascade.spec.mesh,
                    kinds=kinds,
                    **options,
                )
            )

    return run


def test_steps_without_guidance_are_those_of_the_prompt_alone(cascade: Cascade, keyframes: Any) -> None:
    """A step after an unguided one is guided as always: a run by hand, one step at a time, gives the same."""
    text = cascade.encode_prompts(["keyframes"], [PROMPT])["keyframes"]
    alone = text[:, 1:]
    np.testing.assert_allclose(keyframes((UNGUIDED,) * 3), keyframes((), alone), atol=TOLERANCE)
    mixed = keyframes((UNGUIDED, StepKind(), UNGUIDED))
    assert np.abs(mixed - keyframes(())).max() > 1e-3
    sampler = make_sampler(SCHEDULER, 3)
    state = sampler.init(jax.random.normal(jax.random.key(0), (1, 3, 8, 8, 3)))
    with cascade.network("keyframes") as network, as_sampled(cascade.spec):
        program = step_program(network.graph, sampler, cascade.spec.mesh)
        for step, branches in enumerate((alone, text, alone)):
            inputs = (sampler.timesteps[step], np.float32(3), branches, None, None)
            state, kept, _ = program(network.weights, state, None, sampler.coefficients(step), None, *inputs)
            assert kept is None
    np.testing.assert_allclose(mixed, state.sample, atol=10 * TOLERANCE)


def test_kept_features_change_nothing_and_reused_ones_a_little(keyframes: Any) -> None:
    whole = keyframes(())
    np.testing.assert_allclose(keyframes((StepKind(deep="kept"),) * 3), whole, atol=TOLERANCE)
    kinds = (StepKind(deep="kept"), StepKind(deep="reused"), StepKind(deep="kept"))
    reused = keyframes(kinds)
    assert np.abs(reused - whole).max() > 1e-4
    np.testing.assert_allclose(keyframes(kinds, sequential_guidance=True), reused, atol=10 * TOLERANCE)


def test_one_kind_for_each_step(keyframes: Any) -> None:
    with pytest.raises(ValueError, match="1 kinds for"):
        keyframes((UNGUIDED,))


def test_every_setting_in_every_stage(cascade: Cascade) -> None:
    stages: dict[str, Any] = {
        stage: dataclasses.replace(cascade.spec.config.stage(stage), num_steps=3, **FEWER) for stage in STAGES
    }
    fewer = cascade.with_config(dataclasses.replace(cascade.spec.config, **stages))
    videos = fewer.sample([PROMPT], [SEED])
    assert videos["superres_latent"].shape == (1, 5, 24, 24, 3)
    assert {kind.deep for kind in fewer.spec.step_kinds("superres_pixel")} == {"kept", "reused"}
    assert {kind.is_guided for kind in fewer.spec.step_kinds("superres_pixel")} == {True, False}


def sharded(checkpoint: Path, devices: int, **mesh: int) -> Cascade:
    config = dataclasses.replace(tiny_config.settings(), mesh=SamplingMeshConfig(**mesh))
    return changed(Cascade.load(checkpoint, config, jax.devices()[:devices]), FEWER)


def test_two_devices_give_the_same(cascade: Cascade, tiny_checkpoint: Path) -> None:
    alone, both = (
        each.sample([PROMPT], [SEED], stages=["keyframes"])["keyframes"]
        for each in (changed(cascade, FEWER), sharded(tiny_checkpoint, 2, guidance=2))
    )
    np.testing.assert_allclose(both, alone, atol=1e-3)


def test_kept_features_have_the_stated_shape_and_sharding(tiny_checkpoint: Path) -> None:
    """So programs that are compiled ahead of time accept each other's features."""
    spec = sharded(tiny_checkpoint, 4, guidance=2, height=2).spec
    kept = StepKind(deep="kept")
    with as_sampled(spec):
        compiled = denoising_step(spec, "keyframes", kind=kept).trace().lower().compile()
    stated = denoising_step(spec, "keyframes", kind=kept._replace(deep="reused")).arguments[2]
    made, placed = compiled.out_info.deep, compiled.output_shardings.deep
    assert (made.shape, made.dtype) == (stated.shape, stated.dtype)
    assert placed.is_equivalent_to(stated.sharding, len(stated.shape))
    assert placed.num_devices == 4
    assert placed.shard_shape(made.shape) == (1, 3, 4, 8, 32)


def test_memory_is_that_of_the_largest_step(cascade: Cascade) -> None:
    together = [compile_stage(changed(cascade, each).spec, "keyframes").need for each in ({}, {"deep_every": 2})]
    assert together[0].total < together[1].total  # features are kept
    assert together[0].weights == together[1].weights
    limited = changed(cascade, FEWER, memory_limit_gb=1e-6)
    assert compile_stage(limited.spec, "keyframes").need.sequential_guidance
    videos = [each.sample([PROMPT], [SEED], stages=["keyframes"]) for each in (changed(cascade, FEWER), limited)]
    np.testing.assert_allclose(videos[0]["keyframes"], videos[1]["keyframes"], atol=1e-3)


def test_an_empty_interval_and_missing_levels_are_refused(cascade: Cascade) -> None:
    with pytest.raises(UserError, match="guidance_min_timestep=5 must be at most guidance_max_timestep=4"):
        KeyframesConfig(guidance_min_timestep=5, guidance_max_timestep=4)
    many = changed(cascade, {"deep_every": 2, "fine_levels": 2})
    with pytest.raises(UserError, match="stage keyframes: fine_levels=2 must be at most 1, the levels of its network"):
        many.spec.check_settings(["keyframes"])
    changed(cascade, {"fine_levels": 2}).spec.check_settings(["keyframes"])


@pytest.mark.parametrize("passes", [1, 3])
@pytest.mark.parametrize("sampler_name", ["dpm_solver++", "ddim", "ddpm"])
def test_known_frames_and_the_noise_of_every_pass(
    sampler_name: str, passes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network predicts x0 = 0, so that the other frames are noise alone, and their level can be measured."""
    released = dataclasses.replace(SCHEDULER, prediction_type="sample", thresholding=False, variance_type="fixed_small")
    sampler = make_sampler(released.with_sampler(sampler_name), 5)
    rng = np.random.default_rng(0)
    shape = (1, 3, 32, 32, 3)
    frames = rng.uniform(-1, 1, (1, 1, *shape[2:])).astype(np.float32)

    def draw(*_: int) -> Array:
        return jax.numpy.asarray(rng.standard_normal(shape), "float32")

    seen: list[tuple[SamplerState, Coefficients]] = []

    def program(_: object, state: SamplerState, __: object, at: Coefficients, noise: Any, *rest: object) -> StepResult:
        seen.append((state, at))
        after = sampler.step(state, jax.numpy.zeros(shape, "float32"), at, noise)
        return StepResult(after, None, jax.numpy.asarray(True))

    monkeypatch.setattr(denoising, "step_program", lambda *_: program)
    unused: Any = None
    network, steps = LoadedNetwork(unused, unused, unused), []
    start = draw().at[:, 1:].multiply(sampler.coefficients(0).sigma)  # "leading" steps start below the highest level
    result = denoise(
        *(network, sampler, start),
        condition=Condition(jax.numpy.zeros((1, 1, 1, 1))),
        guidance_scale=1.0,
        step_noise=draw,
        mesh=make_mesh(SamplingMeshConfig(), jax.devices()[:1]),
        on_step=lambda *step: steps.append(step),
        known=KnownFrames(jax.numpy.asarray(frames), passes, draw),
    )
    total = 4 * passes + 1
    assert steps == [(step, total) for step in range(1, total + 1)]
    np.testing.assert_array_equal(result[:, :1], frames)
    for state, at in seen:
        np.testing.assert_allclose(state.sample[:, :1], at.alpha * frames + at.sigma * start[:, :1], atol=1e-6)
        for x0 in state.history:
            np.testing.assert_array_equal(x0[:, :1], frames)
        assert float(state.sample[:, 1:].std()) == pytest.approx(float(at.sigma), rel=0.04)
