"""What several processes must agree on although only the first one sees the files."""

import pickle
from collections.abc import Callable
from typing import TypeVar

import jax
import numpy as np
from jax.experimental.multihost_utils import broadcast_one_to_all

from show1_jax.errors import UserError

T = TypeVar("T")


def from_first_process(compute: Callable[[], T]) -> T:
    """Compute something in the first process alone and have the result, or its UserError, in all of them.

    Every process must call it, at the same point. The result is pickled.
    """
    if jax.process_count() == 1:
        return compute()
    message = b""
    if jax.process_index() == 0:
        try:
            message = pickle.dumps((compute(), None))
        except UserError as error:
            message = pickle.dumps((None, str(error)))
    size = int(broadcast_one_to_all(np.int32(len(message))))
    padded = np.frombuffer(message.ljust(size, b"\0"), np.uint8)
    result: tuple[T, str | None] = pickle.loads(broadcast_one_to_all(padded).tobytes())
    if result[1] is not None:
        raise UserError(result[1])
    return result[0]
