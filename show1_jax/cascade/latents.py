"""Encoding and decoding of videos by the latent stage's autoencoder, frame by frame to limit memory."""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float32

from show1_jax.checkpoints.networks import LoadedNetwork
from show1_jax.nn.array_types import Latents, Video
from show1_jax.nn.config import VAEConfig
from show1_jax.nn.vae import Autoencoder
from show1_jax.parallel import batch_sharding, constrain_batch
from show1_jax.runtime import network_program, takes_arguments


@runtime_checkable
class LatentCodec(Protocol):
    """A map from videos to scaled latents and back, such as `AutoencoderCodec`."""

    @property
    def architecture(self) -> VAEConfig:
        """Architecture of the autoencoder."""

    def encode(self, video: Video, noise: Latents) -> Latents:
        """Sample scaled latents of a video in [-1, 1] from their posterior, with Gaussian noise."""

    def decode(self, latents: Latents) -> Video:
        """Return the video of scaled latents, in about [-1, 1]."""


class AutoencoderCodec:
    """A `LatentCodec` with the weights of an autoencoder on the devices of a mesh, which must be set.

    Programs for encoding and decoding may be given, compiled ahead of time; for arrays of other shapes, and by default,
    they are compiled at the first call.
    """

    def __init__(self, network: LoadedNetwork, mesh: Mesh, compiled: tuple[Any, Any] | None = None):
        assert isinstance(network.architecture, VAEConfig)
        self.architecture = network.architecture
        self._network, self._mesh = network, mesh
        self._compiled = compiled or (None, None)

    def encode(self, video: Video, noise: Latents) -> Latents:
        """Sample scaled latents of a video; see `LatentCodec`."""
        latents: Latents = self._run(encoder_program, self._compiled[0], video, noise)
        return latents

    def decode(self, latents: Latents) -> Video:
        """Return the video of scaled latents; see `LatentCodec`."""
        video: Video = self._run(decoder_program, self._compiled[1], latents)
        return video

    def _run(self, make_program: Callable[..., Any], compiled: Any, *inputs: Any) -> Any:
        arguments = (self._network.weights, *jax.device_put(inputs, batch_sharding(self._mesh)))
        if compiled is None or not takes_arguments(compiled, arguments):
            compiled = make_program(self._network.graph, self._mesh)
        return compiled(*arguments)


def latent_shape(architecture: VAEConfig, num_frames: int, height: int, width: int) -> tuple[int, int, int, int]:
    """Return the shape of the latents of a clip, (time, height, width, channels); height and width are in pixels."""
    side = architecture.size_multiple
    return num_frames, height // side, width // side, architecture.latent_channels


def sample_latents(autoencoder: Autoencoder, video: Video, noise: Latents) -> Latents:
    """Sample scaled latents of a video in [-1, 1] from their posterior, with Gaussian noise. The function is pure."""

    def encode_frame(arguments: tuple[Array, Array]) -> Array:
        frame, noise = arguments
        mean, logvar = autoencoder.encode(frame[:, None])
        return (mean[:, 0] + jnp.exp(0.5 * logvar[:, 0]) * noise) * autoencoder.config.scaling_factor

    frames = (rearrange(video, "b t h w c -> t b h w c"), rearrange(noise, "b t h w c -> t b h w c"))
    return rearrange(jax.lax.map(encode_frame, frames), "t b h w c -> b t h w c")


def encoder_program(graph: "nnx.GraphDef[nnx.Module]", mesh: Mesh) -> Any:
    """Return the compiled function from an autoencoder's weights, a video and noise to scaled latents."""
    return network_program(_encode, mesh, graph)


def decoder_program(graph: "nnx.GraphDef[nnx.Module]", mesh: Mesh) -> Any:
    """Return the compiled function from an autoencoder's weights and scaled latents to a video."""
    return network_program(_decode, mesh, graph)


def _encode(graph: "nnx.GraphDef[nnx.Module]", weights: nnx.State, video: Video, noise: Latents) -> Latents:
    autoencoder = nnx.merge(graph, weights)
    assert isinstance(autoencoder, Autoencoder)
    return constrain_batch(sample_latents(autoencoder, video, noise))


def _decode(graph: "nnx.GraphDef[nnx.Module]", weights: nnx.State, latents: Latents) -> Float32[Array, "b t h w 3"]:
    autoencoder = nnx.merge(graph, weights)
    assert isinstance(autoencoder, Autoencoder)

    def decode_frame(frame: Array) -> Array:
        return autoencoder.decode(frame[:, None] / autoencoder.config.scaling_factor)[:, 0]

    frames = jax.lax.map(decode_frame, rearrange(latents, "b t h w c -> t b h w c"))
    return constrain_batch(rearrange(frames, "t b h w c -> b t h w c"))
