"""The bijection between released keys and parameters: on a toy network, on recorded files, and at full size."""

import gzip
import json
import re
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from flax import nnx

from convert.reader import open_weights
from convert.rules import KeyTable, ReleasedTensor, match_weights, released_tensors
from convert.tables import CLIP, KINDS, T5, UNET, VAE, parameters
from show1_jax.errors import UserError
from show1_jax.nn.layers import Layers

FULL_SIZE = [
    ("show-1-base/unet", "unet", "UNet3DConditionModel"),
    ("show-1-interpolation/unet", "unet", "UNet3DConditionModel"),
    ("IF-II-L-v1.0/unet", "unet", "UNet2DConditionModel"),
    ("show-1-sr1/unet", "unet", "UNet3DConditionModel"),
    ("show-1-sr2/unet", "unet", "UNet3DConditionModel"),
    ("show-1-sr2/vae", "vae", "AutoencoderKL"),
    ("show-1-base/text_encoder", "t5", "T5EncoderModel"),
    ("show-1-sr2/text_encoder", "clip", "CLIPTextModel"),
]


class Toy(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.blocks = nnx.List([nnx.Linear(2, 3, rngs=rngs), nnx.Conv(3, 4, (3, 5), rngs=rngs)])
        self.time = nnx.Conv(4, 6, (3, 1), rngs=rngs)
        self.norm = nnx.GroupNorm(6, 2, rngs=rngs)
        self.table = nnx.Embed(7, 2, rngs=rngs)
        self.vector = nnx.Param(np.zeros((1, 2), np.float32))


TOY = KeyTable(
    renames=((r"^time$", "time.3"),),
    layouts=((r"^time\.kernel$", "o i t 1 1 -> t 1 i o"),),
    aliases=((r"^normalise\.", "norm."),),
    tied={"copy.weight": "table.weight"},
    ignored=r"^position_ids$",
)


@pytest.fixture
def toy() -> nnx.State:
    return nnx.state(nnx.eval_shape(lambda: Toy(nnx.Rngs(0))), nnx.Param)


@pytest.fixture
def released() -> dict[str, np.ndarray]:
    shapes = {
        "blocks.0.weight": (3, 2),
        "blocks.0.bias": (3,),
        "blocks.1.weight": (4, 3, 3, 5),
        "blocks.1.bias": (4,),
        "time.3.weight": (6, 4, 3, 1, 1),
        "time.3.bias": (6,),
        "norm.weight": (6,),
        "norm.bias": (6,),
        "table.weight": (7, 2),
        "vector": (1, 2),
    }
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def test_every_layer_has_its_key_and_layout(toy: nnx.State, released: dict[str, np.ndarray]) -> None:
    ours = match_weights(released, toy, TOY, where="toy")
    np.testing.assert_array_equal(ours["blocks", "0", "kernel"], released["blocks.0.weight"].T)
    np.testing.assert_array_equal(ours["blocks", "1", "kernel"], released["blocks.1.weight"].transpose(2, 3, 1, 0))
    np.testing.assert_array_equal(ours["time", "kernel"][:, 0], released["time.3.weight"][..., 0, 0].transpose(2, 1, 0))
    np.testing.assert_array_equal(ours["norm", "scale"], released["norm.weight"])
    np.testing.assert_array_equal(ours["table", "embedding"], released["table.weight"])
    np.testing.assert_array_equal(ours["vector",], released["vector"])
    assert {path: array.shape for path, array in ours.items()} == {
        tuple(map(str, path)): tuple(variable.shape) for path, variable in nnx.to_flat_state(toy)
    }
    assert all(
        np.shares_memory(ours[path], released[source.key]) for path, source in released_tensors(toy, TOY).items()
    )


def test_both_directions(toy: nnx.State, released: dict[str, np.ndarray]) -> None:
    ours = match_weights(released, toy, TOY, where="toy")
    back = {source.key: source.to_released(ours[path]) for path, source in released_tensors(toy, TOY).items()}
    assert back.keys() == released.keys()
    for key, array in back.items():
        np.testing.assert_array_equal(array, released[key])


def test_older_names_repeats_and_buffers(toy: nnx.State, released: dict[str, np.ndarray]) -> None:
    older = {re.sub("^norm", "normalise", key): array for key, array in released.items()}
    older["position_ids"] = np.arange(77)
    older["copy.weight"] = older.pop("table.weight")
    assert match_weights(older, toy, TOY, where="toy").keys() == match_weights(released, toy, TOY, where="toy").keys()
    older["table.weight"] = older["copy.weight"].copy()
    match_weights(older, toy, TOY, where="toy")
    older["table.weight"][6, 1] += 1
    with pytest.raises(UserError, match=r"1 duplicate keys with different values: table\.weight and copy\.weight"):
        match_weights(older, toy, TOY, where="toy")


def test_all_problems_at_once(toy: nnx.State, released: dict[str, np.ndarray]) -> None:
    del released["blocks.0.weight"]
    released["blocks.1.weight"] = released["blocks.1.weight"].transpose(1, 0, 2, 3)
    released["time.3.weight"][0, 0, 0] = np.nan
    released["time.3.bias"][0] = -np.inf
    released["normalise.bias"] = released["norm.bias"]
    released["vector"] = released["vector"].astype(np.int32)
    released["norm.weight"][:] = 1e6
    released |= {f"decoder.{index}": np.zeros(1) for index in range(25)}
    with pytest.raises(UserError) as caught:
        match_weights(released, toy, TOY, where="toy/unet", dtype=np.dtype("float16"))
    line = str(caught.value)
    for part in (
        "toy/unet: ",
        "1 missing keys: blocks.0.weight;",
        "1 wrong shapes: blocks.1.weight is (3, 4, 3, 5), not (4, 3, 3, 5);",
        "2 weights with NaN or infinity: time.3.bias, time.3.weight;",
        "1 duplicate keys: normalise.bias (norm.bias);",
        "1 weights that are not floats: vector is int32;",
        "1 weights too large for float16: norm.weight;",
        "25 unexpected keys: decoder.",
    ):
        assert part in line
    assert line.count("decoder.") == 20
    assert "\n" not in line


@pytest.mark.parametrize("shape", [(), (0, 3), (5,), (3, 2**10, 2**14)])
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32])
def test_finite_weights_of_any_size_pass(shape: tuple[int, ...], dtype: Any) -> None:
    state = nnx.State({"a": nnx.Param(np.broadcast_to(np.float32(0), shape))})
    weights = {"a": np.broadcast_to(np.asarray(1, dtype), shape)}
    assert match_weights(weights, state, KeyTable(), where="toy", dtype=np.dtype("float16"))["a",].shape == shape


def test_a_table_that_is_no_bijection_is_refused(toy: nnx.State) -> None:
    with pytest.raises(UserError, match=r"2 parameters that share a key: blocks\.1\.bias and time\.bias"):
        released_tensors(toy, KeyTable(renames=((r"^time$", "blocks.1"),), layouts=TOY.layouts))
    with pytest.raises(UserError, match=r"2 unmapped parameters: a\.kernel, b\.kernel"):
        released_tensors(
            nnx.State({name: {"kernel": nnx.Param(np.zeros((2, 2, 2)))} for name in "ab"}),
            KeyTable(layouts=((r"^b\.", "o i t 1 1 -> t 1 i o"),)),
        )


def test_a_released_tensor_converts_layouts_in_both_directions() -> None:
    source = ReleasedTensor("a.weight", ("o i t 1 1", "t 1 i o"), (5, 4, 3, 1, 1))
    array = np.arange(60).reshape(source.shape)
    assert source.to_ours(array).shape == (3, 1, 4, 5)
    np.testing.assert_array_equal(source.to_released(source.to_ours(array)), array)


class Video(nnx.Module):
    def __init__(self, make: Layers):
        self.conv = make.conv3d(2, 4, 3)
        self.norm = make.batch_norm(4, 1e-3)


def test_layers_of_video_networks_in_the_layouts_of_pytorch_and_flax() -> None:
    state = nnx.state(Video(Layers()), nnx.Param)
    torch = {source.key: source.shape for source in released_tensors(state, KeyTable()).values()}
    norm = {f"norm.{name}": (4,) for name in ("weight", "bias", "running_mean", "running_var")}
    assert torch == {"conv.weight": (4, 2, 3, 3, 3), "conv.bias": (4,), **norm}
    kept = ((r"kernel$", "t h w i o -> t h w i o"), (r"(mean|var)$", "1 1 1 1 c -> c"))
    flax = {source.key: source for source in released_tensors(state, KeyTable(layouts=kept, leaves={})).values()}
    assert flax["conv.kernel"].shape == (3, 3, 3, 2, 4)
    assert flax["norm.var"].shape == (1, 1, 1, 1, 4)
    assert flax["norm.var"].to_ours(np.arange(4).reshape(1, 1, 1, 1, 4)).tolist() == [0, 1, 2, 3]
    kernel = np.arange(3 * 3 * 3 * 2 * 4).reshape(4, 2, 3, 3, 3)
    ours = released_tensors(state, KeyTable())["conv", "kernel"].to_ours(kernel)
    np.testing.assert_array_equal(ours[2, 1, 0, 1, 3], kernel[3, 1, 2, 1, 0])


@pytest.fixture(scope="module")
def full_size(golden: Path) -> dict[str, Any]:
    with gzip.open(golden / "full_size_keys.json.gz") as file:
        return json.load(file)


@pytest.mark.parametrize(("name", "kind", "class_name"), FULL_SIZE)
def test_names_and_shapes_at_full_size(full_size: dict[str, Any], name: str, kind: str, class_name: str) -> None:
    spec, table = full_size[name], KINDS[kind].table
    architecture = KINDS[kind].read_config({"_class_name": class_name, **spec["config"]})
    state = parameters(kind, architecture)
    expected = {key: tuple(shape) for key, shape in spec["keys"].items() if key not in table.tied}
    assert {source.key: source.shape for source in released_tensors(state, table).values()} == expected


def test_every_full_size_list_is_checked(full_size: dict[str, Any]) -> None:
    assert {name for name, _, _ in FULL_SIZE} == set(full_size)


def test_old_vae_attention_names(golden: Path) -> None:
    folder = golden / "checkpoints/show-1-sr2/vae"
    weights = open_weights(folder)
    state = parameters("vae", KINDS["vae"].read_config(json.loads((folder / "config.json").read_text())))
    older_names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def older(key: str) -> str:
        for new, old in older_names.items():
            key = key.replace(f"attentions.0.{new}.", f"attentions.0.{old}.")
        return key

    renamed = {older(key): array for key, array in weights.items()}
    assert sum(key not in weights for key in renamed) == 16
    newer, older_match = (match_weights(given, state, VAE, where="vae") for given in (weights, renamed))
    assert newer.keys() == older_match.keys()
    assert all(np.array_equal(newer[path], older_match[path]) for path in newer)


@pytest.mark.parametrize("dropped", ["shared.weight", "encoder.embed_tokens.weight"])
def test_t5_files_may_hold_the_embedding_once_or_twice(golden: Path, dropped: str) -> None:
    folder = golden / "checkpoints/show-1-base/text_encoder"
    weights = dict(open_weights(folder))
    state = parameters("t5", KINDS["t5"].read_config(json.loads((folder / "config.json").read_text())))
    embedding = weights["shared.weight"]
    del weights[dropped]
    matched = match_weights(weights, state, T5, where="t5")
    np.testing.assert_array_equal(matched["shared", "embedding"], embedding)


def test_clip_position_ids_are_ignored(golden: Path) -> None:
    folder = golden / "checkpoints/show-1-sr2/text_encoder"
    weights = dict(open_weights(folder)) | {"text_model.embeddings.position_ids": np.arange(77)[None]}
    state = parameters("clip", KINDS["clip"].read_config(json.loads((folder / "config.json").read_text())))
    assert len(match_weights(weights, state, CLIP, where="clip")) == 52


def test_temporal_convolutions_are_the_only_five_axis_weights(golden: Path) -> None:
    folder = golden / "checkpoints/show-1-base/unet"
    weights = open_weights(folder)
    state = parameters("unet", KINDS["unet"].read_config(json.loads((folder / "config.json").read_text())))
    found = {source.key for source in released_tensors(state, UNET).values() if len(source.shape) == 5}
    assert found == {key for key, array in weights.items() if array.ndim == 5}
    assert found
