"""CLIP, both towers: a released folder in the format of transformers."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from PIL import Image

from show1_jax.errors import UserError, shown
from show1_jax.evaluation.features.clip import DEVIATION, MEAN
from show1_jax.nn.recognition.clip import CLIPModelConfig

from ..convert import check_tokenizer
from ..folders import AllowedRoots, allowed_roots, check_inside, read_settings
from ..hub import NeededFiles, weight_files
from ..reader import open_weights
from ..released import TOKENIZER_FILES
from ..rules import KeyTable
from .published import Published, PublishedNetwork

_CONFIG: Final = "config.json"
_TOKENIZER_CONFIG: Final = "tokenizer_config.json"
_PROCESSOR: Final = "preprocessor_config.json"

_TABLE: Final = KeyTable(
    renames=(
        (r"^text_model\.(token_embedding|position_embedding)\b", r"text_model.embeddings.\1"),
        (r"^text_model\.layers\b", "text_model.encoder.layers"),
    ),
    ignored=r"^logit_scale$|\.position_ids$",
)


def _check_processor(path: Path, roots: AllowedRoots, side: int) -> None:
    """Refuse a folder whose frames are to be prepared otherwise than by `show1_jax.evaluation.features.clip`.

    Raises:
        UserError: a setting differs; the message names it.
    """
    settings = read_settings(path, roots)
    expected: dict[str, tuple[Any, ...]] = {
        **dict.fromkeys(("do_resize", "do_center_crop", "do_rescale", "do_normalize"), (True,)),
        "image_mean": (list(MEAN),),
        "image_std": (list(DEVIATION),),
        "resample": (int(Image.Resampling.BICUBIC),),
        "rescale_factor": (1 / 255,),
        "size": (side, {"shortest_edge": side}),
        "crop_size": (side, {"height": side, "width": side}),
    }
    for name, values in expected.items():
        if name in settings and settings[name] not in values:
            raise UserError(f"{path}: {name}={shown(settings[name])} is not supported, only {values[-1]}")


def _read(folder: Path) -> Published:
    roots = allowed_roots(folder)
    config = read_settings(folder / _CONFIG, roots)
    try:
        architecture = CLIPModelConfig.from_json(config)
    except UserError as error:
        raise UserError(f"{folder / _CONFIG}: {error}") from None
    tokenizer = {name: check_inside(folder / name, roots) for name in TOKENIZER_FILES if os.path.lexists(folder / name)}
    check_tokenizer(folder, "clip", architecture.text)
    if os.path.lexists(folder / _PROCESSOR):
        _check_processor(folder / _PROCESSOR, roots, architecture.image.image_size)
    weights = open_weights(folder, roots=roots)
    files = {path.name: path for path in (*weights.files, folder / _CONFIG)}
    return Published(weights, files | tokenizer, architecture, config, tokenizer)


def _hub_files(names: list[str], source: str, get: Callable[[str], Path]) -> Iterator[str]:
    yield from (_CONFIG, _TOKENIZER_CONFIG)
    yield from (name for name in (*TOKENIZER_FILES, _PROCESSOR) if name in names and name != _TOKENIZER_CONFIG)
    yield from weight_files(names, "", None, source, get)


CLIP: Final = PublishedNetwork(
    kind="clip_model",
    source="a folder, or the hub id, of openai/clip-vit-base-patch32 or openai/clip-vit-large-patch14",
    licence="as the owner of the folder says; OpenAI's code is under MIT",
    table=_TABLE,
    read=_read,
    hub_files=NeededFiles("clip_model", "openai/clip-vit-base-patch32", _hub_files),
)
"""The description of CLIP's released folder."""
