"""The base of the text encoders' architectures, which reads a released `config.json`."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

from show1_jax.config.without_effect import refused_fields
from show1_jax.errors import UserError, shown
from show1_jax.nn.config import Architecture

TextArchitectureT = TypeVar("TextArchitectureT", bound="TextArchitecture")


@dataclasses.dataclass(frozen=True)
class TextArchitecture(Architecture):
    """A text encoder whose fields have the names of its released `config.json`.

    Attributes:
        kind: kind of encoder, a key of `show1_jax.config.without_effect`.
        only: fields of a `config.json` with one supported value each, which is also the default.
        vocab_size: rows of the token embedding; ids are below it.
    """

    kind: ClassVar[str]
    only: ClassVar[Mapping[str, Any]]

    vocab_size: int

    @property
    def state_width(self) -> int:
        """Channels of the states that networks are conditioned on."""
        raise NotImplementedError

    @property
    def max_positions(self) -> int | None:
        """The largest number of tokens of a text; None without a limit."""
        return None

    @classmethod
    def from_json(cls: type[TextArchitectureT], settings: Mapping[str, Any]) -> TextArchitectureT:
        """Build from a released `config.json`.

        Raises:
          UserError: a field is missing, its value is not supported, or it is not known to have no effect.
        """
        for name, value in cls.only.items():
            if settings.get(name, value) != value:
                raise UserError(f"{cls.kind}: {name}={shown(settings[name])} is not supported, only {value!r}")
        known = {field.name for field in dataclasses.fields(cls)}
        rest = {name: value for name, value in settings.items() if name not in known and name not in cls.only}
        architecture = cls.from_dict({name: value for name, value in settings.items() if name in known})
        for problem in refused_fields(cls.kind, rest, settings):
            raise UserError(f"{cls.kind}: {problem}")
        return architecture
