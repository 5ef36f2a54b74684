"""Text encoders against the recorded run (transformers 4.41.2)."""

import gzip
import json
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.typing import DTypeLike

from convert.rules import released_tensors
from convert.tables import KINDS
from show1_jax.nn.layers import Layers
from show1_jax.nn.t5 import T5Encoder
from show1_jax.text.tokenizers import CLIPTokenizer, T5Tokenizer
from tests.helpers.encoders import CLIP_FOLDER, NETWORKS, T5_FOLDER, encode, encoder, relative_error


@pytest.mark.parametrize(("row", "name"), [(0, "text/t5_prompt"), (1, "text/t5_negative")])
def test_t5_gives_the_recorded_states(
    t5: T5Encoder,
    t5_tokenizer: T5Tokenizer,
    recorded: Mapping[str, str],
    trace: dict[str, np.ndarray],
    row: int,
    name: str,
) -> None:
    ids, mask = t5_tokenizer([recorded["prompt"], ""])
    states = encode(t5, ids, mask)
    assert relative_error(states[row : row + 1], trace[name]) <= 3e-6  # measured 6e-7


def test_clip_gives_the_recorded_states(
    golden: Path, clip_tokenizer: CLIPTokenizer, recorded: Mapping[str, str], trace: dict[str, np.ndarray]
) -> None:
    ids = clip_tokenizer([recorded["prompt"], recorded["negative_prompt"]]).ids
    states = encode(encoder(golden / CLIP_FOLDER, "clip"), ids)
    assert relative_error(states, trace["text/clip"]) <= 3e-6  # measured 3e-7


@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.bfloat16, 4e-2), (jnp.float16, 5e-3)])
def test_half_precision_stays_close(
    golden: Path, trace: dict[str, np.ndarray], dtype: DTypeLike, tolerance: float
) -> None:
    # JAX and Flax themselves mix types where their norms are float32.
    with jax.numpy_dtype_promotion("standard"):
        states = encode(encoder(golden / T5_FOLDER, "t5", dtype), trace["text/t5_ids"], trace["text/t5_mask"])
        assert states.dtype == dtype
        assert relative_error(states, trace["text/t5_prompt"]) <= tolerance
        states = encode(encoder(golden / CLIP_FOLDER, "clip", dtype), trace["text/clip_ids"])
        assert states.dtype == dtype
        assert relative_error(states, trace["text/clip"]) <= tolerance


def test_t5_tokens_do_not_attend_to_padding(t5: T5Encoder) -> None:
    ids = np.array([[8, 24, 11, 1, 0, 0], [8, 24, 11, 1, 33, 7]])
    states = encode(t5, ids, np.array([[1, 1, 1, 1, 0, 0]] * 2))
    np.testing.assert_array_equal(states[0, :4], states[1, :4])


def test_clip_tokens_do_not_attend_to_later_ones(golden: Path) -> None:
    ids = np.array([[577, 320, 513, 578, 578], [577, 320, 513, 7, 8]])
    states = encode(encoder(golden / CLIP_FOLDER, "clip"), ids)
    np.testing.assert_array_equal(states[0, :3], states[1, :3])
    assert not np.allclose(states[0, 3], states[1, 3])


@pytest.mark.parametrize(
    ("component", "kind"), [("show-1-base/text_encoder", "t5"), ("show-1-sr2/text_encoder", "clip")]
)
def test_full_size_parameters(golden: Path, component: str, kind: str) -> None:
    full_size = json.loads(gzip.decompress((golden / "full_size_keys.json.gz").read_bytes()))[component]
    network = NETWORKS[kind](KINDS[kind].read_config(full_size["config"]), Layers())
    state = nnx.state(network, nnx.Param)
    shapes = {source.key: list(source.shape) for source in released_tensors(state, KINDS[kind].table).values()}
    repeated = {"encoder.embed_tokens.weight"} if kind == "t5" else set()
    assert shapes == {key: shape for key, shape in full_size["keys"].items() if key not in repeated}
