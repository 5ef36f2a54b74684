"""Text conditions: the T5 v1.1 encoder (pixel stages), the CLIP text encoder (latent stage) and their tokenizers."""

from show1_jax.text.clip import CLIPTextConfig, CLIPTextEncoder
from show1_jax.text.t5 import T5Config, T5Encoder
from show1_jax.text.tokenizers import (
    clip_cut_off,
    largest_id,
    load_clip_tokenizer,
    load_t5_tokenizer,
    t5_cut_off,
    tokenize_clip,
    tokenize_t5,
    write_tokenizers,
)

__all__ = [
    "CLIPTextConfig",
    "CLIPTextEncoder",
    "T5Config",
    "T5Encoder",
    "clip_cut_off",
    "largest_id",
    "load_clip_tokenizer",
    "load_t5_tokenizer",
    "t5_cut_off",
    "tokenize_clip",
    "tokenize_t5",
    "write_tokenizers",
]
