"""Licences of weights, as the provenance of components records them."""

import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from show1_jax.errors import UserError, shown_name

_HUB_ID: Final = re.compile(r"[a-z0-9]+([.-][a-z0-9]+)*")


class Licence(NamedTuple):
    """A licence of weights.

    Attributes:
        text: the recorded text; empty if none is recorded.
        hub_id: identifier of the licence on the hub; `other` if the hub has none.
        restriction: reason for which weights under it cannot be published without a decision of the user; empty: none.
    """

    text: str
    hub_id: str
    restriction: str


def licence_of(provenance: Mapping[str, Any]) -> Licence:
    """Return the licence of a component: its own, or that of the weights from which its training started.

    Args:
        provenance: provenance of the component, see `Component`.
    """
    current: Any = provenance
    while isinstance(current, Mapping):
        if text := current.get("licence"):
            return _known(" ".join(str(text).split()))
        current = current.get("starts_from")
    return Licence("", "", "")


def _known(text: str) -> Licence:
    if text.startswith("CC BY-NC 4.0") or "-nc" in text:
        hub_id = text if _HUB_ID.fullmatch(text) else "cc-by-nc-4.0"
        return Licence(text, hub_id, "it forbids commercial use, and asks for credit to its authors")
    if text.startswith("DeepFloyd IF") or text == "deepfloyd-if-license":
        return Licence(text, "other", "it allows research only, and every user has to accept it")
    if _HUB_ID.fullmatch(text) and text not in ("other", "unknown"):
        return Licence(text, text, "")
    return Licence(text, "other", "its terms are not known here, and may forbid it")


def check_licence(text: str) -> None:
    """Refuse a text that is not the name of a licence as the hub writes it, e.g. `apache-2.0`.

    Raises:
        UserError: it is not; the line has examples.
    """
    if not _HUB_ID.fullmatch(text):
        raise UserError(f"the licence {shown_name(text)} is no name of one; give e.g. apache-2.0, mit or cc-by-4.0")
