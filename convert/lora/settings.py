"""The settings of a LoRA file: rank and alpha of its pairs, as peft's `LoraConfig` has them.

peft writes them to `adapter_config.json` beside the weights. diffusers (from 0.34) writes them to the header of the
`.safetensors` file, with the prefix of the network. A file without settings has alpha = rank.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from show1_jax.errors import UserError, shown, shown_name
from show1_jax.files import parse_json

from ..folders import allowed_roots, read_settings
from ..safetensors_file import read_metadata
from .keys import PREFIX

METADATA: Final = "lora_adapter_metadata"
"""Name of diffusers' settings in the header of a file."""
COMPONENT: Final = "show1_jax.component"
BASE: Final = "show1_jax.base"
"""Names in the header of a file that we wrote: the network that it adapts, and the digest of the network's weights."""
LORA_STEM: Final = "pytorch_lora_weights"
PEFT_STEM: Final = "adapter_model"
"""Names of the files that diffusers and peft write, without extension."""
PEFT_CONFIG: Final = "adapter_config.json"
_NEUTRAL: Final = frozenset(
    {
        *("arrow_config", "auto_mapping", "base_model_name_or_path", "corda_config", "ensure_weight_tying"),
        *("eva_config", "exclude_modules", "inference_mode", "layers_pattern", "layers_to_transform", "loftq_config"),
        *("lora_dropout", "lora_ga_config", "megatron_config", "megatron_core", "peft_type", "peft_version"),
        *("qalora_group_size", "revision", "runtime_config", "target_modules", "task_type"),
    }
)
"""Settings of training, or that the arrays show again."""
_DEFAULTS: Final[Mapping[str, Any]] = {"bias": "none"}
"""Values, besides empty ones, with which other settings change nothing."""
_CHANGES_BASE: Final = re.compile(r"pissa|olora|corda|loftq|lora_ga")
"""Initialisations that also change the weights that an adapter is added to."""


@dataclass(frozen=True)
class LoraSettings:
    """Stated ranks and alphas.

    Attributes:
        rank: rank of the pairs; None if it is not stated.
        alpha: alpha of the pairs; None: the rank.
        ranks: ranks of single layers, by peft's pattern.
        alphas: alphas of single layers, by peft's pattern.
        is_rank_stabilized: the factor is alpha / sqrt(rank), not alpha / rank (Kalajdzievski 2023, arXiv 2312.03732).
    """

    rank: int | None = None
    alpha: float | None = None
    ranks: Mapping[str, int] = field(default_factory=dict)
    alphas: Mapping[str, float] = field(default_factory=dict)
    is_rank_stabilized: bool = False

    def rank_of(self, layer: str) -> int | None:
        """Return the stated rank of a layer; None if it is not stated."""
        return _by_pattern(self.ranks, layer, self.rank)

    def alpha_of(self, layer: str, rank: int) -> float:
        """Return the alpha of a layer with which its factor is alpha / rank."""
        alpha = _by_pattern(self.alphas, layer, self.alpha)
        if alpha is None:
            return float(rank)
        return alpha * math.sqrt(rank) if self.is_rank_stabilized else float(alpha)


def lora_settings(file: Path) -> LoraSettings:
    """Return the settings of a LoRA file, of its header or of `adapter_config.json` beside a file of peft.

    Raises:
        UserError: the settings are damaged, or one of them is not supported.
    """
    metadata = read_metadata(file) if file.suffix == ".safetensors" else {}
    if METADATA in metadata:
        try:
            values = parse_json(metadata[METADATA])
        except ValueError as error:
            raise UserError(f"{file}: {METADATA} is not valid JSON ({error}); save the file again") from None
        if not isinstance(values, dict):
            raise UserError(f"{file}: {METADATA} is not a table of settings; save the file again")
        own = {name.removeprefix(PREFIX): value for name, value in values.items() if name.startswith(PREFIX)}
        return _read(own or {name: value for name, value in values.items() if "." not in name}, str(file))
    config = file.with_name(PEFT_CONFIG)
    if file.stem == PEFT_STEM and config.exists():
        return _read(read_settings(config, allowed_roots(file.parent)), str(config))
    return LoraSettings()


def _read(values: Mapping[str, Any], where: str) -> LoraSettings:
    rest = {**values}
    known = {name: rest.pop(name, None) for name in ("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora")}
    initial = rest.pop("init_lora_weights", None)
    refused = {
        name: value for name, value in rest.items() if name not in _NEUTRAL and value and value != _DEFAULTS.get(name)
    }
    if isinstance(initial, str) and _CHANGES_BASE.match(initial.lower()):
        refused["init_lora_weights"] = initial
    if rest.get("peft_type") not in (None, "LORA"):
        refused["peft_type"] = rest["peft_type"]
    if refused:
        listed = ", ".join(f"{shown_name(name)}={shown(value)}" for name, value in refused.items())
        raise UserError(f"{where}: {listed}: not supported; merge that adapter with the library that made it")
    ranks, alphas = known["rank_pattern"] or {}, known["alpha_pattern"] or {}
    stated = {
        **{"r": known["r"], "lora_alpha": known["lora_alpha"]},
        **_entries("rank_pattern", ranks, where),
        **_entries("alpha_pattern", alphas, where),
    }
    for name, value in stated.items():
        _check_number(name, value, where, whole=name == "r" or name.startswith("rank_pattern"))
    return LoraSettings(known["r"], known["lora_alpha"], ranks, alphas, bool(known["use_rslora"]))


def _entries(setting: str, patterns: Any, where: str) -> dict[str, Any]:
    """Return the values of a table of patterns with full names, after checking the patterns."""
    if not isinstance(patterns, dict):
        raise UserError(f"{where}: {setting}={shown(patterns)} is not a table; save the adapter again")
    for pattern in patterns:
        if not re.fullmatch(r"\^?[\w.]+", pattern):
            raise UserError(f"{where}: {setting} has {shown(pattern)}; only names of layers are supported")
    return {f"{setting}[{pattern}]": value for pattern, value in patterns.items()}


def _check_number(name: str, value: Any, where: str, *, whole: bool) -> None:
    kinds = (int,) if whole else (int, float)
    if value is not None and not (type(value) in kinds and 0 < value < 2**31):
        word = "whole " if whole else ""
        raise UserError(f"{where}: {shown_name(name)}={shown(value)} is not a positive {word}number")


def _by_pattern(patterns: Mapping[str, Any], layer: str, default: Any) -> Any:
    """Return the value of the first pattern for a layer, as peft finds it: an end of its name; after ^ all of it."""
    for pattern, value in patterns.items():
        if layer == pattern.removeprefix("^") or (pattern[0] != "^" and layer.endswith(f".{pattern}")):
            return value
    return default
