"""The files of an evaluation: its prompts for `sample.py`, and the plan for the scores.

    prompts.jsonl   all videos to sample: a prompt and a seed a line, for `sample.py --prompts`
    protocol.json   the protocol, its settings, and the videos of each metric

`sample.py --out` is the same folder, so that it holds all of an evaluation.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

from show1_jax.cascade.prompts import Prompt
from show1_jax.checkpoints.manifest import sha256
from show1_jax.errors import FileError, UserError
from show1_jax.evaluation.protocols.protocol import Plan, Protocol, VideoSet
from show1_jax.evaluation.protocols.table import PROTOCOLS
from show1_jax.files import read_json, write_bytes
from show1_jax.sampling.prompt_files import MAX_FILE_BYTES, MAX_PROMPTS, read_prompts

PROMPTS_FILE: Final = "prompts.jsonl"
PLAN_FILE: Final = "protocol.json"
PLAN_FORMAT: Final = "show1_jax.protocol.v1"
_REMEDY: Final = "make it again with the command `prompts`"


@dataclass(frozen=True)
class StoredPlan:
    """A plan with the protocol and the settings that it was made with."""

    protocol: Protocol
    plan: Plan


def write_plan(folder: Path, protocol: Protocol, plan: Plan, *, overwrite: bool = False) -> bool:
    """Write the files of a plan, or nothing if they are there already.

    Args:
        folder: folder of the evaluation, which is made; it may hold sampled videos.
        protocol: the protocol with its settings.
        plan: the plan that they give for a copy of the dataset.
        overwrite: replace the files of another plan. Videos that both plans have are used again.

    Returns:
        True if the files were written.

    Raises:
        UserError: the folder has another plan, or cannot be written; or there are more videos than a file of prompts
            may have.
    """
    prompts, plan_bytes = _encode(protocol, plan)
    files = {folder / PROMPTS_FILE: prompts, folder / PLAN_FILE: plan_bytes}
    existing = {path: path.read_bytes() for path in files if path.is_file()}
    if existing == files:
        return False
    if any(files[path] != content for path, content in existing.items()) and not overwrite:
        raise UserError(
            f"{folder} has the prompts of {_difference(folder, protocol)}; choose another --out, or replace "
            "them with --overwrite, which keeps the sampled videos"
        )
    for path, content in files.items():
        write_bytes(path, content)
    return True


def _encode(protocol: Protocol, plan: Plan) -> tuple[bytes, bytes]:
    videos = plan.videos
    lines = [json.dumps({"prompt": video.text, "seed": video.seed}, ensure_ascii=False) for video in videos]
    prompts = "".join(f"{line}\n" for line in lines).encode()
    if len(videos) > MAX_PROMPTS or len(prompts) > MAX_FILE_BYTES:
        raise UserError(
            f"{len(videos):,} prompts are more than one file may have; choose fewer --metrics or --num_videos"
        )
    places = {video: place for place, video in enumerate(videos)}
    values = {
        "format": PLAN_FORMAT,
        "protocol": protocol.name,
        "settings": protocol.settings(),
        "notes": plan.notes,
        "prompts_sha256": hashlib.sha256(prompts).hexdigest(),
        "metrics": {
            metric: {"videos": [places[video] for video in part.videos], "references": part.references}
            for metric, part in plan.sets.items()
        },
    }
    return prompts, (json.dumps(values, ensure_ascii=False, indent=1) + "\n").encode()


def _difference(folder: Path, protocol: Protocol) -> str:
    """Return the difference between the plan in a folder and a protocol, as the object of "has the prompts of"."""
    try:
        stored = read_plan(folder).protocol
    except UserError:
        return "something else"
    if stored.name != protocol.name:
        return f"the protocol {stored.name}"
    names = [name for name, value in protocol.settings().items() if stored.settings()[name] != value]
    return f"another {', '.join(names)}" if names else "other metrics or another copy of the dataset"


def read_plan(folder: Path) -> StoredPlan:
    """Return the plan in the folder of an evaluation.

    Raises:
        UserError: there is none, or a file is damaged or was changed; the line says how to make it.
    """
    path = folder / PLAN_FILE
    try:
        values = read_json(path, _REMEDY)
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"there is no {path}; {_REMEDY}") from None
    if not isinstance(values, dict) or values.get("format") != PLAN_FORMAT or values.get("protocol") not in PROTOCOLS:
        raise FileError(f"{path} is no plan of a protocol ({', '.join(PROTOCOLS)})", _REMEDY)
    videos = _read_videos(folder / PROMPTS_FILE, values.get("prompts_sha256"))
    parts = values.get("metrics")
    kind = PROTOCOLS[values["protocol"]]
    if not isinstance(parts, dict) or not parts or not parts.keys() <= kind.paper.keys():
        raise FileError(f"{path}: metrics must be an object with {', '.join(kind.paper)}", _REMEDY)
    sets = {metric: _read_set(path, metric, part, videos) for metric, part in parts.items()}
    notes = values.get("notes")
    return StoredPlan(
        _read_protocol(path, kind, values.get("settings")),
        Plan(sets, tuple(map(str, notes)) if isinstance(notes, list) else ()),
    )


def _read_videos(path: Path, digest: Any) -> list[Prompt]:
    if not path.is_file():
        raise UserError(f"there is no {path}; {_REMEDY}")
    if sha256(path) != digest:
        raise FileError(f"{path} is not the one of {PLAN_FILE}", _REMEDY)
    return read_prompts(path)


def _read_protocol(path: Path, kind: type[Protocol], settings: Any) -> Protocol:
    names = {field.name for field in dataclasses.fields(kind)}
    if not isinstance(settings, dict) or settings.keys() != names:
        raise FileError(f"{path}: settings must have {', '.join(sorted(names))}", _REMEDY)
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()
    }
    defaults = kind()
    for name, value in values.items():
        if type(value) is not type(getattr(defaults, name)):
            raise FileError(f"{path}: settings.{name} has a wrong type", _REMEDY)
    try:
        return kind(**values)
    except UserError as error:
        raise FileError(f"{path}: {error}", _REMEDY) from None


def _read_set(path: Path, metric: str, part: Any, videos: Sequence[Prompt]) -> VideoSet:
    fields: Mapping[str, Any] = part if isinstance(part, dict) else {}
    places, references = fields.get("videos"), fields.get("references")
    if not isinstance(places, list) or not all(type(place) is int and 0 <= place < len(videos) for place in places):
        raise FileError(f"{path}: metrics.{metric}.videos must be a list of places in {PROMPTS_FILE}", _REMEDY)
    if not isinstance(references, list) or not all(isinstance(name, str) and _is_inside(name) for name in references):
        raise FileError(f"{path}: metrics.{metric}.references must be a list of paths in the dataset", _REMEDY)
    return VideoSet(tuple(videos[place] for place in places), tuple(references))


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts
