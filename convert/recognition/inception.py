"""Inception v3 of the Fréchet Inception Distance: pytorch-fid's port of TensorFlow's graph, a file of torch.save."""

from pathlib import Path
from typing import Final

from show1_jax.nn.recognition.inception import InceptionV3Config

from ..reader import Weights
from ..rules import KeyTable
from ..torch_file import read_torch_file
from .published import Published, PublishedNetwork

_TABLE: Final = KeyTable(
    renames=((r"^conv2d", "Conv2d"), (r"^mixed", "Mixed"), (r"(_\d)\.([ab])\.", r"\1\2.")),
    ignored=r"\.num_batches_tracked$",
)


def _read(path: Path) -> Published:
    return Published(Weights(read_torch_file(path), (path,)), {path.name: path}, InceptionV3Config())


INCEPTION: Final = PublishedNetwork(
    kind="inception_v3",
    source="pt_inception-2015-12-05-6726825d.pth of the release fid_weights of github.com/mseitzer/pytorch-fid",
    licence="Apache-2.0 (TensorFlow's inception-2015-12-05, ported by pytorch-fid under Apache-2.0)",
    table=_TABLE,
    read=_read,
)
"""The description of Inception's published file."""
