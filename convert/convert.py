"""Conversion of released folders to a checkpoint: all parts are checked first, then written tensor by tensor."""

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import ml_dtypes
import numpy as np

from show1_jax.checkpoints.arrays import CheckpointWriter, check_new_checkpoint, new_checkpoint
from show1_jax.checkpoints.hub import is_hub_id
from show1_jax.checkpoints.manifest import Component, sha256
from show1_jax.checkpoints.recorded_settings import with_settings
from show1_jax.cli import installed_version
from show1_jax.config.sampling import CascadeConfig
from show1_jax.errors import UserError
from show1_jax.files import check_space, user_path
from show1_jax.nn.config import Architecture
from show1_jax.nn.text_architecture import TextArchitecture
from show1_jax.parallel.weights import WeightPath
from show1_jax.progress import Bar
from show1_jax.text.encoders import encoder_of_kind

from .folders import allowed_roots, read_file
from .hub import download
from .reader import Weights, open_weights
from .released import (
    OWNERS_LICENCE,
    RELEASED_STAGES,
    TOKENIZER_FILES,
    ReleasedPart,
    ReleasedStage,
    check_folder,
    check_text_widths,
    read_architecture,
    read_scheduler,
    repository_licence,
    scheduler_file,
)
from .rules import match_weights
from .tables import KINDS, parameters

DTYPES: Final[Mapping[str, np.dtype | None]] = {
    "keep": None,
    "float32": np.dtype("float32"),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype("float16"),
}


@dataclass(frozen=True)
class PreparedPart:
    """A part that was checked and can be written.

    Attributes:
        stage: the stage that the part belongs to.
        part: its component, kind and place in the released folder.
        licence: the licence of its weights.
        origin: its source and revision, for its provenance.
        files: the files whose SHA-256 is recorded, by their path in the folder; that of `tokenizer` is recorded, too.
        architecture: the architecture of the network.
        config: its released `config.json`; empty if the network is not a released one.
        schedulers: scheduler settings by role.
        tokenizer: the content of the tokenizer's files, by name.
        weights: the mapped files behind `arrays`.
        arrays: the weights in our layout, by path.
        dtypes: the dtype in which each is stored.
        draw: called with a folder for scratch files when the part is written; returns weights that replace some of
            `arrays`, by path joined with slashes. Weights that are in no file are made only then.
    """

    stage: ReleasedStage
    part: ReleasedPart
    licence: str
    origin: dict[str, Any]
    files: dict[str, Path]
    architecture: Architecture
    config: dict[str, Any]
    schedulers: dict[str, dict[str, Any]]
    tokenizer: dict[str, bytes]
    weights: Weights
    arrays: dict[WeightPath, np.ndarray]
    dtypes: dict[WeightPath, np.dtype]
    draw: Callable[[Path], Weights] = lambda scratch: Weights({})

    @property
    def stored_bytes(self) -> int:
        """Size of the weights in the checkpoint, in bytes."""
        return sum(array.size * self.dtypes[path].itemsize for path, array in self.arrays.items())

    @property
    def dtype_name(self) -> str:
        """Name of the stored dtype; "mixed" if there are several."""
        return dtype_name(self.dtypes.values())


def convert(
    out: Path,
    sources: Mapping[str, str],
    *,
    variant: str | None = None,
    dtype: np.dtype | None = None,
    config: CascadeConfig | None = None,
    overwrite: bool = False,
) -> None:
    """Convert the released folders of some stages to one checkpoint.

    Args:
        out: the checkpoint's directory; it appears when everything is written.
        sources: for each stage a local folder, or a hub id with an optional @revision.
        variant: the variant of the weight files to prefer, e.g. "fp16", if a folder has it.
        dtype: the dtype of the stored weights; None keeps each tensor's.
        config: sampling settings to record; the original's if not given.
        overwrite: replace an existing checkpoint.

    Raises:
        UserError: a problem with sources, weights, `out` or the disk; `out` is then unchanged.
    """
    check_new_checkpoint(out, overwrite=overwrite)
    prepared_parts = prepare([(RELEASED_STAGES[name], source) for name, source in sources.items()], variant, dtype)
    write_checkpoint(out, prepared_parts, config=config or CascadeConfig(), overwrite=overwrite)


def prepare(
    sources: Sequence[tuple[ReleasedStage, str]], variant: str | None, dtype: np.dtype | None
) -> list[PreparedPart]:
    """Check every part of every stage, and prepare it for writing.

    An optional part is used only if the folder has it and no earlier folder had it.

    Args:
        sources: stages, each with a local folder or a hub id.
        variant: the variant of the weight files to prefer.
        dtype: the dtype of the stored weights; None keeps each tensor's.

    Raises:
        UserError: the problems of all parts, in one message.
    """
    prepared_parts: list[PreparedPart] = []
    problems = []
    for stage, source in sources:
        present = {prepared.part.component for prepared in prepared_parts}
        needed = replace(stage, parts=tuple(part for part in stage.parts if part.component not in present))
        try:
            folder, revision, licence = _locate(needed, source, variant)
        except UserError as error:
            problems.append(str(error))
            continue
        origin = {"source": source, "revision": revision}
        for part in needed.parts:
            if part.optional and not os.path.isfile(folder / part.config):
                continue
            try:
                prepared_parts.append(_prepare_part(stage, part, folder, licence, origin, variant, dtype))
            except UserError as error:
                problems.append(str(error))
    if problems:
        raise UserError("; ".join(problems))
    if variant is not None and all(prepared.weights.variant != variant for prepared in prepared_parts):
        raise UserError(f"--variant {variant}: no source has such files; omit it to use the available ones")
    return prepared_parts


def write_checkpoint(
    out: Path, prepared_parts: Sequence[PreparedPart], *, config: CascadeConfig | None = None, overwrite: bool = False
) -> None:
    """Write prepared parts as a checkpoint, and print a line for each.

    Args:
        out: the checkpoint's directory.
        prepared_parts: the parts to write.
        config: sampling settings to record; None records none, as for networks that training starts from.
        overwrite: replace an existing checkpoint.

    Raises:
        UserError: parts that do not fit each other, or a problem with `out` or the disk; `out` is then unchanged.
    """
    check_text_widths({prepared.part.component: prepared.architecture for prepared in prepared_parts})
    check_space(out, sum(prepared.stored_bytes for prepared in prepared_parts))
    with new_checkpoint(out, overwrite=overwrite) as writer:
        for prepared in prepared_parts:
            _write_part(writer, prepared, config)
    _report(out, prepared_parts)


def _locate(stage: ReleasedStage, source: str, variant: str | None) -> tuple[Path, str | None, str]:
    """Return the local folder of a source, its revision (None if it was not downloaded), and its licence."""
    folder, revision, licence = user_path(source), None, OWNERS_LICENCE
    if not os.path.exists(folder) and is_hub_id(source):
        folder, revision = download(source, stage, variant)
        licence = repository_licence(source.partition("@")[0])
    check_folder(stage, folder)
    return folder, revision, licence


def _prepare_part(
    stage: ReleasedStage,
    part: ReleasedPart,
    folder: Path,
    licence: str,
    origin: dict[str, Any],
    variant: str | None,
    dtype: np.dtype | None,
) -> PreparedPart:
    architecture, config = read_architecture(stage, part, folder)
    schedulers = {role: read_scheduler(role, folder) for role in part.schedulers}
    tokenizer = _read_tokenizer(part, folder, architecture)
    weights = open_weights(folder / part.folder, variant, allowed_roots(folder))
    state = parameters(part.kind, architecture)
    with _byte_progress(f"check {part.component}", weights.nbytes, weights) as advance:
        where = f"{folder / part.folder}"
        arrays = match_weights(weights, state, KINDS[part.kind].table, where=where, dtype=dtype, progress=advance)
    dtypes = {path: dtype or array.dtype for path, array in arrays.items()}
    used = [*weights.files, folder / part.config, *(folder / scheduler_file(role) for role in schedulers)]
    files = {path.relative_to(folder).as_posix(): path for path in used}
    origin = {**origin, "variant": weights.variant}
    return PreparedPart(
        stage, part, licence, origin, files, architecture, config, schedulers, tokenizer, weights, arrays, dtypes
    )


def _read_tokenizer(part: ReleasedPart, folder: Path, architecture: Architecture) -> dict[str, bytes]:
    """Return the content of a part's tokenizer files by name, after checking that sampling can use them alone."""
    if not part.tokenizer:
        return {}
    where, roots = folder / "tokenizer", allowed_roots(folder)
    files = {name: read_file(where / name, roots) for name in TOKENIZER_FILES if os.path.lexists(where / name)}
    if missing := [name for name in part.tokenizer if name not in files]:
        raise UserError(f"{where}: has no {', '.join(missing)}; use the released folder's own tokenizer files")
    with _scratch_files(files) as paths:
        scratch = next(iter(paths.values())).parent
        try:
            check_tokenizer(scratch, part.kind, architecture)
        except UserError as error:
            raise UserError(str(error).replace(str(scratch), str(where))) from None
    return files


def check_tokenizer(folder: Path, kind: str, architecture: Architecture) -> None:
    """Refuse a tokenizer that does not fit its text encoder.

    Raises:
        UserError: it gives more tokens than the encoder has positions, or ids outside the encoder's table.
    """
    assert isinstance(architecture, TextArchitecture)
    tokenizer = encoder_of_kind(kind).load_tokenizer(folder)
    length, positions, largest = tokenizer.length, architecture.max_positions, tokenizer.largest_id
    problem = ""
    if positions is not None and length > positions:
        problem = f"gives {length} tokens, but the text encoder has {positions} positions"
    if largest >= architecture.vocab_size:
        problem = f"gives ids up to {largest}, but the text encoder has a table of {architecture.vocab_size}"
    if problem:
        raise UserError(f"{folder}: {problem}; give a tokenizer and a text encoder that belong together")


@contextmanager
def _scratch_files(files: Mapping[str, bytes]) -> Iterator[dict[str, Path]]:
    """Write files to a temporary folder, and yield their paths by name while the block lasts."""
    with tempfile.TemporaryDirectory() as scratch:
        paths = {name: Path(scratch) / name for name in files}
        for name, path in paths.items():
            path.write_bytes(files[name])
        yield paths


def _write_part(writer: CheckpointWriter, prepared: PreparedPart, config: CascadeConfig | None) -> None:
    drawn = prepared.draw(writer.directory)
    arrays = {path: drawn.get("/".join(path), array) for path, array in prepared.arrays.items()}
    component = Component(
        kind=prepared.part.kind,
        architecture=prepared.architecture.to_dict(),
        dtype=prepared.dtype_name,
        schedulers=prepared.schedulers,
        config=prepared.config,
        provenance=_provenance(prepared),
    )
    total = sum(array.nbytes for array in arrays.values())
    if config is not None:
        component = with_settings(component, prepared.part.component, config)
    with (
        _scratch_files(prepared.tokenizer) as tokenizer,
        _byte_progress(f"write {prepared.part.component}", total, prepared.weights, drawn) as advance,
    ):
        writer.add(prepared.part.component, component, arrays, prepared.dtypes, tokenizer, advance)


def _provenance(prepared: PreparedPart) -> dict[str, Any]:
    copied = {f"tokenizer/{name}": hashlib.sha256(content).hexdigest() for name, content in prepared.tokenizer.items()}
    return {
        **prepared.origin,
        "files": {name: sha256(path) for name, path in prepared.files.items()} | copied,
        "licence": prepared.licence,
        "tool": tool_version(),
    }


def dtype_name(dtypes: Iterable[np.dtype]) -> str:
    """Return the name of a component's dtype in its record: "mixed" if there are several."""
    names = {dtype.name for dtype in dtypes}
    return names.pop() if len(names) == 1 else "mixed"


def tool_version() -> str:
    """Return this package's name and version, for provenance."""
    return f"show1-jax {installed_version('show1-jax') or 'from a checkout'}"


@contextmanager
def _byte_progress(name: str, total: int, *read: Weights) -> Iterator[Callable[[int], None]]:
    """Show a progress bar; yield a function that adds bytes to it and releases the memory of finished tensors."""
    with Bar(name, total, unit="B", leave=False) as bar:

        def advance(size: int) -> None:
            bar.update(size)
            for weights in read:
                weights.release()

        yield advance


def _report(out: Path, prepared_parts: Sequence[PreparedPart]) -> None:
    for prepared in prepared_parts:
        variant = f" (variant {prepared.weights.variant})" if prepared.weights.variant else ""
        files = ", ".join(path.name for path in prepared.weights.files) or prepared.origin["source"]
        print(f"{prepared.part.component}: {files}{variant} as {prepared.dtype_name}")
    for licence in dict.fromkeys(prepared.licence for prepared in prepared_parts):
        stages = dict.fromkeys(prepared.stage.name for prepared in prepared_parts if prepared.licence == licence)
        print(f"licence of {', '.join(stages)}: {licence}")
    print(f"{out}: written")
