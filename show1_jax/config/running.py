"""Config files: found by a path or by the name of one that comes with the package, and run."""

import difflib
import hashlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from show1_jax.config.config_dict import ConfigDict
from show1_jax.errors import UserError, error_line, shown_name
from show1_jax.files import user_path

_PACKAGE: Final = Path(__file__).resolve().parents[1]


def shipped_configs() -> dict[str, Path]:
    """Return the config files that come with the package, by name: `configs/` of a checkout or of an installed wheel.

    The wheel has them, like `convert/`, inside of the package, since their own name is too general to install.
    """
    for folder in (_PACKAGE / "configs", _PACKAGE.parent / "configs"):
        if files := sorted(folder.glob("[!_]*.py")):
            return {path.stem: path for path in files}
    return {}


def run_config_file(path: str) -> ConfigDict:
    """Return the settings of a config file as it states them, without overrides.

    The file may import files of its folder, and those that come with the package, relatively (`from . import full`). So
    a copy of one that comes with the package runs anywhere.

    Args:
        path: path of the Python file, or the name of one that comes with the package, such as `full`; `FILE:ARGUMENT`
            passes an argument to its `get_config()`.

    Raises:
        UserError: the file does not exist, does not run, or does not return a ConfigDict.
    """
    user_path(path)  # refuse a URL, before its colon is read as the start of an argument
    name, *argument = path.split(":", 1)
    file = _find(name)
    try:
        names = _run(file)
        if "get_config" not in names:
            raise UserError("it has no function get_config()")
        config = names["get_config"](*argument)
    except Exception as error:  # the user's Python may raise anything
        raise UserError(f"the config {path} does not run ({error_line(error)}); correct it") from error
    if not isinstance(config, ConfigDict):
        raise UserError(f"get_config() of {path} must return an ml_collections.ConfigDict; correct it")
    return config


def _find(name: str) -> Path:
    shipped = shipped_configs()
    if name in shipped:
        return shipped[name]
    file = user_path(name)
    if file.is_file():
        return file
    names = ", ".join(shipped)
    if file.suffix or len(file.parts) > 1 or not names:
        raise UserError(f"there is no config {shown_name(name)}; give the path of a file, or one of the names {names}")
    near = difflib.get_close_matches(name, shipped, n=1, cutoff=0)
    raise UserError(f"there is no config {shown_name(name)}; did you mean {near[0]}? the names are {names}")


def _run(file: Path) -> dict[str, Any]:
    """Run a config file as a module of a package that stands for its folder, and return its names."""
    folder = file.resolve().parent
    digest = hashlib.sha256(str(folder).encode(errors="surrogateescape")).hexdigest()
    package = ModuleType(f"configs_in_{digest[:16]}")
    package.__path__ = [str(folder), *{str(path.parent) for path in shipped_configs().values()}]
    sys.modules.setdefault(package.__name__, package)
    module = ModuleType(f"{package.__name__}.<config>")  # the name of no file, so that no import finds it
    module.__file__ = str(file)
    module.__package__ = package.__name__
    sys.modules[module.__name__] = module  # dataclasses look for the module of their class there
    exec(compile(file.read_bytes(), str(file), "exec"), vars(module))
    return vars(module)
