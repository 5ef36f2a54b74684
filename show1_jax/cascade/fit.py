"""Whether a component is the network of a stage: checked before a weight is read, for sampling and for training."""

from collections.abc import Iterator

from show1_jax.cascade.stages import AUTOENCODER, PIXEL_CHANNELS, StageSpec
from show1_jax.checkpoints.manifest import Component
from show1_jax.nn.config import Architecture, UNetConfig, VAEConfig
from show1_jax.nn.text_architecture import TextArchitecture


def network_problems(
    spec: StageSpec, record: Component, network: Architecture, encoder: Architecture, autoencoder: Architecture | None
) -> Iterator[str]:
    """Say why a component is no network of a stage, although its weights fit its architecture; nothing if it is one.

    Args:
        spec: of the stage.
        record: of the component.
        network: its architecture.
        encoder: architecture of the stage's text encoder.
        autoencoder: architecture of the autoencoder, where the stage works on latents.
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
            yield f"the checkpoint's component {AUTOENCODER!r} is no autoencoder"
            return
        channels = autoencoder.latent_channels
    yield from unet_problems(spec, network, channels)
    width = encoder.state_width if isinstance(encoder, TextArchitecture) else None
    if network.raw_text_dim != width:
        yield f"it takes text states of width {network.raw_text_dim}, not {width}"


def unet_problems(spec: StageSpec, network: UNetConfig, channels: int) -> Iterator[str]:
    """Say why a UNet is none of a stage whose noisy sample has so many channels; nothing if it is one."""
    taken = channels + spec.condition_channels
    if network.in_channels != taken:
        yield f"in_channels={network.in_channels} of its network must be {taken}"
    if network.out_channels not in (channels, 2 * channels):
        given = f"out_channels={network.out_channels} of its network"
        yield f"{given} must be {channels}, or {2 * channels} with a variance"
    if network.noise_level_embedding != spec.is_noised:
        yield f"noise_level_embedding={network.noise_level_embedding} of its network must be {spec.is_noised}"
