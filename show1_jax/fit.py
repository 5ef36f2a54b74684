"""What a stage needs of its network and of the text encoder before it: checked before a weight is read."""

from collections.abc import Mapping
from typing import Final

from show1_jax.config import Architecture, UNetConfig, VAEConfig
from show1_jax.errors import UserError
from show1_jax.manifest import Component
from show1_jax.sampling_config import Stage
from show1_jax.text.architecture import TextArchitecture

_CONDITION_CHANNELS: Final[Mapping[Stage, int]] = {
    "keyframes": 0,
    "interpolation": 4,
    "first_frame": 3,
    "superres_pixel": 3,
    "superres_latent": 0,
}
"""Channels that a stage appends to its noisy sample."""
_PIXEL_CHANNELS: Final = 3


def check_network(
    stage: Stage, record: Component, network: Architecture, encoder: Architecture, autoencoder: Architecture | None
) -> None:
    """Refuse a component that is no network of the stage, although its weights fit its architecture.

    Args:
        stage: its name.
        record: of the component.
        network: its architecture.
        encoder: the architecture of the stage's text encoder.
        autoencoder: the architecture of the autoencoder, where the stage works on latents.

    Raises:
        UserError: names the stage, and what its network lacks.
    """

    def require(condition: bool, problem: str) -> None:
        if not condition:
            raise UserError(f"stage {stage}: {problem}; take the checkpoint of a network that was made for this stage")

    condition = _CONDITION_CHANNELS[stage]
    noised = stage in ("first_frame", "superres_pixel")
    for role in ("scheduler", *(["image_noising_scheduler"] if noised else [])):
        require(role in record.schedulers, f"the checkpoint has no {role} for it")
    require(isinstance(network, UNetConfig), f"its component is a network of kind {record.kind!r}, not 'unet'")
    assert isinstance(network, UNetConfig)
    channels = _PIXEL_CHANNELS
    if stage == "superres_latent":
        require(isinstance(autoencoder, VAEConfig), "the checkpoint's component 'vae' is no autoencoder")
        assert isinstance(autoencoder, VAEConfig)
        channels = autoencoder.latent_channels
    wanted = channels + condition
    require(network.in_channels == wanted, f"its network takes {network.in_channels} channels, not {wanted}")
    possible = (channels, 2 * channels)
    require(network.out_channels in possible, f"its network gives {network.out_channels} channels, not {channels}")
    require(network.noise_level_embedding == noised, f"noise_level_embedding={network.noise_level_embedding}")
    width = encoder.state_width if isinstance(encoder, TextArchitecture) else None
    require(network.raw_text_dim == width, f"it takes text states of width {network.raw_text_dim}, not {width}")
