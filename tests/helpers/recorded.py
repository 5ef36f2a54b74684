"""The recorded run of the original, converted to this package's layout and names."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array

from show1_jax.cascade.noise import Draw
from show1_jax.cascade.stages import superres_starts
from show1_jax.config.sampling import CascadeConfig, Stage

NAMES: dict[Stage, str] = {
    "keyframes": "base",
    "interpolation": "interpolation",
    "first_frame": "image_sr",
    "superres_pixel": "sr1",
    "superres_latent": "sr2",
}
_FIRST_DRAWS: dict[Stage, tuple[str, ...]] = {
    "keyframes": ("initial",),
    "interpolation": ("initial",),
    "first_frame": ("initial", "augmentation"),
    "superres_pixel": ("initial", "augmentation"),
    "superres_latent": ("posterior", "initial"),
}

SHIPPED_EMITTERS = {"xla_backend_extra_options": ""}
"""Compiler options without conftest's choice of an older emitter, for comparisons with the original."""


def to_ours(array: np.ndarray) -> np.ndarray:
    """Convert (batch, channel, time, height, width), or (time, channel, height, width), to this package's layout."""
    if array.ndim == 5:
        return rearrange(array, "b c t h w -> b t h w c")
    return rearrange(array, "t c h w -> 1 t h w c")


def relative_error(ours: Any, recorded: np.ndarray) -> float:
    """Return the norm of the difference over the norm of the recorded array, in float64."""
    ours, recorded = np.asarray(ours, np.float64), recorded.astype(np.float64)
    assert ours.shape == recorded.shape
    return float(np.linalg.norm(ours - recorded) / np.linalg.norm(recorded))


class RecordedRun:
    """A recorded run: its settings, its tensors, and its draws as a noise source."""

    def __init__(self, folder: Path, trace: dict[str, np.ndarray]):
        self.settings = json.loads((folder / "trace.json").read_text())
        self.trace = trace
        self._draws: dict[str, list[np.ndarray]] = defaultdict(list)
        for number, name in enumerate(self.settings["noise_draws"]):
            self._draws[name].append(trace[f"noise/{number:03d}"])

    def config(self, **overrides: Any) -> CascadeConfig:
        """Return the run's settings as a config."""
        settings = self.settings
        stages: dict[str, Any] = {
            stage: {"num_steps": settings["steps"][name], "guidance_scale": settings["guidance"][name]}
            for stage, name in NAMES.items()
        }
        height, width = settings["size"]
        stages["keyframes"] |= {"num_frames": settings["keyframes"], "height": height, "width": width}
        stages["first_frame"] |= {"noise_level": settings["noise_level"]["image_sr"]}
        stages["superres_pixel"] |= {
            "noise_level": settings["noise_level"]["sr1"],
            "window": settings["sr1_window"],
            "stride": settings["sr1_stride"],
        }
        height, width = settings["final_size"]
        stages["superres_latent"] |= {"strength": settings["strength"], "height": height, "width": width}
        negative = settings["negative_prompt"]
        return CascadeConfig.from_dict({**stages, "negative_prompt": negative, **overrides})

    def stage(self, stage: Stage) -> np.ndarray:
        """Return the recorded result of a stage."""
        return to_ours(self.trace[f"stage/{NAMES[stage]}"])

    def window_names(self, stage: Stage) -> list[str]:
        """Return the names under which a stage's windows, or its single sampling, are recorded."""
        name = NAMES[stage]
        if stage == "interpolation":
            return [f"{name}/{window}" for window in range(self.settings["keyframes"] - 1)]
        if stage == "superres_pixel":
            frames = 4 * (self.settings["keyframes"] - 1) + 1
            starts = superres_starts(frames, self.settings["sr1_window"], self.settings["sr1_stride"])
            return [f"{name}/{start}" for start in starts]
        return [name]

    def noise(self, draw: Draw, shape: tuple[int, ...]) -> Array:
        """Return the recorded draw. Draws that a stage's windows share have the stage's name, others the window's."""
        stage, window = NAMES[draw.stage], self.window_names(draw.stage)[draw.window]
        draws = self._draws[stage] + (self._draws[window] if window != stage else [])
        first = _FIRST_DRAWS[draw.stage]
        number = first.index(draw.purpose) if draw.purpose in first else len(first) + draw.step
        recorded = to_ours(draws[number])
        assert recorded.shape[1:] == shape
        return jnp.asarray(recorded)
