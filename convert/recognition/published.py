"""The description of a published network, and the content of its files."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from show1_jax.nn.config import Architecture

from ..hub import NeededFiles
from ..rules import KeyTable


@dataclass(frozen=True)
class Published:
    """The content of a published file or folder.

    Attributes:
        weights: the arrays by their published keys.
        files: the files that were read, whose SHA-256 is recorded, by name.
        architecture: the network's architecture.
        config: the published `config.json`; empty if there is none.
        tokenizer: the files of its tokenizer by name; empty if it has none.
    """

    weights: Mapping[str, np.ndarray]
    files: Mapping[str, Path]
    architecture: Architecture
    config: Mapping[str, Any] = field(default_factory=dict)
    tokenizer: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True)
class PublishedNetwork:
    """A row of the table.

    Attributes:
        kind: the kind of network, and the name of its component.
        source: the file or folder to get, for help and for messages.
        licence: the licence of its weights.
        table: the table of its keys.
        read: reads the file or folder; raises UserError, and checks names and shapes of nothing.
        hub_files: the files to download from a repository of the hub; None if it is not published there.
    """

    kind: str
    source: str
    licence: str
    table: KeyTable
    read: Callable[[Path], Published]
    hub_files: NeededFiles | None = None
