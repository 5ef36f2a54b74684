"""Settings as frozen, validated dataclasses: every field's type and every number's bounds are checked."""

import dataclasses
import difflib
import types
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, TypeVar, Union, get_args, get_origin

from show1_jax.config.bounds import MAX_LEVELS, bounds
from show1_jax.errors import UserError, shown

Remat = Literal["none", "dots", "full"]


SettingsType = TypeVar("SettingsType", bound="Settings")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Base class of all settings, with conversion to and from the dictionaries of configs, checkpoints and run records.

    The constructor checks every field's type and every number's bounds (`show1_jax.config.bounds`).

    Raises:
        UserError: a field has a value of a wrong type, or a number is outside its bounds.
    """

    __no_type_check__: ClassVar[bool] = True
    """Turns runtime type checkers off for the constructors, which check their fields with errors for users."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not _has_type(field.type, value):
                self._require(False, f"{field.name}={shown(value)} {_expected(field.type)}")
            self._check_bounds(field.name, value)

    def to_dict(self) -> dict[str, Any]:
        """Return every field by name, with lists for tuples, so that writing and reading JSON changes nothing."""
        plain = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {
            name: value.to_dict() if isinstance(value, Settings) else list(value) if isinstance(value, tuple) else value
            for name, value in plain.items()
        }

    @classmethod
    def from_dict(cls: type[SettingsType], values: Any) -> SettingsType:
        """Return the settings of a dictionary in the form of `to_dict`.

        Raises:
            UserError: the value is not a mapping; a field is unknown (the line has the nearest name) or missing, has a
                value of a wrong type, or is a number outside its bounds.
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

    def _require(self, condition: bool, problem: str) -> None:
        if not condition:
            raise UserError(f"{type(self).__name__}: {problem}")


def _plain_to_typed(kind: Any, value: Any) -> Any:
    """Convert a value of JSON or a config file to a field's type if possible; the type check refuses the others."""
    if isinstance(kind, type) and issubclass(kind, Settings):
        return value if isinstance(value, kind) else kind.from_dict(value)
    if kind is float and type(value) is int and abs(value) < 2**1000:  # a larger one overflows; its bounds refuse it
        return float(value)
    return tuple(value) if isinstance(value, list) else value


def _has_type(kind: Any, value: Any) -> bool:
    """Return whether a value has an annotated type; an int is accepted as a float, a bool is not a number."""
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
"""Words for types in errors: for one value, and for the values of a list."""


_SETTINGS_WORDS = ("settings by name",) * 2


def _expected(kind: Any) -> str:
    """Return the words for an annotated type in the error that refuses another value."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return f"is not one of {', '.join(map(repr, arguments))}"
    if origin is tuple:
        return f"must be a list of {_TYPE_WORDS.get(arguments[0], _SETTINGS_WORDS)[1]}"
    alternatives = arguments if origin in (Union, types.UnionType) else (kind,)
    return "must be " + " or ".join(_TYPE_WORDS.get(each, _SETTINGS_WORDS)[0] for each in alternatives)


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings as one dictionary with dotted names."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat


def _is_required(field: "dataclasses.Field[Any]") -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
