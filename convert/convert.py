"""From released folders to a checkpoint: everything is checked first, then written tensor by tensor."""

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import ml_dtypes
import numpy as np

from convert.folders import boundary, read_file
from convert.hub import download, is_hub_id
from convert.reader import Weights, open_weights
from convert.released import (
    OWNERS_LICENCE,
    STAGES,
    TOKENIZER_FILES,
    Part,
    Stage,
    check_fit,
    check_folder,
    read_architecture,
    read_scheduler,
    repository_licence,
    scheduler_file,
)
from convert.rules import match
from convert.tables import KINDS, parameters
from show1_jax.checkpoints.arrays import CheckpointWriter, check_new_checkpoint, new_checkpoint
from show1_jax.checkpoints.manifest import Component, sha256
from show1_jax.checkpoints.recorded_settings import with_settings
from show1_jax.config.sampling import CascadeConfig
from show1_jax.errors import UserError
from show1_jax.files import check_space, user_path
from show1_jax.nn.config import Architecture
from show1_jax.nn.text_architecture import TextArchitecture
from show1_jax.parallel.weights import WeightPath
from show1_jax.progress import Bar
from show1_jax.text.encoders import encoder_of_kind

DTYPES: Final[Mapping[str, np.dtype | None]] = {
    "keep": None,
    "float32": np.dtype("float32"),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype("float16"),
}


@dataclass(frozen=True)
class Job:
    """A part that was checked and can be written.

    Attributes:
      stage: that the part belongs to.
      part: what it is.
      licence: of its weights.
      origin: where it comes from, for its provenance.
      files: SHA-256 of these is recorded, by their place in the folder, and that of `tokenizer`.
      architecture: of the network.
      config: its released `config.json`; empty where the network is not a released one.
      schedulers: settings by role.
      tokenizer: the content of its files, by name.
      weights: the mapped files behind `arrays`.
      arrays: the weights in our layout.
      dtypes: what each is stored as.
      draw: called with a folder for scratch files when the part is written, gives weights in place of some `arrays`,
        by path joined with slashes: what no file holds is made only then.
    """

    stage: Stage
    part: Part
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
        return sum(array.size * self.dtypes[path].itemsize for path, array in self.arrays.items())

    @property
    def dtype_name(self) -> str:
        names = {dtype.name for dtype in self.dtypes.values()}
        return names.pop() if len(names) == 1 else "mixed"


def convert(
    out: Path,
    sources: Mapping[str, str],
    *,
    variant: str | None = None,
    dtype: np.dtype | None = None,
    overwrite: bool = False,
) -> None:
    """Converts the released folders of some stages to one checkpoint.

    Args:
      out: the checkpoint's directory; it appears when everything is written.
      sources: for each stage a local folder, or a hub id with an optional @revision.
      variant: of the weight files, e.g. "fp16", where a folder has it.
      dtype: of the stored weights; None keeps each tensor's.
      overwrite: replace a checkpoint that is there.

    Raises:
      UserError: anything wrong with sources, weights, `out` or the disk; `out` is then as it was.
    """
    check_new_checkpoint(out, overwrite=overwrite)
    jobs = prepare([(STAGES[name], source) for name, source in sources.items()], variant, dtype)
    write_checkpoint(out, jobs, overwrite=overwrite)


def prepare(sources: Sequence[tuple[Stage, str]], variant: str | None, dtype: np.dtype | None) -> list[Job]:
    """Every part of every stage, checked; an optional one only where a folder has it and none before it had.

    Raises:
      UserError: what is wrong in all of them.
    """
    jobs: list[Job] = []
    problems = []
    for stage, source in sources:
        taken = {job.part.component for job in jobs}
        needed = replace(stage, parts=tuple(part for part in stage.parts if part.component not in taken))
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
                jobs.append(_check(stage, part, folder, licence, origin, variant, dtype))
            except UserError as error:
                problems.append(str(error))
    if problems:
        raise UserError("; ".join(problems))
    if variant is not None and all(job.weights.variant != variant for job in jobs):
        raise UserError(f"--variant {variant}: no source has such files; leave it out to take what there is")
    return jobs


def write_checkpoint(out: Path, jobs: Sequence[Job], *, overwrite: bool = False) -> None:
    """Writes what was prepared, and says what it is.

    Raises:
      UserError: parts that do not fit each other, or anything wrong with `out` or the disk; `out` is then as it was.
    """
    check_fit({job.part.component: job.architecture for job in jobs})
    check_space(out, sum(job.stored_bytes for job in jobs))
    with new_checkpoint(out, overwrite=overwrite) as writer:
        for job in jobs:
            _write(writer, job)
    _report(out, jobs)


def _locate(stage: Stage, source: str, variant: str | None) -> tuple[Path, str | None, str]:
    """Return the local folder of a source, the revision that was downloaded, if it was, and the licence."""
    folder, revision, licence = user_path(source), None, OWNERS_LICENCE
    if not os.path.exists(folder) and is_hub_id(source):
        folder, revision = download(source, stage, variant)
        licence = repository_licence(source.partition("@")[0])
    check_folder(stage, folder)
    return folder, revision, licence


def _check(
    stage: Stage,
    part: Part,
    folder: Path,
    licence: str,
    origin: dict[str, Any],
    variant: str | None,
    dtype: np.dtype | None,
) -> Job:
    architecture, config = read_architecture(stage, part, folder)
    schedulers = {role: read_scheduler(role, folder) for role in part.schedulers}
    tokenizer = _tokenizer(part, folder, architecture)
    weights = open_weights(folder / part.folder, variant, boundary(folder))
    state = parameters(part.kind, architecture)
    with _progress(f"check {part.component}", weights.nbytes, weights) as advance:
        where = f"{folder / part.folder}"
        arrays = match(weights, state, KINDS[part.kind].table, where=where, dtype=dtype, progress=advance)
    dtypes = {path: dtype or array.dtype for path, array in arrays.items()}
    used = [*weights.files, folder / part.config, *(folder / scheduler_file(role) for role in schedulers)]
    files = {path.relative_to(folder).as_posix(): path for path in used}
    origin = {**origin, "variant": weights.variant}
    return Job(
        stage, part, licence, origin, files, architecture, config, schedulers, tokenizer, weights, arrays, dtypes
    )


def _tokenizer(part: Part, folder: Path, architecture: Architecture) -> dict[str, bytes]:
    """The files of a part's tokenizer, once it is known that sampling can use them: these and no other ones."""
    if not part.tokenizer:
        return {}
    where, roots = folder / "tokenizer", boundary(folder)
    files = {name: read_file(where / name, roots) for name in TOKENIZER_FILES if os.path.lexists(where / name)}
    if missing := [name for name in part.tokenizer if name not in files]:
        raise UserError(f"{where}: has no {', '.join(missing)}; take the released folder's own tokenizer files")
    with _written(files) as paths:
        scratch = next(iter(paths.values())).parent
        try:
            _check_tokenizer(scratch, part.kind, architecture)
        except UserError as error:
            raise UserError(str(error).replace(str(scratch), str(where))) from None
    return files


def _check_tokenizer(folder: Path, kind: str, architecture: Architecture) -> None:
    """Refuse a tokenizer that gives more, or other, tokens than its text encoder takes. Raises UserError."""
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
def _written(files: Mapping[str, bytes]) -> Iterator[dict[str, Path]]:
    """The files in a folder of their own, by name."""
    with tempfile.TemporaryDirectory() as scratch:
        paths = {name: Path(scratch) / name for name in files}
        for name, path in paths.items():
            path.write_bytes(files[name])
        yield paths


def _write(writer: CheckpointWriter, job: Job) -> None:
    drawn = job.draw(writer.directory)
    arrays = {path: drawn.get("/".join(path), array) for path, array in job.arrays.items()}
    component = Component(
        kind=job.part.kind,
        architecture=job.architecture.to_dict(),
        dtype=job.dtype_name,
        schedulers=job.schedulers,
        config=job.config,
        provenance=_provenance(job),
    )
    total = sum(array.nbytes for array in arrays.values())
    component = with_settings(component, job.part.component, CascadeConfig())
    with (
        _written(job.tokenizer) as tokenizer,
        _progress(f"write {job.part.component}", total, job.weights, drawn) as advance,
    ):
        writer.add(job.part.component, component, arrays, job.dtypes, tokenizer, advance)


def _provenance(job: Job) -> dict[str, Any]:
    copied = {f"tokenizer/{name}": hashlib.sha256(content).hexdigest() for name, content in job.tokenizer.items()}
    return {
        **job.origin,
        "files": {name: sha256(path) for name, path in job.files.items()} | copied,
        "licence": job.licence,
        "tool": f"show1-jax {_version()}",
    }


def _version() -> str:
    try:
        return metadata.version("show1-jax")
    except metadata.PackageNotFoundError:
        return "from a checkout"


@contextmanager
def _progress(name: str, total: int, *read: Weights) -> Iterator[Callable[[int], None]]:
    """A function that counts bytes as done on a bar, and gives the memory of finished tensors back."""
    with Bar(name, total, unit="B", leave=False) as bar:

        def advance(size: int) -> None:
            bar.update(size)
            for weights in read:
                weights.release()

        yield advance


def _report(out: Path, jobs: Sequence[Job]) -> None:
    for job in jobs:
        taken = f" (variant {job.weights.variant})" if job.weights.variant else ""
        files = ", ".join(path.name for path in job.weights.files) or job.origin["source"]
        print(f"{job.part.component}: {files}{taken} as {job.dtype_name}")
    for licence in dict.fromkeys(job.licence for job in jobs):
        stages = dict.fromkeys(job.stage.name for job in jobs if job.licence == licence)
        print(f"licence of {', '.join(stages)}: {licence}")
    print(f"{out}: written")
