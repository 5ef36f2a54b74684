"""Record the outputs of the reference implementations of C3D, Inception v3 and CLIP, on small random networks.

Run once, by hand, from the root of the checkout, in an environment with torch, torchvision, transformers, pytorch-fid,
opencv and tensorflow beside this project's own libraries:

    python -m benchmarks.record_recognition

It writes to `tests/golden/recognition`: `recordings.npz` (outputs), `full_size_keys.json.gz` (keys and shapes of the
published networks) and `legacy.pth` (a file in torch's format from before 1.6). Weights and inputs are those of
`tests.helpers.small_networks`.
"""

import gzip
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torchvision
from pytorch_fid import inception
from torch.nn import functional
from transformers import CLIPConfig, CLIPModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from show1_jax.text.tokenizers import load_clip_tokenizer, write_clip_tokenizer
from tests.helpers.small_networks import (
    C3D_SMALL,
    CAPTIONS,
    INCEPTION_SMALL,
    c3d_shapes,
    clip_json,
    draw,
    draw_all,
    mean_clip,
    video,
)

FOLDER = Path(__file__).parents[1] / "tests/golden/recognition"
POOLED = ("conv1a", "conv2a", "conv3b", "conv4b", "conv5b")


def c3d_logits(x: torch.Tensor) -> np.ndarray:
    """Return the logits of TGAN's definition: max pools whose last window may be cut off, features in C order."""
    shapes = c3d_shapes(C3D_SMALL.channels, C3D_SMALL.hidden_size, C3D_SMALL.num_classes)
    weights = {name: torch.from_numpy(draw(name, shape)) for name, shape in shapes.items()}
    for name in (name.removesuffix("/W") for name in shapes if name.startswith("conv") and name.endswith("/W")):
        x = functional.conv3d(x, weights[f"{name}/W"], weights[f"{name}/b"], padding=1).relu()
        if name in POOLED:
            x = functional.max_pool3d(x, (1, 2, 2) if name == "conv1a" else 2, ceil_mode=True)
    x = x.flatten(1)
    for name in ("fc6", "fc7"):
        x = functional.linear(x, weights[f"{name}/W"], weights[f"{name}/b"]).relu()
    return functional.linear(x, weights["fc8/W"], weights["fc8/b"]).numpy()


def c3d() -> dict[str, np.ndarray]:
    """Return the logits of two videos by TGANv2's preprocessing and by TGAN's, from samples of a generator."""
    outputs: dict[str, list[np.ndarray]] = {"c3d/tgan2": [], "c3d/tgan": []}
    mean = mean_clip()
    for size in ((64, 64), (144, 176)):
        sample = ((video(16, *size).astype(np.float32) - 128) / 128).transpose(3, 0, 1, 2)  # channels, time, ...
        frames = torch.from_numpy(128 * sample[::-1].copy()).permute(1, 0, 2, 3)
        small = functional.interpolate(frames, (112, 112), mode="bilinear", align_corners=True).permute(1, 0, 2, 3)
        x = small + torch.from_numpy(128 - mean[:, :, 8:120, 8:120])
        outputs["c3d/tgan2"].append(c3d_logits(x[None])[0])
        images = sample.transpose(1, 2, 3, 0) * 128 + 128
        resized = np.stack([cv2.resize(image, (128, 128), interpolation=cv2.INTER_CUBIC) for image in images])
        x = resized.transpose(3, 0, 1, 2)[::-1] - mean[:, :, :, 21:149]
        outputs["c3d/tgan"].append(c3d_logits(torch.from_numpy(x[:, :, 8:120, 8:120].copy())[None])[0])
    return {name: np.stack(rows) for name, rows in outputs.items()}


class NarrowConv(torchvision.models.inception.BasicConv2d):
    """Torchvision's unit of convolution and norm, with its channels divided."""

    def __init__(self, in_channels: int, out_channels: int, **options: Any) -> None:
        divisor = INCEPTION_SMALL.channel_divisor
        super().__init__(
            in_channels if in_channels == 3 else in_channels // divisor, out_channels // divisor, **options
        )


def resized_by_tensorflow(frames: np.ndarray) -> np.ndarray:
    """Return frames of 299x299 by TensorFlow 1's rule; TensorFlow and torch crash in one process."""
    with tempfile.TemporaryDirectory() as folder:
        np.save(f"{folder}/frames.npy", frames.astype(np.float32))
        program = (
            "import numpy, tensorflow; "
            f"frames = numpy.load({folder!r} + '/frames.npy'); "
            "resized = tensorflow.compat.v1.image.resize_bilinear(frames, (299, 299)).numpy(); "
            f"numpy.save({folder!r} + '/resized.npy', resized)"
        )
        subprocess.run([sys.executable, "-c", program], check=True)
        return np.load(f"{folder}/resized.npy")


def inception_v3() -> dict[str, np.ndarray]:
    """Return pool3 of frames of two sizes by pytorch-fid's preprocessing and by the original graph's."""
    torchvision.models.inception.BasicConv2d = NarrowConv
    inception.load_state_dict_from_url = lambda url, progress: {}
    torchvision.models.Inception3.load_state_dict = lambda self, weights: None
    network = inception.InceptionV3()
    del torchvision.models.Inception3.load_state_dict
    names = ["Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", None, "Conv2d_3b_1x1", "Conv2d_4a_3x3", None]
    names += [f"Mixed_{block}" for block in ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c")]
    layers = [layer for block in network.blocks for layer in block][: len(names)]
    for name, layer in zip(names, layers, strict=True):
        if name:
            shapes = {f"{name}.{key}": tuple(value.shape) for key, value in layer.state_dict().items()}
            weights = {key: draw(key, shape) for key, shape in shapes.items() if not key.endswith("batches_tracked")}
            layer.load_state_dict(
                {key.removeprefix(f"{name}."): torch.from_numpy(value) for key, value in weights.items()}, strict=False
            )
    network.eval()
    outputs: dict[str, list[np.ndarray]] = {"inception_v3/pytorch-fid": [], "inception_v3/tensorflow": []}
    for size in ((64, 80), (320, 400)):
        frames = video(2, *size)
        x = torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255
        outputs["inception_v3/pytorch-fid"].append(network(x)[0][:, :, 0, 0].numpy())
        resized = resized_by_tensorflow(frames)
        network.resize_input = network.normalize_input = False
        x = torch.from_numpy((resized - 128) * np.float32(0.0078125)).permute(0, 3, 1, 2)
        outputs["inception_v3/tensorflow"].append(network(x)[0][:, :, 0, 0].numpy())
        network.resize_input = network.normalize_input = True
    return {name: np.stack(rows) for name, rows in outputs.items()}


def clip() -> dict[str, np.ndarray]:
    """Return the projected vectors and the processor's frames for two videos and captions."""
    with tempfile.TemporaryDirectory() as folder:
        write_clip_tokenizer(Path(folder), CAPTIONS)
        tokenizer = load_clip_tokenizer(folder)
    size = tokenizer.largest_id + 1
    outputs: dict[str, np.ndarray] = {}
    for end in (2, tokenizer.library.eos_token_id):
        settings = clip_json(size)
        settings["text_config"]["eos_token_id"] = end
        model = CLIPModel(CLIPConfig.from_dict(settings)).eval()
        shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
        model.load_state_dict({name: torch.from_numpy(value) for name, value in draw_all(shapes).items()})
        ids = torch.from_numpy(tokenizer(CAPTIONS).ids).long()
        outputs[f"clip_model/text/{'argmax' if end == 2 else 'eos'}"] = model.get_text_features(
            ids
        ).pooler_output.numpy()
    for height, width in ((64, 80), (301, 240)):
        frames = video(2, height, width)
        pixels = CLIPImageProcessorPil()(list(frames), return_tensors="pt")["pixel_values"]
        outputs[f"clip_model/image/{height}"] = model.get_image_features(pixels).pooler_output.numpy()
        processor = CLIPImageProcessorPil(do_normalize=False, do_rescale=False)
        cropped = processor(list(frames), return_tensors="np")["pixel_values"]
        outputs[f"clip_model/frames/{height}"] = cropped[:1, :, ::16, ::16].astype(np.uint8)
    return outputs


def full_size_keys() -> dict[str, Any]:
    """Return the keys and shapes of the published files, and the settings of CLIP."""
    keys: dict[str, Any] = {
        "c3d": {"mean": (3, 16, 128, 171)} | c3d_shapes((64, 128, 256, 256, 512, 512, 512, 512), 4096, 101)
    }
    network = torchvision.models.inception_v3(num_classes=1008, aux_logits=False, init_weights=False)
    keys["inception_v3"] = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    large: dict[str, Any] = {
        "projection_dim": 768,
        "text_config": {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12},
        "vision_config": {
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "patch_size": 14,
        },
    }
    for name, settings in (("clip-vit-base-patch32", {}), ("clip-vit-large-patch14", large)):
        config = CLIPConfig.from_dict(settings)
        with torch.device("meta"):
            model = CLIPModel(config)
        shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
        keys[name] = {"config": json.loads(config.to_json_string(use_diff=False)), "keys": shapes}
    return keys


def legacy_file() -> None:
    """Write a small state dict in torch's old format: whole, transposed and shared tensors of several types."""
    weight = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    state = {
        "weight": torch.nn.Parameter(weight),
        "transposed": weight.T,
        "half": torch.linspace(-1, 1, 5).half(),
        "count": torch.tensor(7),
    }
    torch.save(state, FOLDER / "legacy.pth", _use_new_zipfile_serialization=False)


if __name__ == "__main__":
    with torch.no_grad():
        keys = full_size_keys()
        recordings = c3d() | clip() | inception_v3()
    np.savez_compressed(FOLDER / "recordings.npz", **recordings)  # type: ignore[arg-type]
    (FOLDER / "full_size_keys.json.gz").write_bytes(gzip.compress(json.dumps(keys).encode(), mtime=0))
    legacy_file()
    for path in sorted(FOLDER.glob("*.*")):
        print(f"{path.name}: {path.stat().st_size} bytes")
