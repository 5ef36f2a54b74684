"""Multi-head attention of the two text encoders."""

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Bool, Float


def attention(
    q: Float[Array, "b q hd"],
    k: Float[Array, "b k hd"],
    v: Float[Array, "b k hd"],
    num_heads: int,
    mask: Bool[Array, "#b #q k"] | None = None,
    bias: Float[Array, "h q k"] | None = None,
    scale: float = 1.0,
) -> Float[Array, "b q hd"]:
    """Apply multi-head attention with a float32 softmax.

    Texts are short, so plain matrix products suffice; `jax.nn.dot_product_attention` has no float16 on CPU and TPU.

    Args:
        q: queries, all heads side by side in the channels.
        k: keys.
        v: values.
        num_heads: divides the channels.
        mask: true where a query may attend to a key; None: everywhere.
        bias: added to the logits.
        scale: factor of the logits, before the bias.
    """
    q, k, v = (rearrange(x, "b n (h d) -> b n h d", h=num_heads) for x in (q, k, v))
    logits = scale * jnp.einsum("bqhd,bkhd->bhqk", q, k, preferred_element_type=jnp.float32)
    if bias is not None:
        logits += bias
    if mask is not None:
        logits = jnp.where(mask[:, None], logits, -jnp.inf)
    weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
    return rearrange(jnp.einsum("bhqk,bkhd->bqhd", weights, v), "b n h d -> b n (h d)")
