"""Records of training steps: a run resumes with the values that it saved, and an edited record is refused by field."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from show1_jax.errors import UserError
from show1_jax.training.run.job import _write_config
from show1_jax.training.run.metrics import MetricsWriter
from show1_jax.training.run.record import StepRecord
from tests.helpers import tiny_config

RECORD: dict[str, Any] = {
    "stage": "keyframes",
    "step": 3,
    "data": {"next_batch": 3, "failures": {"num_read": 24, "num_failed": 1, "named": {"v1": "it is empty"}}},
    "fingerprint": "0" * 64,
    "network": [{"in_channels": 3}, {"scheduler": {}}],
    "settings": {"batch_size": 8},
    "config": {"seed": 1},
    "mesh": {"data": 1},
    "processes": 1,
}
JSON: st.SearchStrategy[Any] = (
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.builds(list) | st.builds(dict)
)


def test_a_record_is_read_as_it_was_written() -> None:
    record = StepRecord.read(RECORD | {"of_a_later_version": 1}, "record.json")
    assert json.loads(json.dumps(record.to_dict())) == RECORD
    assert record.data.failures.named == {"v1": "it is empty"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"stage": 3}, "stage=3 must be a string"),
        ({"step": -1}, "step=-1 must be from 0"),
        ({"data": None}, "ClipState: None must be settings by name"),
        ({"data": {}}, "ClipState lacks next_batch"),
        ({"data": {"next_batch": "3"}}, "next_batch='3' must be a whole number"),
        ({"data": {"next_batch": 3, "failures": {"num_read": 10**400}}}, "num_read="),
        ({"data": {"next_batch": 3, "failures": {"named": {"v1": 2}}}}, "must be settings by name"),
        ({"network": None}, "network=None must be a list of settings by name"),
        ({"network": [{}]}, "network must be an architecture and its schedulers"),
        ({"settings": "x"}, "settings='x' must be settings by name"),
    ],
)
def test_an_edited_record_is_refused_by_field(change: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as raised:
        StepRecord.read(RECORD | change, "record.json")
    line = str(raised.value)
    assert line.startswith("record.json: ")
    assert said in line
    assert line.endswith("; remove that step, or use another --workdir")


@given(st.dictionaries(st.sampled_from(sorted(RECORD)), JSON), st.booleans())
def test_any_record_is_read_or_refused_in_one_line(changes: dict[str, Any], whole: bool) -> None:
    try:
        StepRecord.read(RECORD | changes if whole else changes, "record.json")
    except UserError as error:
        line = str(error)
    else:
        return
    assert "\n" not in line


def test_pipes_in_a_working_directory_are_not_waited_for(tmp_path: Path) -> None:
    for name in ("config.json", "metrics.jsonl"):
        os.mkfifo(tmp_path / name)
    _write_config(tmp_path, tiny_config.settings())
    assert json.loads((tmp_path / "config.json").read_text())["seed"] == 345
    with pytest.raises(UserError, match="not a regular file"):
        MetricsWriter(tmp_path, resumed_step=0, config={})
