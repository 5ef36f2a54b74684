"""Settings of JAX: XLA's options, the compilation cache on disk, precision, errors for lack of memory.

JAX runs any file under a program's key in its cache. Here every entry begins with a hash of its key and content: a
program whose entry is damaged, truncated, or from another program is compiled again. A folder that other users can
write is not used.
"""

import contextlib
import functools
import hashlib
import os
import secrets
import stat
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import jax
import jax.numpy as jnp
from jax._src import compilation_cache as jax_cache  # private: JAX has no public way to check what it loads
from jax._src.compilation_cache_interface import CacheInterface
from jax.experimental.layout import Format, Layout
from jax.sharding import Mesh
from jax.typing import DTypeLike

from show1_jax.config.sampling import Precision
from show1_jax.errors import UserError
from show1_jax.files import open_regular, user_path

_OPTIONS: Final = {
    "cpu": {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"},
    "gpu": {"xla_gpu_dot_merger_threshold_mb": "0"},
}
"""Options by platform (benchmarks/README.md). On CPUs YNNPACK runs single matrix products only: with jax 0.10 it also
runs convolutions and sums by default, slower than XLA's own. On GPUs queries, keys and values are not computed by one
product: it would need their weights side by side, and its result would be copied in three parts, in every step."""


def compiler_options(platform: str) -> dict[str, str]:
    """Return the compiler options of UNets and autoencoders on a platform, in the form of `jax.jit`.

    Options that the user sets in XLA_FLAGS are left out, so that the user's values apply.

    Args:
        platform: platform of the devices (`jax.Device.platform`), e.g. "cpu".
    """
    user_flags = os.environ.get("XLA_FLAGS", "")
    options = {name: value for name, value in _OPTIONS.get(platform, {}).items() if f"--{name}=" not in user_flags}
    return {name: value for name, value in options.items() if _is_known_option(platform, name, value)}


@functools.cache
def _is_known_option(platform: str, name: str, value: str) -> bool:
    """Return whether this XLA has an option: releases differ, and without it a program is only slower.

    That of devices that are only described (`jax.experimental.topologies`) cannot be asked.
    """
    try:
        device = jax.local_devices(backend=platform)[0]
    except RuntimeError:
        return True
    with jax.default_device(device):
        try:
            jax.jit(lambda: 0, compiler_options={name: value}).lower().compile()
        except jax.errors.JaxRuntimeError as error:
            if name not in str(error):
                raise
            return False
    return True


@functools.lru_cache(maxsize=64)
def network_program(function: Callable[..., Any], mesh: Mesh, *bound: Any, **settings: Any) -> Any:
    """Return `function` with its first arguments bound, jitted for the devices of a mesh.

    Equal arguments give the same object, so that a program is compiled once.

    Args:
        function: pure function whose arrays come after the bound arguments.
        mesh: mesh of the devices that the program runs on.
        bound: first arguments, e.g. the network's structure (`nnx.split`); hashable.
        settings: keyword arguments; hashable.
    """
    program = functools.partial(function, *bound, **settings)
    return jax.jit(program, compiler_options=compiler_options(mesh.devices.flat[0].platform))


def with_weight_formats(
    program: Any,
    platform: str,
    num_arguments: int,
    formats: Any = None,
    *,
    more_options: Mapping[str, Any] = MappingProxyType({}),
    donated: tuple[int, ...] = (),
) -> Any:
    """Return a program for weights in given formats, or in the layouts that the compiler chooses.

    A weight in another layout than the compiled program reads would be transposed at every call. Equal arguments give
    the same object, so that a program is compiled once.

    Args:
        program: jitted function, e.g. of `network_program`; its first argument is a network's weights.
        platform: platform of the devices, for `compiler_options`.
        num_arguments: number of its arguments.
        formats: a `jax.experimental.layout.Format` of every weight; None: the compiler chooses the layouts.
        more_options: compiler options beside those of the platform.
        donated: numbers of the arguments whose memory the program may use for its results.

    Returns:
        A jitted function, to be compiled ahead of time; `weight_formats` are then the formats of its weights.
    """
    leaves, tree = jax.tree.flatten(formats)
    options = tuple((compiler_options(platform) | dict(more_options)).items())
    return _with_formats(program, num_arguments, tuple(leaves), tree, options, donated)


@functools.lru_cache(maxsize=64)
def _with_formats(
    program: Any,
    num_arguments: int,
    leaves: tuple[Format, ...],
    tree: Any,
    options: tuple[tuple[str, Any], ...],
    donated: tuple[int, ...],
) -> Any:
    chosen = jax.tree.unflatten(tree, leaves) if leaves else Format(Layout.AUTO)
    return jax.jit(
        program.__wrapped__,
        in_shardings=(chosen, *(None for _ in range(num_arguments - 1))),
        keep_unused=True,  # programs that read only some of a network's weights take all of them
        donate_argnums=donated,
        compiler_options=dict(options),
    )


def weight_formats(compiled: Any) -> Any:
    """Return the format of every weight that a compiled program of `with_weight_formats` reads."""
    return compiled.input_formats[0][0]


def takes_arguments(compiled: Any, arguments: tuple[Any, ...]) -> bool:
    """Return whether a program was compiled ahead of time for the shapes of these arguments after the weights."""
    expected, given = jax.tree.leaves(compiled.args_info[0][1:]), jax.tree.leaves(arguments[1:])
    return [leaf.shape for leaf in expected] == [leaf.shape for leaf in given]


_SUFFIX = ".program"


_DIGEST_BYTES = hashlib.sha256().digest_size


_MAX_PROGRAM_BYTES = 1 << 30
"""Largest size of an entry: a larger file is damaged, and would fill the memory."""


def enable_compilation_cache(folder: str) -> None:
    """Let JAX store all compiled programs in a folder, or print a one-line warning if the folder cannot be used.

    Args:
        folder: path of the folder, created for this user alone if it does not exist; empty: no cache.
    """
    if not folder:
        return
    try:
        path = user_path(folder)
        _make_private(path)
    except UserError as error:
        _print_warning(f"{error}; programs are compiled without a cache")
        jax.config.update("jax_compilation_cache_dir", None)  # also not with JAX_COMPILATION_CACHE_DIR
        return
    jax.config.update("jax_compilation_cache_dir", str(path))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax_cache.get_file_cache = lambda path: (ProgramStore(Path(path)), path)  # called at the first compilation
    jax_cache.reset_cache()


class ProgramStore(CacheInterface):
    """Cache entries by key, each written completely or not at all, and read only if this user wrote it."""

    def __init__(self, folder: Path):
        self._path = folder
        self._has_warned = False

    def get(self, key: str) -> bytes | None:
        """Return the program of a key, or None if there is no entry or the entry cannot be trusted."""
        path = self._path / f"{key}{_SUFFIX}"
        try:
            with open_regular(path) as file:
                status = os.fstat(file.fileno())
                is_ours = _is_private(status) and status.st_size <= _MAX_PROGRAM_BYTES
                entry = file.read() if is_ours else b""
        except FileNotFoundError:
            return None
        except OSError as error:
            self._warn_once(f"cannot be read ({error.strerror})")
            return None
        content = entry[_DIGEST_BYTES:]
        if is_ours and entry[:_DIGEST_BYTES] == _program_digest(key, content):
            return content
        self._warn_once("are damaged")
        with suppress(OSError):
            path.unlink()  # the program that is compiled now is stored instead
        return None

    def put(self, key: str, value: bytes) -> None:
        """Store a program under a key; if it cannot be written, print a warning once."""
        path = self._path / f"{key}{_SUFFIX}"
        partial = self._path / f".{secrets.token_hex(8)}"
        try:
            with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(_program_digest(key, value) + value)
            os.replace(partial, path)
        except OSError as error:
            self._warn_once(f"cannot be written ({error.strerror})")
            with suppress(OSError):
                partial.unlink(missing_ok=True)

    def _warn_once(self, problem: str) -> None:
        if not self._has_warned:
            _print_warning(f"compiled programs in {self._path} {problem}; they are compiled again")
        self._has_warned = True


def _make_private(path: Path) -> None:
    """Create a folder for this user alone, or refuse a folder that other users can write.

    Raises:
        UserError: the folder cannot be created or written, or another user owns it or can write in it.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        whole = path.resolve()
        folders = [whole.stat(), *(folder.stat() for folder in whole.parents)]
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"compilation_cache {path} cannot be made ({reason})") from None
    if folders[0].st_uid != os.geteuid():
        raise UserError(f"compilation_cache {path} belongs to another user, whose programs are not run")
    if not _is_private(folders[0]) or any(_is_open(folder) for folder in folders[1:]):
        raise UserError(f"compilation_cache {path} can be written by others, whose programs are not run: chmod 700 it")
    if not os.access(whole, os.W_OK | os.X_OK):
        raise UserError(f"compilation_cache {path} cannot be written")


def _is_private(file: os.stat_result) -> bool:
    """Return whether this user owns a file or folder, and only the user and their own group can write it."""
    others = stat.S_IWOTH | (0 if file.st_gid == os.getegid() else stat.S_IWGRP)
    return file.st_uid == os.geteuid() and not file.st_mode & others


def _is_open(folder: os.stat_result) -> bool:
    """Return whether every user can rename entries of a folder."""
    return bool(folder.st_mode & stat.S_IWOTH) and not folder.st_mode & stat.S_ISVTX


def _program_digest(key: str, content: bytes) -> bytes:
    return hashlib.sha256(key.encode() + b"\0" + content).digest()


def _print_warning(line: str) -> None:
    print(f"warning: {line}", file=sys.stderr, flush=True)


def compute_dtype(precision: Precision, platform: str) -> jnp.dtype:
    """Return the dtype that networks compute in: `auto` is float32 on CPUs and bfloat16 on accelerators.

    Args:
        precision: setting of the config.
        platform: platform of the devices, e.g. "cpu".
    """
    automatic = "float32" if platform == "cpu" else "bfloat16"
    return jnp.dtype(automatic if precision == "auto" else precision)


def exact_float32(dtype: DTypeLike) -> contextlib.AbstractContextManager[None]:
    """Return a context in which float32 matrix products have full precision: accelerators use less by default.

    Args:
        dtype: dtype that the networks compute in; if it is not float32, the context changes nothing.
    """
    return jax.default_matmul_precision("highest") if jnp.dtype(dtype) == jnp.float32 else contextlib.nullcontext()


@contextmanager
def memory_errors(advice: str) -> Iterator[None]:
    """Raise a `UserError` if the devices or this machine run out of memory while the block lasts.

    Args:
        advice: remedy if the devices' memory is too small.

    Raises:
        UserError: the devices' or the machine's memory is too small.
    """
    try:
        yield
    except MemoryError as error:
        detail = f" ({error})" if str(error) else ""
        raise UserError(
            f"the memory of this machine is too small{detail}; end other programs, or add memory"
        ) from error
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise UserError(f"the devices' memory is too small; {advice}") from error
