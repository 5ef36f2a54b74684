"""`README.md` of a checkpoint: a model card in the form of the hub, made from the manifest.

The card is not in the manifest, so that a user may edit it. Its last line has a hash of the text before it: a card
whose hash is right is ours and is replaced; any other belongs to the user and is kept.
"""

import hashlib
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from show1_jax.buckets.path import BucketPath
from show1_jax.checkpoints.adapters import ADAPTER, AdapterConfig
from show1_jax.checkpoints.cards.licences import licence_of
from show1_jax.checkpoints.manifest import CARD, HUB_PREFIX, LICENCE_FILES, Manifest
from show1_jax.config.sampling import STAGES
from show1_jax.config.settings import flatten
from show1_jax.errors import UserError
from show1_jax.files import read_bounded, write_bytes
from show1_jax.media.contact_sheet import CONTACT_SHEET

HERE: Final = "DIR"
"""Name of the checkpoint in a card that does not know where its folder will be."""
_MARK: Final = re.compile(r"\n<!-- written by show1_jax from manifest\.json; sha256 ([0-9a-f]{64}) -->\n\Z")
_MAX_CARD_BYTES: Final = 1 << 20
_MAX_TEXT: Final = 400
_MAX_STARTS: Final = 8
"""Earlier trainings of a component that a card lists."""
_KINDS: Final[Mapping[str, str]] = {"unet": "UNet", "vae": "autoencoder", "t5": "T5 encoder", "clip": "CLIP encoder"}
_EXAMPLES: Final[Mapping[tuple[int, int], tuple[str, str]]] = {
    (40, 64): ("full", "a panda eating bamboo"),
    (10, 16): ("demo", "a red circle moves right"),
}
"""Config and prompt of the command in a card, by height and width of the recorded keyframes."""
_OTHER_EXAMPLE: Final = ("CONFIG", "a panda eating bamboo")
_TAGS: Final = ("text-to-video", "show-1", "jax", "flax")
_REPOSITORY: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def model_card(manifest: Manifest, parameters: Mapping[str, int], *, where: str = HERE, has_sheet: bool = False) -> str:
    """Return the model card of a checkpoint: Markdown with a YAML head.

    Args:
        manifest: manifest of the checkpoint.
        parameters: number of parameters of each component, by name.
        where: name of the checkpoint in commands: a path, or `hub:OWNER/NAME`.
        has_sheet: there is a contact sheet in the folder.
    """
    parts = [*_head(manifest), *_introduction(manifest, where)]
    if has_sheet:
        parts += [f"![Frames of videos]({CONTACT_SHEET})", ""]
    parts += [*_component_table(manifest, parameters), *_origins(manifest), *_licences(manifest)]
    parts += [*_settings(manifest), *_usage(manifest, where)]
    text = "\n".join(parts)
    return f"{text}\n<!-- written by show1_jax from manifest.json; sha256 {_digest(text)} -->\n"


def is_own_card(text: str) -> bool:
    """Return whether a card is as `model_card` returned it, and was not edited since."""
    mark = _MARK.search(text)
    return mark is not None and mark[1] == _digest(text[: mark.start()])


def own_card_in(folder: Path) -> bool:
    """Return whether a folder has no card, or one that was not edited, so that it may be replaced."""
    path = folder / CARD
    if not isinstance(path, BucketPath) and not os.path.lexists(path):
        return True
    try:
        return is_own_card(read_bounded(path, _MAX_CARD_BYTES).decode())
    except FileNotFoundError:
        return isinstance(path, BucketPath)  # elsewhere it is a broken link
    except (OSError, UnicodeDecodeError):
        return False


def write_card(folder: Path, manifest: Manifest, parameters: Mapping[str, int], replaced: Path | None = None) -> bool:
    """Write the model card of a checkpoint, unless there is one that the user edited.

    Args:
        folder: the checkpoint, which need not have a manifest yet.
        manifest: see `model_card`.
        parameters: see `model_card`.
        replaced: an older checkpoint that this one will replace; a card that the user edited there is kept, with the
            contact sheet that it may show, and so are the user's licence files.

    Returns:
        False if the user's card was kept.

    Raises:
        UserError: the card cannot be written.
    """
    if replaced is not None:
        _keep_files(replaced, folder)
    if not own_card_in(folder):
        return False
    text = model_card(manifest, parameters, has_sheet=os.path.isfile(folder / CONTACT_SHEET))
    write_bytes(folder / CARD, text.encode())
    return True


def _keep_files(replaced: Path, folder: Path) -> None:
    """Copy the user's files of a checkpoint that will be replaced."""
    names = list(LICENCE_FILES)
    if not own_card_in(replaced):
        names += [CARD, CONTACT_SHEET]  # the card may show the sheet
        print(f"{replaced / CARD}: was edited, and is kept; remove it to get a new one", file=sys.stderr)
    for name in names:
        if (replaced / name).is_file():
            write_bytes(folder / name, (replaced / name).read_bytes())


def add_sheet(folder: Path, sheet: Path) -> None:
    """Copy a contact sheet into a checkpoint's folder, for its card.

    Raises:
        UserError: it cannot be read or written.
    """
    try:
        content = read_bounded(sheet, 64 << 20)
    except OSError as error:
        raise UserError(f"{sheet}: cannot be read ({error.strerror}); give a PNG of `sample.py`") from None
    if not content.startswith(b"\x89PNG\r\n"):
        raise UserError(f"{sheet}: not a PNG; give a contact sheet of `sample.py`")
    write_bytes(folder / CONTACT_SHEET, content)


def escaped(value: Any) -> str:
    """Return a value of unknown origin as text that Markdown and HTML show unchanged, on one line."""
    text = _one_line(value).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\`*\[\]|~$>#]|(?<![^\W_])_|_(?![^\W_]))", r"\\\1", text)  # `_` within a word has no meaning


def _one_line(value: Any) -> str:
    text = "".join(character if character.isprintable() else " " for character in str(value))
    text = " ".join(text.split())
    return text if len(text) <= _MAX_TEXT else text[: _MAX_TEXT - 3] + "..."


def _yaml(value: Any) -> str:
    """Return a YAML string, which is a JSON string if all characters are printable."""
    return json.dumps(_one_line(value), ensure_ascii=False)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _is_adapter(manifest: Manifest) -> bool:
    return any(component.kind == ADAPTER for component in manifest.components.values())


def _head(manifest: Manifest) -> Iterator[str]:
    """Yield the YAML head, whose fields are those that the hub reads."""
    licences = [licence for part in manifest.components.values() if (licence := licence_of(part.provenance)).text]
    ids = sorted({licence.hub_id for licence in licences})
    yield "---"
    if len(ids) == 1 and ids != ["other"] and len(licences) == len(manifest.components):
        yield f"license: {_yaml(ids[0])}"
    elif licences:
        names = sorted({licence.hub_id if licence.hub_id != "other" else licence.text for licence in licences})
        yield "license: other"
        yield f"license_name: {_yaml(_slug(' and '.join(names)))}"
        yield f"license_link: {_yaml('README.md#licences')}"
    yield "library_name: show1-jax"
    if manifest.components.keys() & set(STAGES):
        yield "pipeline_tag: text-to-video"
    bases = _bases(manifest)
    if bases:
        yield "base_model:"
        yield from (f"- {_yaml(base)}" for base in bases)
    if _is_adapter(manifest) and bases:
        yield "base_model_relation: adapter"
    yield "tags:"
    yield from (f"- {tag}" for tag in (*_TAGS, *(("lora",) if _is_adapter(manifest) else ())))
    yield "---"
    yield ""


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-")[:80]


def _bases(manifest: Manifest) -> list[str]:
    """Return the repository that each component comes from most recently; a source without a revision is a folder."""
    found = []
    for component in manifest.components.values():
        for origin in _history(component.provenance):
            source = str(origin.get("source", "")).removeprefix(HUB_PREFIX).partition("@")[0]
            if origin.get("revision") and _REPOSITORY.fullmatch(source):
                found.append(source)
                break
    return list(dict.fromkeys(found))


def _history(provenance: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the provenance of a component, then those of the weights that it was trained from, newest first."""
    current: Any = provenance
    while isinstance(current, Mapping):
        yield current
        current = current.get("starts_from")


def _introduction(manifest: Manifest, where: str) -> Iterator[str]:
    names = list(manifest.components)
    about = "[Show-1](https://arxiv.org/abs/2309.15818), a text-to-video cascade of diffusion models"
    if _is_adapter(manifest):
        yield f"# An adapter of the {', '.join(map(escaped, names))} network of Show-1"
        text = f"Changes of weights for a network of {about}. It is used with the checkpoint that it was trained on."
    elif set(STAGES) <= set(names):
        yield "# A cascade of Show-1 in JAX"
        text = f"All networks of {about}, for JAX."
    elif set(names) & set(STAGES):
        yield f"# Networks of Show-1 in JAX: {', '.join(map(escaped, names))}"
        text = f"Some networks of {about}, for JAX. They are used with a checkpoint that has the others."
    else:
        yield f"# Networks in JAX: {', '.join(map(escaped, names))}"
        text = "Networks of show1_jax, without a stage of the cascade."
    yield from ("", text, "")


def _component_table(manifest: Manifest, parameters: Mapping[str, int]) -> Iterator[str]:
    yield from ("## Components", "", "| component | network | parameters | dtype |", "| --- | --- | ---: | --- |")
    for name, component in manifest.components.items():
        kind = _KINDS.get(component.kind, component.kind)
        count = f"{parameters[name]:,}" if name in parameters else ""
        yield f"| {escaped(name)} | {escaped(kind)} | {count} | {escaped(component.dtype)} |"
    size = sum(file["size"] for file in manifest.files.values())
    yield from ("", f"All files together: {_size(size)}.", "") if size else ("",)


def _size(num_bytes: int) -> str:
    unit = "GB" if num_bytes >= 1e9 else "MB" if num_bytes >= 1e6 else "kB"
    return f"{num_bytes / {'GB': 1e9, 'MB': 1e6, 'kB': 1e3}[unit]:,.1f} {unit}"


def _origins(manifest: Manifest) -> Iterator[str]:
    yield from ("## Origin", "")
    for name, component in manifest.components.items():
        yield f"- {escaped(name)}: {_origin(component.provenance)}"
        adapters = component.provenance.get("adapters")
        for adapter in adapters if isinstance(adapters, list | tuple) else ():
            if isinstance(adapter, Mapping):
                source, strength = escaped(adapter.get("source")), escaped(adapter.get("strength"))
                yield f"  - with the adapter {source}, strength {strength}"
    yield ""
    for name, component in manifest.components.items():
        settings = component.provenance.get("settings")
        if isinstance(settings, Mapping) and settings:
            yield f"Settings of the training of {escaped(name)} that differ from their defaults:"
            yield ""
            yield from (f"    {_one_line(key)} = {_one_line(json.dumps(value))}" for key, value in settings.items())
            yield ""


def _origin(provenance: Mapping[str, Any]) -> str:
    """Return where a component comes from: its trainings, and the weights before them."""
    history = list(_history(provenance))
    runs = [origin for origin in history if origin.get("source") == "train.py" and origin.get("step") is not None]
    steps = [escaped(run["step"]) for run in reversed(runs[:_MAX_STARTS])]
    more = "... + " if len(runs) > _MAX_STARTS else ""
    trained = f"trained by `train.py` ({more}{' + '.join(steps)} steps) from " if runs else ""
    origin = next((origin for origin in history if origin.get("source") != "train.py"), {})
    if not origin.get("source"):
        return trained + ("random weights" if runs else "not recorded")
    facts = [f"revision {escaped(origin['revision'])}"] if origin.get("revision") else []
    facts += [f"variant {escaped(origin['variant'])}"] if origin.get("variant") else []
    facts += [f"{escaped(origin['steps'])} training steps"] if origin.get("steps") is not None else []
    facts += [f"written by {escaped(origin['tool'])}"] if origin.get("tool") else []
    return trained + escaped(origin["source"]) + (f" ({', '.join(facts)})" if facts else "")


def _licences(manifest: Manifest) -> Iterator[str]:
    yield from ("## Licences", "")
    parts: dict[str, list[str]] = {}
    for name, component in manifest.components.items():
        parts.setdefault(licence_of(component.provenance).text, []).append(name)
    for text, names in parts.items():
        yield f"- {', '.join(map(escaped, names))}: {escaped(text) if text else 'no licence is recorded'}"
    yield ""


def _settings(manifest: Manifest) -> Iterator[str]:
    recorded = {name: part.sampling for name, part in manifest.components.items() if name in STAGES and part.sampling}
    if not recorded:
        return
    yield from ("## Settings", "", "The networks were made for these settings, which are recorded and used by default.")
    yield from ("", "| stage | settings |", "| --- | --- |")
    for name, settings in recorded.items():
        listed = ", ".join(f"{key} {value}" for key, value in flatten(dict(settings)).items())
        yield f"| {escaped(name)} | {escaped(listed)} |"
    yield ""


def _usage(manifest: Manifest, where: str) -> Iterator[str]:
    if not manifest.components.keys() & set(STAGES):
        return
    keyframes = manifest.components.get("keyframes")
    sampling = {} if keyframes is None else keyframes.sampling
    is_whole, is_adapter = set(STAGES) <= manifest.components.keys(), _is_adapter(manifest)
    size = (sampling.get("height"), sampling.get("width"))
    known = [example for example_size, example in _EXAMPLES.items() if example_size == size and not is_adapter]
    config, prompt = known[0] if known else _OTHER_EXAMPLE
    base = "BASE" if is_adapter or not is_whole else where
    given = base if is_whole or is_adapter else f"{base},{where}"
    flag = f" --adapter {where}" if is_adapter else ""
    argument = f', adapters="{where}"' if is_adapter else ""
    yield from ("## Sampling", "")
    words = [f"`{HERE}` is the folder of this card"] if where == HERE else []
    words += ["`BASE` the checkpoint with the other networks"] if not is_whole and not is_adapter else []
    words += ["`BASE` the checkpoint that the adapter belongs to"] if is_adapter else []
    words += ["`CONFIG` the config for the networks"] if config == _OTHER_EXAMPLE[0] else []
    yield f"With show1_jax installed{'; ' + ', '.join(words) if words else ''}:"
    yield from ("", "```bash", f'show1-sample --config {config} --checkpoint {given}{flag} --prompt "{prompt}"')
    yield from ("```", "", "```python", "from show1_jax import Cascade, to_uint8, write_mp4", "")
    yield f'cascade = Cascade.load("{given}"{argument})'
    yield f'videos = cascade.sample(["{prompt}"])'
    yield from ('write_mp4("video.mp4", to_uint8(videos["superres_latent"][0]), fps=8)', "```", "")
    if is_adapter:
        yield from _adapter_usage(manifest, where)


def _adapter_usage(manifest: Manifest, where: str) -> Iterator[str]:
    """Yield the base of an adapter, and its strengths."""
    for name, component in manifest.components.items():
        config = AdapterConfig.from_dict(component.architecture)
        pairs = f"rank {config.rank}, alpha {config.alpha:g}" if config.rank else "weights that replace others"
        yield f"The adapter ({pairs}) changes the {escaped(name)} network with the digest"
        yield f"{escaped(config.base)}; with any other it is refused."
    yield f"`{where}:0.8` uses it with strength 0.8; the default is 1, and 0 changes nothing. Several adapters are"
    yield "separated by commas."
    yield ""
