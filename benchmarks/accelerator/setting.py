"""The cascade that is measured, and the facts that measurements share."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmarks.random_cascade import random_cascade
from benchmarks.sampling import Rates, measure_rates
from show1_jax.cascade.cascade import Cascade
from show1_jax.cascade.spec import CascadeSpec
from show1_jax.config.config_file import Config
from show1_jax.parallel import platform_of


@dataclass(frozen=True)
class Setting:
    """The cascade of a config with random weights, on all devices.

    Attributes:
        config: settings of the cascade.
        config_file: file of these settings, for other processes.
        folder: folder of the results.
        num_steps: timed steps of every program.
    """

    config: Config
    config_file: Path
    folder: Path
    num_steps: int

    @cached_property
    def cascade(self) -> Cascade:
        """The cascade; its weights are made stage by stage."""
        return random_cascade(self.config)

    @property
    def spec(self) -> CascadeSpec:
        """Specification of the cascade."""
        return self.cascade.spec

    @property
    def platform(self) -> str:
        """Platform of the devices, e.g. "gpu"."""
        return platform_of(self.spec.mesh)

    @cached_property
    def rates(self) -> Rates:
        """Rates of the first device, measured once."""
        return measure_rates(self.spec.dtype)

    def floor(self, flops: float, num_bytes: float) -> float:
        """Return the least seconds of these operations and bytes, divided evenly over the devices."""
        devices = self.spec.mesh.size
        return self.rates.floor(flops / devices, num_bytes / devices)


def milliseconds(seconds: Sequence[float]) -> list[float]:
    """Return seconds as milliseconds."""
    return [1e3 * value for value in seconds]


def shape_text(shape: Sequence[int]) -> str:
    """Return a shape as text, e.g. `1x8x40x64x3`."""
    return "x".join(map(str, shape))


def few_steps(config: Config, num_steps: int) -> Config:
    """Return a config whose stages take this number of denoising steps, to run all programs in little time."""
    stages: dict[str, Any] = {
        name: dataclasses.replace(getattr(config, name), num_steps=num_steps)
        for name in ("keyframes", "interpolation", "first_frame", "superres_pixel", "superres_latent")
    }
    return dataclasses.replace(config, **stages)
