"""Outputs of the reference implementations; `benchmarks/record_recognition.py` made them."""

from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="session")
def recordings(golden: Path) -> dict[str, np.ndarray]:
    with np.load(golden / "recognition/recordings.npz") as file:
        return dict(file)
