"""Settings of sampling from a video of the user rather than from noise. Command lines are checked without JAX."""

import dataclasses
from typing import Final, TypeVar

from show1_jax.config.sampling import CascadeConfig, FirstFrameConfig, Stage, SuperresLatentConfig
from show1_jax.errors import UserError

DEFAULT_INVERSION_STEPS: Final = 75
MAX_ITERATIONS: Final = 100

ConfigType = TypeVar("ConfigType", bound=CascadeConfig)


@dataclasses.dataclass(frozen=True)
class VideoEdit:
    """A stage's start from a video: noised (SDEdit, arXiv 2108.01073), or inverted (DDIM, arXiv 2010.02502).

    Attributes:
        stage: the stage, whose result the video stands for.
        strength: share of the stage's steps that run, the last ones. The video is noised to the first of them. 1 starts
            from noise alone, as without a video; with 0, and where no step is left, the video is the result.
        inversion_steps: number of steps of DDIM inversion, which replaces the noise: the start is then the one from
            which DDIM sampling with the empty prompt returns to the video. 0: there is no inversion.
        inversion_iterations: evaluations of the network in a step of inversion; see `make_inversion`.

    Raises:
        UserError: a number is out of range.

    Example:
        >>> import numpy as np
        >>> from show1_jax import Cascade, VideoEdit
        >>> cascade = Cascade.load("checkpoints/demo")
        >>> video = np.zeros((1, 8, 10, 16, 3), np.float32)  # 8 keyframes of 16x10, gray
        >>> edit = VideoEdit("keyframes", strength=0)  # strength 0 returns the video
        >>> videos = cascade.sample(["a red circle stays still"], stages=["keyframes"], edit=edit, video=video)
        >>> bool((videos["keyframes"] == video).all())
        True
    """

    stage: Stage
    strength: float = 1.0
    inversion_steps: int = 0
    inversion_iterations: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.strength <= 1:
            raise UserError(f"strength={self.strength:g} must be from 0 (the video itself) to 1 (noise alone)")
        if self.inversion_steps < 0:
            raise UserError(f"inversion_steps={self.inversion_steps} must be at least 1, or 0 for no inversion")
        if not 1 <= self.inversion_iterations <= MAX_ITERATIONS:
            raise UserError(f"inversion_iterations={self.inversion_iterations} must be from 1 to {MAX_ITERATIONS}")

    def returns_video(self, config: CascadeConfig) -> bool:
        """Return whether no step is left, so that the video is the result."""
        return int(config.stage(self.stage).num_steps * self.strength) == 0

    def settings(self, config: ConfigType) -> ConfigType:
        """Return the settings that the stage is sampled with: an inversion needs DDIM, and the strength may be its own.

        The stage of latents starts from a noised video in any case, and has a setting for it. A video that stands for
        the first frame has one frame.
        """
        stage = config.stage(self.stage)
        if self.inversion_steps:
            stage = dataclasses.replace(stage, sampler="ddim")
        if isinstance(stage, SuperresLatentConfig) and not self.returns_video(config):
            stage = dataclasses.replace(stage, strength=self.strength)
        if isinstance(stage, FirstFrameConfig):
            stage = dataclasses.replace(stage, frames="first")
        changes = {self.stage: stage}
        return dataclasses.replace(config, **changes)  # type: ignore[arg-type]
