"""Stage files: the exact float32 result of a stage, with its stage, layout and hash."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Float32

from show1_jax.errors import UserError
from show1_jax.files import local_files, open_regular, parse_json, write_bytes

STAGE_FORMAT = "show1_jax.stage.v1"
STAGE_LAYOUT = "time height width channel"
_START = "start"


def save_stage(
    path: str | Path,
    video: Float32[np.ndarray, "t h w c"],
    stage: str,
    start: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Write a stage's exact result as a `.safetensors` file whose metadata state its stage, layout and hash.

    Args:
        path: the file.
        video: the result.
        stage: name of the stage.
        start: JSON values that state what the video was started from, for `read_start`; empty: noise alone.

    Raises:
        UserError: the array is not float32 `(t, h, w, c)`, or the disk is full.
    """
    from safetensors.numpy import save

    if video.dtype != np.float32 or video.ndim != 4 or not video.size:
        raise UserError(f"a stage must be float32 (t, h, w, c), not {video.dtype} {video.shape}")
    video = np.ascontiguousarray(video)
    metadata = {
        "format": STAGE_FORMAT,
        "stage": stage,
        "layout": STAGE_LAYOUT,
        "shape": " ".join(map(str, video.shape)),
        "sha256": video_sha256(video),
    }
    if start:
        metadata[_START] = json.dumps(dict(start), sort_keys=True)
    write_bytes(path, _with_sorted_header(save({"video": video}, metadata)))


def video_sha256(video: Float32[np.ndarray, "t h w c"]) -> str:
    """Return the hexadecimal SHA-256 of a stage's values, as its file records it."""
    return hashlib.sha256(video.data).hexdigest()


def read_start(path: str | Path) -> dict[str, Any]:
    """Return what `save_stage` recorded as the start of a stage's video; nothing if the file cannot be read."""
    from safetensors import SafetensorError

    try:
        with local_files(path if isinstance(path, Path) else Path(path)) as local, _open_stage(local) as file:
            start = parse_json((file.metadata() or {}).get(_START, "{}"))
    except (OSError, SafetensorError, ValueError):
        return {}
    return start if isinstance(start, dict) else {}


def load_stage(path: str | Path, stage: str | None = None) -> Float32[np.ndarray, "t h w c"]:
    """Read a file that `save_stage` wrote.

    Args:
        path: the file.
        stage: the stage that the file must be of; None accepts any.

    Raises:
        UserError: the file is missing, damaged, in another format, or of another stage.
    """
    from safetensors import SafetensorError

    try:
        with local_files(path if isinstance(path, Path) else Path(path)) as local, _open_stage(local) as file:
            metadata = file.metadata() or {}
            values = file.get_slice("video")
            is_video = values.get_dtype() == "F32" and len(values.get_shape()) == 4
            if metadata.get("format") != STAGE_FORMAT or not is_video:
                raise UserError(f"{path} is not a stage file of show1_jax: give one that sample.py wrote")
            video: np.ndarray = file.get_tensor("video")
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot read stage file {path} ({_reason(error)}): sample that stage again") from error
    if metadata.get("sha256") != video_sha256(video):
        raise UserError(f"stage file {path} is damaged (its hash does not match): sample that stage again")
    if stage is not None and metadata.get("stage") != stage:
        raise UserError(f"{path} holds the stage {metadata.get('stage')}, not {stage}: give the file of {stage}")
    return video


def _open_stage(path: Path) -> Any:
    from safetensors import safe_open

    open_regular(path).close()
    return safe_open(path, "numpy")


def _with_sorted_header(data: bytes) -> bytes:
    """Return a safetensors file with the keys of its header sorted: the library's order changes from call to call."""
    size = int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8 : 8 + size]), sort_keys=True, separators=(",", ":")).encode()
    assert len(header) <= size
    return data[:8] + header.ljust(size) + data[8 + size :]


def _reason(error: Exception) -> str:
    """Return an error's reason on one line, without the path, which the message around it names."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__
