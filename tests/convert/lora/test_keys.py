"""Keys of LoRA files: every name of every layer is found again, for networks of full size too."""

import gzip
import json
from pathlib import Path

import pytest

from convert.lora.keys import LoraKeys, LoraLayer, lora_layers
from convert.rules import ReleasedTensor
from convert.tables import KINDS, UNET, parameters
from show1_jax.errors import UserError
from show1_jax.parallel.weights import WeightPath


@pytest.mark.parametrize(
    ("name", "class_name"), [("show-1-base/unet", "UNet3DConditionModel"), ("show-1-sr2/unet", "UNet3DConditionModel")]
)
def test_no_two_layers_of_a_full_size_network_share_a_name(golden: Path, name: str, class_name: str) -> None:
    with gzip.open(golden / "full_size_keys.json.gz") as file:
        spec = json.load(file)[name]
    state = parameters("unet", KINDS["unet"].read_config({"_class_name": class_name, **spec["config"]}))
    layers = lora_layers(state, UNET)
    kernels = {key for key, shape in spec["keys"].items() if key.endswith(".weight") and len(shape) > 1}
    assert {layer.tensor.key for layer in layers.values()} == kernels
    keys = LoraKeys(layers)
    found = [keys.find(key) == (layer, part) for layer in layers.values() for key, part in layer.names()]
    assert all(found)
    assert len(found) > 11 * len(layers)


def test_a_key_is_found_whole_or_not_at_all() -> None:
    layer = LoraLayer(("a", "to_q", "kernel"), ReleasedTensor("a.to_q.weight", ("o i", "i o"), (8, 6)))
    keys = LoraKeys({layer.kernel: layer})
    for known in (
        "a.to_q.lora_A.weight",
        "unet.a.to_q.lora_A.weight",
        "a.processor.to_q_lora.down.weight",
        "lora_unet_a_to_q.lora_down.weight",
    ):
        assert keys.find(known) == (layer, "lora_a")
    for unknown in (
        "",
        "a.to_q.weight",
        "xa.to_q.lora_A.weight",
        "unet.unet.a.to_q.lora_A.weight",
        "lora_unet_a.to_q.lora_down.weight",
        "lora_te_a_to_q.lora_down.weight",
        "a.to_q.lora_A.weight.x",
    ):
        assert keys.find(unknown) is None


def test_names_that_two_layers_share_are_refused() -> None:
    layers: dict[WeightPath, LoraLayer] = {
        (name, "kernel"): LoraLayer((name, "kernel"), ReleasedTensor(f"{name}.weight", ("o i", "i o"), (8, 6)))
        for name in ("a.b_c", "a_b.c")
    }
    with pytest.raises(UserError, match=r"names that two layers share: lora_unet_a_b_c\.lora_down\.weight"):
        LoraKeys(layers)
