"""The recorded run's text encoder and tokenizers."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from show1_jax.nn.t5 import T5Encoder
from show1_jax.text.tokenizers import CLIPTokenizer, T5Tokenizer, load_clip_tokenizer, load_t5_tokenizer
from tests.helpers.encoders import CLIP_FOLDER, T5_FOLDER, encoder


@pytest.fixture(scope="module")
def t5(golden: Path) -> T5Encoder:
    network = encoder(golden / T5_FOLDER, "t5")
    assert isinstance(network, T5Encoder)
    return network


@pytest.fixture(scope="module")
def t5_tokenizer(golden: Path) -> T5Tokenizer:
    return load_t5_tokenizer(golden / T5_FOLDER / "tokenizer")


@pytest.fixture(scope="module")
def clip_tokenizer(golden: Path) -> CLIPTokenizer:
    return load_clip_tokenizer(golden / CLIP_FOLDER / "tokenizer")


@pytest.fixture(scope="module")
def recorded(golden: Path) -> Mapping[str, str]:
    return json.loads((golden / "trace.json").read_text())
