"""CLIP, both towers: a released folder in the format of transformers."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from convert.convert import check_tokenizer
from convert.folders import allowed_roots, check_inside, read_settings
from convert.hub import NeededFiles, weight_files
from convert.reader import open_weights
from convert.recognition.published import Published, PublishedNetwork
from convert.released import TOKENIZER_FILES
from convert.rules import KeyTable
from show1_jax.errors import UserError
from show1_jax.nn.recognition.clip import CLIPModelConfig

_CONFIG: Final = "config.json"
_TOKENIZER_CONFIG: Final = "tokenizer_config.json"

_TABLE: Final = KeyTable(
    renames=(
        (r"^text_model\.(token_embedding|position_embedding)\b", r"text_model.embeddings.\1"),
        (r"^text_model\.layers\b", "text_model.encoder.layers"),
    ),
    ignored=r"^logit_scale$|\.position_ids$",
)


def _read(folder: Path) -> Published:
    roots = allowed_roots(folder)
    config = read_settings(folder / _CONFIG, roots)
    try:
        architecture = CLIPModelConfig.from_json(config)
    except UserError as error:
        raise UserError(f"{folder / _CONFIG}: {error}") from None
    tokenizer = {name: check_inside(folder / name, roots) for name in TOKENIZER_FILES if os.path.lexists(folder / name)}
    check_tokenizer(folder, "clip", architecture.text)
    weights = open_weights(folder, roots=roots)
    files = {path.name: path for path in (*weights.files, folder / _CONFIG)}
    return Published(weights, files | tokenizer, architecture, config, tokenizer)


def _hub_files(names: list[str], source: str, get: Callable[[str], Path]) -> Iterator[str]:
    yield from (_CONFIG, _TOKENIZER_CONFIG)
    yield from (name for name in TOKENIZER_FILES if name in names and name != _TOKENIZER_CONFIG)
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
