"""Show-1 (arXiv 2309.15818) in JAX: a text-to-video cascade of pixel and latent diffusion.

Example:
    >>> from show1_jax import Cascade, to_uint8, write_mp4
    >>> cascade = Cascade.load("checkpoints/demo")
    >>> videos = cascade.sample(["a red circle moves right"], seeds=[0])
    >>> write_mp4("video.mp4", to_uint8(videos["superres_latent"][0]), fps=8)
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from show1_jax.cascade.cascade import Cascade
    from show1_jax.cascade.prompts import Prompt
    from show1_jax.checkpoints.networks import make_network
    from show1_jax.cli import load_config
    from show1_jax.config.config_file import Config
    from show1_jax.config.sampling import (
        CascadeConfig,
        FirstFrameConfig,
        InterpolationConfig,
        KeyframesConfig,
        SuperresLatentConfig,
        SuperresPixelConfig,
    )
    from show1_jax.config.video_edit import VideoEdit
    from show1_jax.errors import UserError
    from show1_jax.media.contact_sheet import contact_sheet
    from show1_jax.media.frames import to_uint8
    from show1_jax.media.read import read_picture, read_video
    from show1_jax.media.write import write_mp4

__all__ = [
    "Cascade",
    "CascadeConfig",
    "Config",
    "FirstFrameConfig",
    "InterpolationConfig",
    "KeyframesConfig",
    "Prompt",
    "SuperresLatentConfig",
    "SuperresPixelConfig",
    "UserError",
    "VideoEdit",
    "contact_sheet",
    "load_config",
    "make_network",
    "read_picture",
    "read_video",
    "to_uint8",
    "write_mp4",
]
_SETTINGS = ("CascadeConfig", "FirstFrameConfig", "InterpolationConfig", "KeyframesConfig")
_MODULES = {
    "Cascade": "cascade.cascade",
    "Config": "config.config_file",
    "Prompt": "cascade.prompts",
    "UserError": "errors",
    "VideoEdit": "config.video_edit",
    "contact_sheet": "media.contact_sheet",
    "load_config": "cli",
    "make_network": "checkpoints.networks",
    "read_picture": "media.read",
    "read_video": "media.read",
    "to_uint8": "media.frames",
    "write_mp4": "media.write",
} | dict.fromkeys((*_SETTINGS, "SuperresLatentConfig", "SuperresPixelConfig"), "config.sampling")


def __getattr__(name: str) -> Any:
    """Import a public name at its first use: importing JAX takes a second, and many uses do not need it."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
