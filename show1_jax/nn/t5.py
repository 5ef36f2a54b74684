"""The T5 v1.1 encoder (Raffel et al. 2020, gated as in Shazeer 2020), whose states condition all pixel stages."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from show1_jax.config.without_effect import T5
from show1_jax.nn.layers import Layers
from show1_jax.nn.text_architecture import TextArchitecture
from show1_jax.nn.text_attention import attention


@dataclasses.dataclass(frozen=True)
class T5Config(TextArchitecture):
    """The architecture of a T5 v1.1 encoder, whose feed-forward layers are gated with the tanh GELU.

    Defaults are those of absent keys in a released `config.json`.
    """

    kind: ClassVar = T5
    only: ClassVar = {
        "model_type": "t5",
        "feed_forward_proj": "gated-gelu",
        "is_gated_act": True,
        "dense_act_fn": "gelu_new",
    }

    d_model: int
    d_kv: int
    d_ff: int
    num_layers: int
    num_heads: int
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    layer_norm_epsilon: float = 1e-6

    def __post_init__(self) -> None:
        super().__post_init__()
        buckets, distance = self.relative_attention_num_buckets, self.relative_attention_max_distance
        self._require(
            distance > buckets // 4,
            f"relative_attention_max_distance={distance} must be above {buckets // 4}, the distances with own buckets",
        )

    @classmethod
    def from_json(cls, settings: Mapping[str, Any]) -> "T5Config":
        """Build from a released `config.json`.

        Raises:
          UserError: as in `TextArchitecture.from_json`; a file without `feed_forward_proj` is of T5 before v1.1.
        """
        return super().from_json({"feed_forward_proj": "relu", **settings})

    @property
    def state_width(self) -> int:
        """See `TextArchitecture`."""
        return self.d_model


def relative_position_buckets(length: int, num_buckets: int, max_distance: int) -> Int[np.ndarray, "q k"]:
    """Return the bucket of every (query, key) pair by the key's distance (Raffel et al. 2020, section 2.1).

    Keys after the query have the upper half of the buckets. In each half, the first half of the buckets are one
    distance wide, and the others become logarithmically wider up to `max_distance`. All keys beyond that distance are
    in the last bucket.
    """
    half = num_buckets // 2
    exact = half // 2
    offset = np.arange(length)[None, :] - np.arange(length)[:, None]
    distance = np.abs(offset)
    # float32, as in the original: this rounding to an integer determines the edge of a bucket.
    ratio = np.log(np.maximum(distance, 1).astype(np.float32) / np.float32(exact))
    logarithmic = exact + (ratio / np.float32(math.log(max_distance / exact)) * np.float32(half - exact)).astype(int)
    return half * (offset > 0) + np.where(distance < exact, distance, np.minimum(logarithmic, half - 1))


def _float32_layers(make: Layers) -> Layers:
    return dataclasses.replace(make, dtype=jnp.float32)


def _float32_out(linear: nnx.Linear) -> nnx.Linear:
    """Make a layer return its float32 sums, so that the residual stream does not round them."""
    linear.preferred_element_type = jnp.float32
    return linear


class T5SelfAttention(nnx.Module):
    """Multi-head attention with a bias on its logits and without the scale of 1/sqrt(d)."""

    def __init__(self, config: T5Config, has_position_bias: bool, make: Layers):
        inner = config.num_heads * config.d_kv
        self.num_heads = config.num_heads
        self.max_distance = config.relative_attention_max_distance
        self.q = make.linear(config.d_model, inner, bias=False)
        self.k = make.linear(config.d_model, inner, bias=False)
        self.v = make.linear(config.d_model, inner, bias=False)
        self.o = _float32_out(make.linear(inner, config.d_model, bias=False))
        if has_position_bias:
            self.relative_attention_bias = _float32_layers(make).embed(
                config.relative_attention_num_buckets, config.num_heads
            )

    def __call__(
        self, x: Float[Array, "b n d"], bias: Float[Array, "h n n"], mask: Bool[Array, "b 1 n"]
    ) -> Float[Array, "b n d"]:
        return self.o(attention(self.q(x), self.k(x), self.v(x), self.num_heads, mask, bias))

    def position_bias(self, length: int) -> Float[Array, "h n n"]:
        """Return the bias on the logits of `length` tokens in every block; all blocks use the first block's table."""
        table = self.relative_attention_bias
        buckets = relative_position_buckets(length, table.num_embeddings, self.max_distance)
        return rearrange(table(jnp.asarray(buckets)), "q k h -> h q k")


class GatedFeedForward(nnx.Module):
    """Feed-forward layer with a tanh-GELU gate."""

    def __init__(self, config: T5Config, make: Layers):
        self.wi_0 = make.linear(config.d_model, config.d_ff, bias=False)
        self.wi_1 = make.linear(config.d_model, config.d_ff, bias=False)
        self.wo = _float32_out(make.linear(config.d_ff, config.d_model, bias=False))

    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        return self.wo(jax.nn.gelu(self.wi_0(x), approximate=True) * self.wi_1(x))


def _rms_norm(config: T5Config, make: Layers) -> nnx.RMSNorm:
    return _float32_layers(make).rms_norm(config.d_model, config.layer_norm_epsilon)


class AttentionLayer(nnx.Module):
    """Residual attention after a norm."""

    def __init__(self, config: T5Config, has_position_bias: bool, make: Layers):
        self.layer_norm = _rms_norm(config, make)
        self.SelfAttention = T5SelfAttention(config, has_position_bias, make)

    def __call__(
        self, x: Float[Array, "b n d"], bias: Float[Array, "h n n"], mask: Bool[Array, "b 1 n"]
    ) -> Float[Array, "b n d"]:
        return x + self.SelfAttention(self.layer_norm(x), bias, mask)


class FeedForwardLayer(nnx.Module):
    """A residual feed-forward layer after a norm."""

    def __init__(self, config: T5Config, make: Layers):
        self.layer_norm = _rms_norm(config, make)
        self.DenseReluDense = GatedFeedForward(config, make)

    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        return x + self.DenseReluDense(self.layer_norm(x))


class T5Block(nnx.Module):
    """An attention layer and a feed-forward layer, under the names of the released parameters."""

    def __init__(self, config: T5Config, has_position_bias: bool, make: Layers):
        self.layer: nnx.List[Any] = nnx.List(
            [AttentionLayer(config, has_position_bias, make), FeedForwardLayer(config, make)]
        )

    def __call__(
        self, x: Float[Array, "b n d"], bias: Float[Array, "h n n"], mask: Bool[Array, "b 1 n"]
    ) -> Float[Array, "b n d"]:
        attention_layer, feed_forward = self.layer
        return feed_forward(attention_layer(x, bias, mask))

    def position_bias(self, length: int) -> Float[Array, "h n n"]:
        """Return the bias of `T5SelfAttention.position_bias`; only the first block has the table for it."""
        bias: Float[Array, "h n n"] = self.layer[0].SelfAttention.position_bias(length)
        return bias


class T5Encoder(nnx.Module):
    """The encoder of T5 v1.1. Parameter paths are the released names without their leading `encoder.`.

    Norms, softmax, position bias and the residual stream are float32 for every `dtype`, because T5-XXL's stream exceeds
    the range of float16. On accelerators use bfloat16: in float16 the gated activations may still overflow.
    """

    def __init__(self, config: T5Config, make: Layers):
        self.config = config
        self.dtype = make.dtype
        # The lookup is in the dtype of the table: casting the whole table would cost 0.5 GB in T5-XXL.
        self.shared = dataclasses.replace(make, dtype=make.param_dtype).embed(config.vocab_size, config.d_model)
        self.block = nnx.List([T5Block(config, index == 0, make) for index in range(config.num_layers)])
        self.final_layer_norm = _rms_norm(config, make)

    def __call__(self, ids: Int[Array, "b n"], mask: Int[Array, "b n"]) -> Float[Array, "b n d"]:
        """Encode token ids.

        Args:
            ids: at least one token in each row; the tokenizer's `</s>` is one.
            mask: 1 for tokens, 0 for padding. No position attends to padding; padding has states too.

        Returns:
            The last states, in the compute dtype.
        """
        bias = self.block[0].position_bias(ids.shape[1])
        attended = mask[:, None, :] > 0
        x = self.shared(ids).astype(jnp.float32)
        for block in self.block:
            x = block(x, bias, attended)
        return self.final_layer_norm(x).astype(self.dtype)
