"""Checks that a component is the network of a stage, before weights are read, for sampling and for training."""

from collections.abc import Iterator

from show1_jax.cascade.stages import AUTOENCODER, PIXEL_CHANNELS, StageSpec
from show1_jax.checkpoints.manifest import Component
from show1_jax.nn.config import Architecture, UNetConfig, VAEConfig
from show1_jax.nn.text_architecture import TextArchitecture


def network_problems(
    spec: StageSpec, record: Component, network: Architecture, encoder: Architecture, autoencoder: Architecture | None
) -> Iterator[str]:
    """Yield the reasons why a component is not a network of a stage, although its weights fit its architecture.

    Args:
        spec: row of the stage.
        record: record of the component in the manifest.
        network: architecture of the component.
        encoder: architecture of the stage's text encoder.
        autoencoder: architecture of the autoencoder; None if the stage works on pixels.

    Yields:
        Parts of an error, without the stage's name; none if the component is a network of the stage.
    """
    for role in spec.scheduler_roles:
        if role not in record.schedulers:
            yield f"the checkpoint has no {role} for it"
    if not isinstance(network, UNetConfig):
        yield f"its component is a network of kind {record.kind!r}, not 'unet'"
        return
    channels = PIXEL_CHANNELS
    if spec.is_latent:
        if not isinstance(autoencoder, VAEConfig):
            yield f"the checkpoint's component {AUTOENCODER!r} is not an autoencoder"
            return
        channels = autoencoder.latent_channels
    yield from unet_problems(spec, network, channels)
    width = encoder.state_width if isinstance(encoder, TextArchitecture) else None
    if network.raw_text_dim != width:
        yield f"it takes text states of width {network.raw_text_dim}, not {width}"


def unet_problems(spec: StageSpec, network: UNetConfig, channels: int) -> Iterator[str]:
    """Yield the reasons why a UNet does not fit a stage whose noisy sample has a number of channels."""
    needed = channels + spec.condition_channels
    if network.in_channels != needed:
        yield f"in_channels={network.in_channels} of its network must be {needed}"
    if network.out_channels not in (channels, 2 * channels):
        given = f"out_channels={network.out_channels} of its network"
        yield f"{given} must be {channels}, or {2 * channels} with a variance"
    if network.noise_level_embedding != spec.is_noised:
        yield f"noise_level_embedding={network.noise_level_embedding} of its network must be {spec.is_noised}"
