"""The denoising loop of every stage; a step of network, guidance and sampler is one compiled program."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange, repeat
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float, Float32, Int32

from show1_jax.checkpoints.networks import LoadedNetwork
from show1_jax.diffusion.samplers import Coefficients, Sampler, SamplerState, guide
from show1_jax.nn.array_types import Video
from show1_jax.nn.unet import UNet
from show1_jax.parallel import batch_sharding, check_finite, constrain_batch
from show1_jax.runtime import network_program

OnStep = Callable[[int, int], None]
"""Function that is called with the number of finished steps and their total."""


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


def guided_output(
    graph: "nnx.GraphDef[nnx.Module]",
    weights: nnx.State,
    sample: Video,
    timestep: Int32[Array, ""],
    guidance_scale: Float32[Array, ""],
    text: Float[Array, "b g n d"],
    channels: Float32[Array, "b t h w e"] | None,
    noise_level: Int32[Array, ""] | None,
    *,
    sequential_guidance: bool = False,
) -> Float32[Array, "b t h w o"]:
    """Return the network's guided output for a noisy sample; see `Condition` and `guide`. The function is pure.

    The unconditional and the conditional branch of a video are next to each other in the batch, so that a sharded batch
    is not moved between devices. With `sequential_guidance` the branches run sequentially: nearly as fast on a busy
    device, with half of the working memory.
    """
    network = nnx.merge(graph, weights)
    assert isinstance(network, UNet)
    inputs = sample if channels is None else jnp.concatenate([sample, channels], axis=-1)

    def output_for(text: Float[Array, "b g n d"]) -> Float32[Array, "b*g t h w o"]:
        batch, branches = text.shape[:2]
        return network(
            repeat(inputs, "b t h w c -> (b g) t h w c", g=branches),
            jnp.broadcast_to(timestep, batch * branches),
            rearrange(text, "b g n d -> (b g) n d"),
            None if noise_level is None else jnp.broadcast_to(noise_level, batch * branches),
        )

    if text.shape[1] == 1:
        return output_for(text)
    if sequential_guidance:
        negative, prompt = jax.lax.map(output_for, rearrange(text, "b g n d -> g b 1 n d"))
    else:
        negative, prompt = rearrange(output_for(text), "(b g) t h w c -> g b t h w c", g=2)
    return guide(negative, prompt, guidance_scale, sample.shape[-1])


def denoise_step(
    graph: "nnx.GraphDef[nnx.Module]",
    sampler: Sampler,
    weights: nnx.State,
    state: SamplerState,
    coefficients: Coefficients,
    noise: Video | None,
    *inputs: Any,
    sequential_guidance: bool = False,
) -> SamplerState:
    """Run one step of a stage: network, guidance and the sampler's update.

    Args:
        graph: structure of the network.
        sampler: timesteps and coefficients.
        weights: weights of the network.
        state: the sampler's state before the step.
        coefficients: the sampler's coefficients of the step.
        noise: noise of the step, if the sampler takes it.
        inputs: arguments of `guided_output` after the sample.
        sequential_guidance: see `guided_output`.
    """
    output = guided_output(graph, weights, state.sample, *inputs, sequential_guidance=sequential_guidance)
    return jax.tree.map(constrain_batch, sampler.step(state, output, coefficients, noise))


def step_program(
    graph: "nnx.GraphDef[nnx.Module]", sampler: Sampler, mesh: Mesh, sequential_guidance: bool = False
) -> Any:
    """Return the compiled `denoise_step` of a network and a sampler; one program serves all steps."""
    return network_program(denoise_step, mesh, graph, sampler, sequential_guidance=sequential_guidance)


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
        sequential_guidance: bool,
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
    sequential_guidance: bool = False,
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
        on_step: called after every step, when its result is computed.
        sequential_guidance: see `guided_output`.
        name: name of the sampling in errors.

    Returns:
        The predicted clean video or latents, not clamped.

    Raises:
        UserError: the result of a step is not finite; no more steps run.
    """
    program = step_program(network.graph, sampler, mesh, sequential_guidance)
    state = jax.device_put(sampler.init(sample), batch_sharding(mesh))
    noise_level = None if condition.noise_level is None else np.int32(condition.noise_level)
    unused = jnp.zeros_like(sample) if sampler.takes_noise else None
    num_steps = len(sampler.timesteps)
    with jax.set_mesh(mesh):
        for step, timestep in enumerate(sampler.timesteps):
            state = program(
                network.weights,
                state,
                sampler.coefficients(step),
                step_noise(step) if sampler.needs_noise(step) else unused,
                timestep,
                np.float32(guidance_scale),
                condition.text,
                condition.channels,
                noise_level,
            )
            check_finite(state.sample, mesh, f"{name}, step {step + 1} of {num_steps} (timestep {timestep})")
            on_step(step + 1, num_steps)
    return state.sample
