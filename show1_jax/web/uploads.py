"""Files that users upload: checked by the readers of `--video` and `--image`, kept in a private folder for a while."""

import base64
import dataclasses
import io
import re
import secrets
import shutil
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import UInt8

from show1_jax.config.config_file import Config
from show1_jax.errors import UserError
from show1_jax.media.containers import CONTAINER_SUFFIXES
from show1_jax.media.frames import to_uint8
from show1_jax.media.images import IMAGE_SUFFIXES
from show1_jax.media.read import read_picture, read_video
from show1_jax.web.requests import Limits

UPLOAD_SUFFIXES: Final = (*CONTAINER_SUFFIXES, *IMAGE_SUFFIXES)
"""Ends of the names of files that are read; videos first."""
PREVIEW_FRAMES, _PREVIEW_HEIGHT = 8, 120


@dataclasses.dataclass(frozen=True)
class Upload:
    """A video or a picture of a user.

    Attributes:
        id: name that cannot be guessed.
        path: the file.
        name: its name, as the user has it.
        num_bytes: its size.
        preview: PNG of the picture, or of some of the video's frames, as the cascade crops them.
    """

    id: str
    path: Path
    name: str
    num_bytes: int
    preview: bytes

    @property
    def is_picture(self) -> bool:
        """True for a picture, which videos begin with."""
        return _is_picture(self.path)

    @property
    def preview_address(self) -> str:
        """The preview as an address that contains it."""
        return f"data:image/png;base64,{base64.b64encode(self.preview).decode()}"


class Uploads:
    """The files of all users, in a folder that is for this process alone; the oldest are removed if there are many."""

    def __init__(self, folder: Path, config: Config, limits: Limits):
        self._folder, self._config, self._limits = folder, config, limits
        self._lock = threading.Lock()
        self._uploads: OrderedDict[str, Upload] = OrderedDict()

    def add(self, path: Path) -> Upload:
        """Take a file, which is moved, and check that it is a video or a picture.

        Raises:
            UserError: it is too large, or the reader cannot read it; the file is then removed.
        """
        name = re.sub(r"[^\w. -]", "_", path.name)[-80:]
        token = secrets.token_urlsafe(16)
        folder = self._folder / token
        folder.mkdir(mode=0o700, parents=True)
        try:
            kept = folder / name
            shutil.move(path, kept)
            upload = Upload(token, kept, name, kept.stat().st_size, self._preview(kept))
        except BaseException as error:
            shutil.rmtree(folder, ignore_errors=True)
            if isinstance(error, UserError):  # the user knows the file by its name
                raise UserError(str(error).replace(f"{folder}/", "")) from None
            raise
        with self._lock:
            self._uploads[token] = upload
            while len(self._uploads) > self._limits.uploads:
                shutil.rmtree(self._uploads.popitem(last=False)[1].path.parent, ignore_errors=True)
        return upload

    def find(self, token: object) -> Upload:
        """Return an upload.

        Raises:
            UserError: there is none of this name, or it was removed.
        """
        with self._lock:
            upload = self._uploads.get(token) if isinstance(token, str) else None
        if upload is None:
            raise UserError("there is no video and no picture; upload one")
        return upload

    def _preview(self, path: Path) -> bytes:
        if path.stat().st_size > self._limits.upload_bytes:
            raise UserError(f"{path} is larger than {self._limits.upload_bytes >> 20} MB; make it shorter or smaller")
        if path.suffix.lower() not in UPLOAD_SUFFIXES:
            raise UserError(f"cannot read {path}: give one of {' '.join(UPLOAD_SUFFIXES)}")
        height, width = self._config.keyframes.size  # all stages of pixels have its shape, and all files are cut to it
        size = _PREVIEW_HEIGHT, round(_PREVIEW_HEIGHT * width / height)
        frames = read_picture(path, size)[None] if _is_picture(path) else read_video(path, size, PREVIEW_FRAMES)[0]
        return _strip(to_uint8(frames))


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES


def _strip(frames: UInt8[np.ndarray, "t h w 3"]) -> bytes:
    """Return a PNG of frames in a row."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.concatenate(list(frames), axis=1)).save(buffer, "PNG")
    return buffer.getvalue()
