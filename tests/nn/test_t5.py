"""The T5 encoder's position bias, numeric range and refused settings."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from show1_jax.errors import UserError
from show1_jax.nn.t5 import T5Config, T5Encoder, relative_position_buckets
from tests.helpers.encoders import T5_FOLDER, encode, encoder, relative_error, t5_settings


def test_t5_residual_stream_may_exceed_the_range_of_float16(golden: Path, trace: dict[str, np.ndarray]) -> None:
    states = {}
    with jax.numpy_dtype_promotion("standard"):
        for dtype in (jnp.float32, jnp.float16):
            network = encoder(golden / T5_FOLDER, "t5", dtype)
            assert isinstance(network, T5Encoder)
            for block in network.block:
                feed_forward = block.layer[1].DenseReluDense
                for layer, factor in ((feed_forward.wi_1, 100), (feed_forward.wo, 1e4)):
                    layer.kernel[...] *= factor
            states[dtype] = encode(network, trace["text/t5_ids"], trace["text/t5_mask"])
    assert relative_error(states[jnp.float16], np.asarray(states[jnp.float32])) <= 2e-2


@pytest.mark.parametrize(("num_buckets", "max_distance", "length"), [(32, 128, 400), (16, 64, 100)])
def test_relative_position_buckets(num_buckets: int, max_distance: int, length: int) -> None:
    buckets = relative_position_buckets(length, num_buckets, max_distance)
    half, exact = num_buckets // 2, num_buckets // 4
    ratio = max_distance // exact
    for distance in range(length):
        # floor(exact + log(distance / exact) / log(ratio) * exact), in integers
        far = max([0, *(k for k in range(exact + 1) if distance**exact >= exact**exact * ratio**k)])
        bucket = distance if distance < exact else min(exact + far, half - 1)
        assert buckets[distance, 0] == bucket, "keys before the query"
        if distance:
            assert buckets[0, distance] == half + bucket, "keys after the query"
    assert (buckets[1:, 1:] == buckets[:-1, :-1]).all()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("feed_forward_proj", "relu"),
        ("feed_forward_proj", "gated-silu"),
        ("dense_act_fn", "gelu"),
        ("is_gated_act", False),
        ("model_type", "umt5"),
        ("num_heads", 0),
        ("d_model", "8"),
        ("num_layers", True),
        ("layer_norm_epsilon", -1e-6),
        ("relative_attention_num_buckets", 2),
        ("relative_attention_max_distance", 8),
    ],
)
def test_t5_config_refuses_by_field_and_value(name: str, value: object) -> None:
    with pytest.raises(UserError, match=f"{name}={value!r}"):
        T5Config.from_json(t5_settings(**{name: value}))


def test_t5_config_without_a_feed_forward_is_not_v1_1() -> None:
    settings = t5_settings()
    del settings["feed_forward_proj"]
    with pytest.raises(UserError, match="feed_forward_proj='relu'"):
        T5Config.from_json(settings)
