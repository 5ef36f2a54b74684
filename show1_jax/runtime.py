"""How JAX compiles and runs programs: XLA's options, compiled programs on the disk, precision, lack of memory.

JAX runs whatever lies under a program's key in its cache. Here every entry begins with a hash of its key and content:
one that is damaged, cut short, or another program's is compiled again, and a folder that others can write is not used.
"""

import contextlib
import functools
import hashlib
import os
import secrets
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import jax
import jax.numpy as jnp
from jax._src import compilation_cache as jax_cache  # private: JAX has no public way to check what it loads
from jax._src.compilation_cache_interface import CacheInterface
from jax.sharding import Mesh
from jax.typing import DTypeLike

from show1_jax.config.sampling import Precision
from show1_jax.errors import UserError
from show1_jax.files import open_regular, user_path

_OPTIONS: Final = {"cpu": {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"}}
"""By platform. On CPUs YNNPACK gets single matrix products and nothing else: the convolutions and sums that it has by
default with jax 0.10 are slower than XLA's own (benchmarks/README.md)."""


def compiler_options(platform: str) -> dict[str, str]:
    """What UNets and autoencoders are compiled with on a platform (`jax.Device.platform`), as `jax.jit` takes it.

    What a person says in XLA_FLAGS of an option stays.
    """
    asked = os.environ.get("XLA_FLAGS", "")
    options = {name: value for name, value in _OPTIONS.get(platform, {}).items() if f"--{name}=" not in asked}
    return {name: value for name, value in options.items() if _is_known(platform, name, value)}


@functools.cache
def _is_known(platform: str, name: str, value: str) -> bool:
    """Whether this XLA has an option: they come and go, and without them programs are slower but not wrong."""
    with jax.default_device(jax.local_devices(backend=platform)[0]):
        try:
            jax.jit(lambda: 0, compiler_options={name: value}).lower().compile()
        except jax.errors.JaxRuntimeError as error:
            if name not in str(error):
                raise
            return False
    return True


@functools.lru_cache(maxsize=64)
def network_program(function: Callable[..., Any], mesh: Mesh, *bound: Any, **settings: Any) -> Any:
    """`function` with its first arguments bound, jitted for the devices of a mesh: one program, whoever asks.

    Args:
        function: pure; its arrays come after what is bound.
        mesh: of the devices that it runs on.
        bound: first arguments, the network's structure (`nnx.split`) among them.
        settings: keyword arguments.
    """
    program = functools.partial(function, *bound, **settings)
    return jax.jit(program, compiler_options=compiler_options(mesh.devices.flat[0].platform))


_SUFFIX = ".program"


_DIGEST_BYTES = hashlib.sha256().digest_size


_MAX_BYTES = 1 << 30
"""Of an entry; a larger one is damaged, and would fill the memory."""


def keep_compiled(folder: str) -> None:
    """Have JAX keep all compiled programs in a folder, or say in one line why it cannot.

    Args:
        folder: made if need be, for this user alone; empty: nothing is kept.
    """
    if not folder:
        return
    try:
        path = user_path(folder)
        _make_private(path)
    except UserError as error:
        _warn(f"{error}; programs are compiled without a cache")
        jax.config.update("jax_compilation_cache_dir", None)  # nor with the one of JAX_COMPILATION_CACHE_DIR
        return
    jax.config.update("jax_compilation_cache_dir", str(path))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax_cache.get_file_cache = lambda path: (ProgramStore(Path(path)), path)  # called at the first compilation
    jax_cache.reset_cache()


class ProgramStore(CacheInterface):
    """Entries by key, each written whole or not at all, and read only as it was written by this user."""

    def __init__(self, folder: Path):
        self._path = folder
        self._has_warned = False

    def get(self, key: str) -> bytes | None:
        """Return what was put under a key; None where there is nothing, or nothing that can be trusted."""
        path = self._path / f"{key}{_SUFFIX}"
        try:
            with open_regular(path) as file:
                status = os.fstat(file.fileno())
                is_ours = _is_private(status) and status.st_size <= _MAX_BYTES
                entry = file.read() if is_ours else b""
        except FileNotFoundError:
            return None
        except OSError as error:
            self._warn_once(f"cannot be read ({error.strerror})")
            return None
        content = entry[_DIGEST_BYTES:]
        if is_ours and entry[:_DIGEST_BYTES] == _digest(key, content):
            return content
        self._warn_once("are damaged")
        with suppress(OSError):
            path.unlink()  # the one that is compiled now takes its place
        return None

    def put(self, key: str, value: bytes) -> None:
        """Keep a program under a key; where the disk is full, say so and go on."""
        path = self._path / f"{key}{_SUFFIX}"
        partial = self._path / f".{secrets.token_hex(8)}"
        try:
            with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(_digest(key, value) + value)
            os.replace(partial, path)
        except OSError as error:
            self._warn_once(f"cannot be written ({error.strerror})")
            with suppress(OSError):
                partial.unlink(missing_ok=True)

    def _warn_once(self, problem: str) -> None:
        if not self._has_warned:
            _warn(f"compiled programs in {self._path} {problem}; they are compiled again")
        self._has_warned = True


def _make_private(path: Path) -> None:
    """Make a folder for this user alone, or refuse one in which somebody else can put programs."""
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
    """Return whether a file or folder is this user's, and nobody but his own group can write it."""
    others = stat.S_IWOTH | (0 if file.st_gid == os.getegid() else stat.S_IWGRP)
    return file.st_uid == os.geteuid() and not file.st_mode & others


def _is_open(folder: os.stat_result) -> bool:
    """Return whether anybody can rename what lies in a folder."""
    return bool(folder.st_mode & stat.S_IWOTH) and not folder.st_mode & stat.S_ISVTX


def _digest(key: str, content: bytes) -> bytes:
    return hashlib.sha256(key.encode() + b"\0" + content).digest()


def _warn(line: str) -> None:
    print(f"warning: {line}", file=sys.stderr, flush=True)


def compute_dtype(precision: Precision, platform: str) -> jnp.dtype:
    """Return the dtype that networks compute in: `auto` is float32 on CPUs and bfloat16 on accelerators.

    Args:
        precision: from the settings.
        platform: of the devices, e.g. "cpu".
    """
    automatic = "float32" if platform == "cpu" else "bfloat16"
    return jnp.dtype(automatic if precision == "auto" else precision)


def exact_float32(dtype: DTypeLike) -> contextlib.AbstractContextManager[None]:
    """A block where float32 is float32: accelerators multiply its matrices in less precision unless told not to.

    Nothing changes where `dtype`, which the networks compute in, is another.
    """
    return jax.default_matmul_precision("highest") if jnp.dtype(dtype) == jnp.float32 else contextlib.nullcontext()


@contextmanager
def memory_errors(advice: str) -> Iterator[None]:
    """Say in one line that the devices' memory is too small, and what to do."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise UserError(f"the devices' memory is too small; {advice}") from error
