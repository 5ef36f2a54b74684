"""Lazy reader of the weights of a component folder: `.safetensors` or `.bin`, whole or sharded, of any variant."""

import mmap
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from show1_jax.errors import UserError, shown, shown_name
from show1_jax.files import read_json

from .folders import MAX_FILE_BYTES, AllowedRoots, allowed_roots, check_inside
from .mapped import MappedTensor, TensorTable
from .safetensors_file import read_safetensors
from .torch_file import read_torch_file

_STEM = r"(?P<stem>diffusion_pytorch_model|model|pytorch_model)"
_KIND = r"\.(?P<kind>safetensors|bin)"
_VARIANT = r"(?:\.(?P<variant>[\w-]+?))?"
_NUMBER = r"-\d+-of-\d+"
# For a sharded variant, diffusers 0.30 wrote `STEM-NUMBER.VARIANT.KIND` and `STEM.KIND.VARIANT.index.json`; all other
# releases of diffusers, and transformers, write `STEM.VARIANT-NUMBER.KIND` and `STEM.KIND.index.VARIANT.json`.
_SHARD = re.compile(_STEM + rf"(?:{_VARIANT}{_NUMBER}|{_NUMBER}(?:\.[\w-]+)?){_KIND}")
_WHOLE = re.compile(_STEM + _VARIANT + _KIND)
_INDEX = re.compile(_STEM + _KIND + _VARIANT + r"\.index\.json")
_INDEX_BEHIND = re.compile(_STEM + _KIND + r"\.index" + _VARIANT + r"\.json")


@dataclass(frozen=True)
class WeightFile:
    """A file through which a folder's weights can be read: a whole file, or the index of shards."""

    name: str
    variant: str | None
    is_safetensors: bool
    is_index: bool


class Weights(Mapping[str, np.ndarray]):
    """Arrays of one component by name: read-only views of the mapped files, which are read when they are used.

    If a file has checksums, each array is compared with its own when it is first used; a difference is a UserError.

    Attributes:
        variant: the variant that was used, e.g. "fp16"; None for plain file names.
        files: every file that contains the tensors, the index first if there is one.
    """

    def __init__(
        self, tensors: Mapping[str, MappedTensor], files: tuple[Path, ...] = (), variant: str | None = None
    ) -> None:
        self._tensors = tensors
        self.files = files
        self.variant = variant

    def __getitem__(self, name: str) -> np.ndarray:
        return self._tensors[name].view()

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    @property
    def nbytes(self) -> int:
        """Size of all arrays in bytes."""
        return sum(tensor.nbytes for tensor in self._tensors.values())

    def release(self) -> None:
        """Release the memory of the arrays that were read so far; they can be read again."""
        for buffer in {id(tensor.buffer): tensor.buffer for tensor in self._tensors.values()}.values():
            buffer.madvise(mmap.MADV_DONTNEED)


def open_weights(folder: Path, variant: str | None = None, roots: AllowedRoots = ()) -> Weights:
    """Open the weights of a component folder of a released pipeline.

    Args:
        folder: e.g. `show-1-base/unet`.
        variant: the variant to prefer, e.g. "fp16"; if the folder does not have it, its plain files are used. By
            default the plain files, or else the only variant. `.safetensors` is preferred to `.bin`, a whole file to
            shards.
        roots: the folders that links must not leave; by default `allowed_roots(folder)`.

    Raises:
        UserError: no weights or no such variant; missing, truncated, damaged or hostile files; an index that does not
            agree with its shards.
    """
    roots = roots or allowed_roots(folder)
    try:
        names = [path.name for path in check_inside(folder, roots).iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{folder}: no such folder; give a folder in the released layout") from None
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror}); check its permissions") from None
    chosen = choose_file(names, variant, where=str(folder))
    path = check_inside(folder / chosen.name, roots)
    if not chosen.is_index:
        return Weights(_read_weight_file(path), (path,), chosen.variant)
    weight_map = read_index(path)
    shards = tuple(check_inside(folder / name, roots) for name in sorted(set(weight_map.values())))
    return Weights(_join_shards(path, weight_map, shards), (path, *shards), chosen.variant)


def choose_file(names: Iterable[str], variant: str | None = None, *, where: str) -> WeightFile:
    """Return the file among `names` that `open_weights` opens.

    Args:
        names: the names of the files in a folder.
        variant: the variant to prefer, see `open_weights`.
        where: the folder's name, for messages.

    Raises:
        UserError: there is none, or several variants and no choice.
    """
    names = list(names)
    found = list(_weight_files(names))
    if not found:
        if any(_SHARD.fullmatch(name) for name in names):
            raise UserError(f"{where}: shards of weights but no *.index.json that lists them; download it as well")
        raise UserError(f"{where}: no weights (*.safetensors or *.bin); download them into it")
    variants = {file.variant for file in found}
    if variant not in variants:
        variant = _fallback_variant(where, variant, variants)
    candidates = [file for file in found if file.variant == variant]
    return min(candidates, key=lambda file: (not file.is_safetensors, file.is_index, file.name))


def _fallback_variant(where: str, variant: str | None, variants: set[str | None]) -> str | None:
    names = ", ".join(sorted(name for name in variants if name))
    if variant is not None and None not in variants:
        raise UserError(f"{where}: no variant {variant!r}; there is {names}, choose it with --variant")
    if variant is None and len(variants) > 1:
        raise UserError(f"{where}: several variants ({names}); choose one with --variant")
    return None if variant is not None else next(iter(variants))


def _weight_files(names: Iterable[str]) -> Iterator[WeightFile]:
    for name in names:
        for pattern in (_WHOLE, _INDEX_BEHIND, _INDEX):
            if not _SHARD.fullmatch(name) and (match := pattern.fullmatch(name)):
                yield WeightFile(name, match["variant"], match["kind"] == "safetensors", pattern is not _WHOLE)
                break


def _read_weight_file(path: Path) -> TensorTable:
    return read_safetensors(path) if path.suffix == ".safetensors" else read_torch_file(path)


def read_index(path: Path) -> dict[str, str]:
    """Return the shard's file name for each tensor name in a `*.index.json`.

    Raises:
        UserError: missing or damaged index, or a shard that is not a file of weights in the same folder.
    """
    try:
        index = read_json(path, "download it again", max_bytes=MAX_FILE_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{path}: no such file; download it again") from None
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    is_map = isinstance(weight_map, dict) and all(isinstance(shard, str) for shard in weight_map.values())
    if not is_map or not weight_map:
        raise UserError(f"{path}: not an index of weights (a JSON table with weight_map); download it again")
    for shard in set(weight_map.values()):
        if "\0" in shard or Path(shard).name != shard or Path(shard).suffix not in {".safetensors", ".bin"}:
            raise UserError(
                f"{path}: names the shard {shown(shard)}, which is not the name of a file of weights; do not trust it"
            )
    return weight_map


def _join_shards(index: Path, weight_map: dict[str, str], shards: tuple[Path, ...]) -> TensorTable:
    missing = [shown_name(shard.name) for shard in shards if not os.path.exists(shard)]
    if missing:
        named = ", ".join(missing[:20]) + (", ..." if len(missing) > 20 else "")
        raise UserError(f"{index}: names shards that are not there: {named}; download them as well")
    tables = {shard.name: _read_weight_file(shard) for shard in shards}
    listed = set(weight_map.items())
    present = {(name, shard) for shard, table in tables.items() for name in table}
    if listed != present:
        wrong = sorted(listed ^ present)
        named = ", ".join(f"{shown_name(name)} in {shown_name(shard)}" for name, shard in wrong[:20])
        raise UserError(
            f"{index}: does not agree with its shards about {len(wrong)} tensors: {named}"
            f"{', ...' if len(wrong) > 20 else ''}; download index and shards again, together"
        )
    return {name: tables[shard][name] for name, shard in weight_map.items()}
