"""The text encoders: a row each. What is said here of an encoder is said nowhere else.

Another encoder is a row here, a module with its network and its architecture, a row of the converter's table of keys,
and a config that has it. The stages that use an encoder name its component.
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
    """A text encoder.

    Attributes:
        component: its name in checkpoints and configs.
        kind: of its network, as a component's record has it.
        architecture: the dataclass of that.
        network: the module, made of an architecture and `Layers`.
        load_tokenizer: reads the tokenizer's files from a folder; raises UserError.
        write_tokenizer: writes the files of a small tokenizer into a folder, see `small_tokenizer`.
        takes_mask: its network is called with ids and mask, not with ids alone.
        length: positions of a text that its tokenizer gives, at most.
        streams: its network has the parts of T5's encoder, and runs block by block (`show1_jax.text.streaming`).
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
        """Return a tokenizer that knows every byte, and merges what is frequent in `texts`."""
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
"""By component."""


def encoder_of_kind(kind: str) -> TextEncoder:
    """Return the row of the text encoders of a kind.

    Raises:
        UserError: no text encoder is of this kind.
    """
    kinds = {encoder.kind: encoder for encoder in TEXT_ENCODERS.values()}
    if kind not in kinds:
        raise UserError(f"kind={kind!r} is no text encoder's; these are of {', '.join(kinds)}")
    return kinds[kind]
