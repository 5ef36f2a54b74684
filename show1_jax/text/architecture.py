"""What the two text encoders' architectures share: reading a released `config.json`."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

from show1_jax.config import Architecture


@dataclasses.dataclass(frozen=True)
class TextArchitecture(Architecture):
    """A text encoder whose fields have the names of its released `config.json`."""

    @classmethod
    def from_json(cls, settings: Mapping[str, Any]) -> Self:
        """Build from a released `config.json`; keys that do not change the encoder's numbers are ignored.

        Raises:
          UserError: a key is missing, or its value is none that is built.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        return cls.from_dict({name: value for name, value in settings.items() if name in known})
