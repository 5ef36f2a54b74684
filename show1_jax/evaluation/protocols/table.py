"""The table of protocols, by name: a new protocol is a module and a row."""

from collections.abc import Mapping
from typing import Final

from show1_jax.evaluation.protocols.msrvtt import Msrvtt
from show1_jax.evaluation.protocols.protocol import Protocol
from show1_jax.evaluation.protocols.ucf101 import Ucf101

PROTOCOLS: Final[Mapping[str, type[Protocol]]] = {protocol.name: protocol for protocol in (Ucf101, Msrvtt)}
