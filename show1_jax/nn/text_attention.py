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
    mask: Bool[Array, "#b #q k"],
    bias: Float[Array, "h q k"] | None = None,
    scale: float = 1.0,
) -> Float[Array, "b q hd"]:
    """Attention with a float32 softmax; `mask` is true where a query may look at a key, `bias` adds to the logits.

    Text is short, so plain products will do; `jax.nn.dot_product_attention` has no float16 on CPU and TPU.
    """
    q, k, v = (rearrange(x, "b n (h d) -> b n h d", h=num_heads) for x in (q, k, v))
    logits = scale * jnp.einsum("bqhd,bkhd->bhqk", q, k, preferred_element_type=jnp.float32)
    if bias is not None:
        logits += bias
    weights = jax.nn.softmax(jnp.where(mask[:, None], logits, -jnp.inf), axis=-1).astype(v.dtype)
    return rearrange(jnp.einsum("bhqk,bkhd->bqhd", weights, v), "b n h d -> b n (h d)")
