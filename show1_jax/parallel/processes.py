"""Values that several processes share, such as those read from files that only the first process has."""

import pickle
from collections.abc import Callable
from typing import Any, Final, TypeVar

import jax
import numpy as np
from jax._src import distributed
from jax.experimental.multihost_utils import broadcast_one_to_all, process_allgather

from show1_jax.errors import UserError
from show1_jax.parallel.mesh import all_devices

Value = TypeVar("Value")

_LONGEST_WAIT_SECONDS: Final = 7 * 86_400


def from_first_process(compute: Callable[[], Value]) -> Value:
    """Compute a value in the first process alone and return it in all processes.

    All processes must call it, at the same point. The value is pickled.

    Raises:
        UserError: raised by the first process, or JAX has no devices. Any other exception is raised unchanged in the
            first process. The others raise a UserError of one line, so that they do not wait for a dead process.
    """
    all_devices()  # raises a UserError where JAX may raise any exception
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
    result: tuple[Value, str | None] = pickle.loads(broadcast_one_to_all(padded).tobytes())
    if failure is not None:
        raise failure
    if result[1] is not None:
        raise UserError(result[1])
    return result[0]


def from_all_processes(value: Value) -> list[Value]:
    """Return the values of all processes, in the order of the processes, in every process.

    All processes must call it, at the same point. The values are pickled.
    """
    if jax.process_count() == 1:
        return [value]
    message = pickle.dumps(value)
    size = int(process_allgather(np.int32(len(message))).max())
    padded = np.frombuffer(message.ljust(size, b"\0"), np.uint8)
    return [pickle.loads(row.tobytes()) for row in process_allgather(padded)]


def wait_for_all_processes(name: str) -> None:
    """Wait until all processes have called this with the same name, however long one of them takes.

    Collective operations are no way to wait: they time out. If a process is lost, the supervision ends the others.
    """
    client: Any = distributed.global_state.client
    if jax.process_count() > 1:
        client.wait_at_barrier(f"show1/{name}", _LONGEST_WAIT_SECONDS * 1000)
