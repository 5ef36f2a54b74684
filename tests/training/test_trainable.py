"""The weights that a run trains are chosen by their dotted paths."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from configs.demo import KEYFRAMES_UNET, SUPERRES_UNET
from show1_jax.checkpoints.networks import make_network
from show1_jax.config.training import AutoencoderTrainingConfig, DenoisingTrainingConfig, LoraConfig
from show1_jax.errors import UserError
from show1_jax.nn.config import UNetConfig
from show1_jax.parallel.weights import WeightShapes, to_weights
from show1_jax.training.trainable import frozen_weights, trained_shapes, trains_all

PATHS = [
    "conv_in.kernel",
    "mid_block.attentions.0.to_q.kernel",
    "mid_block.temp_attentions.0.transformer_blocks.0.attn1.to_q.kernel",
    "mid_block.temp_attentions.0.transformer_blocks.0.attn1.to_out.kernel",
    "mid_block.temp_attentions.0.transformer_blocks.0.attn2.to_v.kernel",
    "mid_block.temp_attentions.0.transformer_blocks.0.ff.proj_in.kernel",
    "encoder.conv_in.kernel",
    "quant_conv.bias",
    "decoder.mid_block.encoder.kernel",
    "transformer_in.proj_in.kernel",
    "down_blocks.0.temp_convs.0.conv1.conv.kernel",
]
SHAPES: WeightShapes = {tuple(path.split(".")): jax.ShapeDtypeStruct((2, 2), jnp.float32) for path in PATHS}


def chosen(config: DenoisingTrainingConfig | AutoencoderTrainingConfig) -> list[str]:
    trained = trained_shapes(config, SHAPES)
    assert frozen_weights(SHAPES, trained).keys() | trained.keys() == SHAPES.keys()
    return [".".join(path) for path in trained]


@pytest.mark.parametrize(
    ("trainable", "numbers"),
    [
        ("all", range(11)),
        ("temporal_attention", (2, 4)),
        ("spatial", (0, 1, 6, 7, 8)),
        (r"attn\d\.to_", (2, 3, 4)),
        ("^conv_in", (0,)),
    ],
)
def test_weights_are_chosen_by_a_name_or_an_expression(trainable: str, numbers: tuple[int, ...]) -> None:
    config = DenoisingTrainingConfig(trainable=trainable)
    assert chosen(config) == [PATHS[number] for number in numbers]
    assert trains_all(config) == (trainable == "all")


@pytest.mark.parametrize("settings", [KEYFRAMES_UNET, SUPERRES_UNET])
def test_spatial_layers_are_those_of_the_same_network_for_images(settings: dict[str, Any]) -> None:
    video, image = (
        to_weights(nnx.split(make_network("unet", UNetConfig.from_dict(settings | {"temporal": temporal})))[1])
        for temporal in (True, False)
    )
    assert trained_shapes(DenoisingTrainingConfig(trainable="spatial"), video).keys() == image.keys()
    assert len(video) > len(image)


def test_low_rank_adapters_have_a_pair_for_each_kernel() -> None:
    lora = LoraConfig(rank=3, layers="to_[qv]|bias")
    trained = trained_shapes(DenoisingTrainingConfig(trainable="lora", lora=lora), SHAPES)
    layers = {tuple(PATHS[number].split("."))[:-1] for number in (1, 2, 4)}
    assert {path: leaf.shape for path, leaf in trained.items()} == {
        (*layer, name): shape for layer in layers for name, shape in (("lora_a", (2, 3)), ("lora_b", (3, 2)))
    }
    assert frozen_weights(SHAPES, trained) == SHAPES
    assert len(trained_shapes(DenoisingTrainingConfig(trainable="lora"), SHAPES)) == 2 * 4  # all attentions
    with pytest.raises(UserError, match=r"lora\.layers='conv_ni' matches no weight of the network; the nearest names"):
        trained_shapes(DenoisingTrainingConfig(trainable="lora", lora=LoraConfig(layers="conv_ni")), SHAPES)


def test_the_decoder_is_what_the_encoder_is_not() -> None:
    assert set(PATHS) - set(chosen(AutoencoderTrainingConfig(decoder_only=True))) == {PATHS[6], PATHS[7]}
    assert chosen(AutoencoderTrainingConfig()) == PATHS


@pytest.mark.parametrize(
    ("trainable", "problem"),
    [
        ("temporal_atention", "matches no weight of the network; the nearest names are temporal_attention, "),
        ("conv_in.kernle", "matches no weight of the network; the nearest names are conv_in.kernel, "),
        ("to_(q", "trainable='to_\\(q' is not a regular expression"),
    ],
)
def test_a_pattern_that_matches_nothing_is_refused(trainable: str, problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        trained_shapes(DenoisingTrainingConfig(trainable=trainable), SHAPES)
