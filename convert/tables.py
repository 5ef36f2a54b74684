"""Differences between released keys and our paths: a table for each kind of component."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from flax import nnx

from show1_jax.checkpoints.networks import make_network
from show1_jax.nn.clip import CLIPTextConfig
from show1_jax.nn.config import Architecture
from show1_jax.nn.t5 import T5Config

from .architectures import unet_config, vae_config
from .config_files import clip_json, t5_json, unet_json, vae_json
from .rules import KeyTable

UNET: Final = KeyTable(
    renames=(
        (r"\.to_out$", ".to_out.0"),
        (r"\.ff\.proj_in$", ".ff.net.0.proj"),
        (r"\.ff\.proj_out$", ".ff.net.2"),
        # Each released step is a sequence: norm, SiLU, convolution; all but the first have dropout before the latter.
        (r"(temp_convs\.\d+\.conv\d)\.norm$", r"\1.0"),
        (r"(temp_convs\.\d+\.conv1)\.conv$", r"\1.2"),
        (r"(temp_convs\.\d+\.conv[2-4])\.conv$", r"\1.3"),
    ),
    layouts=((r"temp_convs\.\d+\.conv\d\.conv\.kernel$", "o i t 1 1 -> t 1 i o"),),
)

VAE: Final = KeyTable(
    renames=((r"\.to_out$", ".to_out.0"),),
    aliases=(
        (r"(attentions\.\d+)\.query\.", r"\1.to_q."),
        (r"(attentions\.\d+)\.key\.", r"\1.to_k."),
        (r"(attentions\.\d+)\.value\.", r"\1.to_v."),
        (r"(attentions\.\d+)\.proj_attn\.", r"\1.to_out.0."),
    ),
)

T5: Final = KeyTable(
    renames=((r"^(block|final_layer_norm)\b", r"encoder.\1"),),
    tied={"encoder.embed_tokens.weight": "shared.weight"},
)

CLIP: Final = KeyTable(
    renames=(
        (r"^(token_embedding|position_embedding)\b", r"text_model.embeddings.\1"),
        (r"^layers\b", "text_model.encoder.layers"),
        (r"^final_layer_norm\b", "text_model.final_layer_norm"),
    ),
    aliases=((r"^(embeddings|encoder|final_layer_norm)\.", r"text_model.\1."),),  # transformers 5 has no `text_model.`
    ignored=r"\.position_ids$",
)


@dataclass(frozen=True)
class Kind:
    """A kind of component: functions that read and write its config, the table of its keys, and its files' names.

    Attributes:
        read_config: returns the architecture of a `config.json`.
        write_config: returns the `config.json` of an architecture.
        table: the table of its keys.
        folder: the folder of its config and weights, in a released folder.
        weights: the name of its file of weights.
        classes: for a text encoder, the classes of the network and of its tokenizer in `transformers`.
    """

    read_config: Callable[[Mapping[str, Any]], Architecture]
    write_config: Callable[[Any], dict[str, Any]]
    table: KeyTable
    folder: str
    weights: str
    classes: tuple[str, str] | None = None


KINDS: Final[Mapping[str, Kind]] = {
    "unet": Kind(unet_config, unet_json, UNET, "unet", "diffusion_pytorch_model.safetensors"),
    "vae": Kind(vae_config, vae_json, VAE, "vae", "diffusion_pytorch_model.safetensors"),
    "t5": Kind(T5Config.from_json, t5_json, T5, "text_encoder", "model.safetensors", ("T5EncoderModel", "T5Tokenizer")),
    "clip": Kind(
        CLIPTextConfig.from_json,
        clip_json,
        CLIP,
        "text_encoder",
        "model.safetensors",
        ("CLIPTextModel", "CLIPTokenizer"),
    ),
}


def parameters(kind: str, architecture: Architecture) -> nnx.State:
    """Return a network's parameters as shapes; allocates nothing."""
    return nnx.state(make_network(kind, architecture), nnx.Param)
