"""Arrays that Orbax has written, read into memory that the devices use directly, and moved to the devices' layouts.

`ArrayReader` replaces Orbax's own handler, which on a CPU device allocates the bytes of every array three times: for
TensorStore, for the result and for the device. New memory is expensive, see "Loading" in benchmarks/README.md.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

import jax
import numpy as np
import tensorstore as ts
from jax.experimental.layout import Format
from orbax.checkpoint import type_handlers

Key = TypeVar("Key")

_ALIGNMENT: Final = 64
"""Bytes; a CPU device uses a NumPy array's memory without a copy if it is aligned so."""
_MOVED_AT_ONCE: Final = 4
"""Arrays that one process moves at the same time. Several processes must run their programs in the same order."""
_CONTEXT: Final = {
    # Files are mapped: otherwise TensorStore allocates new memory for each array. As with any mapped file, the system
    # ends the process (SIGBUS) if the disk fails, or if the file is truncated, while it is read.
    "file_io_mode": {"mode": "memmap"},
    "file_io_concurrency": {"limit": 32},
    "cache_pool#ocdbt": {"total_bytes_limit": 100_000_000},  # the name is Orbax's: its specs refer to it
}


class ByteLimit:
    """A limit on the bytes that the coroutines of one loop have in flight; an item above the limit goes alone."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._in_flight = 0
        self._queue = asyncio.Lock()  # only the first in the queue is woken when bytes are released
        self._released = asyncio.Event()

    @asynccontextmanager
    async def reserve(self, num_bytes: int) -> AsyncIterator[None]:
        """Wait until these bytes are within the limit, and count them until the block ends."""
        async with self._queue:
            while self._in_flight and self._in_flight + num_bytes > self._max_bytes:
                self._released.clear()
                await self._released.wait()
            self._in_flight += num_bytes
        try:
            yield
        finally:
            self._in_flight -= num_bytes
            self._released.set()


class ArrayReader(type_handlers.ArrayHandler):
    """An Orbax handler that reads arrays into the memory of the devices, cast to their dtype on the way.

    Args:
        max_bytes: bytes of arrays that are read at the same time, or one larger array.
    """

    def __init__(self, max_bytes: int) -> None:
        super().__init__()
        self._max_bytes = max_bytes

    async def deserialize(
        self, infos: Sequence[type_handlers.ParamInfo], args: Sequence[type_handlers.RestoreArgs] | None = None
    ) -> Sequence[jax.Array]:
        """Read arrays; all `args` are `ArrayRestoreArgs` with dtype and sharding."""
        limit, context = ByteLimit(self._max_bytes), ts.Context(_CONTEXT)
        return await asyncio.gather(
            *(_read_array(info, arg, context, limit) for info, arg in zip(infos, args or (), strict=True))
        )


async def _read_array(info: Any, arg: Any, context: ts.Context, limit: ByteLimit) -> jax.Array:
    """Read this process's shards of an array; a shard that several devices hold is read once."""
    spec = type_handlers.get_json_tspec_read(info, use_ocdbt=info.is_ocdbt_checkpoint)
    stored = await ts.open(spec, open=True, read=True, context=context)
    stored, shape = ts.cast(stored, np.dtype(arg.dtype)), stored.shape

    def bounds(index: Any) -> tuple[tuple[int, int], ...]:
        return tuple(part.indices(size)[:2] for part, size in zip(index, shape, strict=True))

    wanted = {bounds(index) for index in arg.sharding.addressable_devices_indices_map(shape).values()}
    read = await asyncio.gather(*(_read_shard(stored, shard, limit) for shard in wanted))
    shards = dict(zip(wanted, read, strict=True))
    return jax.make_array_from_callback(
        shape, arg.sharding, lambda index: shards[bounds(index)], dtype=np.dtype(arg.dtype)
    )


async def _read_shard(stored: ts.TensorStore, bounds: tuple[tuple[int, int], ...], limit: ByteLimit) -> np.ndarray:
    part = stored[tuple(slice(*pair) for pair in bounds)].translate_to[(0,) * len(bounds)] if bounds else stored
    async with limit.reserve(part.size * part.dtype.numpy_dtype.itemsize):
        shard = _aligned_array(part.shape, part.dtype.numpy_dtype)
        await ts.array(shard).write(part)
    return shard


def _aligned_array(shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
    num_bytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    memory = np.empty(num_bytes + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + num_bytes].view(dtype).reshape(shape)


def move_to_layouts(arrays: Mapping[Key, jax.Array], formats: Mapping[Key, Format | None]) -> dict[Key, jax.Array]:
    """Return the arrays in the layouts of the formats, a few at a time; each original is deleted once it is moved.

    Args:
        arrays: arrays that already have the shardings of `formats`.
        formats: for every array its format on the devices; a format without a layout, or None: the array stays as is.
    """

    def moved(key: Key) -> jax.Array:
        array: Any = arrays[key]
        wanted = formats[key]
        if wanted is None or wanted.layout is None or _is_same_layout(array.format.layout, wanted.layout):
            return array
        copy: jax.Array = jax.block_until_ready(jax.device_put(array, wanted))
        array.delete()
        return copy

    num_threads = _MOVED_AT_ONCE if jax.process_count() == 1 else 1
    with ThreadPoolExecutor(num_threads) as pool:  # each new pair of shape and layout compiles a program
        return dict(zip(arrays, pool.map(moved, arrays), strict=True))


def _is_same_layout(present: Any, wanted: Any) -> bool:
    """Compare layouts; a `tiling` of None is the device's own."""
    return present.major_to_minor == wanted.major_to_minor and wanted.tiling in (None, present.tiling)
