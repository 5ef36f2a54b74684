"""Show-1 (arXiv 2309.15818) in JAX: a text-to-video cascade of pixel and latent diffusion.

from show1_jax import Cascade
videos = Cascade.load("checkpoints/show1").sample(["a panda eating bamboo"], seeds=[0])
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from show1_jax.cascade.cascade import Cascade
    from show1_jax.cascade.prompts import Prompt
    from show1_jax.config.sampling import CascadeConfig
    from show1_jax.errors import UserError

__all__ = ["Cascade", "CascadeConfig", "Prompt", "UserError"]
_MODULES = {
    "Cascade": "cascade.cascade",
    "CascadeConfig": "config.sampling",
    "Prompt": "cascade.prompts",
    "UserError": "errors",
}


def __getattr__(name: str) -> Any:
    """Public names, imported when they are asked for: JAX takes a second, and many uses do not need it."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
