"""C3D of UCF-101: the two files that TGAN and TGANv2 published, the weights and the mean clip."""

from pathlib import Path
from typing import Final

import numpy as np

from show1_jax.errors import UserError
from show1_jax.nn.recognition.c3d import C3DConfig

from ..numpy_archive import read_npz
from ..rules import KeyTable
from .published import Published, PublishedNetwork

_WEIGHTS, _MEAN = "conv3d_deepnetA_ucf.npz", "mean2.npz"

_TABLE: Final = KeyTable(
    layouts=((r"^mean$", "c t h w -> t h w c"),),
    leaves={"kernel": "W", "bias": "b"},
    aliases=((r"/", "."),),
)


def _read(folder: Path) -> Published:
    files = {name: folder / name for name in (_WEIGHTS, _MEAN)}
    if missing := [name for name, path in files.items() if not path.is_file()]:
        raise UserError(f"{folder}: a folder without {', '.join(missing)}; get {C3D.source}")
    arrays = read_npz(files[_WEIGHTS])
    mean = read_npz(files[_MEAN]).get("mean")
    if mean is None or "mean" in arrays:
        raise UserError(f"{files[_MEAN]}: holds no mean clip; get {C3D.source}")
    return Published({**arrays, "mean": mean.astype(np.float32)}, files, C3DConfig())


C3D: Final = PublishedNetwork(
    kind="c3d",
    source=f"a folder with {_WEIGHTS} and {_MEAN} of the release v1.0 of github.com/rezoo/tgan2",
    licence="as github.com/pfnet-research/tgan2 (MIT) and C3D's authors say",
    table=_TABLE,
    read=_read,
)
"""The description of C3D's published files."""
