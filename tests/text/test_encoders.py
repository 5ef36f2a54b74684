"""A third text encoder: a row of the table, a network and a row of the converter's table, without other changes."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jaxtyping import Array, Float, Int

from convert.export import export
from convert.merge import merge
from convert.reader import open_weights
from convert.rules import KeyTable, match_weights
from convert.tables import KINDS, Kind, parameters
from show1_jax.cascade.cascade import Cascade
from show1_jax.cascade.prompts import Prompt
from show1_jax.cascade.stages import STAGE_TABLE
from show1_jax.checkpoints.checkpoint_set import CheckpointSet
from show1_jax.checkpoints.manifest import read_manifest, verify_files
from show1_jax.checkpoints.networks import kind_of, network_kind, random_network
from show1_jax.checkpoints.random import write_random_checkpoint
from show1_jax.config.training import TextConfig
from show1_jax.data.__main__ import main
from show1_jax.data.text_cache import TextCache
from show1_jax.errors import UserError
from show1_jax.nn.config import Architecture
from show1_jax.nn.layers import Layers
from show1_jax.nn.text_architecture import TextArchitecture
from show1_jax.parallel import MeshConfig, make_mesh
from show1_jax.parallel.weights import to_weights
from show1_jax.sampling.dry_run import describe_memory
from show1_jax.sampling.request import Request
from show1_jax.text.encoders import TEXT_ENCODERS, TextEncoder, encoder_of_kind
from show1_jax.text.encoding import encode_text_jit
from show1_jax.text.tokenizers import TextTokenizer, Tokens
from show1_jax.training.text import load_text_source
from tests.helpers import tiny_config, tiny_runs

LENGTH = 12
TEXTS = ["a red circle", "", "a longer text than that"]


@dataclasses.dataclass(frozen=True)
class ToyConfig(TextArchitecture):
    """The architecture of an encoder with a table of bytes and a linear layer."""

    kind: ClassVar = "toy"
    only: ClassVar[Mapping[str, Any]] = {}

    hidden_size: int

    @property
    def state_width(self) -> int:
        return self.hidden_size


class ToyEncoder(nnx.Module):
    """An encoder that mixes the vector of a byte with the mean of its text."""

    def __init__(self, config: ToyConfig, make: Layers):
        self.table = make.embed(config.vocab_size, config.hidden_size)
        self.mix = make.linear(config.hidden_size, config.hidden_size)

    def __call__(self, ids: Int[Array, "b n"], mask: Int[Array, "b n"]) -> Float[Array, "b n d"]:
        x = self.table(ids)
        weights = mask[..., None].astype(x.dtype)
        return self.mix(x + (x * weights).sum(1, keepdims=True) / weights.sum(1, keepdims=True))


class ByteTokenizer:
    """A tokenizer with a token for each byte, after a start token."""

    largest_id = 256

    def __init__(self, length: int):
        self.length = length

    def __call__(self, texts: Sequence[str]) -> Tokens:
        rows = [[256, *text.encode()][: self.length] for text in texts]
        ids = np.array([row + [0] * (self.length - len(row)) for row in rows], np.int32)
        mask = np.array([[1] * len(row) + [0] * (self.length - len(row)) for row in rows], np.int32)
        return Tokens(ids, mask)

    def cut_off(self, text: str) -> str:
        return text.encode()[self.length - 1 :].decode(errors="replace")


def load_tokenizer(folder: Path) -> TextTokenizer:
    return ByteTokenizer(int((folder / "length.txt").read_text()))


def write_tokenizer(folder: Path, texts: Sequence[str]) -> None:
    (folder / "length.txt").write_text(str(LENGTH))


ROW = TextEncoder(
    component="text_toy",
    kind="toy",
    architecture=ToyConfig,
    network=ToyEncoder,
    load_tokenizer=load_tokenizer,
    write_tokenizer=write_tokenizer,
    takes_mask=True,
    length=LENGTH,
)
FIELDS = {"vocab_size": 257, "hidden_size": tiny_config.TEXT_DIM}


def write_config(architecture: ToyConfig) -> dict[str, Any]:
    return {"model_type": "toy", **architecture.to_dict()}


def read_config(settings: Mapping[str, Any]) -> Architecture:
    return ToyConfig.from_dict({name: settings[name] for name in FIELDS})


CONVERTED = Kind(
    read_config, write_config, KeyTable(renames=((r"^mix\b", "mixer"),)), "text_encoder", "model.safetensors"
)


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TEXT_ENCODERS, ROW.component, ROW)
    monkeypatch.setitem(KINDS, ROW.kind, CONVERTED)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    write_random_checkpoint(tmp_path / "toy", {ROW.component: FIELDS}, {})
    return tmp_path / "toy"


def states(checkpoint: Path, padding: str = "encoded") -> np.ndarray:
    """Return the states of `TEXTS`, on one device."""
    checkpoints = CheckpointSet.open(checkpoint)
    network = checkpoints.load(ROW.component, make_mesh(MeshConfig(), jax.devices()[:1]), jnp.float32)
    tokens = Tokens(*map(jnp.asarray, checkpoints.tokenizer(ROW.component)(TEXTS)))
    return np.asarray(encode_text_jit(ROW, network.graph, network.weights, tokens, padding))


def test_a_registered_encoder_is_found_by_every_table(checkpoint: Path) -> None:
    assert (kind_of("text_toy"), kind_of("vae"), kind_of("keyframes")) == ("toy", "vae", "unet")
    assert network_kind("toy") == (ToyConfig, ToyEncoder)
    assert encoder_of_kind("toy") is ROW
    record = read_manifest(checkpoint).component("text_toy")
    assert (record.kind, record.architecture) == ("toy", FIELDS)
    tokenizer = CheckpointSet.open(checkpoint).tokenizer("text_toy")
    assert isinstance(tokenizer, TextTokenizer)
    assert tokenizer.cut_off(TEXTS[2]) == "xt than that"
    assert states(checkpoint).shape == (len(TEXTS), LENGTH, tiny_config.TEXT_DIM)


def test_another_component_than_a_text_encoder_is_refused(tiny_checkpoint: Path) -> None:
    with pytest.raises(UserError, match="kind='unet' is not a text encoder; use one of t5, clip, toy"):
        CheckpointSet.open(tiny_checkpoint).tokenizer("keyframes")


def test_random_weights_are_made_for_it(checkpoint: Path) -> None:
    record, mesh = read_manifest(checkpoint).component("text_toy"), make_mesh(MeshConfig(data=2, fsdp=4))
    whole = to_weights(random_network(record, mesh, jnp.bfloat16).weights)
    part = to_weights(random_network(record, mesh, jnp.bfloat16, ("table",)).weights)
    assert {path: leaf.dtype for path, leaf in whole.items()} == dict.fromkeys(whole, jnp.bfloat16)
    np.testing.assert_array_equal(part["embedding",], whole["table", "embedding"])
    assert 0.95 < np.asarray(whole["table", "embedding"], np.float32).std() < 1.05
    assert not np.asarray(whole["mix", "bias"]).any()


def test_training_encodes_captions_with_it(checkpoint: Path) -> None:
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    source = load_text_source(
        TextConfig(), checkpoint, "text_toy", padding="encoded", mesh=mesh, dtype=jnp.dtype("float32")
    )
    text = tuple(map(jnp.asarray, source.prepare(TEXTS)))
    np.testing.assert_allclose(source.encode(source.weights, text), states(checkpoint), atol=1e-6)


def test_its_states_are_cached(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "captions").write_text("\n".join(TEXTS))
    arguments = ["--checkpoint", checkpoint, "--component", "text_toy", "--captions", tmp_path / "captions"]
    assert main(["encode_text", *map(str, arguments), "--out", str(tmp_path / "cache"), "--text_padding=zeros"]) == 0
    cache = TextCache.open(tmp_path / "cache", "text_toy", "zeros", read_manifest(checkpoint).digest("text_toy"))
    assert (cache.record.positions, cache.record.width) == (LENGTH, tiny_config.TEXT_DIM)
    np.testing.assert_allclose(cache.read(TEXTS).astype(np.float32), states(checkpoint, "zeros"), rtol=2**-8, atol=1e-5)


def test_it_is_merged_and_exported(checkpoint: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    merge(f"{tiny_checkpoint},{checkpoint}", tmp_path / "merged", ["keyframes", "text_toy"])
    verify_files(tmp_path / "merged")
    assert list(read_manifest(tmp_path / "merged").components) == ["keyframes", "text_toy"]
    np.testing.assert_array_equal(states(tmp_path / "merged"), states(checkpoint))

    export(checkpoint, tmp_path / "released", ["text_toy"])
    released = open_weights(tmp_path / "released/text_encoder")
    assert sorted(released) == ["mixer.bias", "mixer.weight", "table.weight"]
    state = parameters("toy", ToyConfig.from_dict(FIELDS))
    assert match_weights(released, state, CONVERTED.table, where="toy").keys() == to_weights(state).keys()
    assert (tmp_path / "released/tokenizer/length.txt").read_text() == str(LENGTH)


def test_a_stage_is_sampled_and_trained_with_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(
        STAGE_TABLE, "keyframes", dataclasses.replace(STAGE_TABLE["keyframes"], text_encoder="text_toy")
    )
    tiny = tiny_config.settings()
    write_random_checkpoint(tmp_path / "cascade", {**tiny.architecture, "text_toy": FIELDS}, tiny.schedulers)
    config = tiny_runs.settings(tmp_path / "cascade", "keyframes")

    cascade = Cascade.load(config.checkpoint, config, jax.devices()[:1])
    video, other = (cascade.sample([text], stages=["keyframes"])["keyframes"] for text in ("a", "b"))
    assert video.shape == (1, 2, 8, 8, 3)
    assert (video != other).any()
    lines = list(describe_memory(config, Request((Prompt("a", seed=0),), ("keyframes",))))
    assert [line.split()[0] for line in lines[2:-2]] == ["text_toy", "keyframes"]

    training = tiny_runs.run_of(config, "keyframes", tmp_path / "run")
    assert np.isfinite(tiny_runs.advance(training, 1)).all()
    assert training.inputs.text is not None
    assert training.inputs.text.prepare(["a"])[0].shape == (1, LENGTH)
