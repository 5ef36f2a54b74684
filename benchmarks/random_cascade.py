"""Cascades that a config describes, with random weights and tokenizers of bytes: nothing is read or downloaded."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jax.typing import DTypeLike

from show1_jax.cascade.cascade import Cascade
from show1_jax.cascade.spec import CascadeSpec
from show1_jax.checkpoints.networks import LoadedNetwork, random_network
from show1_jax.checkpoints.random import SOURCE, described_manifest
from show1_jax.config.config_file import Config
from show1_jax.parallel.weights import WeightPath
from show1_jax.text.encoders import TEXT_ENCODERS
from show1_jax.text.tokenizers import Tokens


def described_spec(config: Config, devices: Sequence[jax.Device] | None = None) -> CascadeSpec:
    """Return the specification of the cascade that a config describes, on `devices` or, if None, on all devices."""
    manifest = described_manifest(config.architecture, config.schedulers, {"source": SOURCE})
    return CascadeSpec.of(config, manifest, devices)


def random_cascade(config: Config) -> Cascade:
    """Return the cascade that a config describes, with random weights."""
    spec = described_spec(config)

    def load(component: str, mesh: Mesh, dtype: DTypeLike, part: WeightPath = (), formats: Any = None) -> LoadedNetwork:
        return random_network(spec.manifest.component(component), mesh, dtype, part, formats)

    return Cascade(spec, load, lambda component: ByteTokenizer(TEXT_ENCODERS[component].length))


@dataclass(frozen=True)
class ByteTokenizer:
    """A `TextTokenizer` whose ids are a text's bytes plus one. Unlike the encoders' own, it needs no library."""

    length: int
    largest_id: int = 256

    def __call__(self, texts: Sequence[str]) -> Tokens:
        ids = np.zeros((len(texts), self.length), np.int32)
        for row, text in zip(ids, texts, strict=True):
            values = np.frombuffer(text.encode()[: self.length], np.uint8)
            row[: len(values)] = values.astype(np.int32) + 1
        mask = (ids > 0).astype(np.int32)
        mask[:, 0] = 1  # an empty text has one token, as with the encoders' own
        return Tokens(ids, mask)

    def cut_off(self, text: str) -> str:
        """See `TextTokenizer`."""
        return text.encode()[self.length :].decode(errors="ignore")
