"""Our architectures as `config.json` files: they are read as the same network, or refused by field."""

import dataclasses
import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs import demo
from convert.architectures import unet_config, vae_config
from convert.config_files import clip_json, t5_json, unet_json, vae_json, with_explicit_levels
from convert.tables import KINDS
from show1_jax.checkpoints.networks import kind_of, network_kind
from show1_jax.errors import UserError
from show1_jax.nn.clip import CLIPTextConfig
from show1_jax.nn.config import UNetConfig, VAEConfig
from show1_jax.nn.t5 import T5Config
from tests.helpers import tiny_config

CONFIGS = {"demo": demo.get_config().architecture.to_dict(), "tiny": tiny_config.get_config().architecture.to_dict()}


def through_json(values: dict[str, Any]) -> dict[str, Any]:
    result = json.loads(json.dumps(values))
    assert isinstance(result, dict)
    return result


@pytest.mark.parametrize(
    ("config", "component"),
    [(config, name) for config in CONFIGS for name in CONFIGS[config] if (config, name) != ("demo", "keyframes")],
)
def test_the_networks_of_our_configs(config: str, component: str) -> None:
    kind = kind_of(component)
    architecture = network_kind(kind).architecture.from_dict(CONFIGS[config][component])
    if isinstance(architecture, UNetConfig):
        architecture = with_explicit_levels(architecture)
        if architecture.attention == "transformer":  # the released class has one head size for the whole network
            architecture = dataclasses.replace(architecture, transformer_in_head_dim=architecture.mid_head_dim)
    written = through_json(KINDS[kind].write_config(architecture))
    read = KINDS[kind].read_config(written)
    assert (with_explicit_levels(read) if isinstance(read, UNetConfig) else read) == architecture


def test_fields_that_no_released_class_has_are_refused_by_name() -> None:
    architecture = UNetConfig.from_dict(CONFIGS["demo"]["keyframes"])
    with pytest.raises(UserError, match=r"whose UNets have no .*position_channels=True"):
        unet_json(architecture)


def test_released_networks_at_full_size(golden: Path) -> None:
    with gzip.open(golden / "full_size_keys.json.gz") as file:
        specs = json.load(file)
    kinds = {"unet": "unet", "vae": "vae"} | dict.fromkeys(("show-1-base/text_encoder",), "t5")
    classes = {"vae": "AutoencoderKL", "IF-II-L-v1.0/unet": "UNet2DConditionModel"}
    for name, spec in specs.items():
        part = name.partition("/")[2]
        kind = kinds.get(name) or kinds.get(part, "clip")
        class_name = classes.get(name) or classes.get(part, "UNet3DConditionModel")
        architecture = KINDS[kind].read_config({"_class_name": class_name, **spec["config"]})
        assert KINDS[kind].read_config(through_json(KINDS[kind].write_config(architecture))) == architecture


def test_written_settings_are_those_of_a_released_file(golden: Path) -> None:
    """The written file of a recorded network has the settings of its own file, as far as they have an effect."""
    for path in sorted((golden / "checkpoints").glob("*/unet/config.json")):
        released = json.loads(path.read_text())
        written = unet_json(unet_config(released))
        passed_over = {"sample_size", "mid_block_only_cross_attention"}
        assert {name: value for name, value in written.items() if released.get(name) != value}.keys() <= passed_over


@st.composite
def unets(draw: st.DrawFn) -> UNetConfig:
    """Draw networks that the released classes can represent."""
    latent = draw(st.booleans())
    levels = draw(st.integers(1, 3))

    def each(values: st.SearchStrategy[Any]) -> tuple[Any, ...]:
        return tuple(draw(st.lists(values, min_size=levels, max_size=levels)))

    shared: dict[str, Any] = {
        "in_channels": draw(st.integers(1, 9)),
        "out_channels": draw(st.integers(1, 9)),
        "block_out_channels": each(st.sampled_from([32, 64, 96])),
        "attention_levels": each(st.booleans()),
        "cross_attention_dim": draw(st.sampled_from([32, 64])),
        "act_fn": draw(st.sampled_from(["silu", "gelu"])),
        "mid_scale_factor": draw(st.sampled_from([1.0, 1.4142271248762552])),
        "norm_num_groups": draw(st.sampled_from([8, 32])),
        "norm_eps": draw(st.sampled_from([1e-5, 1e-6])),
    }
    if latent:
        head_dim = draw(st.sampled_from([8, 16]))
        return UNetConfig(
            layers_per_block=(draw(st.integers(1, 4)),) * levels,
            down_head_dim=(head_dim,) * levels,
            mid_head_dim=head_dim,
            up_head_dim=(head_dim,) * levels,
            attention="transformer",
            resampling="conv",
            temporal_heads="channels",
            transformer_in_head_dim=head_dim,
            out_act_fn="silu",
            time_scale_shift=False,
            **shared,
        )
    head_dims = each(st.sampled_from([8, 16, 32]))
    temporal = draw(st.booleans())
    return UNetConfig(
        layers_per_block=each(st.integers(1, 4)),
        down_head_dim=head_dims,
        mid_head_dim=head_dims[-1],
        up_head_dim=head_dims,
        temporal=temporal,
        transformer_in_head_dim=64 if temporal and draw(st.booleans()) else None,
        only_cross_attention=draw(st.sampled_from([(), each(st.booleans())])),
        mid_only_cross_attention=draw(st.booleans()),
        cross_attention_norm=draw(st.booleans()),
        text_dim=draw(st.sampled_from([None, 48])),
        text_embedding_heads=draw(st.sampled_from([None, 4, 16])),
        noise_level_embedding=draw(st.booleans()),
        out_act_fn=shared["act_fn"],
        time_embedding_act_fn=draw(st.sampled_from([None, "silu", "gelu"])),
        time_embedding_dim=draw(st.sampled_from([None, 160])),
        time_scale_shift=draw(st.booleans()),
        skip_time_act=draw(st.booleans()),
        out_scale_factor=draw(st.sampled_from([1.0, 1.25])),
        flip_sin_to_cos=draw(st.booleans()),
        freq_shift=draw(st.integers(0, 1)),
        conv_in_kernel=draw(st.sampled_from([1, 3, 5])),
        conv_out_kernel=draw(st.sampled_from([1, 3, 5])),
        **shared,
    )


@given(unets())
def test_unets(architecture: UNetConfig) -> None:
    assert with_explicit_levels(unet_config(through_json(unet_json(architecture)))) == with_explicit_levels(
        architecture
    )


@given(
    st.builds(
        VAEConfig,
        in_channels=st.integers(1, 4),
        out_channels=st.integers(1, 4),
        latent_channels=st.integers(1, 16),
        block_out_channels=st.lists(st.sampled_from([32, 64]), min_size=1, max_size=4).map(tuple),
        layers_per_block=st.integers(1, 3),
        scaling_factor=st.floats(0.01, 10),
        norm_num_groups=st.sampled_from([8, 32]),
        act_fn=st.sampled_from(["silu", "gelu"]),
    )
)
def test_autoencoders(architecture: VAEConfig) -> None:
    assert vae_config(through_json(vae_json(architecture))) == architecture


@given(
    st.builds(
        T5Config,
        **dict.fromkeys(("vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_heads"), st.integers(1, 99)),
        relative_attention_num_buckets=st.integers(4, 64),
        relative_attention_max_distance=st.integers(17, 256),
        layer_norm_epsilon=st.floats(1e-9, 1e-3),
    ),
    st.builds(
        CLIPTextConfig,
        **dict.fromkeys(("vocab_size", "intermediate_size", "num_hidden_layers"), st.integers(1, 99)),
        hidden_size=st.just(32),
        num_attention_heads=st.sampled_from([1, 4, 8]),
        max_position_embeddings=st.integers(1, 99),
        layer_norm_eps=st.floats(1e-9, 1e-3),
        hidden_act=st.sampled_from(["quick_gelu", "gelu"]),
    ),
)
def test_text_encoders(t5: T5Config, clip: CLIPTextConfig) -> None:
    assert T5Config.from_json(through_json(t5_json(t5))) == t5
    assert CLIPTextConfig.from_json(through_json(clip_json(clip))) == clip


PIXEL = UNetConfig(
    in_channels=3,
    out_channels=6,
    block_out_channels=(32, 64),
    layers_per_block=(1, 1),
    attention_levels=(False, True),
    down_head_dim=(8, 16),
    mid_head_dim=16,
    up_head_dim=(8, 16),
    cross_attention_dim=32,
)
LATENT = dataclasses.replace(
    PIXEL,
    attention="transformer",
    resampling="conv",
    temporal_heads="channels",
    transformer_in_head_dim=8,
    down_head_dim=(8, 8),
    mid_head_dim=8,
    up_head_dim=(8, 8),
    act_fn="silu",
    out_act_fn="silu",
    time_scale_shift=False,
)


@pytest.mark.parametrize(
    ("base", "changes"),
    [
        (PIXEL, {"up_head_dim": (16, 8)}),
        (PIXEL, {"mid_head_dim": 32}),
        (PIXEL, {"out_act_fn": "silu"}),
        (PIXEL, {"resampling": "conv"}),
        (PIXEL, {"temporal_heads": "channels"}),
        (PIXEL, {"transformer_in_head_dim": 8}),
        (LATENT, {"transformer_in_head_dim": 16}),
        (LATENT, {"temporal": False}),
        (LATENT, {"layers_per_block": (1, 2)}),
        (LATENT, {"text_dim": 48, "noise_level_embedding": True}),
        (LATENT, {"only_cross_attention": (True, False)}),
    ],
)
def test_a_network_that_no_released_class_can_represent(base: UNetConfig, changes: dict[str, Any]) -> None:
    unet_json(base)
    with pytest.raises(UserError) as refusal:
        unet_json(dataclasses.replace(base, **changes))
    for name in changes:
        assert f"{name}=" in str(refusal.value)
    assert "\n" not in str(refusal.value)
