"""A cache of text states, with which every caption is encoded once and not in every training step.

A cache is a folder. `cache.json` describes the captions and the text encoder, `states.array_record` contains the
bfloat16 states of each caption, and `keys.bin` the captions' hashes, sorted, in the order of the records. With the
padding "encoded" a record has the states of all positions (0.63 MB with T5-XXL), with "zeros" those of the tokens only.
A large cache has its states in several files, `states-00000.array_record` and so on, which a bucket can store.
"""

import dataclasses
import functools
import hashlib
import io
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import jax
import ml_dtypes
import numpy as np
from einops import rearrange
from jaxtyping import BFloat16

from show1_jax.checkpoints.arrays import tokenizer_folder
from show1_jax.checkpoints.manifest import read_manifest
from show1_jax.checkpoints.networks import LoadedNetwork, architecture_of, load_network
from show1_jax.config.sampling import TextPadding
from show1_jax.config.settings import Settings
from show1_jax.config.training import LOCAL_COPIES
from show1_jax.data.names import MAX_CAPTION, short_line
from show1_jax.data.records import RecordFile, Records, file_inside
from show1_jax.data.transfer.download import local_copy
from show1_jax.data.transfer.upload import check_data_target, new_data_folder
from show1_jax.errors import UserError
from show1_jax.files import check_space, check_utf8_path, local_files, open_regular, read_json, storage_path
from show1_jax.parallel import MeshConfig, gather, make_mesh, platform_of, put_batch
from show1_jax.progress import Bar, track
from show1_jax.runtime import compute_dtype
from show1_jax.text.encoders import TEXT_ENCODERS, encoder_of_kind
from show1_jax.text.encoding import encode_text_jit
from show1_jax.text.tokenizers import Tokens

CACHE_FORMAT: Final = "show1_jax.text_cache.v1"
_RECORD, _KEYS = "cache.json", "keys.bin"
FILE_BYTES: Final = 1 << 30
"""Approximate limit of a file of states."""
_KEY_BYTES: Final = 12
_STATE_BYTES: Final = 2
_UNIT: Final = " captions"
_MAX_LINES_BYTES: Final = 1 << 30
"""Size limit of a file of captions, which are all in memory at once."""
_ENCODE_AGAIN: Final = "make the cache again with `python -m show1_jax.data encode_text`"
# One record in each group, for random access; bfloat16 states hardly compress.
_WRITER_OPTIONS: Final = "group_size:1,uncompressed"


@dataclasses.dataclass(frozen=True)
class CacheRecord(Settings):
    """Description of a cache, in `cache.json`.

    Attributes:
        component: name of the text encoder, a key of `TEXT_ENCODERS`.
        encoder: digest of the text encoder, `Manifest.digest`.
        text_padding: padding of the stored states, see `CascadeConfig.text_padding`.
        num_captions: number of captions, including the empty one, which every cache contains.
        positions: tokens and padding of a caption.
        width: width of a state.
        captions_per_file: captions in each file of states but the last; 0: all are in one file.
    """

    component: str
    encoder: str
    text_padding: TextPadding
    num_captions: int
    positions: int
    width: int
    format: str = CACHE_FORMAT
    captions_per_file: int = 0

    def files(self) -> Iterator[tuple[str, int]]:
        """Yield the name of each file of states, and the number of its captions."""
        if not self.captions_per_file:
            yield "states.array_record", self.num_captions
            return
        for number, start in enumerate(range(0, self.num_captions, self.captions_per_file)):
            yield f"states-{number:05}.array_record", min(self.captions_per_file, self.num_captions - start)

    @property
    def caption_bytes(self) -> int:
        """Bytes of the states of all positions of a caption."""
        return self.positions * self.width * _STATE_BYTES


class TextCache:
    """Random access to the states of captions; safe to use from threads, and from processes that it is sent to.

    It needs little memory: the hashes are a memory-mapped file, and the index of the records has a few bytes for each.

    Attributes:
        folder: folder of the cache.
        record: content of its `cache.json`.
    """

    def __init__(self, folder: Path, record: CacheRecord):
        self.folder = folder
        self.record = record

    @classmethod
    def open(
        cls,
        folder: str | Path,
        component: str,
        padding: TextPadding,
        encoder: str | None = None,
        copies: str = LOCAL_COPIES,
    ) -> "TextCache":
        """Open a cache that `python -m show1_jax.data encode_text` wrote.

        Args:
            folder: folder of the cache; it may be in a bucket.
            component: name of the text encoder that the run uses.
            padding: `text_padding` of the run.
            encoder: digest that the text encoder must have, if it is known.
            copies: folder of the local copies of caches in buckets.

        Raises:
            UserError: the cache does not exist, is damaged, or is of another encoder or padding.
        """
        folder = local_copy(storage_path(folder), copies)
        check_utf8_path(folder)
        cache = cls(folder, _read_cache_record(folder))
        record, remake = cache.record, "make one with `python -m show1_jax.data encode_text`"
        if record.component != component:
            raise UserError(f"{folder}: a cache of {record.component}, but {component} is wanted; {remake}")
        if encoder is not None and record.encoder != encoder:
            raise UserError(f"{folder}: a cache of another {component} than the checkpoint's; {remake}")
        if record.text_padding != padding:
            raise UserError(
                f"{folder}: made with text_padding={record.text_padding!r}, but the config has {padding!r}; "
                f"set it to {record.text_padding!r}, or {remake}"
            )
        with _report_damage(cache.folder):
            if len(cache._keys) != record.num_captions:
                raise ValueError("its files are from different caches")
            cache._states.check_counts()
        return cache

    def read(self, captions: Sequence[str]) -> BFloat16[np.ndarray, "b n d"]:
        """Return the states of captions, padded with zeros to all positions.

        Raises:
            UserError: a caption is not in the cache (the line names it), or a record is damaged.
        """
        numbers = [self._number(caption) for caption in captions]
        states = np.zeros((len(captions), self.record.positions, self.record.width), ml_dtypes.bfloat16)
        with _report_damage(self.folder):
            for row, data in zip(states, self._states.__getitems__(numbers), strict=True):
                if len(data) > row.nbytes or len(data) % row[0].nbytes:
                    raise ValueError(f"a caption has {len(data):,} bytes of states")
                tokens = rearrange(np.frombuffer(data, ml_dtypes.bfloat16), "(n d) -> n d", d=self.record.width)
                row[: len(tokens)] = tokens
        return states

    def _number(self, caption: str) -> int:
        key = np.asarray(_key(caption), self._keys.dtype)
        number = int(np.searchsorted(self._keys, key))
        if number == len(self._keys) or self._keys[number] != key:
            raise UserError(
                f"{self.folder}: no states of the caption {caption[:80]!r}; {_ENCODE_AGAIN}, from the same captions"
            )
        return number

    @functools.cached_property
    def _keys(self) -> np.ndarray:
        return np.memmap(file_inside(self.folder, _KEYS), f"S{2 * _KEY_BYTES}", mode="r")

    @functools.cached_property
    def _states(self) -> Records:
        files = [RecordFile(str(file_inside(self.folder, name)), count) for name, count in self.record.files()]
        return Records(files, self.record.caption_bytes, together=True)

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without the open files: each process opens its own."""
        return {"folder": self.folder, "record": self.record}


def collect_captions(
    *, data: Path | None = None, synthetic: int | None = None, seed: int = 0, file: Path | None = None
) -> set[str]:
    """Return the captions of all given sources.

    Args:
        data: a dataset that `python -m show1_jax.data build` wrote.
        synthetic: number of scenes of the synthetic world.
        seed: seed of the synthetic world.
        file: a UTF-8 text file with one caption per line.

    Raises:
        UserError: no source is given, or one cannot be read.
    """
    from show1_jax.data.synthetic.world import SyntheticWorld
    from show1_jax.data.videos import VideoSource

    if data is None and synthetic is None and file is None:
        raise UserError("no captions; give --data, --synthetic or --captions")
    captions = _read_caption_lines(file) if file is not None else set()
    if synthetic is not None:
        world = SyntheticWorld(synthetic, seed)
        captions.update(track(map(world.caption, range(synthetic)), "reading captions", synthetic, unit=_UNIT))
    if data is not None:
        videos = VideoSource.open(data)
        captions.update(track(videos.captions(), "reading captions", len(videos), unit=_UNIT))
    return captions


def check_component(component: str) -> None:
    """Refuse a component that is not a text encoder.

    Raises:
        UserError: `component` is not a text encoder; the line names those that are.
    """
    if component not in TEXT_ENCODERS:
        raise UserError(f"--component={component} is not one of {', '.join(TEXT_ENCODERS)}")


def write_text_cache(
    out: Path,
    captions: Iterable[str],
    checkpoint: Path,
    component: str,
    *,
    padding: TextPadding = "encoded",
    batch_size: int = 64,
    devices: Sequence[jax.Device] | None = None,
) -> CacheRecord:
    """Encode the different captions and the empty one, print the size of the cache, and show the progress.

    Args:
        out: folder of the cache; it appears when the cache is complete. It may be in a bucket.
        captions: may contain duplicates.
        checkpoint: checkpoint that contains the text encoder.
        component: name of the text encoder, a key of `TEXT_ENCODERS`.
        padding: padding of the stored states, see `CascadeConfig.text_padding`.
        batch_size: captions that are encoded together, over all devices; rounded up to a multiple of their number.
        devices: devices to use; None: all.

    Returns:
        The content of `cache.json`.

    Raises:
        UserError: `out` exists, the text encoder does not exist, or the disk has too little free space.
    """
    check_data_target(out)
    check_component(component)
    if batch_size < 1:
        raise UserError(f"--batch_size={batch_size} must be at least 1")
    digest = read_manifest(checkpoint).digest(component)
    encoder = _Encoder(checkpoint, component, padding, batch_size, devices)
    texts = sorted({"", *captions}, key=_key)
    record = CacheRecord(component, digest, padding, len(texts), encoder.positions, encoder.width)
    per_file = max(1, FILE_BYTES // record.caption_bytes)
    if len(texts) > per_file:
        record = dataclasses.replace(record, captions_per_file=per_file)
    with new_data_folder(out) as folder:
        _check_room(out, record, encoder.count_stored(texts))
        _write_states(folder, record, encoder, texts)
        (folder / _KEYS).write_bytes(b"".join(_key(text) for text in texts))
        (folder / _RECORD).write_text(json.dumps(record.to_dict(), indent=1) + "\n")
    return record


class _Encoder:
    """A text encoder for batches of a fixed size, sharded over the devices; the first call loads its weights."""

    def __init__(
        self,
        checkpoint: Path,
        component: str,
        padding: TextPadding,
        batch_size: int,
        devices: Sequence[jax.Device] | None,
    ):
        record = read_manifest(checkpoint).component(component)
        architecture: Any = architecture_of(record)
        self.encoder = encoder_of_kind(record.kind)
        with local_files(tokenizer_folder(checkpoint, component)) as files:
            self.tokenizer = self.encoder.load_tokenizer(files)
        self.positions = self.tokenizer.length
        self.width: int = architecture.state_width
        self.padding = padding
        self.mesh = make_mesh(MeshConfig(data=-1), devices)
        self.batch_size = batch_size + -batch_size % self.mesh.shape["data"]
        self._checkpoint, self._component = checkpoint, component

    @functools.cached_property
    def _network(self) -> LoadedNetwork:
        dtype = compute_dtype("auto", platform_of(self.mesh))
        return load_network(self._checkpoint, self._component, self.mesh, dtype)

    def count_stored(self, texts: Sequence[str]) -> int:
        """Return the number of states that are stored for all texts."""
        if self.padding == "encoded":
            return len(texts) * self.positions
        return sum(int(self.tokenizer(batch).mask.sum()) for batch in self.batches(texts))

    def batches(self, texts: Sequence[str]) -> Iterator[Sequence[str]]:
        """Return the batches of texts that are encoded together."""
        return (texts[start : start + self.batch_size] for start in range(0, len(texts), self.batch_size))

    def __call__(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Return the states of each text that are stored."""
        tokens = self.tokenizer([*texts, *[""] * (self.batch_size - len(texts))])
        placed = Tokens(*(put_batch(array, self.mesh) for array in tokens))
        with jax.set_mesh(self.mesh):
            network = self._network
            states = encode_text_jit(self.encoder, network.graph, network.weights, placed, self.padding)
        stored = tokens.mask > 0 if self.padding == "zeros" else np.ones_like(tokens.mask, bool)
        rows = zip(gather(states, self.mesh).astype(ml_dtypes.bfloat16), stored, strict=True)
        return [row[kept] for row, kept in rows][: len(texts)]


def _write_states(folder: Path, record: CacheRecord, encoder: _Encoder, texts: Sequence[str]) -> None:
    from array_record.python.array_record_module import ArrayRecordWriter

    states = (row for batch in encoder.batches(texts) for row in encoder(batch))
    with Bar("encoding captions", len(texts), unit=_UNIT) as bar:
        for name, count in record.files():
            writer = ArrayRecordWriter(str(folder / name), _WRITER_OPTIONS)
            try:
                for row in itertools.islice(states, count):
                    writer.write(row.tobytes())
                    bar.update()
            finally:
                writer.close()


def _read_caption_lines(file: Path) -> set[str]:
    """Read the different captions of a file, one line at a time."""
    captions: set[str] = set()
    remedy = "give one caption per line"
    number = 0
    try:
        with open_regular(file) as lines:
            if os.fstat(lines.fileno()).st_size > _MAX_LINES_BYTES:
                raise UserError(f"{file}: more than {_MAX_LINES_BYTES >> 30} GiB; {remedy}, in several files")
            text = io.TextIOWrapper(lines, encoding="utf-8-sig")
            for number, line in enumerate(iter(lambda: text.readline(MAX_CAPTION + 2), ""), 1):
                caption = line.removesuffix("\n")
                if len(caption) > MAX_CAPTION:
                    raise UserError(f"{file}, line {number}: more than {MAX_CAPTION:,} characters; {remedy}")
                if caption.strip():
                    captions.add(caption)
    except OSError as error:
        raise UserError(f"{file}: cannot be read as UTF-8 text ({error.strerror}); {remedy}") from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"{file}: cannot be read as UTF-8 text (after line {number}: {error.reason}); {remedy}"
        ) from None
    return captions


def _key(caption: str) -> bytes:
    return hashlib.blake2b(caption.encode(errors="surrogatepass"), digest_size=_KEY_BYTES).hexdigest().encode()


def _check_room(out: Path, record: CacheRecord, num_states: int) -> None:
    """Print the size of the cache, and refuse a disk with too little free space for the folder in which it is made."""
    needed = num_states * record.width * _STATE_BYTES
    caption = needed / record.num_captions
    print(f"{out}: {record.num_captions} captions of {caption / 1e6:.3g} MB take {needed / 1e9:.3g} GB", flush=True)
    less = "or store less with --text_padding=zeros (the networks must then be trained and sampled with it)"
    check_space(out, needed, f"choose another place with --out, {less}")


def _read_cache_record(folder: Path) -> CacheRecord:
    try:
        values = read_json(file_inside(folder, _RECORD), _ENCODE_AGAIN)
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"{folder}: no cache of text states; make one with `python -m show1_jax.data encode_text --out {folder}`"
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(f"{folder / _RECORD}: damaged ({error}); {_ENCODE_AGAIN}") from None
    if isinstance(values, dict) and values.get("format", CACHE_FORMAT) != CACHE_FORMAT:
        raise UserError(
            f"{folder}: format {values['format']!r:.40}, this program reads {CACHE_FORMAT}; {_ENCODE_AGAIN}"
        )
    try:
        return CacheRecord.from_dict(values)
    except UserError as error:
        raise UserError(f"{folder / _RECORD}: damaged ({error}); {_ENCODE_AGAIN}") from None


@contextmanager
def _report_damage(folder: Path) -> Iterator[None]:
    """Raise a `UserError` for the exceptions of several types that damaged files raise while the block lasts."""
    try:
        yield
    except (OSError, RuntimeError, ValueError, IndexError, EOFError) as error:
        reason = short_line(str(error).split(";")[0])
        raise UserError(f"{folder}: the cache is damaged ({reason}); make it again") from error
