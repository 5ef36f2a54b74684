"""LoRA files of peft, diffusers and kohya as adapters: the change is that of PyTorch, and bad files are refused."""

import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convert.__main__ import main
from convert.lora.keys import LoraLayer, lora_layers
from convert.lora.pairs import read_pairs
from convert.reader import open_weights
from convert.stored import cpu_mesh
from convert.tables import UNET, parameters
from show1_jax.checkpoints.adapter_set import Adapter, open_adapters, read_adapter
from show1_jax.checkpoints.checkpoint_set import CheckpointSet
from show1_jax.checkpoints.manifest import read_manifest, sha256
from show1_jax.checkpoints.networks import architecture_of
from show1_jax.errors import UserError
from show1_jax.parallel.weights import WeightPath
from tests.helpers.lora_files import LAYERS, RANK, Matrices, kohya_names, matrices, peft_names, write_lora
from tests.helpers.weight_files import safetensors, state_dict

Arrays = dict[WeightPath, np.ndarray]
Tensors = dict[str, np.ndarray]
QUERY = "mid_block.temp_attentions.0.transformer_blocks.0.attn1.to_q"
EQUAL = 1e-5
"""Relative to the largest element of a kernel, float32."""


class Import:
    """Imports of files as adapters of the tiny cascade."""

    def __init__(self, checkpoint: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.checkpoint, self.folder, self._capsys = checkpoint, folder, capsys

    def run(self, source: Path, *arguments: str) -> tuple[int, str]:
        """Import to `out`; return the exit code and the last line on stderr."""
        code = main(["import", str(source), "--checkpoint", str(self.checkpoint), "--out", str(self.out), *arguments])
        error = self._capsys.readouterr().err.strip("\n")
        assert "\n" not in error
        return code, error

    @property
    def out(self) -> Path:
        return self.folder / "out"

    def adapter(self) -> Adapter:
        """Return the imported adapter, after all checks of its use."""
        (adapter,) = open_adapters(str(self.out), CheckpointSet.open(self.checkpoint).manifest)
        return adapter

    def arrays(self, source: Path, *arguments: str) -> tuple[Adapter, Arrays]:
        assert self.run(source, *arguments, "--overwrite") == (0, "")
        adapter = self.adapter()
        return adapter, {path: np.asarray(array) for path, array in read_adapter(adapter, cpu_mesh()).items()}


@pytest.fixture
def imported(tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Import:
    return Import(tiny_checkpoint, tmp_path, capsys)


def released_weights(checkpoint: Path, folder: Path) -> Tensors:
    """Return the keyframe network in the layout of PyTorch, through the export of a checkpoint."""
    assert main(["export", str(checkpoint), "--component", "keyframes", "--out", str(folder)]) == 0
    return dict(open_weights(folder / "unet"))


def product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return B A of PyTorch in float64: for a convolution, that of kernel size 1 after the other."""
    return np.einsum("or,r...->o...", b.astype(np.float64).reshape(b.shape[:2]), a.astype(np.float64))


@pytest.fixture(scope="module")
def layers(tiny_checkpoint: Path) -> Mapping[WeightPath, LoraLayer]:
    record = read_manifest(tiny_checkpoint).components["keyframes"]
    return lora_layers(parameters("unet", architecture_of(record)), UNET)


@pytest.fixture(scope="module")
def base(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Tensors:
    return released_weights(tiny_checkpoint, tmp_path_factory.mktemp("base") / "released")


def assert_updated(imported: Import, base: Tensors, wanted: Mapping[str, float], pairs: Matrices) -> None:
    """Compare the network with the merged adapter with W + factor B A of every layer, and W of all other weights."""
    merged = imported.folder / "merged"
    command = ["merge", str(imported.checkpoint), "--component", "keyframes", "--adapter", str(imported.out)]
    assert main([*command, "--out", str(merged)]) == 0
    found = released_weights(merged, imported.folder / "changed")
    assert found.keys() == base.keys()
    changed = {key for key in base if not np.array_equal(base[key], found[key])}
    assert changed == {f"{name}.weight" for name in LAYERS}
    for name, factor in wanted.items():
        weight = base[f"{name}.weight"] + factor * product(*pairs[name])
        assert weight.shape == LAYERS[name]
        np.testing.assert_allclose(found[f"{name}.weight"], weight, rtol=0, atol=EQUAL * np.abs(weight).max())


def test_a_file_of_peft_has_the_update_of_pytorch(imported: Import, base: Tensors, tmp_path: Path) -> None:
    """Stated alphas: 6 for rank 4, and 1 for one layer by its name."""
    pairs = matrices()
    settings = {"r": RANK, "lora_alpha": 6, "alpha_pattern": {"attn1.to_q": 1.0}, "target_modules": ["any"]}
    metadata = {"lora_adapter_metadata": json.dumps({f"unet.{name}": value for name, value in settings.items()})}
    file = write_lora(tmp_path / "style.safetensors", peft_names(pairs), metadata)
    adapter, _ = imported.arrays(file)
    assert (adapter.component, adapter.config.rank, adapter.config.alpha) == ("keyframes", 4, 4.0)
    assert_updated(imported, base, dict.fromkeys(LAYERS, 6 / 4) | {QUERY: 1 / 4}, pairs)
    provenance = read_manifest(imported.out).components["keyframes"].provenance
    assert provenance["files"] == {"style.safetensors": sha256(file)}
    assert main(["verify", str(imported.out)]) == 0


def test_a_file_of_kohya_has_the_update_of_pytorch(imported: Import, base: Tensors, tmp_path: Path) -> None:
    """Two ranks and several alphas; absent or 0: alpha is the rank."""
    pairs = matrices() | {"conv_in": matrices(rank=6, seed=1)["conv_in"]}
    alphas = {"conv_in": 3.0, QUERY: 1.0, "mid_block.attentions.0.add_k_proj": 0.0}
    adapter, _ = imported.arrays(write_lora(tmp_path / "a.safetensors", kohya_names(pairs, alphas)))
    assert (adapter.config.rank, adapter.config.alpha) == (6, 6.0)
    assert_updated(imported, base, dict.fromkeys(LAYERS, 1.0) | {"conv_in": 3 / 6, QUERY: 1 / 4}, pairs)


def processors(pairs: Matrices) -> Tensors:
    """Return names of diffusers' attention processors: those of attentions only."""
    names = {
        QUERY: "mid_block.temp_attentions.0.transformer_blocks.0.attn1.processor.to_q_lora",
        f"{QUERY[:-1]}out.0": "mid_block.temp_attentions.0.transformer_blocks.0.attn1.processor.to_out_lora",
        "mid_block.attentions.0.add_k_proj": "mid_block.attentions.0.processor.add_k_proj_lora",
    }
    rest = {name: pair for name, pair in pairs.items() if name not in names}
    renamed = {new: pairs[name] for name, new in names.items()}
    return peft_names(renamed, "", ("down", "up")) | peft_names(rest, "", ("lora.down", "lora.up"))


def test_all_names_give_the_same_pairs(layers: Mapping[WeightPath, LoraLayer], tmp_path: Path) -> None:
    given = matrices()
    files = [
        *(peft_names(given, prefix) for prefix in ("", "unet.", "base_model.model.", "base_model.model.unet.")),
        peft_names(given, "", ("lora_A.default", "lora_B.default")),
        peft_names(given, "unet.", ("lora.down", "lora.up")),
        processors(given),
        {key.replace(".processor.", "."): array for key, array in processors(given).items()},
        {f"unet.{key}": array for key, array in processors(given).items()},
        kohya_names(given, dict.fromkeys(LAYERS, RANK)),
        peft_names(given) | {f"unet.{name}.alpha": np.array([RANK], np.int64) for name in LAYERS},
    ]
    for tensors in files:
        pairs = read_pairs(write_lora(tmp_path / "a.safetensors", tensors), layers, "keyframes")
        assert {pair.layer.name for pair in pairs} == given.keys()
        assert {(pair.rank, pair.alpha) for pair in pairs} == {(RANK, RANK)}
        for pair in pairs:
            assert [pair.a.tobytes(), pair.b.tobytes()] == [part.tobytes() for part in given[pair.layer.name]]


@pytest.mark.parametrize(
    ("stem", "write"), [("adapter_model.bin", state_dict), ("adapter_model.safetensors", safetensors)]
)
def test_a_folder_of_peft(imported: Import, tmp_path: Path, stem: str, write: Callable[..., None]) -> None:
    """The factor of rsLoRA is alpha / sqrt(rank)."""
    folder = tmp_path / "peft"
    folder.mkdir()
    half = {key: array.astype(np.float16) for key, array in peft_names(matrices(), "base_model.model.").items()}
    write(folder / stem, half)
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": 3, "use_rslora": True, "bias": "none", "lora_dropout": 0.1}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    adapter, arrays = imported.arrays(folder)
    assert adapter.config.scale == 3 / np.sqrt(RANK)
    np.testing.assert_array_equal(
        arrays["conv_in", "lora_b"], matrices()["conv_in"][1][:, :, 0, 0].T.astype(np.float16)
    )


def changed(**tensors: np.ndarray | None) -> Tensors:
    """Return a valid file with other tensors; None removes one."""
    names = {name.replace("__", "."): array for name, array in tensors.items()}
    return {name: array for name, array in (peft_names(matrices(), "") | names).items() if array is not None}


NAN = np.full((RANK, 3, 3, 3), np.nan, np.float32)
A, B = np.ones((RANK, 3, 3, 3), np.float32), np.ones((32, RANK, 1, 1), np.float32)


@pytest.mark.parametrize(
    ("tensors", "settings", "message"),
    [
        (changed(conv_in__lora_B__weight=None), {}, "1 pairs that are not complete: conv_in.lora_A.weight without B; "),
        (
            changed(conv_out__alpha=np.array(1, np.float32)),
            {},
            "pairs that are not complete: conv_out.alpha without A and B; ",
        ),
        (changed(conv_up__lora_A__weight=A), {}, "1 unexpected keys: conv_up.lora_A.weight; "),
        (changed(conv_in__lora_magnitude_vector=A), {}, "1 unexpected keys: conv_in.lora_magnitude_vector; "),
        (changed(conv_in__lora__down__weight=A), {}, "1 duplicate keys: conv_in.lora_A.weight and conv_in.lora.down."),
        (changed(conv_in__lora_A__weight=NAN), {}, "1 weights with NaN or infinity: conv_in.lora_A.weight; "),
        (changed(conv_in__lora_A__weight=A.astype(int)), {}, "1 weights that are not floats: conv_in.lora_A.weight is"),
        (changed(conv_in__lora_A__weight=A[:2]), {}, "conv_in.lora_B.weight is (32, 4, 1, 1), not (32, 2, 1, 1); "),
        (changed(conv_in__lora_A__weight=A[:0]), {}, "conv_in.lora_A.weight is (0, 3, 3, 3), not (1, 3, 3, 3); "),
        (changed(conv_in__lora_A__weight=A[:, :2]), {}, "conv_in.lora_A.weight is (4, 2, 3, 3), not (4, 3, 3, 3); "),
        (changed(conv_in__lora_B__weight=B[..., 0, 0]), {}, "conv_in.lora_B.weight is (32, 4), not (32, 4, 1, 1); "),
        (
            changed(conv_in__alpha=np.array(np.nan, np.float32)),
            {},
            "1 alphas that are not a positive number: conv_in.alpha of ",
        ),
        (changed(conv_in__alpha=np.ones(2, np.float32)), {}, "not a positive number: conv_in.alpha of shape (2,); "),
        (
            changed(conv_in__alpha=np.array(3, np.float32)),
            {"lora_alpha": 2},
            "contradict the settings: conv_in.alpha is 3, not 2",
        ),
        (changed(), {"r": 8}, "7 other ranks than stated: "),
        (changed(), {"r": RANK, "rank_pattern": {"^conv_in": 2}}, "stated: conv_in.lora_A.weight has 4, not 2; "),
        (changed(), {"use_dora": True}, "use_dora=True: not supported; merge that adapter"),
        (changed(), {"bias": "all"}, "bias='all': not supported"),
        (changed(), {"init_lora_weights": "pissa_niter_16"}, "init_lora_weights='pissa_niter_16': not supported"),
        (changed(), {"lora_alpha": -1}, "lora_alpha=-1 is not a positive number"),
        (changed(), {"alpha_pattern": {"conv.*": 1}}, "alpha_pattern has 'conv.*'; only names of layers are supported"),
    ],
)
def test_bad_files(
    layers: Mapping[WeightPath, LoraLayer], tmp_path: Path, tensors: Tensors, settings: dict[str, Any], message: str
) -> None:
    metadata = {"lora_adapter_metadata": json.dumps(settings)} if settings else {}
    file = write_lora(tmp_path / "a.safetensors", tensors, metadata)
    with pytest.raises(UserError, match=re.escape(message)) as refusal:
        read_pairs(file, layers, "keyframes")
    assert "\n" not in str(refusal.value)


def test_nothing_is_written_of_a_bad_file(imported: Import, tmp_path: Path) -> None:
    alpha = {"lora_adapter_metadata": json.dumps({"lora_alpha": 2_000_000})}
    for tensors, metadata, message in [
        (changed(conv_in__lora_A__weight=NAN), {}, "a.safetensors: as an adapter of keyframes: 1 weights with NaN or "),
        (changed(), alpha, "AdapterConfig: alpha=2000000.0 must be from 1e-06 to 1000000"),
        (
            changed(conv_in__alpha=np.array(1e38, np.float32), conv_in__lora_B__weight=1e9 * B),
            {},
            "conv_in is too large with its",
        ),
    ]:
        code, error = imported.run(write_lora(tmp_path / "a.safetensors", tensors, metadata))
        assert (code, message in error) == (2, True), error
        assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_other_networks_and_places(imported: Import, tmp_path: Path) -> None:
    file = write_lora(tmp_path / "a.safetensors", peft_names(matrices()))
    for component, message in [
        ("superres_latent", "a.safetensors: as an adapter of superres_latent: "),
        ("vae", "vae is not a UNet, and adapters are of UNets"),
        ("upscaler", "has no component 'upscaler', only first_frame, "),
    ]:
        code, error = imported.run(file, "--component", component)
        assert (code, message in error) == (2, True), error
    (tmp_path / "empty").mkdir()
    safetensors(tmp_path / "none.safetensors", {})
    for source, message in [
        ("empty", "has none of pytorch_lora_weights.safetensors, "),
        ("a.ckpt", "not a LoRA file"),
        ("none.safetensors", "has no tensors; give a LoRA file"),
    ]:
        code, error = imported.run(tmp_path / source)
        assert (code, message in error) == (2, True), error
    write_lora(file, peft_names(matrices()), {"show1_jax.component": "x\n" * 1000})
    assert imported.run(file)[0] == 2
    assert not imported.out.exists()


def test_an_adapter_does_not_replace_the_checkpoint_that_it_belongs_to(imported: Import, tmp_path: Path) -> None:
    shutil.copytree(imported.checkpoint, imported.out)
    imported.checkpoint = imported.out
    code, error = imported.run(write_lora(tmp_path / "a.safetensors", peft_names(matrices())), "--overwrite")
    assert (code, "an adapter would replace the checkpoint that it changes; give another --out" in error) == (2, True)
    assert CheckpointSet.open(imported.out).paths["keyframes"] == imported.out
