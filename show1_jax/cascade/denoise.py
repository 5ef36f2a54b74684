"""The denoising loop of every stage; a step of network, guidance and sampler is one compiled program."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Final, Literal, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange, repeat
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, ArrayLike, Bool, Float, Float32, Int32

from show1_jax.checkpoints.networks import LoadedNetwork
from show1_jax.config.sampling import StageConfig
from show1_jax.diffusion.samplers import Coefficients, Sampler, SamplerState, guide
from show1_jax.nn.array_types import Video
from show1_jax.nn.unet import UNet
from show1_jax.parallel import (
    batch_sharding,
    constrain_batch,
    constrain_replicated,
    constrain_stored,
    not_finite,
    put_batch,
)
from show1_jax.runtime import network_program, takes_arguments

CompiledSteps = Mapping["StepKind", Any]
"""Programs of a stage's steps that are compiled ahead of time, with their weights first; see `step_program`."""
OnStep = Callable[[int, int], None]
"""Function that is called with the number of finished steps and their total."""


class StepKind(NamedTuple):
    """A kind of denoising step. Each kind is one compiled program; all have the same arguments, except `deep`.

    Attributes:
        is_guided: both branches of guidance run; otherwise the conditional one alone.
        deep: features of the network's deep levels are computed, computed and kept for the next steps, or reused.
        fine_levels: number of levels that are not deep; see `UNet.predict`.
    """

    is_guided: bool = True
    deep: Literal["computed", "kept", "reused"] = "computed"
    fine_levels: int = 1


EVERY_BRANCH_AND_LEVEL: Final = StepKind()


def step_kinds(config: StageConfig, sampler: Sampler) -> tuple[StepKind, ...]:
    """Return the kind of every step of a sampler, in their order.

    Deep features are computed at the first step, `deep_every` steps after they were last computed, and where guidance
    begins or ends: so reused features have the branches of the step that reuses them.

    Args:
        config: settings of the stage.
        sampler: sampler of the stage.
    """
    kinds: list[StepKind] = []
    age = 0
    for timestep in sampler.timesteps:
        in_interval = config.guidance_min_timestep <= timestep <= config.guidance_max_timestep
        is_guided = config.guidance_scale > 1 and bool(in_interval)
        if config.deep_every == 1:
            kinds.append(StepKind(is_guided))
            continue
        is_new = age % config.deep_every == 0 or is_guided != kinds[-1].is_guided
        age = 1 if is_new else age + 1
        kinds.append(StepKind(is_guided, "kept" if is_new else "reused", config.fine_levels))
    return tuple(kinds)


@dataclass(frozen=True)
class Condition:
    """The inputs that a stage's network is conditioned on, besides the noisy sample and the timestep.

    Attributes:
        text: states of negative prompt and prompt, in this order, or of the prompt alone (no guidance).
        channels: channels that are appended to those of the noisy sample.
        noise_level: timestep of the noise in the low-resolution condition.
    """

    text: Float[Array, "b g n d"]
    channels: Float32[Array, "b t h w e"] | None = None
    noise_level: int | None = None


@dataclass(frozen=True)
class KnownFrames:
    """Clean frames that a sampling begins with, which its network is not trained for.

    Before every step they replace those of the sample, noised to its timestep, and at the end they replace those of the
    result (Song et al. 2021, arXiv 2011.13456, appendix I.2; of videos Ho et al. 2022, arXiv 2204.03458, section 3.1).
    In several passes of a step, the noise that it removed is drawn again before each further pass, which brings the
    other frames into agreement with the known ones (Lugmayr et al. 2022, arXiv 2201.09865, algorithm 1).

    Attributes:
        frames: the first frames of the result. Their noise is that of the start, which must be noise alone.
        passes: number of passes of every step but the last.
        noise: returns the noise before another pass of a step, by the numbers of both, for all frames.
    """

    frames: Video
    passes: int
    noise: Callable[[int, int], Video]


class GuidedOutput(NamedTuple):
    """The guided output of a network, and the deep features of both branches if they are kept, otherwise None."""

    output: Float32[Array, "b t h w o"]
    deep: Float[Array, "_ t _ _ _"] | None


def guided_output(
    graph: "nnx.GraphDef[nnx.Module]",
    weights: nnx.State,
    sample: Video,
    deep: Float[Array, "_ t _ _ _"] | None,
    timestep: Int32[Array, ""],
    guidance_scale: Float32[Array, ""],
    text: Float[Array, "b g n d"],
    channels: Float32[Array, "b t h w e"] | None,
    noise_level: Int32[Array, ""] | None,
    *,
    kind: StepKind = EVERY_BRANCH_AND_LEVEL,
    sequential_guidance: bool = False,
) -> GuidedOutput:
    """Return the network's guided output for a noisy sample; see `Condition` and `guide`. The function is pure.

    The unconditional and the conditional branch of a video are next to each other in the batch, so that a sharded batch
    is not moved between devices. With `sequential_guidance` the branches run sequentially: nearly as fast on a busy
    device, with half of the working memory. `deep` are the features that a step of kind "reused" reuses.
    """
    network = nnx.merge(graph, weights)
    assert isinstance(network, UNet)
    inputs = sample if channels is None else jnp.concatenate([sample, channels], axis=-1)

    def outputs_for(text: Float[Array, "b g n d"], deep: Float[Array, "_ t _ _ _"] | None) -> GuidedOutput:
        batch, branches = text.shape[:2]
        output, features = network.predict(
            repeat(inputs, "b t h w c -> (b g) t h w c", g=branches),
            jnp.broadcast_to(timestep, batch * branches),
            rearrange(text, "b g n d -> (b g) n d"),
            None if noise_level is None else jnp.broadcast_to(noise_level, batch * branches),
            fine_levels=kind.fine_levels,
            deep=deep,
        )
        return GuidedOutput(output, features if kind.deep == "kept" else None)

    if text.shape[1] == 1 or not kind.is_guided:
        return outputs_for(text[:, -1:] if text.shape[1] > 1 else text, deep)
    if not sequential_guidance:
        outputs, features = outputs_for(text, deep)
        negative, prompt = rearrange(outputs, "(b g) t h w c -> g b t h w c", g=2)
    else:
        by_branch = None if deep is None else rearrange(deep, "(b g) t h w c -> g b t h w c", g=2)
        (negative, prompt), features = jax.lax.map(
            lambda branch: outputs_for(*branch), (rearrange(text, "b g n d -> g b 1 n d"), by_branch)
        )
        features = None if features is None else rearrange(features, "g b t h w c -> (b g) t h w c")
    return GuidedOutput(guide(negative, prompt, guidance_scale, sample.shape[-1]), features)


class StepResult(NamedTuple):
    """The results of a denoising step.

    Attributes:
        state: the sampler's state after the step.
        deep: features that a step of kind "kept" keeps, otherwise None.
        is_finite: true if all values of the sample are finite.
    """

    state: SamplerState
    deep: Float[Array, "_ t _ _ _"] | None
    is_finite: Bool[Array, ""]


def denoise_step(
    graph: "nnx.GraphDef[nnx.Module]",
    sampler: Sampler,
    weights: nnx.State,
    state: SamplerState,
    deep: Float[Array, "_ t _ _ _"] | None,
    coefficients: Coefficients,
    noise: Video | None,
    *inputs: Any,
    kind: StepKind = EVERY_BRANCH_AND_LEVEL,
    sequential_guidance: bool = False,
) -> StepResult:
    """Run one step of a stage: network, guidance and the sampler's update.

    Args:
        graph: structure of the network.
        sampler: timesteps and coefficients.
        weights: weights of the network.
        state: the sampler's state before the step.
        deep: features that a step of kind "reused" reuses, otherwise None.
        coefficients: the sampler's coefficients of the step.
        noise: noise of the step, if the sampler takes it.
        inputs: arguments of `guided_output` after the features.
        kind: kind of the step.
        sequential_guidance: see `guided_output`.

    Returns:
        See `StepResult`.
    """
    output, features = guided_output(
        graph, weights, state.sample, deep, *inputs, kind=kind, sequential_guidance=sequential_guidance
    )
    state = jax.tree.map(constrain_batch, sampler.step(state, output, coefficients, noise))
    deep = None if features is None else constrain_stored(features)
    return StepResult(state, deep, constrain_replicated(jnp.isfinite(state.sample).all()))


def step_program(
    graph: "nnx.GraphDef[nnx.Module]",
    sampler: Sampler,
    mesh: Mesh,
    kind: StepKind = EVERY_BRANCH_AND_LEVEL,
    sequential_guidance: bool = False,
) -> Any:
    """Return the compiled `denoise_step` of a network, a sampler and a kind; one program serves all steps of a kind."""
    return network_program(denoise_step, mesh, graph, sampler, kind=kind, sequential_guidance=sequential_guidance)


@runtime_checkable
class Denoise(Protocol):
    """A function that runs a sampler from its first timestep to its last, such as `denoise`."""

    def __call__(
        self,
        network: LoadedNetwork,
        sampler: Sampler,
        sample: Video,
        *,
        condition: Condition,
        guidance_scale: float,
        step_noise: Callable[[int], Video],
        mesh: Mesh,
        on_step: OnStep,
        kinds: Sequence[StepKind],
        compiled: CompiledSteps,
        sequential_guidance: bool,
        known: KnownFrames | None,
        name: str,
    ) -> Video:
        """Run the sampler; see `denoise`."""


def denoise(
    network: LoadedNetwork,
    sampler: Sampler,
    sample: Video,
    *,
    condition: Condition,
    guidance_scale: float,
    step_noise: Callable[[int], Video],
    mesh: Mesh,
    on_step: OnStep = lambda done, total: None,
    kinds: Sequence[StepKind] = (),
    compiled: CompiledSteps = MappingProxyType({}),
    sequential_guidance: bool = False,
    known: KnownFrames | None = None,
    name: str = "sampling",
) -> Video:
    """Run a sampler from its first timestep to its last.

    Args:
        network: a UNet with weights on the devices of `mesh`.
        sampler: timesteps and coefficients.
        sample: start of the sampler: Gaussian noise, or a video noised to the sampler's first timestep.
        condition: text, channels and noise level that the network is conditioned on.
        guidance_scale: see `guide`; unused if `condition.text` contains the prompt alone.
        step_noise: returns the noise of a step, by its number; called only if the sampler needs it.
        mesh: mesh of the devices.
        on_step: called after every step, or pass of a step, when its result is computed.
        kinds: kind of every step, from `step_kinds`; by default every step computes everything.
        compiled: programs by kind; a kind without a program, or with one for other shapes, is compiled.
        sequential_guidance: see `guided_output`.
        known: clean frames that the result begins with.
        name: name of the sampling in errors.

    Returns:
        The predicted clean video or latents, not clamped.

    Raises:
        UserError: the result of a step is not finite. The step after it has been started already.
        ValueError: there is another number of kinds than of steps.
    """
    sharding, num_steps = batch_sharding(mesh), len(sampler.timesteps)
    placed = replace(
        condition,
        text=jax.device_put(condition.text, sharding),
        channels=jax.device_put(condition.channels, sharding),
    )
    steps = _Steps(network, sampler, placed, np.float32(guidance_scale), mesh, compiled, sequential_guidance)
    kinds = kinds or (EVERY_BRANCH_AND_LEVEL,) * num_steps
    if len(kinds) != num_steps:
        raise ValueError(f"{len(kinds)} kinds for {num_steps} steps")
    passes = _passes(num_steps, 1 if known is None else known.passes)
    state, deep = _start(sampler, jax.device_put(sample, sharding), mesh), None
    known_noise = None if known is None else state.sample[:, : known.frames.shape[1]]

    def finish(done: int, is_finite: Bool[Array, ""]) -> None:
        if not is_finite:
            step = passes[done - 1].step
            raise not_finite(f"{name}, step {step + 1} of {num_steps} (timestep {sampler.timesteps[step]})")
        on_step(done, len(passes))

    previous: Bool[Array, ""] | None = None
    with jax.set_mesh(mesh):
        for done, (step, number, is_last) in enumerate(passes):
            kind, coefficients = kinds[step], sampler.coefficients(step)
            if kind.deep != "reused":
                deep = None  # frees its memory before the step
            if known is not None:
                state = _with_known(state, known.frames, known_noise, coefficients.alpha, coefficients.sigma)
            noise = step_noise(step) if sampler.needs_noise(step) else state.sample  # which the step ignores
            after, kept, is_finite = steps.run(step, kind, coefficients, state, deep, noise)
            if not is_last:
                assert known is not None
                again = known.noise(step, number)
                after = _before_step(state, after, again, coefficients, sampler.coefficients(step + 1))
            state, deep = after, kept if kind.deep == "kept" else deep
            if previous is not None:
                finish(done, previous)  # only now: the device has the next step already, and does not wait
            previous = is_finite
        if previous is not None:
            finish(len(passes), previous)
        if known is not None:
            state = _with_known(state, known.frames, known_noise, np.float32(1), np.float32(0))
    return state.sample


class _Steps(NamedTuple):
    """The steps of a sampling, with all that does not change between them; arrays are on the devices."""

    network: LoadedNetwork
    sampler: Sampler
    condition: Condition
    guidance_scale: Float32[ArrayLike, ""]
    mesh: Mesh
    compiled: CompiledSteps
    sequential_guidance: bool

    def run(
        self,
        step: int,
        kind: StepKind,
        coefficients: Coefficients,
        state: SamplerState,
        deep: Float[Array, "_ t _ _ _"] | None,
        noise: Video,
    ) -> StepResult:
        """Run a step, by its number, with the program that was compiled for its kind, or else a new one."""
        sampler, condition = self.sampler, self.condition
        arguments = (
            *(self.network.weights, state, deep, coefficients),
            jax.device_put(noise, batch_sharding(self.mesh)) if sampler.takes_noise else None,
            *(sampler.timesteps[step], self.guidance_scale, condition.text, condition.channels),
            None if condition.noise_level is None else np.int32(condition.noise_level),
        )
        program = self.compiled.get(kind)
        if program is None or not takes_arguments(program, arguments):
            program = step_program(self.network.graph, sampler, self.mesh, kind, self.sequential_guidance)
        result: StepResult = program(*arguments)
        return result


class _Pass(NamedTuple):
    """A pass of a step: the step, the pass' number, and whether it is the step's last."""

    step: int
    number: int
    is_last: bool


def _passes(num_steps: int, passes: int) -> list[_Pass]:
    """Return the passes of all steps in their order; the last step has one."""
    counts = [passes] * (num_steps - 1) + [1] * min(num_steps, 1)
    return [_Pass(step, number, number == count - 1) for step, count in enumerate(counts) for number in range(count)]


@jax.jit
def _with_known(
    state: SamplerState, known: Video, noise: Video, alpha: Float32[ArrayLike, ""], sigma: Float32[ArrayLike, ""]
) -> SamplerState:
    """Return a state that begins with known frames, noised in its sample, and clean as predictions of x0."""

    def begin(array: Video, frames: Any) -> Video:
        return constrain_batch(jnp.concatenate([frames, array[:, frames.shape[1] :]], axis=1))

    history = tuple(begin(x0, known) for x0 in state.history)
    return SamplerState(begin(state.sample, alpha * known + sigma * noise), history)


@jax.jit
def _before_step(
    before: SamplerState, after: SamplerState, noise: Video, at: Coefficients, at_next: Coefficients
) -> SamplerState:
    """Return the state before another pass of a step: its result, noised again, with the history of the first pass."""
    ratio = at.alpha / at_next.alpha
    sigma = jnp.sqrt(jnp.maximum(at.sigma**2 - (ratio * at_next.sigma) ** 2, 0))
    sample = jnp.asarray(ratio * after.sample + sigma * noise)
    return SamplerState(constrain_batch(sample), before.history)


def _start(sampler: Sampler, sample: Video, mesh: Mesh) -> SamplerState:
    """Return the sampler's first state; its zeros come from the host, since a program for them would be compiled."""
    shapes = jax.eval_shape(sampler.init, sample)
    history = tuple(put_batch(np.zeros(leaf.shape, leaf.dtype), mesh) for leaf in shapes.history)
    return SamplerState(sample, history)
