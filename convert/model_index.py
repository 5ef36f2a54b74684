"""The `model_index.json` of an exported pipeline: the library and class that read each of its folders."""

from collections.abc import Mapping
from typing import Any, Final

from show1_jax.checkpoints.manifest import Component

from .tables import KINDS

_PIPELINES: Final[Mapping[str, str]] = {
    "keyframes": "TextToVideoIFPipeline",
    "interpolation": "TextToVideoIFInterpPipeline",
    "first_frame": "IFSuperResolutionPipeline",
    "superres_pixel": "TextToVideoIFSuperResolutionPipeline_Cond",
    "superres_latent": "VideoToVideoSDPipeline",
}
_PARTS_WITHOUT_FOLDER: Final[Mapping[str, tuple[str, ...]]] = {
    "keyframes": ("feature_extractor",),
    "interpolation": ("feature_extractor",),
    "first_frame": ("feature_extractor", "safety_checker", "watermarker"),
    "superres_pixel": ("feature_extractor",),
    "superres_latent": (),
}
"""Parts that the pipeline's class has, and for which there is no folder."""


def model_index(records: Mapping[str, Component], configs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return the index of a folder that contains the given components, or None without a UNet of the cascade.

    A pipeline whose text encoder is in another folder has none in its index: the original's pixel stages share one.

    Args:
        records: the components' entries in the manifest, by name.
        configs: the contents of their `config.json` files, by name.
    """
    stage = next((name for name in records if name in _PIPELINES), None)
    if stage is None:
        return None
    absent = ("text_encoder", "tokenizer", *_PARTS_WITHOUT_FOLDER[stage])
    parts: dict[str, Any] = {name: [None, None] for name in absent}
    for name, record in records.items():
        parts |= _index_entries(record, configs[name])
    if "safety_checker" in absent:
        parts["requires_safety_checker"] = False
    return {
        "_class_name": _PIPELINES[stage],
        "_diffusers_version": "0.19.3",
        **{name: parts[name] for name in sorted(parts)},
    }


def _index_entries(record: Component, config: Mapping[str, Any]) -> dict[str, list[str]]:
    schedulers = {role: ["diffusers", settings["_class_name"]] for role, settings in record.schedulers.items()}
    folder, classes = KINDS[record.kind].folder, KINDS[record.kind].classes
    if classes is not None:
        encoder, tokenizer = classes
        return {folder: ["transformers", encoder], "tokenizer": ["transformers", tokenizer]}
    is_show1 = config.get("mid_block_type") == "UNetMidBlock3DSimpleCrossAttn"
    library = "showone.models.unet_3d_condition" if is_show1 else "diffusers"
    return schedulers | {folder: [library, config["_class_name"]]}
