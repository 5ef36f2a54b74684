"""The dictionary that config files return: `ml_collections.ConfigDict`, whose values are set as attributes.

Overrides on the command line need ml_collections. Without it, a plain dictionary with the same attributes takes its
place, so that programs which take no overrides, such as measurements on a bare machine, can still read a config file.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any


class PlainConfigDict(dict[str, Any]):
    """Nested settings, as items and as attributes, with the part of `ml_collections.ConfigDict` that configs use."""

    def __init__(self, values: Mapping[str, Any]):
        super().__init__()
        self.update(values)

    def __setitem__(self, name: str, value: Any) -> None:
        is_plain = isinstance(value, Mapping) and not isinstance(value, PlainConfigDict)
        super().__setitem__(name, PlainConfigDict(value) if is_plain else value)

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"there is no setting {name!r}") from None

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def update(self, values: Mapping[str, Any] = {}, /, **more: Any) -> None:  # type: ignore[override]
        """Set some settings; in groups that exist, the settings that are not named stay as they are."""
        for name, value in {**values, **more}.items():
            if isinstance(value, Mapping) and isinstance(self.get(name), PlainConfigDict):
                self[name].update(value)
            else:
                self[name] = value

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain dictionaries."""
        return {name: value.to_dict() if isinstance(value, PlainConfigDict) else value for name, value in self.items()}


if TYPE_CHECKING:
    from ml_collections import ConfigDict
else:
    try:
        from ml_collections import ConfigDict
    except ImportError:
        ConfigDict = PlainConfigDict

__all__ = ["ConfigDict", "PlainConfigDict"]
