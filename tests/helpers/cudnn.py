"""cuDNN's attention without a GPU: JAX traces it as for an NVIDIA GPU, and a CPU computes its calls as plain attention.

Everything around cuDNN is thus tested: the choice, odd lengths, gradients and shardings, but not cuDNN itself.
"""

from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax._src.cudnn import fused_attention_stablehlo as fused
from jax._src.interpreters import mlir
from jaxtyping import Array

from show1_jax.ops import target

_VERSION = 91000


def emulate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let programs that are traced for GPUs use cuDNN's attention."""
    monkeypatch.setattr(fused, "check_cudnn_version", lambda: _VERSION)
    monkeypatch.setattr(target, "has_cudnn_attention", lambda: True)


def _forward(query: Array, key: Array, value: Array, *rest: Array, is_training: bool, **settings: Any) -> Any:
    out, log_sums = _attention(query, key, value, key_lengths=rest[2], **settings)
    return (out, log_sums) if is_training else (out,)


def _backward(query: Array, key: Array, value: Array, *rest: Array, **settings: Any) -> Any:
    *_, cotangent = rest
    _, pull_back = jax.vjp(lambda *inputs: _attention(*inputs, key_lengths=rest[2], **settings)[0], query, key, value)
    return pull_back(cotangent)


def _attention(
    query: Array, key: Array, value: Array, *, key_lengths: Array, scale: float, mask_type: Any, **settings: Any
) -> tuple[Array, Array]:
    logits = scale * jnp.einsum("bnhd,bmhd->bhnm", query, key, preferred_element_type=jnp.float32)
    if mask_type is fused.MaskType.PADDING:
        is_token = jnp.arange(key.shape[1]) < key_lengths[:, None]
        logits = jnp.where(is_token[:, None, None], logits, -jnp.inf)
    weights = jax.nn.softmax(logits, axis=-1)
    return jnp.einsum("bhnm,bmhd->bnhd", weights.astype(value.dtype), value), jax.nn.logsumexp(logits, axis=-1)


for _primitive, _rule in (
    (fused._dot_product_attention_fwd_p, _forward),
    (fused._dot_product_attention_bwd_p, _backward),
):
    mlir.register_lowering(_primitive, mlir.lower_fun(_rule, multiple_results=True), platform="cpu")
