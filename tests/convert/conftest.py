"""Hand-made writers of weight files as fixtures."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tests.helpers.weight_files import Pickle, Tensor, safetensors, state_dict, torch_legacy, torch_zip, whole_tensors


@pytest.fixture(scope="session")
def by_hand() -> SimpleNamespace:
    return SimpleNamespace(
        Tensor=Tensor,
        Pickle=Pickle,
        torch_zip=torch_zip,
        torch_legacy=torch_legacy,
        whole_tensors=whole_tensors,
        state_dict=state_dict,
        safetensors=safetensors,
    )


Writer = Callable[[Path, Mapping[str, np.ndarray]], None]


@pytest.fixture(params=["safetensors", "bin"])
def kind(request: pytest.FixtureRequest) -> tuple[str, Writer]:
    """Return a file name extension, and a writer of such files."""
    return request.param, {"safetensors": safetensors, "bin": state_dict}[request.param]
