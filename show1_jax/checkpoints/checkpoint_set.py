"""One or several checkpoints as one: the components of the later ones take the place of the earlier ones'."""

import os
from collections.abc import Sequence
from pathlib import Path

from jax.sharding import Mesh
from jax.typing import DTypeLike

from show1_jax.checkpoints.arrays import check_weights, tokenizer_folder
from show1_jax.checkpoints.manifest import MANIFEST, CheckpointError, Component, Manifest, check_sizes, read_manifest
from show1_jax.checkpoints.networks import LoadedNetwork, architecture_of, load_network
from show1_jax.checkpoints.recorded_settings import check_recorded
from show1_jax.checkpoints.run_steps import CHECKPOINTS, latest
from show1_jax.diffusion.schedule import SchedulerConfig
from show1_jax.errors import UserError
from show1_jax.files import user_path
from show1_jax.parallel.processes import from_first_process
from show1_jax.parallel.weights import WeightPath
from show1_jax.text.encoders import encoder_of_kind
from show1_jax.text.tokenizers import TextTokenizer


class CheckpointSet:
    """Where each component is, and what is known of it.

    Attributes:
        paths: the checkpoint that holds a component, by the component's name.
        manifest: of all components, as if they were one checkpoint's.

    Example:
        >>> checkpoints = CheckpointSet.open("checkpoints/show1,runs/keyframes")
        >>> checkpoints.load("keyframes", mesh, jnp.bfloat16)
    """

    def __init__(self, checkpoints: Sequence[Path]):
        self.paths: dict[str, Path] = {}
        self.manifest = Manifest({}, {})
        self._checked: set[str] = set()
        for checkpoint in checkpoints:
            self._add(checkpoint, read_manifest(checkpoint))

    @classmethod
    def open(cls, names: str | Path) -> "CheckpointSet":
        """Every process of a job calls it, at the same point.

        Args:
            names: folders, separated by commas. Each is a converted checkpoint, a step of a training run, or a run's
                working directory, which stands for its newest good step.

        Raises:
            UserError: one of them is no checkpoint, or damaged, or a run without a good step.
        """
        return cls([_resolve(path) for path in split_names(names)])

    def component(self, name: str) -> Component:
        """What is known of a component; a UserError says which ones there are."""
        return self.manifest.component(name)

    def path(self, name: str) -> Path:
        """The checkpoint that holds a component; a UserError says which ones there are."""
        self.component(name)
        return self.paths[name]

    def load(self, component: str, mesh: Mesh, dtype: DTypeLike, part: WeightPath = ()) -> LoadedNetwork:
        """A component's network, or the module at a path of it; see `load_network`.

        Hashes are checked whenever a network is loaded, but once for all of its parts.
        """
        path = self.path(component)
        if part and component not in self._checked:
            check_weights(path, component)
            self._checked.add(component)
        return load_network(path, component, mesh, dtype, part)

    def tokenizer(self, component: str) -> TextTokenizer:
        """Return the tokenizer of a text encoder; a UserError says which file is damaged or missing."""
        encoder = encoder_of_kind(self.component(component).kind)
        return encoder.load_tokenizer(tokenizer_folder(self.path(component), component))

    def check_sizes(self, components: Sequence[str]) -> None:
        """Find missing and truncated files at once.

        Raises:
            UserError: names the first such file, or a component that none of the checkpoints has.
        """
        for component in components:
            check_sizes(self.path(component), component)

    def _add(self, checkpoint: Path, manifest: Manifest) -> None:
        for name, component in manifest.components.items():
            _check(checkpoint, name, component)
            kept = {path: file for path, file in self.manifest.files.items() if not path.startswith(f"{name}/")}
            added = {path: file for path, file in manifest.files.items() if path.startswith(f"{name}/")}
            self.manifest = Manifest({**self.manifest.components, name: component}, kept | added)
            self.paths[name] = checkpoint


def _check(checkpoint: Path, name: str, component: Component) -> None:
    """Refuse a record that no network can be built of, before any is built."""
    try:
        architecture_of(component)
        for settings in component.schedulers.values():
            SchedulerConfig.from_json(settings)
        check_recorded(name, component)
    except UserError as error:
        raise CheckpointError(checkpoint, f"{checkpoint / MANIFEST}: components: {name}: {error}") from None


def split_names(names: str | Path) -> list[Path]:
    """The folders that `A,B` names; a folder whose own name has a comma is one."""
    if os.path.exists(os.path.expanduser(names)):
        return [user_path(names)]
    return [user_path(name.strip()) for name in str(names).split(",")]


def is_run(folder: Path) -> bool:
    """Whether a folder is the working directory of a training run."""
    return not os.path.exists(folder / MANIFEST) and os.path.isdir(folder / CHECKPOINTS)


def _resolve(folder: Path) -> Path:
    if not is_run(folder):
        return folder
    step = from_first_process(lambda: latest(folder))
    if step is None:
        raise UserError(f"{folder}: this training run has no checkpoint yet; take another, or train on")
    return step
