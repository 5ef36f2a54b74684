"""CLIP's rules for the end of a text, and released settings."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from show1_jax.nn.clip import CLIPTextConfig
from show1_jax.nn.init import initial_weight
from show1_jax.nn.layers import Layers
from show1_jax.nn.recognition.clip import CLIPImageConfig, CLIPModel, CLIPModelConfig
from show1_jax.parallel.weights import to_state, to_weights
from tests.helpers.small_networks import clip_json


def small(end: int) -> CLIPModel:
    text, image = CLIPTextConfig(9, 8, 8, 1, 2, 6), CLIPImageConfig(8, 8, 1, 2, image_size=4, patch_size=2)
    graph, state = nnx.split(CLIPModel(CLIPModelConfig(text, image, 4, end), Layers()))
    weights = {path: jnp.asarray(initial_weight(path, leaf.shape)) for path, leaf in to_weights(state).items()}
    return nnx.merge(graph, to_state(state, weights))


def test_a_text_is_read_off_at_its_end() -> None:
    """A token that was added later has a larger id than the end token; transformers' two rules then differ."""
    ids = jnp.asarray([[1, 5, 8, 5, 0, 0]])
    named, largest = small(5), small(2)
    states = named.text_projection(named.text_model(ids))
    np.testing.assert_allclose(named.text(ids), states[:, 1], atol=2e-6)
    np.testing.assert_allclose(largest.text(ids), states[:, 2], atol=2e-6)
    assert jnp.abs(states[:, 1] - states[:, 2]).max() > 1e-3


def test_what_follows_the_end_does_not_matter() -> None:
    model = small(5)
    first, second = (model.text(jnp.asarray([[1, 3, 5, *rest]])) for rest in ([5, 5, 5], [0, 7, 1]))
    np.testing.assert_array_equal(first, second)


def test_an_image_has_a_token_for_each_patch() -> None:
    model = small(5)
    image = jax.random.normal(jax.random.key(0), (1, 4, 4, 3))
    assert model.vision_model.embeddings(image).shape == (1, 5, 8)
    moved = jnp.roll(image, 2, axis=1)  # patches change their places
    assert jnp.abs(model.image(image) - model.image(moved)).max() > 1e-3


def test_absent_settings_are_those_of_vit_b_32() -> None:
    config = CLIPModelConfig.from_json({"model_type": "clip"})
    assert (config.text.hidden_size, config.text.num_attention_heads, config.text.vocab_size) == (512, 8, 49408)
    assert (config.image.hidden_size, config.image.patch_size, config.image.num_positions) == (768, 32, 50)
    assert (config.projection_dim, config.eos_token_id) == (512, 49407)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, (32, 2)),
        ({"text_config_dict": None}, (32, 2)),
        # Settings that the first releases wrote twice: the second ones count, with the defaults of transformers.
        ({"text_config_dict": {"hidden_size": 16, "num_attention_heads": 2}}, (16, 49407)),
    ],
)
def test_settings_that_older_releases_wrote_twice(settings: dict[str, Any], expected: tuple[int, int]) -> None:
    config = CLIPModelConfig.from_json(clip_json(50_000, **settings))
    assert (config.text.hidden_size, config.eos_token_id) == expected


def test_architectures_are_recorded() -> None:
    config = CLIPModelConfig.from_json(clip_json(600))
    assert CLIPModelConfig.from_dict(config.to_dict()) == config
