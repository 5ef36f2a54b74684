"""Lack of memory on a device is one line, by the words that XLA has for it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from show1_jax.errors import UserError
from show1_jax.runtime import memory_errors


def test_lack_of_memory_is_one_line() -> None:
    with pytest.raises(UserError, match=r"^the devices' memory is too small; take less$"), memory_errors("take less"):
        jnp.zeros(1 << 48, jnp.uint8).block_until_ready()


def test_other_errors_of_jax_are_not_called_that() -> None:
    error = jax.errors.JaxRuntimeError("INTERNAL: something else")
    with pytest.raises(jax.errors.JaxRuntimeError, match="something else"), memory_errors("take less"):
        raise error


def test_lack_of_the_machines_memory_is_one_line() -> None:
    with (
        pytest.raises(
            UserError, match=r"^the memory of this machine is too small \(Unable to allocate .*\); end other"
        ),
        memory_errors("take less"),
    ):
        np.empty(1 << 60, np.uint8)
