"""Released settings of text encoders: defaults of absent keys, later releases and refusals."""

from collections.abc import Callable

import pytest

from show1_jax.errors import UserError
from show1_jax.nn.clip import CLIPTextConfig
from show1_jax.nn.t5 import T5Config
from tests.helpers.encoders import clip_settings, t5_settings


def test_absent_keys_have_their_defaults() -> None:
    assert T5Config.from_json(t5_settings()) == T5Config(9, 8, 4, 8, 1, 2, 32, 128, 1e-6)
    assert CLIPTextConfig.from_json(clip_settings()) == CLIPTextConfig(9, 8, 8, 1, 2, 77, 1e-5, "quick_gelu")


def test_configs_of_other_releases_mean_the_same_encoder() -> None:
    t5 = T5Config.from_json(t5_settings())
    later = {
        "_name_or_path": "",
        "architectures": ["T5EncoderModel"],
        "dtype": "float16",
        "id2label": {"0": "LABEL_0"},
        "is_decoder": False,
        "n_positions": 512,
        "output_hidden_states": True,
        "pruned_heads": {},
        "scale_decoder_outputs": True,
        "task_specific_params": {"summarization": {"num_beams": 4}},
        "transformers_version": "5.24.0",
    }
    assert T5Config.from_json(t5_settings(**later)) == t5
    clip = CLIPTextConfig.from_json(clip_settings())
    later = {"model_type": "clip_text_model", "bos_token_id": 0, "initializer_range": 0.02, "top_k": 50, "dropout": 0.0}
    assert CLIPTextConfig.from_json(clip_settings(**later)) == clip


def test_configs_as_transformers_writes_them_today() -> None:
    import transformers

    assert T5Config.from_json(transformers.T5Config(feed_forward_proj="gated-gelu").to_dict()).d_model == 512
    assert CLIPTextConfig.from_json(transformers.CLIPTextConfig().to_dict()).hidden_size == 512


@pytest.mark.parametrize("read", [lambda **c: T5Config.from_json(t5_settings(**c)), None])
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("quantization_config", {"load_in_8bit": True}),
        ("pruned_heads", {"0": [1, 2]}),
        ("attention_window", 64),
        ("model_type", "siglip_text_model"),
        ("layer_norm_epsilon", 10**400),
        ("layer_norm_eps", 10**400),
        ("vocab_size", 2**40),
        ("num_heads", 10**400),
        ("num_hidden_layers", 10**9),
        ("num_layers", 10**9),
    ],
)
def test_configs_of_other_encoders_are_refused_in_a_short_line(
    read: Callable[..., object] | None, field: str, value: object
) -> None:
    read = read or (lambda **changes: CLIPTextConfig.from_json(clip_settings(**changes)))
    with pytest.raises(UserError, match=f"{field}( = |=)") as refusal:
        read(**{field: value})
    assert len(str(refusal.value)) < 400


@pytest.mark.parametrize("config", [T5Config, CLIPTextConfig])
def test_config_names_a_missing_field(config: type[T5Config] | type[CLIPTextConfig]) -> None:
    with pytest.raises(UserError, match="vocab_size"):
        config.from_json({"feed_forward_proj": "gated-gelu"})
