"""Fixtures of the tests of sample.py."""

from pathlib import Path

import pytest

from tests.helpers.sample_runs import Sampler


@pytest.fixture
def sampler(tmp_path: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> Sampler:
    """Return sample.py with an empty output folder."""
    return Sampler(tiny_checkpoint, tmp_path, capsys)
