"""Small networks of metrics: sizes, weights and inputs, the same for recordings of the references and for tests.

Weights are drawn from their names, so that no file stores them. `RandomState` never changes its draws.
"""

import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors.numpy import save_file

from convert.features import convert_features
from convert.recognition.clip import CLIP
from convert.recognition.inception import INCEPTION
from convert.recognition.published import PublishedNetwork
from convert.rules import released_tensors
from convert.tables import parameters
from show1_jax.checkpoints.checkpoint_set import CheckpointSet
from show1_jax.config.sampling import MeshConfig
from show1_jax.evaluation.features.network import FeatureNetwork
from show1_jax.nn.config import Architecture
from show1_jax.nn.recognition.c3d import C3DConfig
from show1_jax.nn.recognition.clip import CLIPModelConfig
from show1_jax.nn.recognition.inception import InceptionV3Config
from show1_jax.parallel import make_mesh
from show1_jax.text.tokenizers import load_clip_tokenizer, write_clip_tokenizer
from tests.helpers.weight_files import state_dict

C3D_SMALL = C3DConfig(channels=(8, 8, 12, 12, 16, 16, 16, 16), hidden_size=24, num_classes=7)
INCEPTION_SMALL = InceptionV3Config(num_classes=13, channel_divisor=16)
CLIP_TOWER = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
CAPTIONS = ("a red ball rolls over the grass", "two dogs " * 60)
"""The second caption has more than 77 tokens."""


def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return a released weight of that name, float32: of unit gain for kernels, around 1 for scales and variances."""
    rng = np.random.RandomState(zlib.crc32(name.encode()))
    if name.endswith("running_var") or (name.endswith((".weight", "/W")) and len(shape) == 1):
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    scale = np.sqrt(2 / np.prod(shape[1:])) if len(shape) > 1 else 0.3
    if "embedding" in name:
        scale = 0.3
    return np.asarray(scale * rng.standard_normal(shape), np.float32)


def draw_all(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    return {name: draw(name, shape) for name, shape in shapes.items()}


def mean_clip() -> np.ndarray:
    """Return a mean clip as `mean2.npz` has it: channels (BGR), frames, height, width."""
    return np.random.RandomState(5).uniform(80, 120, (3, 16, 128, 171)).astype(np.float32)


def video(frames: int, height: int, width: int) -> np.ndarray:
    """Return a video of moving waves with noise, uint8 RGB."""
    rng = np.random.RandomState(frames + height)
    t, y, x, c = np.meshgrid(*(np.arange(size) for size in (frames, height, width, 3)), indexing="ij")
    waves = np.sin(0.3 * t + 0.11 * y * (1 + c) / 3) * np.cos(0.07 * x + c - 0.2 * t)
    return np.clip(127.5 + 90 * waves + 25 * rng.standard_normal(waves.shape), 0, 255).astype(np.uint8)


def clip_json(vocab_size: int, **changes: Any) -> dict[str, Any]:
    """Return the `config.json` of a small CLIP."""
    return {
        "model_type": "clip",
        "projection_dim": 20,
        "text_config": {**CLIP_TOWER, "model_type": "clip_text_model", "vocab_size": vocab_size, "eos_token_id": 2},
        "vision_config": {**CLIP_TOWER, "model_type": "clip_vision_model", "image_size": 224, "patch_size": 32},
        **changes,
    }


def c3d_shapes(channels: tuple[int, ...], hidden: int, classes: int) -> dict[str, tuple[int, ...]]:
    """Return the arrays of `conv3d_deepnetA_ucf.npz` by name."""
    names = ("conv1a", "conv2a", "conv3a", "conv3b", "conv4a", "conv4b", "conv5a", "conv5b")
    shapes: dict[str, tuple[int, ...]] = {}
    before = 3
    for name, width in zip(names, channels, strict=True):
        shapes |= {f"{name}/W": (width, before, 3, 3, 3), f"{name}/b": (width,)}
        before = width
    for name, inputs, outputs in (("fc6", before * 16, hidden), ("fc7", hidden, hidden), ("fc8", hidden, classes)):
        shapes |= {f"{name}/W": (outputs, inputs), f"{name}/b": (outputs,)}
    return shapes


def write_c3d(folder: Path) -> Path:
    """Write the published files of a small C3D into a folder."""
    shapes = c3d_shapes(C3D_SMALL.channels, C3D_SMALL.hidden_size, C3D_SMALL.num_classes)
    np.savez(folder / "conv3d_deepnetA_ucf.npz", **draw_all(shapes))  # type: ignore[arg-type]
    np.savez_compressed(folder / "mean2.npz", mean=mean_clip())
    return folder


def write_inception(path: Path) -> Path:
    """Write the published file of a small Inception v3, in torch's format."""
    tensors = released_tensors(parameters("inception_v3", INCEPTION_SMALL), INCEPTION.table).values()
    state_dict(path, draw_all({tensor.key: tensor.shape for tensor in tensors}))
    return path


def write_clip(folder: Path, *, end: str = "argmax", **changes: Any) -> Path:
    """Write a released folder of a small CLIP; `end` is the rule that finds a text's end."""
    write_clip_tokenizer(folder, CAPTIONS)
    tokenizer = load_clip_tokenizer(folder)
    settings = clip_json(tokenizer.largest_id + 1, **changes)
    if end == "eos":
        settings["text_config"]["eos_token_id"] = tokenizer.library.eos_token_id
    (folder / "config.json").write_text(json.dumps(settings))
    keys = released_tensors(parameters("clip_model", CLIPModelConfig.from_json(settings)), CLIP.table).values()
    save_file(
        {**draw_all({key.key: key.shape for key in keys}), "logit_scale": np.array(2.6, np.float32)},
        folder / "model.safetensors",
    )
    return folder


def convert_small(
    network: PublishedNetwork, source: Path, out: Path, architecture: Architecture | None = None
) -> tuple[CheckpointSet, Any]:
    """Convert published files by the production converter; return the opened checkpoint and the network."""
    small = network
    if architecture is not None:
        small = replace(network, read=lambda path: replace(network.read(path), architecture=architecture))
    convert_features(small, source, out)
    checkpoint = CheckpointSet.open(out)
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    return checkpoint, checkpoint.load(network.kind, mesh, jnp.float32).module


Compute = Callable[[dict[str, jax.Array]], Any]


def compiled(network: FeatureNetwork, module: Any) -> Compute:
    """Return the function from inputs to features, which is compiled once for inputs of one shape."""
    graph, state = nnx.split(module)
    compute = jax.jit(lambda state, batch: network.features(nnx.merge(graph, state), batch))
    return lambda batch: np.asarray(compute(state, batch))


def features(
    network: FeatureNetwork,
    checkpoint: CheckpointSet,
    compute: Compute,
    clips: Sequence[np.ndarray],
    captions: Sequence[str] = CAPTIONS,
    **options: str,
) -> Any:
    """Return the features of clips, prepared one by one and computed together."""
    chosen = {name: values[0] for name, values in network.options.items()} | options
    prepare = network.prepare(checkpoint, chosen)
    prepared = [prepare(clip, caption) for clip, caption in zip(clips, captions, strict=False)]
    return compute({name: jnp.asarray(np.stack([inputs[name] for inputs in prepared])) for name in prepared[0]})
