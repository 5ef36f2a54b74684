"""The kinds of files to fuzz: how a valid file is made, read and mutated."""

import contextlib
import functools
import io
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from tests.helpers.mutations import Mutate, mutate_bytes, mutate_json, mutate_lines, mutate_signed_json

GOLDEN: Final = Path(__file__).parents[1] / "golden" / "checkpoints"
FRAMES, HEIGHT, WIDTH, FPS = 12, 24, 32, 8


@dataclass(frozen=True)
class Kind:
    """One kind of file.

    Attributes:
        make: writes a valid file, with the files that it requires, into an empty folder.
        file: name of the file to mutate, in that folder.
        read: reads the file like the commands; raises UserError or VideoError if it is refused.
        mutate: makes another input from its bytes.
    """

    make: Callable[[Path], object]
    file: str
    read: Callable[[Path], object]
    mutate: Mutate = mutate_bytes


def _frames() -> np.ndarray:
    frames = np.random.default_rng(0).integers(0, 256, (FRAMES, HEIGHT, WIDTH, 3), np.uint8)
    frames[:, :, ::2] = np.arange(FRAMES, dtype=np.uint8)[:, None, None, None] * 20
    return frames


def _make_video(name: str, codec: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        import av

        with av.open(str(folder / name), "w") as container:
            stream: Any = container.add_stream(codec, FPS)
            stream.width, stream.height = WIDTH, HEIGHT
            stream.pix_fmt = "yuv420p"
            for frame in _frames():
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
            container.mux(stream.encode(None))

    return make


def _make_gif(folder: Path) -> None:
    from show1_jax.media.write import write_gif

    write_gif(folder / "a.gif", _frames(), FPS)


def _make_images(folder: Path) -> None:
    from PIL import Image

    (folder / "frames").mkdir()
    for number, frame in enumerate(_frames()):
        Image.fromarray(frame).save(folder / "frames" / f"{number:03}.png")


def _make_array(folder: Path) -> None:
    np.save(folder / "a.npy", _frames())


def _make_stage(folder: Path) -> None:
    from show1_jax.media.stage_files import save_stage

    save_stage(folder / "a.safetensors", _frames().astype(np.float32) / 255, "keyframes")


def _read_own_video(name: str) -> Callable[[Path], None]:
    """Return a function that reads a video like `sample.py --video`."""

    def read(folder: Path) -> None:
        from show1_jax.media.read import read_video

        with contextlib.redirect_stderr(io.StringIO()):
            read_video(folder / name, (10, 16))

    return read


def _read_training_video(name: str) -> Callable[[Path], None]:
    """Return a function that checks a video like `data build`, and reads clips of it like training."""

    def read(folder: Path) -> None:
        from show1_jax.data.decode import check_file, crop_and_resize, frames_at

        facts = check_file(folder / name)
        for frame in frames_at(
            (folder / name).read_bytes(), [facts.start + share * facts.duration for share in (0, 0.5, 1)]
        ):
            crop_and_resize(frame, 10, 16, 0.5)

    return read


def _make_weights(stem: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        source = GOLDEN / "show-1-base/text_encoder/pytorch_model.fp16.bin"
        if stem.endswith(".bin"):
            shutil.copy(source, folder / stem)
            return
        from safetensors.numpy import save_file

        from convert.torch_file import read_torch_file

        save_file({name: np.array(tensor.view()) for name, tensor in read_torch_file(source).items()}, folder / stem)

    return make


def _read_weights(folder: Path) -> None:
    from convert.reader import open_weights

    weights = open_weights(folder)
    for array in weights.values():
        float(np.sum(array, dtype=np.float64))


def _make_sharded(folder: Path) -> None:
    _make_weights("model-00001-of-00001.safetensors")(folder)
    from convert.safetensors_file import read_safetensors

    shard = folder / "model-00001-of-00001.safetensors"
    index = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(read_safetensors(shard), shard.name)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _make_released(folder: Path) -> None:
    for stage in GOLDEN.iterdir():
        for path in stage.rglob("*"):
            if path.is_file() and path.suffix not in (".bin", ".safetensors"):
                copy = folder / path.relative_to(GOLDEN)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, copy)


def _read_released(stage: str) -> Callable[[Path], None]:
    """Return a function that reads a released folder without its weights, up to the shapes of its networks."""

    def read(folder: Path) -> None:
        from convert.released import RELEASED_STAGES, read_architecture
        from convert.tables import parameters

        released = RELEASED_STAGES[stage]
        for part in released.parts:
            architecture, _ = read_architecture(released, part, folder / released.folder)
            parameters(part.kind, architecture)

    return read


def _make_lora(suffix: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        from tests.helpers.lora_files import matrices, peft_names, write_lora
        from tests.helpers.weight_files import state_dict

        tensors = peft_names(matrices(), "base_model.model.")
        settings = {"r": 4, "lora_alpha": 2, "rank_pattern": {"conv_in": 4}, "alpha_pattern": {"^conv_in": 3.0}}
        if suffix == "bin":
            state_dict(folder / "adapter_model.bin", tensors)
            (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", **settings}))
        else:
            metadata = {"lora_adapter_metadata": json.dumps({f"unet.{name}": settings[name] for name in settings})}
            write_lora(folder / "pytorch_lora_weights.safetensors", tensors, metadata)

    return make


@functools.cache
def _lora_layers() -> Any:
    from convert.lora.keys import lora_layers
    from convert.tables import UNET, parameters
    from show1_jax.nn.config import UNetConfig
    from tests.helpers import tiny_config

    keyframes = UNetConfig.from_dict(tiny_config.settings().architecture["keyframes"])
    return lora_layers(parameters("unet", keyframes), UNET)


def _read_lora(folder: Path) -> None:
    from convert.lora.pairs import lora_file, read_pairs

    read_pairs(lora_file(folder), _lora_layers(), "keyframes")


def _read_scheduler(folder: Path) -> None:
    from show1_jax.diffusion.samplers import make_sampler
    from show1_jax.diffusion.schedule import SchedulerConfig, alphas_cumprod
    from show1_jax.files import read_json

    values = read_json(folder / "show-1-base/scheduler/scheduler_config.json", "download it again")
    config = SchedulerConfig.from_json(values)
    alphas_cumprod(config)
    make_sampler(config, 10)


def _read_t5_tokenizer(folder: Path) -> None:
    from show1_jax.text.tokenizers import load_t5_tokenizer

    load_t5_tokenizer(folder / "show-1-base/tokenizer")(["a red circle", ""])


def _read_clip_tokenizer(folder: Path) -> None:
    from show1_jax.text.tokenizers import load_clip_tokenizer

    load_clip_tokenizer(folder / "show-1-sr2/tokenizer")(["a red circle", ""])


def _make_checkpoint(folder: Path) -> None:
    from show1_jax.checkpoints.random import write_random_checkpoint
    from tests.helpers import tiny_config

    config = tiny_config.settings()
    write_random_checkpoint(folder / "checkpoint", config.architecture, config.schedulers)


def _read_checkpoint(folder: Path) -> None:
    import jax

    from show1_jax.cascade.cascade import Cascade
    from show1_jax.config.sampling import STAGES
    from tests.helpers import tiny_config

    cascade = Cascade.load(folder / "checkpoint", tiny_config.settings(), devices=jax.devices()[:1])
    cascade.spec.check(STAGES)


def _run_request() -> dict[str, Any]:
    from show1_jax.cascade.prompts import Prompt
    from show1_jax.sampling.run_directory import describe_request
    from tests.helpers import tiny_config

    prompt, checkpoint = Prompt("a red circle", seed=7), {"keyframes": "0"}
    return describe_request(tiny_config.settings(), prompt, precision="float32", checkpoint=checkpoint)


def _make_run(folder: Path) -> None:
    from show1_jax.media.stage_files import video_sha256
    from show1_jax.sampling.run_directory import RunDirectory
    from show1_jax.sampling.run_record import Record

    video = _frames().astype(np.float32) / 255
    directory = RunDirectory(folder / "run")
    directory.write_stage("keyframes", video, FPS)
    directory.finish("a red circle", Record(_run_request(), ("keyframes",), {"keyframes": video_sha256(video)}))


def _read_run(folder: Path) -> None:
    from show1_jax.sampling.run_directory import RunDirectory

    directory = RunDirectory(folder / "run")
    directory.is_done(_run_request(), ("keyframes",), {})
    directory.load("keyframes")


def _make_text(name: str, text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(text)


def _read_prompts(name: str) -> Callable[[Path], None]:
    def read(folder: Path) -> None:
        from show1_jax.cascade.prompts import slug
        from show1_jax.sampling.prompt_files import read_prompts

        for prompt in read_prompts(folder / name):
            slug(prompt.text, prompt.seed or 0)

    return read


def _make_captioned(folder: Path) -> None:
    (folder / "videos").mkdir()
    _make_video("0.mp4", "libx264")(folder / "videos")
    for number in (1, 2):
        shutil.copy(folder / "videos/0.mp4", folder / f"videos/{number}.mp4")
    for number in range(3):
        (folder / f"videos/{number}.txt").write_text(f"caption {number}\n")
    rows = ["videoid,contentUrl,duration,page_dir,name", '0,u,PT4S,,"a ball, red"', "1,u,PT4S,,a box", "2,u,PT4S,,dog"]
    (folder / "captions.csv").write_text("\n".join(rows) + "\n")


def _build(table: str | None) -> Callable[[Path], None]:
    def read(folder: Path) -> None:
        from show1_jax.data.building.builder import build

        with contextlib.redirect_stderr(io.StringIO()):
            build(
                folder / "videos",
                folder / "dataset",
                folder / table if table else None,
                min_seconds=0.5,
                overwrite=True,
            )

    return read


def _make_dataset(folder: Path) -> None:
    _make_captioned(folder)
    _build(None)(folder)
    (shard,) = (folder / "dataset").glob("*array_record*")
    shard.rename(folder / "dataset" / shard.name)
    (folder / "shard").symlink_to(shard)


def _read_dataset(folder: Path) -> None:
    from show1_jax.data.spec import ClipDraw, ClipSpec
    from show1_jax.data.videos import VideoSource

    source = VideoSource.open(folder / "dataset")
    list(source.captions())
    source.clip(0, ClipSpec(4, 4, 10, 16), ClipDraw(0.5, 0.5))
    source.name(0)


def _make_cache(folder: Path) -> None:
    from show1_jax.data.text_cache import write_text_cache

    _make_checkpoint(folder)
    write_text_cache(folder / "cache", ["a red circle"], folder / "checkpoint", "text_t5", batch_size=2)


def _read_cache(folder: Path) -> None:
    from show1_jax.data.text_cache import TextCache

    TextCache.open(folder / "cache", "text_t5", "encoded").read(["a red circle", ""])


def _videos() -> dict[str, Kind]:
    codecs = {"mp4": "libx264", "mov": "mpeg4", "mkv": "libx264", "webm": "libvpx-vp9", "avi": "mpeg4"}
    kinds = {}
    for suffix, codec in codecs.items():
        name = f"a.{suffix}"
        kinds[f"video-{suffix}"] = Kind(_make_video(name, codec), name, _read_own_video(name))
        kinds[f"training-{suffix}"] = Kind(_make_video(name, codec), name, _read_training_video(name))
    kinds["video-gif"] = Kind(_make_gif, "a.gif", _read_own_video("a.gif"))
    kinds["video-png"] = Kind(_make_images, "frames/003.png", _read_own_video("frames"))
    kinds["video-npy"] = Kind(_make_array, "a.npy", _read_own_video("a.npy"))
    kinds["video-stage"] = Kind(_make_stage, "a.safetensors", _read_own_video("a.safetensors"))
    return kinds


def _released() -> dict[str, Kind]:
    files = {
        "released-unet": ("show-1-base/unet/config.json", _read_released("keyframes")),
        "released-image-unet": ("IF-II-L-v1.0/unet/config.json", _read_released("first_frame")),
        "released-latent-unet": ("show-1-sr2/unet/config.json", _read_released("superres_latent")),
        "released-vae": ("show-1-sr2/vae/config.json", _read_released("superres_latent")),
        "released-t5": ("show-1-base/text_encoder/config.json", _read_released("keyframes")),
        "released-clip": ("show-1-sr2/text_encoder/config.json", _read_released("superres_latent")),
        "released-scheduler": ("show-1-base/scheduler/scheduler_config.json", _read_scheduler),
        "tokenizer-clip-config": ("show-1-sr2/tokenizer/tokenizer_config.json", _read_clip_tokenizer),
        "tokenizer-clip-vocabulary": ("show-1-sr2/tokenizer/vocab.json", _read_clip_tokenizer),
    }
    kinds = {name: Kind(_make_released, file, read, mutate_json) for name, (file, read) in files.items()}
    t5, merges = "show-1-base/tokenizer/spiece.model", "show-1-sr2/tokenizer/merges.txt"
    kinds["tokenizer-t5"] = Kind(_make_released, t5, _read_t5_tokenizer)
    kinds["tokenizer-clip-merges"] = Kind(_make_released, merges, _read_clip_tokenizer, mutate_lines)
    return kinds


def _texts() -> dict[str, Kind]:
    objects = [{"prompt": "a panda", "seed": 3}, {"prompt": "a fox", "negative": "blur"}]
    texts = {
        "txt": ("# prompts\na red circle moves right\na blue square\n", mutate_lines),
        "json": (json.dumps(objects), mutate_json),
        "jsonl": ("\n".join(map(json.dumps, objects)), mutate_lines),
        "csv": ('prompt,seed\n"a red circle, moving",1\na blue square,2\n', mutate_lines),
    }
    return {
        f"prompts-{suffix}": Kind(_make_text(f"p.{suffix}", text), f"p.{suffix}", _read_prompts(f"p.{suffix}"), mutate)
        for suffix, (text, mutate) in texts.items()
    }


_WEIGHTS: Final = Kind(_make_weights("model.safetensors"), "model.safetensors", _read_weights)
_LORA_BIN: Final = Kind(_make_lora("bin"), "adapter_model.bin", _read_lora)
_DATASET: Final = Kind(_make_dataset, "dataset/features.json", _read_dataset, mutate_json)
_CACHE: Final = Kind(_make_cache, "cache/cache.json", _read_cache, mutate_json)

KINDS: Final[Mapping[str, Kind]] = {
    **_videos(),
    "weights-safetensors": _WEIGHTS,
    "weights-bin": Kind(_make_weights("model.bin"), "model.bin", _read_weights),
    "weights-index": Kind(_make_sharded, "model.safetensors.index.json", _read_weights, mutate_json),
    "lora-safetensors": Kind(_make_lora("safetensors"), "pytorch_lora_weights.safetensors", _read_lora),
    "lora-bin": _LORA_BIN,
    "lora-settings": replace(_LORA_BIN, file="adapter_config.json", mutate=mutate_json),
    **_released(),
    "manifest": Kind(_make_checkpoint, "checkpoint/manifest.json", _read_checkpoint, mutate_signed_json),
    "run-record": Kind(_make_run, "run/run.json", _read_run, mutate_json),
    **_texts(),
    "captions-csv": Kind(_make_captioned, "captions.csv", _build("captions.csv"), mutate_lines),
    "captions-txt": Kind(_make_captioned, "videos/1.txt", _build(None), mutate_lines),
    "dataset-features": _DATASET,
    "dataset-info": replace(_DATASET, file="dataset/dataset_info.json"),
    "dataset-shard": replace(_DATASET, file="shard", mutate=mutate_bytes),
    "cache-record": _CACHE,
    "cache-keys": replace(_CACHE, file="cache/keys.bin", mutate=mutate_bytes),
    "cache-states": replace(_CACHE, file="cache/states.array_record", mutate=mutate_bytes),
}
