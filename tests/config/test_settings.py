"""Settings: every field's type and every number's bounds are checked, in configs and in checkpoints."""

import dataclasses
import importlib
import json
import pkgutil
import time
import typing
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import show1_jax
from show1_jax.checkpoints.networks import kind_of, make_network, network_kind, network_kinds
from show1_jax.config.bounds import BOUNDS, MAX_BLOCK_LAYERS, bounds
from show1_jax.config.config_file import Config, OutputConfig
from show1_jax.config.settings import Settings
from show1_jax.config.training import OptimizerConfig, TrainingConfig
from show1_jax.errors import UserError
from show1_jax.media.write import MAX_GIF_FPS, MIN_FPS
from show1_jax.nn.config import UNetConfig
from tests.helpers import tiny_config

HUGE = [2**40, 10**10, 10**400, -(10**400), 1e308, float("inf"), float("nan"), -1]
CLASSES: list[type[Settings]] = [
    Config,
    TrainingConfig,
    OptimizerConfig,
    *(kind.architecture for kind in network_kinds().values()),
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@pytest.fixture(scope="module", autouse=True)
def _all_settings_are_known() -> None:
    for module in pkgutil.walk_packages(show1_jax.__path__, "show1_jax."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)


def subclasses(cls: type[Settings]) -> Iterator[type[Settings]]:
    for subclass in cls.__subclasses__():
        yield subclass
        yield from subclasses(subclass)


def refusal(cls: type[Settings], values: Any) -> str:
    with pytest.raises(UserError) as raised:
        cls.from_dict(values)
    line = str(raised.value)
    assert "\n" not in line
    assert len(line) < 400
    return line


def numbers(values: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from numbers(value, (*path, name))
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield (*path, name)


def replaced(values: dict[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    first, *rest = path
    return values | {first: replaced(values[first], tuple(rest), value) if rest else value}


def test_every_number_has_bounds() -> None:
    missing = []
    for cls in subclasses(Settings):
        for field in dataclasses.fields(cls):
            kinds = {field.type, *typing.get_args(field.type)}
            if kinds & {int, float} and not _has_bounds(cls, field.name):
                missing.append(f"{cls.__name__}.{field.name}")
    assert missing == []
    assert all(low < high for low, high in BOUNDS.values())


def _has_bounds(cls: type, name: str) -> bool:
    try:
        return bool(bounds(cls, name))
    except KeyError:
        return False


def test_no_bound_is_of_a_field_that_is_gone() -> None:
    classes = list(subclasses(Settings))
    fields = {field.name for cls in classes for field in dataclasses.fields(cls)}
    fields |= {f"{cls.__name__}.{field.name}" for cls in classes for field in dataclasses.fields(cls)}
    assert BOUNDS.keys() - fields == set()


def test_frame_rates_are_those_that_files_can_have() -> None:
    assert bounds(OutputConfig, "fps") == bounds(OutputConfig, "keyframes_fps") == (MIN_FPS, MAX_GIF_FPS)


@pytest.mark.parametrize("value", HUGE)
def test_no_number_of_a_config_goes_unbounded(value: Any) -> None:
    values = tiny_config.get_config().to_dict()
    values |= {"architecture": {}, "schedulers": {}}  # read by their own classes, below
    for path in numbers(values):
        if value == -1 and path[-1] in ("data", "fsdp", "tensor", "height", "guidance_scale"):
            continue
        assert path[-1] in refusal(Config, replaced(values, path, value))


@pytest.mark.parametrize("component", ["keyframes", "superres_latent", "vae", "text_t5", "text_clip"])
@pytest.mark.parametrize("value", HUGE)
def test_no_number_of_an_architecture_goes_unbounded(component: str, value: Any) -> None:
    kind = network_kind(kind_of(component)).architecture
    made = kind.from_dict(tiny_config.get_config().to_dict()["architecture"][component]).to_dict()
    for name, field in made.items():
        if isinstance(field, list) and field and type(field[0]) is int:
            assert name in refusal(kind, made | {name: [value] * len(field)})
        elif isinstance(field, int | float) and not isinstance(field, bool):
            assert name in refusal(kind, made | {name: value})


def test_many_levels_and_layers_are_refused_and_the_most_are_built_soon() -> None:
    unet = tiny_config.UNET | {"in_channels": 3}
    each = ("block_out_channels", "layers_per_block", "attention_levels", "down_head_dim", "up_head_dim")
    assert "block_out_channels has more than 16 entries" in refusal(
        UNetConfig, unet | {name: unet[name] * 10_000 for name in each}
    )
    most = {name: unet[name] * 8 for name in each} | {"layers_per_block": (16,) * 8}
    assert sum(most["layers_per_block"]) == MAX_BLOCK_LAYERS
    too_many = most | {"layers_per_block": (17,) + (16,) * 7}
    assert "layers_per_block adds up to 129" in refusal(UNetConfig, unet | too_many)
    started = time.process_time()
    make_network("unet", UNetConfig.from_dict(unet | most))
    assert time.process_time() - started < 60  # a few seconds; without bounds it would take days


def test_a_video_is_bounded_as_a_whole() -> None:
    values = tiny_config.get_config().to_dict()
    for side in ("height", "width"):
        values["superres_latent"][side] = 16_384
    values["keyframes"]["num_frames"] = 10_000
    assert "frames of these sizes have" in refusal(Config, values)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seed": "7"}, "seed='7' must be a whole number"),
        ({"seed": True}, "seed=True must be a whole number"),
        ({"random_weights": 1}, "random_weights=1 must be true or false"),
        ({"out": None}, "out=None must be a string"),
        ({"prompts": "a panda"}, "prompts='a panda' must be a list of strings"),
        ({"prompts": ["a", 1]}, "must be a list of strings"),
        ({"keyframes": 3}, "KeyframesConfig: 3 must be settings by name"),
        ({"keyframes": {1: 2}}, "KeyframesConfig: {1: 2} must be settings by name"),
        ({"architecture": {"keyframes": 3}}, "must be settings by name"),
        ({"schedulers": {"keyframes": {"scheduler": []}}}, "must be settings by name"),
        ({"text_padding": ["encoded"]}, "text_padding=('encoded',) is not one of"),
        ({"memory_limit_gb": "8"}, "memory_limit_gb='8' must be a number"),
        ({"memory_limit_gb": 10**400}, "must be from 0 to 1000000"),
        ({"sed": 1}, "did you mean 'seed'?"),
        ({"s" * 100_000: 1}, "has no field"),
        ({"keyframes": [[[["x" * 40] * 9] * 9] * 9] * 9}, "must be settings by name"),
    ],
)
def test_wrong_types_are_refused_by_name(change: dict[Any, Any], said: str) -> None:
    assert said in refusal(Config, change)


def test_whole_numbers_are_numbers() -> None:
    assert Config.from_dict({"memory_limit_gb": 8}).memory_limit_gb == 8.0
    assert network_kind("unet").architecture.from_dict(tiny_config.UNET | {"in_channels": 3, "text_dim": None})


def made_or_refused(cls: type[Settings], values: Any) -> Any:
    """Return the settings, or None if one line refuses them."""
    try:
        return cls.from_dict(values)
    except UserError as error:
        line = str(error)
    assert "\n" not in line
    return None


@settings(max_examples=300)
@given(st.sampled_from(CLASSES), st.data())
def test_any_json_makes_settings_or_one_line(cls: type[Settings], data: st.DataObject) -> None:
    names = st.sampled_from([field.name for field in dataclasses.fields(cls)])
    made = made_or_refused(cls, data.draw(JSON | st.dictionaries(names, JSON, max_size=6)))
    assert made is None or cls.from_dict(json.loads(json.dumps(made.to_dict()))) == made


@settings(max_examples=200)
@given(st.sampled_from(["keyframes", "superres_latent", "superres_pixel", "vae", "text_t5", "text_clip"]), st.data())
def test_an_architecture_with_any_value_is_built_or_refused_in_one_line(component: str, data: st.DataObject) -> None:
    kind = kind_of(component)
    fields = tiny_config.get_config().to_dict()["architecture"][component]
    names = st.sampled_from([field.name for field in dataclasses.fields(network_kind(kind).architecture)])
    small = st.integers(1, 64)
    fields |= data.draw(st.dictionaries(names, small | st.lists(small, min_size=1, max_size=3) | JSON, max_size=2))
    made = made_or_refused(network_kind(kind).architecture, fields)
    assert made is None or make_network(kind, made)
