"""Videos that users upload: checked by the reader of `--video`, kept in a private folder for a while."""

import base64
import dataclasses
import io
import re
import secrets
import shutil
import threading
from collections import OrderedDict
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from show1_jax.config.config_file import Config
from show1_jax.errors import UserError
from show1_jax.media.containers import CONTAINER_SUFFIXES
from show1_jax.media.frames import to_uint8
from show1_jax.media.read import read_video
from show1_jax.web.requests import Limits

PREVIEW_FRAMES, _PREVIEW_HEIGHT = 8, 120


@dataclasses.dataclass(frozen=True)
class Upload:
    """A video of a user.

    Attributes:
        id: name that cannot be guessed.
        path: the file.
        name: its name, as the user has it.
        num_bytes: its size.
        preview: PNG of some of its frames, as the cascade crops them.
    """

    id: str
    path: Path
    name: str
    num_bytes: int
    preview: bytes

    @property
    def preview_address(self) -> str:
        """The preview as an address that contains it."""
        return f"data:image/png;base64,{base64.b64encode(self.preview).decode()}"


class Uploads:
    """The videos of all users, in a folder that is for this process alone; the oldest are removed if there are many."""

    def __init__(self, folder: Path, config: Config, limits: Limits):
        self._folder, self._config, self._limits = folder, config, limits
        self._lock = threading.Lock()
        self._uploads: OrderedDict[str, Upload] = OrderedDict()

    def add(self, path: Path) -> Upload:
        """Take a file, which is moved, and check that it is a video.

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
            raise UserError("there is no video; upload one")
        return upload

    def _preview(self, path: Path) -> bytes:
        if path.stat().st_size > self._limits.upload_bytes:
            raise UserError(
                f"{path} is larger than {self._limits.upload_bytes >> 20} MB; cut the video or make it smaller"
            )
        if path.suffix.lower() not in CONTAINER_SUFFIXES:
            raise UserError(f"cannot read {path}: give one of {' '.join(CONTAINER_SUFFIXES)}")
        width = round(_PREVIEW_HEIGHT * self._config.superres_latent.width / self._config.superres_latent.height)
        frames, _ = read_video(path, (_PREVIEW_HEIGHT, width), PREVIEW_FRAMES)
        return _strip(to_uint8(frames))


def _strip(frames: UInt8[np.ndarray, "t h w 3"]) -> bytes:
    """Return a PNG of frames in a row."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.concatenate(list(frames), axis=1)).save(buffer, "PNG")
    return buffer.getvalue()
