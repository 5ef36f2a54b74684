"""CLIP (Radford et al. 2021, arXiv 2103.00020): images and texts as vectors of one space, for CLIPSIM.

The behaviour is that of `CLIPModel` of transformers; parameter paths are the released names.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Final

import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float, Int

from show1_jax.config.without_effect import CLIP_IMAGE, CLIP_MODEL, refused_fields
from show1_jax.errors import UserError, shown
from show1_jax.nn.clip import CLIPLayer, CLIPTextConfig, CLIPTextEncoder, layer_problem
from show1_jax.nn.config import Architecture
from show1_jax.nn.layers import Layers

ARGMAX_END_TOKEN: Final = 2
"""Value of `eos_token_id` in the first released files. No text has this token at its end, so that the largest id is
taken as the end, as OpenAI's code does; other values name the end token."""

_TEXT_DEFAULTS: Final[Mapping[str, Any]] = {
    "vocab_size": 49408,
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "eos_token_id": 49407,
}
_IMAGE_DEFAULTS: Final[Mapping[str, Any]] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 224,
    "patch_size": 32,
}
_RGB: Final = 3


@dataclasses.dataclass(frozen=True)
class CLIPImageConfig(Architecture):
    """The architecture of CLIP's image encoder, a vision transformer (Dosovitskiy et al. 2021).

    Attributes:
        image_size: height and width of the images.
        patch_size: height and width of the patches, each of which becomes a token.
    """

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    image_size: int = 224
    patch_size: int = 32
    layer_norm_eps: float = 1e-5
    hidden_act: str = "quick_gelu"

    def __post_init__(self) -> None:
        super().__post_init__()
        problem = layer_problem(self)
        self._require(not problem, problem)
        self._require(
            self.patch_size <= self.image_size,
            f"patch_size={self.patch_size} is larger than image_size={self.image_size}",
        )

    @property
    def num_positions(self) -> int:
        """Tokens of an image: its whole patches, and one that stands for the image."""
        return (self.image_size // self.patch_size) ** 2 + 1


@dataclasses.dataclass(frozen=True)
class CLIPModelConfig(Architecture):
    """The architecture of both towers of CLIP.

    Attributes:
        text: the text encoder.
        image: the image encoder.
        projection_dim: width of the space that both are projected to.
        eos_token_id: the token at whose first place a text is read off; see `ARGMAX_END_TOKEN`.
    """

    __no_type_check__: ClassVar[bool] = True

    text: CLIPTextConfig
    image: CLIPImageConfig
    projection_dim: int
    eos_token_id: int = ARGMAX_END_TOKEN

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(
            self.eos_token_id < self.text.vocab_size,
            f"eos_token_id={self.eos_token_id} is not below vocab_size={self.text.vocab_size}",
        )

    @classmethod
    def from_json(cls, settings: Mapping[str, Any]) -> "CLIPModelConfig":
        """Build from a released `config.json`. Absent fields have the defaults of transformers, those of ViT-B/32.

        Raises:
            UserError: it is not CLIP's; a field's value is not supported, or it is not known to have no effect.
        """
        if settings.get("model_type") != "clip":
            raise UserError(f"model_type={shown(settings.get('model_type'))} is not supported, only 'clip'")
        text = _tower(settings, "text_config", _TEXT_DEFAULTS)
        image = _tower(settings, "vision_config", _IMAGE_DEFAULTS)
        end = text.pop("eos_token_id")
        towers = ("text_config", "vision_config", "text_config_dict", "vision_config_dict")
        rest = {name: value for name, value in settings.items() if name not in (*towers, "projection_dim")}
        for problem in refused_fields(CLIP_MODEL, rest, settings):
            raise UserError(f"{CLIP_MODEL}: {problem}")
        return cls(
            text=CLIPTextConfig.from_json(text),
            image=_image_config(image),
            projection_dim=settings.get("projection_dim", 512),
            eos_token_id=end,
        )


def _tower(settings: Mapping[str, Any], name: str, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a tower: `NAME_dict` of the first releases replaces them, with its own defaults."""
    own, older = (settings.get(key) or {} for key in (name, f"{name}_dict"))
    for value in (own, older):
        if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
            raise UserError(f"{CLIP_MODEL}: {name}={shown(value)} must be settings by name")
    return {**defaults, **own, **({**defaults, **older} if older else {})}


def _image_config(settings: Mapping[str, Any]) -> CLIPImageConfig:
    for name, supported in {"num_channels": _RGB, "model_type": "clip_vision_model"}.items():
        if settings.get(name, supported) != supported:
            raise UserError(f"{CLIP_IMAGE}: {name}={shown(settings[name])} is not supported, only {supported!r}")
    known = {field.name for field in dataclasses.fields(CLIPImageConfig)}
    rest = {name: value for name, value in settings.items() if name not in {*known, "num_channels", "model_type"}}
    config = CLIPImageConfig.from_dict({name: value for name, value in settings.items() if name in known})
    for problem in refused_fields(CLIP_IMAGE, rest, settings):
        raise UserError(f"{CLIP_IMAGE}: {problem}")
    return config


class CLIPImageEmbeddings(nnx.Module):
    """Patches as tokens, the token of the image before them, and their positions."""

    def __init__(self, config: CLIPImageConfig, make: Layers):
        width, patch = config.hidden_size, config.patch_size
        self.class_embedding = make.param((width,))
        # A convolution without overlap is a linear layer over the pixels of each patch; the released file has its bias
        # left out.
        self.patch_embedding = make.conv(_RGB, width, patch, stride=patch, padding=((0, 0), (0, 0)), bias=False)
        self.position_embedding = make.embed(config.num_positions, width)

    def __call__(self, x: Float[Array, "n h w 3"]) -> Float[Array, "n p d"]:
        patches = rearrange(self.patch_embedding(x), "n h w d -> n (h w) d")
        image = jnp.broadcast_to(self.class_embedding[...].astype(patches.dtype), (len(x), 1, patches.shape[-1]))
        tokens = jnp.concatenate([image, patches], axis=1)
        return tokens + self.position_embedding(jnp.arange(tokens.shape[1]))


class CLIPEncoder(nnx.Module):
    """The transformer layers."""

    def __init__(self, config: CLIPImageConfig, make: Layers):
        self.layers = nnx.List([CLIPLayer(config, make, causal=False) for _ in range(config.num_hidden_layers)])

    def __call__(self, x: Float[Array, "n p d"]) -> Float[Array, "n p d"]:
        for layer in self.layers:
            x = layer(x)
        return x


class CLIPImageEncoder(nnx.Module):
    """The image encoder; an image's vector is the state of its first token."""

    def __init__(self, config: CLIPImageConfig, make: Layers):
        self.embeddings = CLIPImageEmbeddings(config, make)
        self.pre_layrnorm = make.layer_norm(config.hidden_size, config.layer_norm_eps)  # its name in the released files
        self.encoder = CLIPEncoder(config, make)
        self.post_layernorm = make.layer_norm(config.hidden_size, config.layer_norm_eps)

    def __call__(self, x: Float[Array, "n h w 3"]) -> Float[Array, "n d"]:
        states = self.encoder(self.pre_layrnorm(self.embeddings(x)))
        return self.post_layernorm(states[:, 0])


class CLIPModel(nnx.Module):
    """Both towers of CLIP with their projections; the vectors are not normalised."""

    def __init__(self, config: CLIPModelConfig, make: Layers):
        self.config = config
        self.text_model = CLIPTextEncoder(config.text, make)
        self.vision_model = CLIPImageEncoder(config.image, make)
        self.text_projection = make.linear(config.text.hidden_size, config.projection_dim, bias=False)
        self.visual_projection = make.linear(config.image.hidden_size, config.projection_dim, bias=False)

    def image(self, x: Float[Array, "n h w 3"]) -> Float[Array, "n d"]:
        """Return the vectors of images, RGB, each channel less CLIP's mean and over its standard deviation."""
        return self.visual_projection(self.vision_model(x))

    def text(self, ids: Int[Array, "n t"]) -> Float[Array, "n d"]:
        """Return the vectors of texts: the projected state of each text's end token."""
        end = self.config.eos_token_id
        places = jnp.argmax(ids if end == ARGMAX_END_TOKEN else ids == end, axis=1)
        states = self.text_model(ids)
        return self.text_projection(jnp.take_along_axis(states, places[:, None, None], axis=1)[:, 0])
