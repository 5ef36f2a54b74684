"""`python -m convert features`: a published network that metrics compare videos with, as a checkpoint."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from show1_jax.checkpoints.arrays import check_new_checkpoint, new_checkpoint
from show1_jax.checkpoints.hub import is_hub_id
from show1_jax.checkpoints.manifest import Component, sha256
from show1_jax.errors import UserError
from show1_jax.files import check_space
from show1_jax.progress import Bar

from .convert import dtype_name, tool_version
from .hub import download_files
from .recognition.c3d import C3D
from .recognition.clip import CLIP
from .recognition.i3d import I3D
from .recognition.inception import INCEPTION
from .recognition.published import PublishedNetwork
from .released import repository_licence
from .rules import match_weights
from .tables import parameters

PUBLISHED_NETWORKS: Final[Mapping[str, PublishedNetwork]] = {
    network.kind: network for network in (I3D, C3D, INCEPTION, CLIP)
}
"""The networks by kind."""


def convert_features(network: PublishedNetwork, source: Path, out: Path, *, overwrite: bool = False) -> None:
    """Convert a published network to a checkpoint of one component.

    Args:
        network: its row of the table.
        source: the published file or folder, or the id of a repository on the hub, with an optional @revision.
        out: the checkpoint's directory; it appears when everything is written.
        overwrite: replace an existing checkpoint.

    Raises:
        UserError: a missing, damaged or hostile file, weights of another network (all problems in one line), or a
            problem with `out` or the disk; `out` is then unchanged.
    """
    check_new_checkpoint(out, overwrite=overwrite)
    place, revision, licence = _locate(network, source)
    published = network.read(place)
    state = parameters(network.kind, published.architecture)
    total = sum(array.nbytes for array in published.weights.values())
    with Bar(f"check {network.kind}", total, unit="B", leave=False) as bar:
        arrays = match_weights(published.weights, state, network.table, where=str(source), progress=bar.update)
    dtypes = {path: array.dtype for path, array in arrays.items()}
    component = Component(
        kind=network.kind,
        architecture=published.architecture.to_dict(),
        dtype=dtype_name(dtypes.values()),
        config=dict(published.config),
        provenance={
            "source": str(source),
            "revision": revision,
            "files": {name: sha256(path) for name, path in published.files.items()},
            "licence": licence,
            "tool": tool_version(),
        },
    )
    check_space(out, total)
    with (
        new_checkpoint(out, overwrite=overwrite) as writer,
        Bar(f"write {network.kind}", total, unit="B", leave=False) as bar,
    ):
        writer.add(network.kind, component, arrays, dtypes, published.tokenizer, bar.update)
    print(f"{network.kind}: {', '.join(published.files)} as {component.dtype}")
    print(f"licence: {licence}")
    print(f"{out}: written")


def _locate(network: PublishedNetwork, source: Path) -> tuple[Path, str | None, str]:
    """Return the local file or folder of a source, its revision (None if it was not downloaded), and its licence."""
    if source.exists():
        return source, None, network.licence
    if network.hub_files and is_hub_id(str(source)):
        folder, revision = download_files(str(source), network.hub_files)
        return folder, revision, repository_licence(str(source).partition("@")[0])
    raise UserError(f"{source}: no such file; get {network.source}")
