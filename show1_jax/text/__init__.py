"""Text conditions: the table of text encoders, the networks and tokenizers of the released ones."""

from show1_jax.text.clip import CLIPTextConfig, CLIPTextEncoder
from show1_jax.text.encoders import TEXT_ENCODERS, TextEncoder, encoder_of_kind
from show1_jax.text.t5 import T5Config, T5Encoder
from show1_jax.text.tokenizers import TextTokenizer, Tokens, load_clip_tokenizer, load_t5_tokenizer

__all__ = [
    "TEXT_ENCODERS",
    "CLIPTextConfig",
    "CLIPTextEncoder",
    "T5Config",
    "T5Encoder",
    "TextEncoder",
    "TextTokenizer",
    "Tokens",
    "encoder_of_kind",
    "load_clip_tokenizer",
    "load_t5_tokenizer",
]
