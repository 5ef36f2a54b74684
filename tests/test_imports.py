"""The package's layout: imports point down one list of packages, no modules import each other, and folders are small.

The import graph is computed from the sources. Imports inside functions and under TYPE_CHECKING count too, since they
show dependencies like the others. An import of a package is an import of its `__init__`.
"""

import ast
from collections.abc import Iterator, Mapping, Set
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "show1_jax"
ORDER = (
    "commands",
    "evaluation",
    "web",
    "training",
    "sampling",
    "data",
    "cascade",
    "checkpoints",
    "text",
    "media",
    "nn",
    "diffusion",
    "ops",
    "parallel",
    # the ground
    "cli",
    "runtime",
    "config",
    "terminal",
    "files",
    "buckets",
    "progress",
    "errors",
)
"""Packages and top-level modules: each may import from itself and from those after it."""
MAX_TOP_LEVEL = 6
MAX_IN_FOLDER = 13

Graph = Mapping[str, Set[str]]


def module_names(root: Path) -> dict[str, Path]:
    """Return every module of the package by its dotted name; a package has the name of its folder."""
    paths = sorted((root / PACKAGE).rglob("*.py"))
    names = {path: ".".join(path.relative_to(root).with_suffix("").parts) for path in paths}
    return {name.removesuffix(".__init__"): path for path, name in names.items()}


def imported(source: str, known: Set[str]) -> Iterator[str]:
    """Yield the modules, of those that are known, that a source imports anywhere in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"a relative import of {node.module}"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            while name and name not in known:
                name = name.rpartition(".")[0]
            if name:
                yield name


def draw(root: Path) -> Graph:
    """Return every module with the modules that it imports."""
    modules = module_names(root)
    return {name: set(imported(path.read_text(), modules.keys())) - {name} for name, path in modules.items()}


def upward(graph: Graph) -> list[str]:
    """Return the imports that point up the list, and the modules that are not in it."""
    rank = {name: number for number, name in enumerate(ORDER)}

    def part(module: str) -> str:
        return module.split(".")[1]

    modules = sorted(graph.keys() - {PACKAGE})  # whose own names are those of all parts
    unknown = [f"{module} is in no package of the list" for module in modules if part(module) not in rank]
    return unknown + [
        f"{module} imports {other}"
        for module in modules
        for other in sorted(graph[module])
        if other == PACKAGE or rank.get(part(other), 0) < rank.get(part(module), 0)
    ]


def circles(graph: Graph) -> list[str]:
    """Return a circle for every set of modules that reach each other."""
    reached = {name: _reachable(graph, name) for name in graph}
    found: dict[frozenset[str], str] = {}
    for name in graph:
        if name in reached[name]:
            together = frozenset(other for other in reached[name] if name in reached[other])
            found.setdefault(together, " -> ".join(_way_round(graph, name, together)))
    return list(found.values())


def _reachable(graph: Graph, start: str) -> set[str]:
    reached: set[str] = set()
    coming = [start]
    while coming:
        new = graph[coming.pop()] - reached
        reached |= new
        coming += new
    return reached


def _way_round(graph: Graph, start: str, together: Set[str]) -> list[str]:
    """Return a shortest way from a module back to itself."""
    ways = [[start]]
    for way in ways:
        for other in sorted(graph[way[-1]] & together):
            if other == start:
                return [*way, start]
            if other not in way:
                ways.append([*way, other])
    raise AssertionError(f"no way round from {start}")


def folders(root: Path) -> dict[str, int]:
    """Return the number of modules directly in each folder of the package; `__init__` is none."""
    paths = [path for path in (root / PACKAGE).rglob("*.py") if path.name != "__init__.py"]
    names = [path.parent.relative_to(root).as_posix() for path in paths]
    return {name: names.count(name) for name in names}


def test_imports_point_down() -> None:
    arrows = upward(draw(ROOT))
    assert not arrows, "\n".join(["imports that point up:", *arrows])


def test_no_modules_import_each_other() -> None:
    found = circles(draw(ROOT))
    assert not found, "\n".join(["circles:", *found])


def test_the_package_needs_nothing_that_is_not_installed() -> None:
    """In the wheel, `configs` and `convert` have other names; the others are not in it."""
    beside = {"benchmarks", "configs", "convert", "sample", "tests", "train"}
    taken = {
        f"{name} imports {other}"
        for name, path in module_names(ROOT).items()
        for other in imported(path.read_text(), beside)
    }
    assert not taken


@pytest.mark.parametrize("folder", ["configs", "convert"])
def test_what_has_another_name_when_it_is_installed_imports_itself_relatively(folder: str) -> None:
    """In the wheel `convert` is `show1_jax.convert`, so that its modules must not know their full names."""
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            assert not [name for name in names if name.split(".")[0] == folder], path


def test_folders_are_seen_at_a_glance() -> None:
    counts = folders(ROOT)
    assert counts.pop(PACKAGE) <= MAX_TOP_LEVEL
    crowded = {folder: count for folder, count in counts.items() if count > MAX_IN_FOLDER}
    assert not crowded


def test_every_package_says_what_is_in_it() -> None:
    inits = [folder / "__init__.py" for folder in {path.parent for path in (ROOT / PACKAGE).rglob("*.py")}]
    silent = [path for path in inits if not path.exists() or not ast.get_docstring(ast.parse(path.read_text()))]
    assert not silent


def test_tests_are_found_by_the_name_of_their_module() -> None:
    """`tests/nn/test_unet.py` and `tests/nn/test_unet_ASPECT.py` test `show1_jax.nn.unet`."""
    modules = [name.removeprefix(f"{PACKAGE}.").rpartition(".") for name in module_names(ROOT)]
    strays = []
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        folder = path.parent.relative_to(ROOT / "tests")
        if (ROOT / PACKAGE / folder).is_dir() and folder.parts:
            own = [name for package, _, name in modules if package == ".".join(folder.parts)]
            if not any(f"{path.stem}_".startswith(f"test_{name}_") for name in own):
                strays.append(path.relative_to(ROOT).as_posix())
    assert not strays


@pytest.mark.parametrize(
    ("sources", "arrows", "round_trips"),
    [
        ({"nn/a.py": "from show1_jax.errors import UserError"}, [], []),
        (
            {"nn/a.py": "def f():\n    from show1_jax.cascade import b"},
            ["show1_jax.nn.a imports show1_jax.cascade.b"],
            [],
        ),
        ({"nn/a.py": "import show1_jax.cascade.b"}, ["show1_jax.nn.a imports show1_jax.cascade.b"], []),
        ({"nn/a.py": "from show1_jax import Cascade"}, ["show1_jax.nn.a imports show1_jax"], []),
        (
            {"nn/a.py": "from show1_jax.nn import c", "nn/c.py": "from show1_jax.nn.a import x"},
            [],
            ["show1_jax.nn.a -> show1_jax.nn.c -> show1_jax.nn.a"],
        ),
        ({"extra/a.py": ""}, ["show1_jax.extra.a is in no package of the list"], []),
    ],
)
def test_mistakes_are_found(tmp_path: Path, sources: dict[str, str], arrows: list[str], round_trips: list[str]) -> None:
    for name, source in {"__init__.py": "", "errors.py": "", "cascade/b.py": "", **sources}.items():
        path = tmp_path / PACKAGE / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    graph = draw(tmp_path)
    assert upward(graph) == arrows
    assert circles(graph) == round_trips
