"""The table of text encoders, with one row each. The facts of a row are stated nowhere else.

CONTRIBUTING.md has the steps to add an encoder. The stages that use an encoder name its component.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from flax import nnx

from show1_jax.errors import UserError
from show1_jax.nn.clip import CLIPTextConfig, CLIPTextEncoder
from show1_jax.nn.t5 import T5Config, T5Encoder
from show1_jax.nn.text_architecture import TextArchitecture
from show1_jax.text.tokenizers import (
    MAX_LENGTH,
    TextTokenizer,
    load_clip_tokenizer,
    load_t5_tokenizer,
    write_clip_tokenizer,
    write_t5_tokenizer,
)


@dataclass(frozen=True)
class TextEncoder:
    """A row of the table of text encoders.

    Attributes:
        component: name in checkpoints and configs.
        kind: kind of network in the component's record.
        architecture: dataclass of the architecture.
        network: module, constructed from an architecture and `Layers`.
        load_tokenizer: function that reads the tokenizer's files from a folder; raises UserError.
        write_tokenizer: function that writes the files of a small tokenizer into a folder; see `small_tokenizer`.
        takes_mask: the network is called with ids and mask, not with ids alone.
        length: upper bound of the positions of a tokenized text.
        streams: the network has the parts of T5's encoder, and can run block by block (`show1_jax.text.streaming`).
    """

    component: str
    kind: str
    architecture: type[TextArchitecture]
    network: type[nnx.Module]
    load_tokenizer: Callable[[Path], TextTokenizer]
    write_tokenizer: Callable[[Path, Sequence[str]], None]
    takes_mask: bool
    length: int = MAX_LENGTH
    streams: bool = False

    def small_tokenizer(self, texts: Sequence[str] = ()) -> TextTokenizer:
        """Return a tokenizer with a token for every byte and merges of the frequent sequences in `texts`."""
        with tempfile.TemporaryDirectory() as folder:
            self.write_tokenizer(Path(folder), texts)
            return self.load_tokenizer(Path(folder))


TEXT_ENCODERS: Final[dict[str, TextEncoder]] = {
    encoder.component: encoder
    for encoder in (
        TextEncoder(
            component="text_t5",
            kind="t5",
            architecture=T5Config,
            network=T5Encoder,
            load_tokenizer=load_t5_tokenizer,
            write_tokenizer=write_t5_tokenizer,
            takes_mask=True,
            streams=True,
        ),
        TextEncoder(
            component="text_clip",
            kind="clip",
            architecture=CLIPTextConfig,
            network=CLIPTextEncoder,
            load_tokenizer=load_clip_tokenizer,
            write_tokenizer=write_clip_tokenizer,
            takes_mask=False,
        ),
    )
}
"""The rows by component."""


def encoder_of_kind(kind: str) -> TextEncoder:
    """Return the row of a kind of text encoder.

    Raises:
        UserError: there is no text encoder of this kind.
    """
    kinds = {encoder.kind: encoder for encoder in TEXT_ENCODERS.values()}
    if kind not in kinds:
        raise UserError(f"kind={kind!r} is not a text encoder; use one of {', '.join(kinds)}")
    return kinds[kind]
