"""One or several checkpoints used as one: components of later checkpoints replace those of earlier ones."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jax.sharding import Mesh
from jax.typing import DTypeLike

from show1_jax.buckets.path import BucketPath
from show1_jax.checkpoints.adapters import ADAPTER
from show1_jax.checkpoints.arrays import check_weights, tokenizer_folder
from show1_jax.checkpoints.manifest import (
    HUB_PREFIX,
    MANIFEST,
    SNAPSHOTS,
    CheckpointError,
    Component,
    Manifest,
    check_sizes,
    read_manifest,
)
from show1_jax.checkpoints.networks import LoadedNetwork, architecture_of, load_network
from show1_jax.checkpoints.recorded_settings import check_recorded
from show1_jax.checkpoints.run_steps import CHECKPOINTS, latest_step
from show1_jax.diffusion.schedule import SchedulerConfig
from show1_jax.errors import UserError
from show1_jax.files import is_folder, is_present, local_files, storage_path
from show1_jax.parallel.processes import from_first_process
from show1_jax.parallel.weights import WeightPath
from show1_jax.text.encoders import encoder_of_kind
from show1_jax.text.tokenizers import TextTokenizer

if TYPE_CHECKING:
    from show1_jax.checkpoints.hub import HubCheckpoint


class CheckpointSet:
    """The path and the record of each component of one or several checkpoints.

    Attributes:
        paths: the checkpoint that contains a component, by the component's name.
        manifest: one manifest for all components.

    Example:
        >>> checkpoints = CheckpointSet.open("checkpoints/show1,runs/keyframes")
        >>> checkpoints.load("keyframes", mesh, jnp.bfloat16)
    """

    def __init__(self, checkpoints: Sequence[Path]):
        self.paths: dict[str, Path] = {}
        self.manifest = Manifest({}, {})
        self._checked: set[str] = set()
        self._tokenizers: dict[str, TextTokenizer] = {}
        for checkpoint in checkpoints:
            self._add(checkpoint, read_manifest(checkpoint))

    @classmethod
    def open(cls, names: str | Path) -> "CheckpointSet":
        """Open checkpoints by name. All processes must call this at the same point.

        Args:
            names: folders, separated by commas, also in buckets. Each is a converted checkpoint, a step of a training
                run, or the working directory of a training run: then its newest intact step is used. `hub:OWNER/NAME`
                or `hub:OWNER/NAME@REVISION` is a repository of the hub, whose components are downloaded when they are
                needed.

        Raises:
            UserError: a folder is not a checkpoint, is damaged, or is a training run without an intact step; or a
                repository does not exist or cannot be reached.
        """
        return cls([resolve_checkpoint(path) for path in split_names(names)])

    def component(self, name: str) -> Component:
        """Return the record of a component; if there is none, a UserError lists the components."""
        return self.manifest.component(name)

    def path(self, name: str) -> Path:
        """Return the checkpoint that contains a component, with all files of the component.

        Raises:
            UserError: no checkpoint has the component (the line lists the components), or it cannot be downloaded.
        """
        self.component(name)
        fetch_component(self.paths[name], name)
        return self.paths[name]

    def provenance(self, name: str) -> dict[str, Any]:
        """Return the provenance of weights that start from a component: its own, and its repository on the hub."""
        own = self.component(name).provenance
        if revision := hub_revision(self.paths[name]):
            return {"source": revision[0], "revision": revision[1], "starts_from": own}
        return own

    def load(
        self, component: str, mesh: Mesh, dtype: DTypeLike, part: WeightPath = (), formats: Any = None
    ) -> LoadedNetwork:
        """Load a component's network, or one module of it by path; see `load_network`.

        Hashes are checked each time a whole network is loaded, but only once for all parts of a network.
        """
        path = self.path(component)
        if part and component not in self._checked:
            check_weights(path, component)
            self._checked.add(component)
        return load_network(path, component, mesh, dtype, part, formats)

    def tokenizer(self, component: str) -> TextTokenizer:
        """Return the tokenizer of a text encoder, read once; a UserError names a damaged or missing file."""
        if component not in self._tokenizers:
            encoder = encoder_of_kind(self.component(component).kind)
            folder = tokenizer_folder(self.path(component), component)
            with local_files(folder) as files:
                self._tokenizers[component] = encoder.load_tokenizer(files)
        return self._tokenizers[component]

    def check_sizes(self, components: Sequence[str]) -> None:
        """Check for missing and truncated files without reading them.

        Raises:
            UserError: a file is missing or truncated (the first one is named), or no checkpoint contains a component.
        """
        for component in components:
            check_sizes(self.path(component), component)

    def _add(self, checkpoint: Path, manifest: Manifest) -> None:
        for name, component in manifest.components.items():
            _check_component(checkpoint, name, component)
            kept = {path: file for path, file in self.manifest.files.items() if not path.startswith(f"{name}/")}
            added = {path: file for path, file in manifest.files.items() if path.startswith(f"{name}/")}
            self.manifest = Manifest({**self.manifest.components, name: component}, kept | added)
            self.paths[name] = checkpoint


def _check_component(checkpoint: Path, name: str, component: Component) -> None:
    """Refuse a record from which no network can be built, before any network is built."""
    if component.kind == ADAPTER:
        raise UserError(
            f"{checkpoint} is an adapter of {name}, which changes a checkpoint and does not replace one; "
            "give it as --adapter, or merge both with `python -m convert merge --adapter`"
        )
    try:
        architecture_of(component)
        for settings in component.schedulers.values():
            SchedulerConfig.from_json(settings)
        check_recorded(name, component)
    except UserError as error:
        raise CheckpointError(checkpoint, f"{checkpoint / MANIFEST}: components: {name}: {error}") from None


def split_names(names: str | Path) -> list[Path]:
    """Return the folders that `A,B` names; an existing folder with a comma in its name is one folder."""
    if isinstance(names, BucketPath):
        return [names]
    if os.path.exists(os.path.expanduser(names)):
        return [storage_path(names)]
    return [storage_path(name.strip()) for name in str(names).split(",")]


def is_hub_name(name: str | Path) -> bool:
    """Return whether a checkpoint's name is that of a repository of the hub, `hub:OWNER/NAME`."""
    return str(name).startswith(HUB_PREFIX)


def fetch_component(checkpoint: Path, component: str) -> None:
    """Download the files of a component that are missing, if a checkpoint was opened from the hub.

    Raises:
        UserError: no such component, no network, or damaged files.
    """
    if (origin := _origin(checkpoint)) is not None:
        origin.fetch(component)


def hub_revision(checkpoint: Path) -> tuple[str, str] | None:
    """Return the name and the commit of a checkpoint that was opened from the hub; None for any other."""
    origin = _origin(checkpoint)
    return None if origin is None else (origin.name, origin.commit)


def _origin(checkpoint: Path) -> "HubCheckpoint | None":
    if checkpoint.parent.name != SNAPSHOTS:
        return None
    from show1_jax.checkpoints.hub import origin_of  # here, as its libraries take a while to import

    return origin_of(checkpoint)


def hub_commits(names: Iterable[Path]) -> dict[str, str]:
    """Return the commit of every opened checkpoint or adapter that comes from the hub, by the name as it was given."""
    from show1_jax.checkpoints.hub import open_hub

    return {str(name): open_hub(str(name)).name for name in names if is_hub_name(name)}


def is_run(folder: Path) -> bool:
    """Return whether a folder is the working directory of a training run."""
    return not is_present(folder / MANIFEST) and is_folder(folder / CHECKPOINTS)


def is_checkpoint_or_run(folder: Path) -> bool:
    """Return whether a name is that of a checkpoint or of a training run's directory, not whether it is whole."""
    return is_hub_name(folder) or (folder / MANIFEST).exists() or is_run(folder)


def resolve_checkpoint(folder: Path) -> Path:
    """Return the newest intact step of a training run, or a folder that is not one. All processes must call this.

    For a repository of the hub, it is its folder in the hub's cache; see `fetch_component`.

    Raises:
        UserError: it is a training run without an intact step, or a repository that cannot be used.
    """
    if is_hub_name(folder):
        from show1_jax.checkpoints.hub import open_hub

        return open_hub(str(folder))
    if not is_run(folder):
        return folder
    step = from_first_process(lambda: latest_step(folder))
    if step is None:
        raise UserError(f"{folder}: this training run has no checkpoint yet; use another, or train longer")
    return step
