"""The configs' networks and schedules: those of the full config are the released ones."""

import gzip
import json
from pathlib import Path
from typing import Any

import jax
import pytest

from benchmarks.operations import Counter, video_flops
from benchmarks.random_cascade import described_spec
from configs import demo, fast, full, stylise
from convert.architectures import unet_config, vae_config
from show1_jax.checkpoints.adapters import LORA_A, LORA_B
from show1_jax.checkpoints.networks import kind_of, network_kind
from show1_jax.config.config_file import Config
from show1_jax.config.settings import flatten
from show1_jax.config.training import TrainedStage
from show1_jax.diffusion.schedule import SchedulerConfig
from show1_jax.nn.clip import CLIPTextConfig
from show1_jax.nn.t5 import T5Config
from show1_jax.training.plan import make_plan

FOLDERS = {
    "keyframes": "show-1-base",
    "interpolation": "show-1-interpolation",
    "first_frame": "IF-II-L-v1.0",
    "superres_pixel": "show-1-sr1",
    "superres_latent": "show-1-sr2",
}


@pytest.fixture(scope="module")
def released(golden: Path) -> dict[str, Any]:
    files: dict[str, Any] = json.loads(gzip.decompress((golden / "full_size_keys.json.gz").read_bytes()))
    return {name: component["config"] for name, component in files.items()}


@pytest.mark.parametrize("stage", FOLDERS)
def test_full_size_networks_are_the_released_ones(stage: str, released: dict[str, Any]) -> None:
    name = "UNet2DConditionModel" if stage == "first_frame" else "UNet3DConditionModel"
    config = Config.from_dict(full.get_config().to_dict())
    ours = network_kind("unet").architecture.from_dict(config.architecture[stage])
    theirs = unet_config(released[f"{FOLDERS[stage]}/unet"] | {"_class_name": name})
    assert ours.to_dict() == theirs.to_dict() | {
        # A list of nowhere is the same as no list.
        "only_cross_attention": list(theirs.only_cross_attention) if any(theirs.only_cross_attention) else [],
    }


def test_full_size_encoders_are_the_released_ones(released: dict[str, Any]) -> None:
    architecture = full.get_config().architecture.to_dict()
    t5, clip = (released[f"{folder}/text_encoder"] for folder in ("show-1-base", "show-1-sr2"))
    assert T5Config.from_dict(architecture["text_t5"]) == T5Config.from_json(t5)
    assert CLIPTextConfig.from_dict(architecture["text_clip"]) == CLIPTextConfig.from_json(clip)
    vae = vae_config(released["show-1-sr2/vae"] | {"_class_name": "AutoencoderKL"})
    assert network_kind("vae").architecture.from_dict(architecture["vae"]) == vae


@pytest.mark.parametrize("stage", FOLDERS)
@pytest.mark.parametrize("role", ["scheduler", "image_noising_scheduler"])
def test_full_size_schedules_are_the_released_ones(stage: str, role: str, golden: Path) -> None:
    path = golden / "checkpoints" / FOLDERS[stage] / role / "scheduler_config.json"
    ours = full.get_config().schedulers[stage].get(role)
    assert (ours is not None) == path.exists()
    if ours is not None:
        assert SchedulerConfig.from_json(ours.to_dict()) == SchedulerConfig.from_json(json.loads(path.read_text()))


@pytest.mark.parametrize("config", [full, demo])
def test_configs_state_every_network(config: Any) -> None:
    settings = Config.from_dict(config.get_config().to_dict())
    for name, fields in settings.architecture.items():
        network_kind(kind_of(name)).architecture.from_dict(fields)
    assert set(settings.schedulers) == set(FOLDERS)


def test_the_fast_config_differs_in_the_recipe_alone() -> None:
    full_settings, fast_settings = (flatten(config.get_config().to_dict()) for config in (full, fast))
    changed = {name for name, value in fast_settings.items() if full_settings[name] != value}
    recipe = {"num_steps", "guidance_min_timestep", "guidance_max_timestep", "deep_every", "fine_levels"}
    assert {name.split(".")[1] for name in changed} <= recipe


def test_the_fast_config_has_at_most_30_percent_of_the_operations() -> None:
    counter = Counter()
    specs = [
        described_spec(Config.from_dict(config.get_config().to_dict()), jax.devices()[:1]) for config in (full, fast)
    ]
    released, fewer = (video_flops(counter.parts(spec)) for spec in specs)
    assert released == pytest.approx(38.4e15, rel=0.01)
    assert fewer <= 0.3 * released


@pytest.mark.parametrize("stage", stylise.NUM_STEPS)
def test_a_stylisation_adapts_no_layer_over_frames_and_is_small(stage: TrainedStage) -> None:
    config = Config.from_dict(stylise.get_config().to_dict())
    trained = make_plan(config, stage, "cpu").trained_shapes()
    assert {path[-1] for path in trained} == {LORA_A, LORA_B}
    assert not any({"temp_attentions", "temp_convs", "transformer_in"} & set(path) for path in trained)
    assert 4 * sum(leaf.size for leaf in trained.values()) < 2e6
