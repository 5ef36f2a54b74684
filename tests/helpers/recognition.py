"""Small networks of metrics, recorded with random weights."""

from dataclasses import replace
from pathlib import Path
from typing import Final

from convert.features import convert_features
from convert.recognition.i3d import I3D
from convert.recognition.published import PublishedNetwork
from show1_jax.nn.recognition.i3d import I3DConfig

THIN_I3D: Final = I3DConfig.from_dict(
    {
        name: value // 16 if isinstance(value, int) else [width // 16 for width in value]
        for name, value in I3DConfig().to_dict().items()
    }
)
"""I3D with a sixteenth of all channels, 25 logits."""


def thin_i3d(architecture: I3DConfig = THIN_I3D) -> PublishedNetwork:
    """Return the row of I3D, for a file of another architecture."""
    return replace(I3D, read=lambda path: replace(I3D.read(path), architecture=architecture))


def write_thin_i3d(golden: Path, out: Path) -> Path:
    """Convert the recorded small I3D to a checkpoint."""
    convert_features(thin_i3d(), golden / "i3d/thin.ckpt", out)
    return out
