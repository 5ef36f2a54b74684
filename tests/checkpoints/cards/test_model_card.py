"""Model cards: their head, what they say, user text in them, and that an edited card is kept."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from show1_jax.checkpoints.adapters import ADAPTER, AdapterConfig
from show1_jax.checkpoints.arrays import new_checkpoint, parameter_counts
from show1_jax.checkpoints.cards.licences import check_licence, licence_of
from show1_jax.checkpoints.cards.model_card import add_sheet, escaped, is_own_card, model_card, own_card_in, write_card
from show1_jax.checkpoints.manifest import CARD, Component, Manifest, read_manifest, verify_files
from show1_jax.config.sampling import STAGES, CascadeConfig
from show1_jax.errors import UserError
from show1_jax.media.contact_sheet import CONTACT_SHEET, contact_sheet

SHOW1 = {
    "source": "showlab/show-1-base",
    "revision": "0" * 40,
    "licence": "CC BY-NC 4.0 (https://creativecommons.org/licenses/by-nc/4.0)",
    "tool": "show1-jax 0.1",
}
IF = {"source": "DeepFloyd/IF-II-L-v1.0", "revision": "1" * 40, "licence": "DeepFloyd IF License Agreement (a link)"}
DEMO = Path(__file__).parents[3] / "checkpoints/demo"


def manifest(**provenances: dict[str, Any]) -> Manifest:
    config = CascadeConfig()
    parts = {}
    for name, provenance in provenances.items():
        sampling = config.stage(name).to_dict() if name in STAGES else {}
        parts[name] = Component("unet", {}, "float16", provenance=provenance, sampling=sampling)
    return Manifest(parts, {f"{name}/weights/d": {"size": 10**9, "sha256": "0" * 64} for name in parts})


def adapter(provenance: dict[str, Any], base: str = "ab" * 32) -> Manifest:
    config = AdapterConfig(base, 4, 2.0).to_dict()
    return Manifest({"keyframes": Component(ADAPTER, config, "float32", provenance=provenance)}, {})


def head(card: str) -> dict[str, Any]:
    _, text, rest = card.split("---\n", 2)
    assert rest.startswith("\n# ")
    values = yaml.safe_load(text)
    assert isinstance(values, dict)
    return values


def test_the_head_is_as_the_hub_reads_it() -> None:
    card = model_card(manifest(**dict.fromkeys(STAGES, SHOW1)), {})
    assert head(card) == {
        "license": "cc-by-nc-4.0",
        "library_name": "show1-jax",
        "pipeline_tag": "text-to-video",
        "base_model": ["showlab/show-1-base"],
        "tags": ["text-to-video", "show-1", "jax", "flax"],
    }
    mixed = head(model_card(manifest(keyframes=SHOW1, first_frame=IF), {}))
    assert (mixed["license"], mixed["license_link"]) == ("other", "README.md#licences")
    assert mixed["license_name"] == "deepfloyd-if-license-agreement-a-link-and-cc-by-nc-4.0"
    assert mixed["base_model"] == ["showlab/show-1-base", "DeepFloyd/IF-II-L-v1.0"]
    local = head(model_card(manifest(i3d={"source": "/data/i3d", "revision": None}), {}))
    assert not {"license", "base_model", "pipeline_tag"} & local.keys()


def test_what_a_card_says_of_each_component() -> None:
    trained = {"source": "train.py", "stage": "keyframes", "step": 300, "settings": {"data.path": "my `clips`"}}
    parts = manifest(
        keyframes=trained | {"starts_from": {"source": "train.py", "step": 20, "starts_from": SHOW1}}, vae=IF
    )
    card = model_card(parts, {"keyframes": 1234567, "vae": 8})
    assert "| keyframes | UNet | 1,234,567 | float16 |" in card
    assert "All files together: 2.0 GB." in card
    origin = (
        f"trained by `train.py` (20 + 300 steps) from showlab/show-1-base (revision {'0' * 40}, written by show1-jax"
    )
    assert f"- keyframes: {origin} 0.1)" in card
    assert '    data.path = "my `clips`"' in card.splitlines()
    assert f"- keyframes: {SHOW1['licence']}" in card
    assert "- vae: DeepFloyd IF License Agreement (a link)" in card
    defaults = CascadeConfig().keyframes
    assert f"| keyframes | num_steps {defaults.num_steps}, guidance_scale {defaults.guidance_scale}," in card
    assert "--checkpoint BASE,DIR" in card  # not a whole cascade
    assert CONTACT_SHEET not in card
    assert f"![Frames of videos]({CONTACT_SHEET})" in model_card(parts, {}, has_sheet=True)


def test_a_cascade_says_how_to_sample_it() -> None:
    whole = manifest(**dict.fromkeys(STAGES, SHOW1))
    card = model_card(whole, {}, where="hub:me/show1")
    assert 'show1-sample --config full --checkpoint hub:me/show1 --prompt "a panda' in card
    assert 'Cascade.load("hub:me/show1")' in card
    demo = model_card(read_manifest(DEMO), {})
    assert 'show1-sample --config demo --checkpoint DIR --prompt "a red circle moves right"' in demo


def test_an_adapter_says_its_base_and_its_strength() -> None:
    start = {"source": "hub:me/show1", "revision": "2" * 40, "starts_from": SHOW1}
    card = model_card(adapter({"source": "train.py", "step": 5, "starts_from": start}), {}, where="hub:me/style")
    values = head(card)
    assert (values["base_model"], values["base_model_relation"]) == (["me/show1"], "adapter")
    assert values["license"] == "cc-by-nc-4.0"
    assert "lora" in values["tags"]
    assert f"rank 4, alpha 2) changes the keyframes network with the digest\n{'ab' * 32};" in card
    assert "--checkpoint BASE --adapter hub:me/style" in card
    assert "`hub:me/style:0.8` uses it with strength 0.8" in card


PLAIN = manifest(keyframes={"source": "a/b", "revision": "x", "licence": "y"})


@given(st.text())
@settings(max_examples=40)
def test_user_text_changes_neither_head_nor_structure(text: str) -> None:
    """Hostile text stays on its line: no line of the card begins, and no table cell ends, by the text."""
    provenance = {"source": text, "revision": text or "x", "licence": text or "y"}
    hostile = dataclasses.replace(PLAIN.component("keyframes"), provenance=provenance, dtype=text)
    card = model_card(dataclasses.replace(PLAIN, components={"keyframes": hostile}), {})
    plain = model_card(PLAIN, {})
    bodies = [text.split("---\n", 2)[2].splitlines() for text in (card, plain)]
    assert len(bodies[0]) == len(bodies[1])
    assert head(card)["library_name"] == "show1-jax"
    assert is_own_card(card)
    shown = escaped(text)
    assert shown.isprintable()
    assert "<" not in shown
    assert not re.search(r"(?<!\\)(\\\\)*[|`\[\]]", shown)


ANY_JSON = st.recursive(st.none() | st.integers() | st.text(max_size=3), lambda inner: st.lists(inner, max_size=2))
FIELDS = st.sampled_from(["source", "revision", "licence", "step", "steps", "adapters", "settings", "starts_from"])


@given(st.dictionaries(FIELDS, ANY_JSON), st.dictionaries(st.sampled_from(["height", "width"]), ANY_JSON))
@settings(max_examples=40)
def test_a_record_with_values_of_any_type_has_a_card(provenance: dict[str, Any], sampling: dict[str, Any]) -> None:
    part = dataclasses.replace(PLAIN.component("keyframes"), provenance=provenance, sampling=sampling)
    assert is_own_card(model_card(dataclasses.replace(PLAIN, components={"keyframes": part}), {}))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a_b", "a_b"),
        ("_a_", r"\_a\_"),
        ("<script>", r"&lt;script\>"),
        ("a\n---\nb", "a --- b"),
        ("[x](y) | `z`", r"\[x\](y) \| \`z\`"),
        ("x" * 500, "x" * 397 + "..."),
    ],
)
def test_escaped(text: str, shown: str) -> None:
    assert escaped(text) == shown


def write(folder: Path, *, overwrite: bool = False, values: int = 3) -> Path:
    with new_checkpoint(folder, overwrite=overwrite) as writer:
        array = np.zeros(values, np.float32)
        writer.add("vae", Component("vae", {}, "float32"), {("bias",): array}, {("bias",): array.dtype})
    return folder


def test_a_new_checkpoint_has_a_card_that_may_be_edited_or_removed(tmp_path: Path) -> None:
    folder = write(tmp_path / "a")
    card = (folder / CARD).read_text()
    assert "| vae | autoencoder | 3 | float32 |" in card
    assert is_own_card(card)
    assert CARD not in read_manifest(folder).files
    assert parameter_counts(folder, ["vae"]) == {"vae": 3}
    (folder / CARD).write_text(card + "mine")
    (folder / ".gitattributes").write_text("*")  # as on the hub
    (folder / ".cache/huggingface").mkdir(parents=True)
    (folder / ".cache/huggingface/state").write_text("")
    verify_files(folder)
    (folder / CARD).unlink()
    verify_files(folder)


def test_a_card_is_replaced_unless_it_was_edited(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write(tmp_path / "a")
    write(folder, overwrite=True, values=4)
    assert "| vae | autoencoder | 4 |" in (folder / CARD).read_text()
    (folder / CARD).write_text("my own card")
    assert not write_card(folder, read_manifest(folder), {})
    write(folder, overwrite=True, values=5)
    assert (folder / CARD).read_text() == "my own card"
    assert "was edited, and is kept" in capsys.readouterr().err
    for content in (b"\xff", b"x" * (2 << 20)):
        (folder / CARD).write_bytes(content)
        assert not own_card_in(folder)


def test_files_of_the_user_are_kept_when_a_checkpoint_is_replaced(tmp_path: Path) -> None:
    folder = write(tmp_path / "a")
    (folder / "LICENSE").write_text("terms")
    (folder / CONTACT_SHEET).write_bytes(b"old frames")
    write(folder, overwrite=True, values=4)
    assert (folder / "LICENSE").read_text() == "terms"
    assert not (folder / CONTACT_SHEET).exists()  # it showed videos of the older weights
    (folder / CONTACT_SHEET).write_bytes(b"frames")
    (folder / CARD).write_text(f"mine: ![]({CONTACT_SHEET})")
    write(folder, overwrite=True, values=5)
    assert (folder / CONTACT_SHEET).read_bytes() == b"frames"
    verify_files(folder)


def test_a_contact_sheet_is_copied_and_shown(tmp_path: Path) -> None:
    folder = write(tmp_path / "a")
    contact_sheet(tmp_path / "sheet.png", {"a": np.zeros((2, 8, 8, 3), np.uint8)}, "a title")
    add_sheet(folder, tmp_path / "sheet.png")
    assert write_card(folder, read_manifest(folder), {})
    assert f"({CONTACT_SHEET})" in (folder / CARD).read_text()
    verify_files(folder)
    with pytest.raises(UserError, match="not a PNG; give a contact sheet"):
        add_sheet(folder, folder / CARD)
    with pytest.raises(UserError, match=r"missing\.png: cannot be read"):
        add_sheet(folder, tmp_path / "missing.png")


def test_licences_and_their_restrictions() -> None:
    assert licence_of({"starts_from": SHOW1}).hub_id == "cc-by-nc-4.0"
    assert "commercial" in licence_of({"licence": "cc-by-nc-sa-4.0"}).restriction
    assert "research" in licence_of(IF).restriction
    for text in ("as the owner of the folder says", "other", "unknown"):
        assert "not known" in licence_of({"licence": text}).restriction
    assert "research" in licence_of({"licence": "deepfloyd-if-license"}).restriction
    assert licence_of({"licence": "apache-2.0"}) == ("apache-2.0", "apache-2.0", "")
    assert licence_of({"source": "train.py", "starts_from": {"source": "train.py"}}) == ("", "", "")
    for text in ("", "Apache 2", "a\nb", "../x"):
        with pytest.raises(UserError, match=r"is no name of one; give e\.g\. apache-2\.0"):
            check_licence(text)


def test_the_card_of_the_demo_is_up_to_date() -> None:
    card = (DEMO / CARD).read_text()
    own = read_manifest(DEMO)
    counts = {
        name: int(count.replace(",", "")) for name, count in re.findall(r"\| (\w+) \| [^|]+ \| ([\d,]+) \|", card)
    }
    assert card == model_card(own, counts, has_sheet=True)
    assert head(card)["license"] == "apache-2.0"
    assert all(licence_of(part.provenance).text == "apache-2.0" for part in own.components.values())
    # only the licence was added to the record: what identifies the weights is unchanged
    bare = {name: dataclasses.replace(part, provenance={}) for name, part in own.components.items()}
    assert {name: Manifest(bare, own.files).digest(name) for name in bare} == {name: own.digest(name) for name in bare}
    assert json.loads((DEMO / "manifest.json").read_text())["format_version"] == 3
