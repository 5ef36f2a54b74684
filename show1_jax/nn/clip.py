"""The CLIP text encoder (Radford et al. 2021), whose states condition the latent stage, and CLIP's transformer layers.

CLIP's image encoder, which only metrics need, is in `show1_jax.nn.recognition.clip`.
"""

import dataclasses
from collections.abc import Callable
from typing import ClassVar, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from show1_jax.config.without_effect import CLIP
from show1_jax.errors import UserError
from show1_jax.nn.layers import Layers, exact_gelu
from show1_jax.nn.text_architecture import TextArchitecture
from show1_jax.nn.text_attention import attention


def _quick_gelu(x: Array) -> Array:
    return x * jax.nn.sigmoid(1.702 * x)


_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": exact_gelu,
    "gelu_new": lambda x: jax.nn.gelu(x, approximate=True),
    "quick_gelu": _quick_gelu,
}


@runtime_checkable
class LayerSizes(Protocol):
    """The settings of a transformer layer, which the architectures of both towers of CLIP have."""

    @property
    def hidden_size(self) -> int:
        """Channels."""

    @property
    def intermediate_size(self) -> int:
        """Channels between the two linear layers of the feed-forward part."""

    @property
    def num_attention_heads(self) -> int:
        """Heads, which divide the channels."""

    @property
    def hidden_act(self) -> str:
        """Name of the activation."""

    @property
    def layer_norm_eps(self) -> float:
        """Epsilon of the norms."""


def layer_problem(config: LayerSizes) -> str:
    """Return the reason why a layer of these settings cannot be built, or an empty string."""
    if config.hidden_act not in _ACTIVATIONS:
        return f"hidden_act={config.hidden_act!r} is not supported, only {', '.join(_ACTIVATIONS)}"
    if config.hidden_size % config.num_attention_heads:
        return f"num_attention_heads={config.num_attention_heads} does not divide hidden_size={config.hidden_size}"
    return ""


@dataclasses.dataclass(frozen=True)
class CLIPTextConfig(TextArchitecture):
    """The architecture of a CLIP text encoder. Defaults are those of absent keys in a released `config.json`."""

    kind: ClassVar = CLIP
    only: ClassVar = {"model_type": "clip_text_model"}

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    max_position_embeddings: int = 77
    layer_norm_eps: float = 1e-5
    hidden_act: str = "quick_gelu"

    def __post_init__(self) -> None:
        super().__post_init__()
        problem = layer_problem(self)
        self._require(not problem, problem)

    @property
    def state_width(self) -> int:
        """See `TextArchitecture`."""
        return self.hidden_size

    @property
    def max_positions(self) -> int:
        """See `TextArchitecture`."""
        return self.max_position_embeddings


class CLIPSelfAttention(nnx.Module):
    """Multi-head attention, causal or over all tokens."""

    def __init__(self, config: LayerSizes, make: Layers, *, causal: bool = True):
        width = config.hidden_size
        self.causal = causal
        self.num_heads = config.num_attention_heads
        self.scale = (width // self.num_heads) ** -0.5
        self.q_proj = make.linear(width, width)
        self.k_proj = make.linear(width, width)
        self.v_proj = make.linear(width, width)
        self.out_proj = make.linear(width, width)

    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        mask = jnp.tril(jnp.ones((1, x.shape[1], x.shape[1]), bool)) if self.causal else None
        return self.out_proj(
            attention(self.q_proj(x), self.k_proj(x), self.v_proj(x), self.num_heads, mask, scale=self.scale)
        )


class CLIPFeedForward(nnx.Module):
    """Two linear layers around the configured activation."""

    def __init__(self, config: LayerSizes, make: Layers):
        self.fc1 = make.linear(config.hidden_size, config.intermediate_size)
        self.fc2 = make.linear(config.intermediate_size, config.hidden_size)
        self.act = _ACTIVATIONS[config.hidden_act]

    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        return self.fc2(self.act(self.fc1(x)))


class CLIPLayer(nnx.Module):
    """Pre-norm transformer layer."""

    def __init__(self, config: LayerSizes, make: Layers, *, causal: bool = True):
        self.layer_norm1 = make.layer_norm(config.hidden_size, config.layer_norm_eps)
        self.self_attn = CLIPSelfAttention(config, make, causal=causal)
        self.layer_norm2 = make.layer_norm(config.hidden_size, config.layer_norm_eps)
        self.mlp = CLIPFeedForward(config, make)

    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class CLIPTextEncoder(nnx.Module):
    """The text encoder of CLIP up to its final norm, without pooling and projection.

    Parameter paths are the released names without `text_model.`, `text_model.embeddings.` and `text_model.encoder.`.
    """

    def __init__(self, config: CLIPTextConfig, make: Layers):
        self.config = config
        self.dtype = make.dtype
        # The lookup is in the dtype of the table: casting the whole table for a few rows would cost time and memory.
        self.token_embedding = dataclasses.replace(make, dtype=make.param_dtype).embed(
            config.vocab_size, config.hidden_size
        )
        self.position_embedding = make.embed(config.max_position_embeddings, config.hidden_size)
        self.layers = nnx.List([CLIPLayer(config, make) for _ in range(config.num_hidden_layers)])
        self.final_layer_norm = make.layer_norm(config.hidden_size, config.layer_norm_eps)

    def __call__(self, ids: Int[Array, "b n"]) -> Float[Array, "b n d"]:
        """Encode token ids. The mask is causal only: padding is not masked, as in the original.

        Raises:
          UserError: there are more tokens than the encoder has positions.
        """
        length, positions = ids.shape[1], self.config.max_position_embeddings
        if length > positions:
            raise UserError(
                f"{length} tokens, but this CLIP text encoder has {positions} positions: shorten the prompt"
            )
        x = self.token_embedding(ids).astype(self.dtype) + self.position_embedding(jnp.arange(length))
        for layer in self.layers:
            x = layer(x)
        return self.final_layer_norm(x)
