"""The low-rank pairs of a LoRA file, checked against the layers of a network."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from show1_jax.checkpoints.adapters import LORA_A, LORA_B
from show1_jax.errors import UserError
from show1_jax.parallel.weights import WeightPath

from ..folders import allowed_roots, check_inside
from ..reader import Weights
from ..rules import Problems, check_values
from ..safetensors_file import read_safetensors
from ..torch_file import read_torch_file
from .keys import ALPHA, LoraKeys, LoraLayer
from .settings import LORA_STEM, PEFT_STEM, LoraSettings, lora_settings

_FILES: Final = tuple(f"{stem}.{kind}" for stem in (LORA_STEM, PEFT_STEM) for kind in ("safetensors", "bin"))


@dataclass(frozen=True)
class LoraPair:
    """A low-rank pair of a file.

    Attributes:
        layer: the layer that it adapts.
        a: A, in the layout of the file.
        b: B, in the layout of the file.
        rank: its rank.
        alpha: its factor is alpha / rank.
    """

    layer: LoraLayer
    a: np.ndarray
    b: np.ndarray
    rank: int
    alpha: float


def lora_file(source: Path) -> Path:
    """Return the LoRA file of a path: the file itself, or the one in a folder that diffusers or peft saved.

    Raises:
        UserError: the folder has none, the file is of another kind, or it is a link that leads out of the folder.
    """
    if not source.is_dir():
        if source.suffix not in (".safetensors", ".bin"):
            raise UserError(f"{source}: not a LoRA file; give a .safetensors or .bin file, or the folder with it")
        return source
    found = [source / name for name in _FILES if (source / name).is_file()]
    if not found:
        raise UserError(f"{source}: has none of {', '.join(_FILES)}; give the path of the file itself")
    return check_inside(found[0], allowed_roots(source))


def read_pairs(file: Path, layers: Mapping[WeightPath, LoraLayer], where: str) -> list[LoraPair]:
    """Return the pairs of a file, after all checks; each of its tensors is used once.

    Args:
        file: see `lora_file`.
        layers: the layers of the network, see `convert.lora.keys.lora_layers`.
        where: the network's name in messages.

    Raises:
        UserError: a damaged file, or settings that are not supported; or it lists every unexpected, duplicate, missing
            or mis-shaped tensor, and all bad values, at once.
    """
    tensors = read_safetensors(file) if file.suffix == ".safetensors" else read_torch_file(file)
    weights, settings, keys = Weights(tensors, (file,)), lora_settings(file), LoraKeys(layers)
    if not weights:
        raise UserError(f"{file}: has no tensors; give a LoRA file")
    problems = Problems()
    found: dict[WeightPath, dict[str, str]] = defaultdict(dict)
    for key in weights:
        if (place := keys.find(key)) is None:
            problems.add("unexpected keys", key)
            continue
        layer, part = place
        if part in found[layer.kernel]:
            problems.add("duplicate keys", f"{key} and {found[layer.kernel][part]}")
        found[layer.kernel][part] = key
    pairs = [
        pair
        for kernel, named in found.items()
        if (pair := _checked_pair(layers[kernel], named, weights, settings, problems))
    ]
    problems.raise_any(f"{file}: as an adapter of {where}", "give a LoRA file of this network, and its --component")
    return pairs


def _checked_pair(
    layer: LoraLayer, named: dict[str, str], weights: Weights, settings: LoraSettings, problems: Problems
) -> LoraPair | None:
    """Return a pair; None after adding its problems.

    Args:
        layer: the layer that it adapts.
        named: keys of its parts in the file.
        weights: tensors of the file.
        settings: settings of the file.
        problems: collects problems.
    """
    if missing := {LORA_A, LORA_B} - named.keys():
        listed = " and ".join(sorted(name.upper().removeprefix("LORA_") for name in missing))
        problems.add("pairs that are not complete", f"{next(iter(named.values()))} without {listed}")
        return None
    arrays = {part: weights[named[part]] for part in (LORA_A, LORA_B)}
    rank = next(iter(arrays[LORA_A].shape), 0)
    for part, array in arrays.items():
        key, wanted = named[part], layer.shape(part, max(rank, 1))
        if array.shape != wanted:
            problems.add("wrong shapes", f"{key} is {array.shape}, not {wanted}")
            return None
        check_values(key, array, np.dtype("float32"), problems)
    if (stated := settings.rank_of(layer.name)) not in (None, rank):
        problems.add("other ranks than stated", f"{named[LORA_A]} has {rank}, not {stated}")
    alpha = settings.alpha_of(layer.name, rank)
    if ALPHA in named and (own := _alpha(named[ALPHA], weights, problems)):
        if settings.alpha is not None and own != alpha:
            problems.add("alphas that contradict the settings", f"{named[ALPHA]} is {own:g}, not {alpha:g}")
        alpha = own
    return LoraPair(layer, arrays[LORA_A], arrays[LORA_B], rank, alpha)


def _alpha(key: str, weights: Weights, problems: Problems) -> float:
    """Return the value of an alpha tensor; 0 means that it states none, as in kohya's sd-scripts."""
    array = weights[key]
    value = float(array.reshape(-1)[0].astype(np.float64)) if array.size == 1 else np.nan
    if not 0 <= value < np.inf:
        problems.add("alphas that are not a positive number", f"{key} of shape {array.shape}")
        return 0.0
    return value
