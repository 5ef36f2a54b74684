"""Settings of LoRA files: anything is read or refused in one line, and patterns are found as peft finds them."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from convert.lora.settings import LoraSettings, lora_settings
from show1_jax.errors import UserError

NAMES = ("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "bias", "init_lora_weights", "peft_type")
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=12), VALUES, max_size=5))
def test_any_settings_are_read_or_refused_in_one_line(tmp_path: Path, values: dict[str, Any]) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps(values))
    read, line = LoraSettings(), ""
    try:
        read = lora_settings(tmp_path / "adapter_model.bin")
    except UserError as error:
        line = str(error)
    assert "\n" not in line
    assert (read.rank_of("conv_in") or 1) > 0
    assert read.alpha_of("conv_in", 4) > 0


@given(
    names=st.lists(st.sampled_from(["to_q", "attn.to_q", "^to_q", "^attn.to_q", "q", "b.to_q", "conv"]), unique=True),
    layer=st.sampled_from(["to_q", "attn.to_q", "b.attn.to_q", "a.b.to_q", "xto_q", "conv"]),
)
def test_patterns_are_those_of_peft(names: list[str], layer: str) -> None:
    """The library tries the regular expressions `(.*\\.)?(NAME)$` in their order."""
    matches = [number for number, name in enumerate(names) if re.match(rf"(.*\.)?({name})$", layer)]
    read = LoraSettings(rank=9, ranks={name: number for number, name in enumerate(names)})
    assert read.rank_of(layer) == (matches[0] if matches else 9)


def test_absent_settings_mean_alpha_is_the_rank(tmp_path: Path) -> None:
    read = lora_settings(tmp_path / "adapter_model.bin")
    assert read == LoraSettings()
    assert read.rank_of("conv_in") is None
    assert read.alpha_of("conv_in", 5) == 5


@pytest.mark.parametrize("text", ["{", "[1]", "7"])
def test_damaged_settings(tmp_path: Path, text: str) -> None:
    (tmp_path / "adapter_config.json").write_text(text)
    with pytest.raises(UserError, match=r"adapter_config\.json: not "):
        lora_settings(tmp_path / "adapter_model.bin")
