"""What several processes must agree on although only the first one sees the files."""

import pickle
from collections.abc import Callable
from typing import TypeVar

import jax
import numpy as np
from jax.experimental.multihost_utils import broadcast_one_to_all, process_allgather

from show1_jax.errors import UserError
from show1_jax.parallel.mesh import all_devices

T = TypeVar("T")


def from_first_process(compute: Callable[[], T]) -> T:
    """Compute something in the first process alone and have the result in all of them.

    Every process must call it, at the same point. The result is pickled.

    Raises:
        UserError: the first process's, or JAX has no devices. Of any other exception, which the first process raises
            as it is, the others are told in one line, so that none waits for a process that is gone.
    """
    all_devices()  # says what is wrong where JAX would raise anything
    if jax.process_count() == 1:
        return compute()
    message, failure = b"", None
    if jax.process_index() == 0:
        try:
            message = pickle.dumps((compute(), None))
        except UserError as error:
            message = pickle.dumps((None, str(error)))
        except BaseException as error:
            failure = error
            message = pickle.dumps((None, f"the first process failed: {type(error).__name__}: {error}"))
    size = int(broadcast_one_to_all(np.int32(len(message))))
    padded = np.frombuffer(message.ljust(size, b"\0"), np.uint8)
    result: tuple[T, str | None] = pickle.loads(broadcast_one_to_all(padded).tobytes())
    if failure is not None:
        raise failure
    if result[1] is not None:
        raise UserError(result[1])
    return result[0]


def from_all_processes(value: T) -> list[T]:
    """What every process has, in the processes' order, in all of them.

    Every process must call it, at the same point. The values are pickled.
    """
    if jax.process_count() == 1:
        return [value]
    message = pickle.dumps(value)
    size = int(process_allgather(np.int32(len(message))).max())
    padded = np.frombuffer(message.ljust(size, b"\0"), np.uint8)
    return [pickle.loads(row.tobytes()) for row in process_allgather(padded)]
