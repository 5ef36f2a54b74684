"""Text encoders and tokenizers against the recorded run (transformers 4.41.2), and beyond what it covers."""

import gzip
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.typing import DTypeLike

from convert.reader import open_weights
from convert.rules import match, sources
from convert.tables import KINDS
from show1_jax import text
from show1_jax.errors import UserError
from show1_jax.layers import Layers
from show1_jax.text.clip import FeedForward
from show1_jax.text.t5 import relative_position_buckets
from show1_jax.text.tokenizers import CLIPTokenizer, T5Tokenizer
from show1_jax.weights import to_state, to_weights

NETWORKS = {"t5": text.T5Encoder, "clip": text.CLIPTextEncoder}
T5_FOLDER = "checkpoints/show-1-base"
CLIP_FOLDER = "checkpoints/show-1-sr2"


def encoder(folder: Path, kind: str, dtype: DTypeLike = jnp.float32) -> nnx.Module:
    """A recorded encoder, through the production converter's tables."""
    config = KINDS[kind].read_config(json.loads((folder / "text_encoder/config.json").read_text()))
    network = NETWORKS[kind](config, Layers(dtype, dtype))
    state = nnx.state(network, nnx.Param)
    weights = match(open_weights(folder / "text_encoder"), state, KINDS[kind].table, where=kind)
    for path, variable in nnx.to_flat_state(state):
        variable.set_value(jnp.asarray(weights[tuple(map(str, path))], dtype))
    nnx.update(network, state)
    return network


@nnx.jit
def encode(network: nnx.Module, *args: np.ndarray) -> jax.Array:
    """Call an encoder, compiled."""
    return network(*(jnp.asarray(array, jnp.int32) for array in args))


def relative_error(actual: jax.Array, expected: np.ndarray) -> float:
    """Norm of the difference over the norm."""
    return float(np.linalg.norm(np.asarray(actual, np.float32) - expected) / np.linalg.norm(expected))


@pytest.fixture(scope="module")
def t5(golden: Path) -> text.T5Encoder:
    network = encoder(golden / T5_FOLDER, "t5")
    assert isinstance(network, text.T5Encoder)
    return network


@pytest.fixture(scope="module")
def t5_tokenizer(golden: Path) -> T5Tokenizer:
    return text.load_t5_tokenizer(golden / T5_FOLDER / "tokenizer")


@pytest.fixture(scope="module")
def clip_tokenizer(golden: Path) -> CLIPTokenizer:
    return text.load_clip_tokenizer(golden / CLIP_FOLDER / "tokenizer")


@pytest.fixture(scope="module")
def recorded(golden: Path) -> Mapping[str, str]:
    return json.loads((golden / "trace.json").read_text())


# Encoders


@pytest.mark.parametrize(("row", "name"), [(0, "text/t5_prompt"), (1, "text/t5_negative")])
def test_t5_gives_the_recorded_states(
    t5: text.T5Encoder,
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


def test_t5_residual_stream_may_leave_the_range_of_float16(golden: Path, trace: dict[str, np.ndarray]) -> None:
    states = {}
    with jax.numpy_dtype_promotion("standard"):
        for dtype in (jnp.float32, jnp.float16):
            network = encoder(golden / T5_FOLDER, "t5", dtype)
            assert isinstance(network, text.T5Encoder)
            for block in network.block:
                feed_forward = block.layer[1].DenseReluDense
                for layer, factor in ((feed_forward.wi_1, 100), (feed_forward.wo, 1e4)):
                    layer.kernel[...] *= factor
            states[dtype] = encode(network, trace["text/t5_ids"], trace["text/t5_mask"])
    assert relative_error(states[jnp.float16], np.asarray(states[jnp.float32])) <= 2e-2


@pytest.mark.parametrize(("num_buckets", "max_distance", "length"), [(32, 128, 400), (16, 64, 100)])
def test_relative_position_buckets(num_buckets: int, max_distance: int, length: int) -> None:
    buckets = relative_position_buckets(length, num_buckets, max_distance)
    half, exact = num_buckets // 2, num_buckets // 4
    ratio = max_distance // exact
    for distance in range(length):
        # floor(exact + log(distance / exact) / log(ratio) * exact), in integers
        far = max([0, *(k for k in range(exact + 1) if distance**exact >= exact**exact * ratio**k)])
        bucket = distance if distance < exact else min(exact + far, half - 1)
        assert buckets[distance, 0] == bucket, "keys before the query"
        if distance:
            assert buckets[0, distance] == half + bucket, "keys after the query"
    assert (buckets[1:, 1:] == buckets[:-1, :-1]).all()


def test_t5_tokens_do_not_see_padding(t5: text.T5Encoder) -> None:
    ids = np.array([[8, 24, 11, 1, 0, 0], [8, 24, 11, 1, 33, 7]])
    states = encode(t5, ids, np.array([[1, 1, 1, 1, 0, 0]] * 2))
    np.testing.assert_array_equal(states[0, :4], states[1, :4])


def test_clip_tokens_see_no_later_ones(golden: Path) -> None:
    ids = np.array([[577, 320, 513, 578, 578], [577, 320, 513, 7, 8]])
    states = encode(encoder(golden / CLIP_FOLDER, "clip"), ids)
    np.testing.assert_array_equal(states[0, :3], states[1, :3])
    assert not np.allclose(states[0, 3], states[1, 3])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # Values of the original's functions of these names at -2, -0.5, 0.7, 3, in float64.
        ("gelu", [-0.04550026, -0.15426877, 0.53062544, 2.99595031]),
        ("gelu_new", [-0.04540231, -0.15428599, 0.53057013, 2.99636261]),
        ("quick_gelu", [-0.06434138, -0.14961156, 0.53689395, 2.98192869]),
    ],
)
def test_clip_activations(name: str, expected: list[float]) -> None:
    config = text.CLIPTextConfig(9, 4, 4, 1, 1, hidden_act=name)
    graph, state = nnx.split(FeedForward(config, Layers()))
    weights = {path: np.eye(4) if path[-1] == "kernel" else np.zeros(4) for path in to_weights(state)}
    layer = nnx.merge(graph, to_state(state, {path: jnp.float32(weight) for path, weight in weights.items()}))
    np.testing.assert_allclose(layer(jnp.asarray([[[-2.0, -0.5, 0.7, 3.0]]]))[0, 0], expected, atol=1e-6)


def test_clip_refuses_more_tokens_than_positions(golden: Path) -> None:
    with pytest.raises(UserError, match=r"78 tokens.*77 positions"):
        encode(encoder(golden / CLIP_FOLDER, "clip"), np.zeros((1, 78), int))


# Architectures


@pytest.mark.parametrize(
    ("component", "kind"), [("show-1-base/text_encoder", "t5"), ("show-1-sr2/text_encoder", "clip")]
)
def test_full_size_parameters(golden: Path, component: str, kind: str) -> None:
    full_size = json.loads(gzip.decompress((golden / "full_size_keys.json.gz").read_bytes()))[component]
    network = NETWORKS[kind](KINDS[kind].read_config(full_size["config"]), Layers())
    state = nnx.state(network, nnx.Param)
    shapes = {source.key: list(source.shape) for source in sources(state, KINDS[kind].table).values()}
    repeated = {"encoder.embed_tokens.weight"} if kind == "t5" else set()
    assert shapes == {key: shape for key, shape in full_size["keys"].items() if key not in repeated}


def t5_settings(**changes: object) -> dict[str, object]:
    """A T5 config.json as the first released ones were: without the keys that came later."""
    sizes = {"vocab_size": 9, "d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2}
    return {**sizes, "feed_forward_proj": "gated-gelu", "dropout_rate": 0.1, "output_past": True, **changes}


def clip_settings(**changes: object) -> dict[str, object]:
    """A CLIP config.json with nothing but sizes."""
    sizes = {"vocab_size": 9, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    return {**sizes, "num_attention_heads": 2, "projection_dim": 4, "attention_dropout": 0.0, **changes}


def test_absent_keys_have_their_defaults() -> None:
    assert text.T5Config.from_json(t5_settings()) == text.T5Config(9, 8, 4, 8, 1, 2, 32, 128, 1e-6)
    assert text.CLIPTextConfig.from_json(clip_settings()) == text.CLIPTextConfig(9, 8, 8, 1, 2, 77, 1e-5, "quick_gelu")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("feed_forward_proj", "relu"),
        ("feed_forward_proj", "gated-silu"),
        ("dense_act_fn", "gelu"),
        ("is_gated_act", False),
        ("model_type", "umt5"),
        ("num_heads", 0),
        ("d_model", "8"),
        ("num_layers", True),
        ("layer_norm_epsilon", -1e-6),
        ("relative_attention_num_buckets", 2),
        ("relative_attention_max_distance", 8),
    ],
)
def test_t5_config_refuses_by_field_and_value(name: str, value: object) -> None:
    with pytest.raises(UserError, match=f"{name}={value!r}"):
        text.T5Config.from_json(t5_settings(**{name: value}))


def test_t5_config_without_a_feed_forward_is_not_v1_1() -> None:
    settings = t5_settings()
    del settings["feed_forward_proj"]
    with pytest.raises(UserError, match="feed_forward_proj='relu'"):
        text.T5Config.from_json(settings)


@pytest.mark.parametrize(("name", "value"), [("hidden_act", "swish"), ("num_attention_heads", 3), ("hidden_size", -8)])
def test_clip_config_refuses_by_field_and_value(name: str, value: object) -> None:
    with pytest.raises(UserError, match=f"{name}={value!r}"):
        text.CLIPTextConfig.from_json(clip_settings(**{name: value}))


def test_configs_of_other_releases_mean_the_same_encoder() -> None:
    t5 = text.T5Config.from_json(t5_settings())
    later = {
        "_name_or_path": "",
        "architectures": ["T5EncoderModel"],
        "dtype": "float16",
        "id2label": {"0": "LABEL_0"},
        "is_decoder": False,
        "n_positions": 512,
        "output_hidden_states": True,
        "pruned_heads": {},
        "scale_decoder_outputs": True,
        "task_specific_params": {"summarization": {"num_beams": 4}},
        "transformers_version": "5.24.0",
    }
    assert text.T5Config.from_json(t5_settings(**later)) == t5
    clip = text.CLIPTextConfig.from_json(clip_settings())
    later = {"model_type": "clip_text_model", "bos_token_id": 0, "initializer_range": 0.02, "top_k": 50, "dropout": 0.0}
    assert text.CLIPTextConfig.from_json(clip_settings(**later)) == clip


def test_configs_as_transformers_writes_them_today() -> None:
    import transformers

    assert text.T5Config.from_json(transformers.T5Config(feed_forward_proj="gated-gelu").to_dict()).d_model == 512
    assert text.CLIPTextConfig.from_json(transformers.CLIPTextConfig().to_dict()).hidden_size == 512


@pytest.mark.parametrize("read", [lambda **c: text.T5Config.from_json(t5_settings(**c)), None])
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("quantization_config", {"load_in_8bit": True}),
        ("pruned_heads", {"0": [1, 2]}),
        ("attention_window", 64),
        ("model_type", "siglip_text_model"),
        ("layer_norm_epsilon", 10**400),
        ("layer_norm_eps", 10**400),
        ("vocab_size", 2**40),
        ("num_heads", 10**400),
        ("num_hidden_layers", 10**9),
        ("num_layers", 10**9),
    ],
)
def test_configs_of_other_encoders_are_refused_at_once(
    read: Callable[..., object] | None, field: str, value: object
) -> None:
    read = read or (lambda **changes: text.CLIPTextConfig.from_json(clip_settings(**changes)))
    with pytest.raises(UserError, match=f"{field}( = |=)") as refusal:
        read(**{field: value})
    assert len(str(refusal.value)) < 400


@pytest.mark.parametrize("config", [text.T5Config, text.CLIPTextConfig])
def test_config_names_what_is_missing(config: type[text.T5Config] | type[text.CLIPTextConfig]) -> None:
    with pytest.raises(UserError, match="vocab_size"):
        config.from_json({"feed_forward_proj": "gated-gelu"})


# Tokenizers


def test_recorded_ids(
    t5_tokenizer: T5Tokenizer, clip_tokenizer: CLIPTokenizer, recorded: Mapping[str, str], trace: dict[str, np.ndarray]
) -> None:
    ids, mask = t5_tokenizer([recorded["prompt"]])
    np.testing.assert_array_equal(ids, trace["text/t5_ids"])
    np.testing.assert_array_equal(mask, trace["text/t5_mask"])
    ids = clip_tokenizer([recorded["prompt"], recorded["negative_prompt"]]).ids
    np.testing.assert_array_equal(ids, trace["text/clip_ids"])


def test_recorded_ids_of_a_long_prompt(
    t5_tokenizer: T5Tokenizer, clip_tokenizer: CLIPTokenizer, recorded: Mapping[str, str], trace: dict[str, np.ndarray]
) -> None:
    prompt = " ".join([recorded["prompt"]] * 12)
    np.testing.assert_array_equal(t5_tokenizer([prompt]).ids, trace["text/long_t5_ids"])
    np.testing.assert_array_equal(clip_tokenizer([prompt]).ids, trace["text/long_clip_ids"])


# What transformers 4.41.2's slow tokenizers gave, without the ids around a prompt.
HARD_PROMPTS = [
    ("", [], []),
    ("  ", [], []),
    (
        "A  Red   CIRCLE, moves\tright!\n",
        [8, 24, 11, 3, 18, 23, 18, 34, 27, 3, 20, 13, 5, 35, 6, 32, 9, 44],
        [320, 513, 518, 267, 522, 526, 256],
    ),
    (
        "\u201ccurly\u201d it\u2019s",
        None,
        [257, 66, 84, 81, 75, 344, 257, 72, 339, 6, 338],
    ),
    ("&lt;b&gt; &amp;", [3, 45, 15, 9, 2, 42, 45, 36, 9, 2, 3, 45, 4, 20, 30, 2], [283, 321, 285, 261]),
    (
        "\ufb01\u0301 \uff1cpad\uff1e",
        [3, 17, 6, 2, 3, 58, 30, 4, 11, 59],
        [69, 127, 511, 283, 564, 323, 285],
    ),
    (
        "caf\u00e9 CAF\u00c9 cafe\u0301",
        [3, 18, 4, 17, 2, 3, 18, 4, 17, 2, 3, 18, 4, 17, 2],
        [66, 64, 69, 127, 358] * 3,
    ),
    ("hello</s>world", [3, 37, 10, 15, 15, 7, 1, 3, 19, 7, 16, 15, 11], None),
    ("a <pad> b <unk> c", [8, 0, 38, 2, 3, 18], None),
    ("<|endoftext|> hi <|startoftext|>", None, [578, 71, 328, 577]),
    ("\u0391\u03a3", [3, 2], [138, 109, 139, 480]),
    ("x\u200by\u200dz", [3, 60, 3, 28, 2, 61], [343, 158, 222, 489, 344, 158, 222, 491, 345]),
]


@pytest.mark.parametrize(("prompt", "t5_ids", "clip_ids"), HARD_PROMPTS)
def test_ids_of_hard_prompts(
    t5_tokenizer: T5Tokenizer,
    clip_tokenizer: CLIPTokenizer,
    prompt: str,
    t5_ids: list[int] | None,
    clip_ids: list[int] | None,
) -> None:
    if t5_ids is not None:
        ids, mask = t5_tokenizer([prompt])
        assert ids[0].tolist() == t5_ids + [1] + [0] * (76 - len(t5_ids))
        assert mask[0].tolist() == [1] * (len(t5_ids) + 1) + [0] * (76 - len(t5_ids))
    if clip_ids is not None:
        ids = clip_tokenizer([prompt]).ids
        assert ids[0].tolist() == [577] + clip_ids + [578] * (76 - len(clip_ids))


def test_clip_padding_is_the_tokenizers_own(golden: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(golden / CLIP_FOLDER / "tokenizer", tmp_path / "tokenizer")
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        (folder / name).unlink()
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 12, "pad_token": "!"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    ids = text.load_clip_tokenizer(folder)(["a red circle"]).ids
    assert ids.tolist() == [[577, 320, 513, 518, 578] + [0] * 7]


def edited(golden: Path, tmp_path: Path, folder: str, **changes: object) -> Path:
    """A copy of a recorded tokenizer whose settings are changed; `...` takes one away."""
    copy = Path(shutil.copytree(golden / folder / "tokenizer", tmp_path / "tokenizer"))
    path = copy / "tokenizer_config.json"
    settings = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in settings.items() if value is not ...}))
    return copy


@pytest.mark.parametrize("name", ["pad_token", "eos_token", "bos_token"])
def test_a_clip_tokenizer_that_cannot_pad_or_end_is_refused_when_it_is_loaded(
    golden: Path, tmp_path: Path, name: str
) -> None:
    folder = edited(golden, tmp_path, CLIP_FOLDER, **{name: None})
    with pytest.raises(UserError, match=rf"tokenizer: {name} is null, and no prompt .*; take the released files"):
        text.load_clip_tokenizer(folder)


def test_an_absent_padding_token_is_the_class_s_default(golden: Path, tmp_path: Path) -> None:
    folder = edited(golden, tmp_path, CLIP_FOLDER, pad_token=...)
    assert text.load_clip_tokenizer(folder).library.pad_token_id == 578


def test_files_of_old_releases_have_their_tokens_elsewhere(golden: Path, tmp_path: Path) -> None:
    """Without `added_tokens_decoder` the file of special tokens counts, null or not in the other one."""
    folder = edited(golden, tmp_path, CLIP_FOLDER, pad_token=None, added_tokens_decoder=...)
    assert text.load_clip_tokenizer(folder).library.pad_token_id == 578


@pytest.mark.parametrize(
    ("value", "length"),
    [(77, 77), (12, 12), (77.0, 77), (10**30, 77), (1e30, 77), (10**400, 77), (None, 77), (..., 77), (2, 2)],
)
def test_a_clip_tokenizer_s_length_is_a_number_of_any_size(
    golden: Path, tmp_path: Path, value: object, length: int
) -> None:
    tokenizer = text.load_clip_tokenizer(edited(golden, tmp_path, CLIP_FOLDER, model_max_length=value))
    assert tokenizer(["a red circle " * 50]).ids.shape == (1, length)


@pytest.mark.parametrize("value", ["77", -1, 0, 1, 76.5, float("inf"), float("nan"), True, [77], {}])
def test_a_clip_tokenizer_s_length_that_is_no_number_is_refused_when_it_is_loaded(
    golden: Path, tmp_path: Path, value: object
) -> None:
    folder = edited(golden, tmp_path, CLIP_FOLDER, model_max_length=value)
    with pytest.raises(
        UserError, match=r"tokenizer_config\.json: model_max_length=.* is no whole number of at least 2"
    ):
        text.load_clip_tokenizer(folder)


@pytest.mark.parametrize("name", ["padding_side", "truncation_side"])
def test_a_clip_tokenizer_that_pads_or_cuts_at_the_left_is_refused(golden: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=f"{name}='left' is not supported, only 'right'"):
        text.load_clip_tokenizer(edited(golden, tmp_path, CLIP_FOLDER, **{name: "left"}))


def test_settings_that_name_files_or_code_are_not_followed(golden: Path, tmp_path: Path) -> None:
    changes = {
        "vocab": {"a": 0},
        "merges": [],
        "vocab_file": "/etc/passwd",
        "tokenizer_file": "/etc/passwd",
        "fast_tokenizer_files": ["tokenizer.json", "tokenizer.0.0.1/../../x.json"],
        "init_inputs": [1, 2, 3],
        "auto_map": {"AutoTokenizer": ["evil.Evil", None]},
        "get_vocab": "conflicts with a method",
        "chat_template": "{{ 1 / 0 }}",
    }
    tokenizer = text.load_clip_tokenizer(edited(golden, tmp_path, CLIP_FOLDER, **changes))
    assert tokenizer(["a red circle"]).ids[0, :5].tolist() == [577, 320, 513, 518, 578]


def test_a_clip_tokenizer_as_transformers_5_saves_it_gives_the_same_ids(
    golden: Path, tmp_path: Path, clip_tokenizer: CLIPTokenizer
) -> None:
    import transformers

    saved = transformers.CLIPTokenizer.from_pretrained(golden / CLIP_FOLDER / "tokenizer")
    saved.save_pretrained(tmp_path)
    assert not (tmp_path / "vocab.json").exists()
    tokenizer = text.load_clip_tokenizer(tmp_path)
    prompts = [prompt for prompt, *_ in HARD_PROMPTS]
    np.testing.assert_array_equal(tokenizer(prompts).ids, clip_tokenizer(prompts).ids)
    assert tokenizer.largest_id == clip_tokenizer.largest_id == 578


def test_vocabulary_and_merges_count_where_a_second_file_has_others(
    golden: Path, tmp_path: Path, clip_tokenizer: CLIPTokenizer
) -> None:
    """The original's slow tokenizer reads no `tokenizer.json`."""
    folder = edited(golden, tmp_path, CLIP_FOLDER)
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {"a": 0}, "merges": []}, "added_tokens": []}))
    ids = text.load_clip_tokenizer(folder)(["a red circle"]).ids
    np.testing.assert_array_equal(ids, clip_tokenizer(["a red circle"]).ids)


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        "{}",
        '{"model": {"vocab": [["a", -1.5]], "merges": []}, "added_tokens": []}',
        '{"model": {"vocab": {"a": "0"}, "merges": [[1, 2]]}, "added_tokens": []}',
        '{"model": {"vocab": {"a": -1}, "merges": []}, "added_tokens": []}',
        '{"model": {"vocab": {"a": 1e400}, "merges": []}, "added_tokens": [3]}',
        "[" * 100_000,
        "x" * (17 << 20),
    ],
)
def test_damaged_files_of_transformers_5(golden: Path, tmp_path: Path, content: str) -> None:
    folder = edited(golden, tmp_path, CLIP_FOLDER)
    (folder / "vocab.json").unlink()
    (folder / "tokenizer.json").write_text(content)
    with pytest.raises(UserError, match="tokenizer") as refusal:
        text.load_clip_tokenizer(folder)
    assert len(str(refusal.value)) < 600


@pytest.mark.parametrize(("number", "message"), [(579, ""), (600, "'<new>' gets the id 579 here, not 600")])
def test_added_tokens_have_the_ids_that_their_files_say(
    golden: Path, tmp_path: Path, number: int, message: str
) -> None:
    folder = edited(golden, tmp_path, CLIP_FOLDER, added_tokens_decoder=...)
    (folder / "added_tokens.json").write_text(json.dumps({"<new>": number}))
    if message:
        with pytest.raises(UserError, match=message):
            text.load_clip_tokenizer(folder)
    else:
        assert text.load_clip_tokenizer(folder).largest_id == number


@pytest.mark.parametrize("decoder", [[], {"x": {}}, {"3": "a"}, {"1e400": {"content": "a"}}, {"600": {"content": "a"}}])
def test_added_tokens_that_are_none_are_refused(golden: Path, tmp_path: Path, decoder: object) -> None:
    with pytest.raises(UserError, match=str(tmp_path)):
        text.load_clip_tokenizer(edited(golden, tmp_path, CLIP_FOLDER, added_tokens_decoder=decoder))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pad_token": None}, "pad_token is None, and only '<pad>' is supported"),
        ({"pad_token": "<extra_id_0>"}, "pad_token is '<extra_id_0>'"),
        ({"eos_token": {"content": "</z>", "lstrip": False}}, "eos_token is '</z>', and only '</s>'"),
        ({"unk_token": 3}, "unk_token=3 is no token"),
    ],
)
def test_a_t5_tokenizer_with_other_tokens_is_refused_when_it_is_loaded(
    golden: Path, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        text.load_t5_tokenizer(edited(golden, tmp_path, T5_FOLDER, **changes))


def test_a_sentencepiece_model_of_another_network_is_refused(golden: Path, tmp_path: Path) -> None:
    import sentencepiece

    folder = edited(golden, tmp_path, T5_FOLDER)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a b c d"]), model_prefix=str(folder / "spiece"), vocab_size=8, minloglevel=2
    )
    with pytest.raises(UserError, match=r"spiece\.model: no model of T5's, as it has no <pad>; download it again"):
        text.load_t5_tokenizer(folder)


@pytest.mark.parametrize("repeats", [1, 4, 5, 12, 15, 16, 40])
def test_cut_off_names_what_is_left_out(
    t5_tokenizer: T5Tokenizer, clip_tokenizer: CLIPTokenizer, recorded: Mapping[str, str], repeats: int
) -> None:
    prompt = " ".join([recorded["prompt"]] * repeats)
    words = prompt.split()
    # 76 T5 tokens are four prompts of 16 and four words more; CLIP has a token for each word.
    assert t5_tokenizer.cut_off(prompt).split() == words[24:]
    assert clip_tokenizer.cut_off(prompt).split() == words[75:]


@pytest.mark.parametrize(
    ("load", "folder", "missing"),
    [
        (text.load_t5_tokenizer, T5_FOLDER, "spiece.model"),
        (text.load_clip_tokenizer, CLIP_FOLDER, "vocab.json"),
        (text.load_clip_tokenizer, CLIP_FOLDER, "merges.txt"),
        (text.load_clip_tokenizer, CLIP_FOLDER, "tokenizer_config.json"),
    ],
)
@pytest.mark.parametrize("damage", [b"", b"\xff{not this", None])
def test_damaged_tokenizers(
    golden: Path,
    tmp_path: Path,
    load: Callable[[Path], text.TextTokenizer],
    folder: str,
    missing: str,
    damage: bytes | None,
) -> None:
    copy = shutil.copytree(golden / folder / "tokenizer", tmp_path / "tokenizer")
    (copy / missing).unlink()
    if damage is not None:
        (copy / missing).write_bytes(damage)
    with pytest.raises(UserError, match=str(copy)) as error:
        load(copy)
    assert "\n" not in str(error.value)


def test_tokenizers_need_no_network_no_torch_and_say_nothing(golden: Path) -> None:
    program = f"""
import socket, sys
def refuse(*args, **kwargs): raise AssertionError("network")
socket.socket.connect = socket.getaddrinfo = refuse
from show1_jax import text
assert "transformers" not in sys.modules
t5 = text.load_t5_tokenizer({str(golden / T5_FOLDER / "tokenizer")!r})
clip = text.load_clip_tokenizer({str(golden / CLIP_FOLDER / "tokenizer")!r})
t5(["a red circle " * 100]), clip(["a red circle " * 100])
assert not {{"torch", "tensorflow"}} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# Byte-level tokenizers


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory: pytest.TempPathFactory) -> tuple[T5Tokenizer, CLIPTokenizer]:
    folders = [tmp_path_factory.mktemp(encoder.kind) for encoder in text.TEXT_ENCODERS.values()]
    for folder, encoder in zip(folders, text.TEXT_ENCODERS.values(), strict=True):
        encoder.write_tokenizer(folder, ())
    return text.load_t5_tokenizer(folders[0]), text.load_clip_tokenizer(folders[1])


@settings(deadline=None)
@given(prompt=st.text(max_size=200))
def test_byte_level_ids(byte_level: tuple[T5Tokenizer, CLIPTokenizer], prompt: str) -> None:
    t5, clip = byte_level
    ids, mask = t5([prompt])
    assert ids.shape == mask.shape == (1, 77)
    assert ids.dtype == mask.dtype == np.int32
    length = int(mask.sum())
    assert (mask[0] == (np.arange(77) < length)).all()
    assert ids[0, length - 1] == 1
    assert (ids[0, length:] == 0).all()
    ids = clip([prompt]).ids
    assert ids.shape == (1, 77)
    assert (ids[0, 0], ids[0, -1]) == (512, 513)


def test_byte_level_tokenizers_know_every_character(byte_level: tuple[T5Tokenizer, CLIPTokenizer]) -> None:
    t5, clip = byte_level
    for prompt in ("A red panda, 4k!", "\u65e5\u672c \U0001f43c \u00fc\u0142"):
        assert t5.library.get_vocab()["<unk>"] not in t5([prompt]).ids
        assert clip.library.decode(clip([prompt]).ids[0].tolist()).count("\ufffd") == 0


def test_byte_level_tokenizers_are_the_same_every_time(tmp_path: Path) -> None:
    for encoder in text.TEXT_ENCODERS.values():
        for folder in ("a", "b"):
            (tmp_path / folder / encoder.kind).mkdir(parents=True)
            encoder.write_tokenizer(tmp_path / folder / encoder.kind, ())
    for path in (tmp_path / "a").rglob("*.*"):
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()
