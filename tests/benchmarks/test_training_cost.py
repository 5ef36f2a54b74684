"""The cost of training: its arithmetic, and its operations for the tiny networks."""

import pytest

from benchmarks.training_cost import Cost, training_cost
from benchmarks.training_cost import _main as training_cost_command
from show1_jax.errors import UserError
from show1_jax.training.dry_run import activation_bytes, training_memory
from show1_jax.training.plan import make_plan
from tests.helpers import tiny_config


@pytest.mark.parametrize("arguments", [["--devices", "0"], ["--devices", "x"], ["--utilisation", "nan"]])
def test_numbers_out_of_range_are_refused(arguments: list[str]) -> None:
    with pytest.raises(UserError, match=arguments[0]):
        training_cost_command(arguments)


def test_hours() -> None:
    cost = Cost("1 x 1 x 1", batch_size=10, num_steps=100, network=2e9, frozen=1e9)
    assert cost.total == 3e12
    assert cost.hours(peak=1e12, utilisation=0.5) == pytest.approx(6 / 3600)


def test_frozen_networks_count_apart() -> None:
    config = tiny_config.settings()
    pixel, latent = (training_cost(make_plan(config, stage, "cpu"), 7.0) for stage in ("keyframes", "superres_latent"))
    assert pixel.frozen == 7
    assert latent.frozen > 1e5
    assert pixel.network > 1e5


def test_more_devices_need_less_memory_each() -> None:
    plan = make_plan(tiny_config.settings(), "keyframes", "cpu")
    clip = activation_bytes(plan)
    one, four = (training_memory(plan, number, clip).total for number in (1, 4))
    assert 0.2 * one < four < one
