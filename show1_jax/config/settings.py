"""Settings as frozen, validated dataclasses: every field's type and every number's bounds are checked."""

import dataclasses
import difflib
import types
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, TypeVar, Union, get_args, get_origin

from show1_jax.config.bounds import MAX_LEVELS, bounds
from show1_jax.errors import UserError, shown

Remat = Literal["none", "dots", "full"]


SettingsType = TypeVar("S", bound="Settings")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Base of all settings: to and from the plain dictionaries that configs, checkpoints and run records hold.

    Every field's type and every number's bounds (`show1_jax.config.bounds`) are checked when one is made.

    Raises:
        UserError: a field has a value of the wrong type, or a number outside its bounds.
    """

    __no_type_check__: ClassVar[bool] = True
    """Runtime type checkers leave the constructors alone: these check their fields, in lines for users."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not _has_type(field.type, value):
                self._require(False, f"{field.name}={shown(value)} {_wanted(field.type)}")
            self._check_bounds(field.name, value)

    def to_dict(self) -> dict[str, Any]:
        """Every field by name; tuples become lists, so that a trip through JSON changes nothing."""
        plain = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {
            name: value.to_dict() if isinstance(value, Settings) else list(value) if isinstance(value, tuple) else value
            for name, value in plain.items()
        }

    @classmethod
    def from_dict(cls: type[SettingsType], values: Any) -> SettingsType:
        """Build from `to_dict`'s form.

        Raises:
            UserError: it is no mapping; a field is unknown (the line has the nearest name) or missing, has a value of
                the wrong type, or is a number outside its bounds.
        """
        if not isinstance(values, Mapping) or not all(isinstance(name, str) for name in values):
            raise UserError(f"{cls.__name__}: {shown(values)} must be settings by name")
        fields = {field.name: field for field in dataclasses.fields(cls)}
        for name in values:
            if name not in fields:
                close = difflib.get_close_matches(name[:100], fields, n=1)
                unknown = f"{cls.__name__} has no field {shown(name)}"
                raise UserError(unknown + (f"; did you mean {close[0]!r}?" if close else ""))
        required = {name for name, field in fields.items() if _is_required(field)}
        if missing := sorted(required - values.keys()):
            raise UserError(f"{cls.__name__} lacks {', '.join(missing)}")
        return cls(**{name: _plain_to_typed(fields[name].type, value) for name, value in values.items()})

    def _check_bounds(self, name: str, value: Any) -> None:
        if isinstance(value, tuple):
            is_text = bool(value) and isinstance(value[0], str)
            self._require(is_text or len(value) <= MAX_LEVELS, f"{name} has more than {MAX_LEVELS} entries")
            for item in value:
                self._check_bounds(name, item)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            low, high = bounds(type(self), name)
            self._require(low <= value <= high, f"{name}={shown(value)} must be from {low:.12g} to {high:.12g}")

    def _require(self, condition: bool, what: str) -> None:
        if not condition:
            raise UserError(f"{type(self).__name__}: {what}")


def _plain_to_typed(kind: Any, value: Any) -> Any:
    """Convert what JSON and config files know to a field's type, where it can be; the rest is for the type check."""
    if isinstance(kind, type) and issubclass(kind, Settings):
        return value if isinstance(value, kind) else kind.from_dict(value)
    if kind is float and type(value) is int and abs(value) < 2**1000:  # a larger one overflows; its bounds refuse it
        return float(value)
    return tuple(value) if isinstance(value, list) else value


def _has_type(kind: Any, value: Any) -> bool:
    """Return whether a value is of an annotated type, with a whole number for a float but no bool for a number."""
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return True
    if origin is Literal:
        return isinstance(value, str) and value in arguments
    if origin in (Union, types.UnionType):
        return any(_has_type(argument, value) for argument in arguments)
    if origin is tuple:
        return isinstance(value, tuple) and all(_has_type(arguments[0], item) for item in value)
    if origin is dict:
        of_key, of_value = arguments
        return isinstance(value, dict) and all(
            _has_type(of_key, k) and _has_type(of_value, v) for k, v in value.items()
        )
    if kind in (bool, int, str, float):
        return type(value) is kind or (kind is float and type(value) is int)
    return isinstance(value, kind)


_TYPE_WORDS = {
    bool: ("true or false", "true or false"),
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    str: ("a string", "strings"),
    types.NoneType: ("none", "none"),
}
"""Types in words: of one value, and of those of a list."""


_SETTINGS_WORDS = ("settings by name",) * 2


def _expected(kind: Any) -> str:
    """Return what a value of an annotated type must be, for the line that refuses another."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return f"is none of {', '.join(map(repr, arguments))}"
    if origin is tuple:
        return f"must be a list of {_KINDS.get(arguments[0], _BY_NAME)[1]}"
    alternatives = arguments if origin in (Union, types.UnionType) else (kind,)
    return "must be " + " or ".join(_TYPE_WORDS.get(each, _SETTINGS_WORDS)[0] for each in alternatives)


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as one dictionary with dotted names."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat


def _is_required(field: "dataclasses.Field[Any]") -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
