"""The documentation site: it builds without warnings or a network, its examples run, and the FAQ quotes real errors."""

import ast
import doctest
import functools
import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest

import show1_jax
from show1_jax.cascade.cascade import Cascade
from show1_jax.errors import UserError
from tests.test_docs import DOCUMENTS, READERS, ROOT, blocks, prose

DOCS = ROOT / "docs"
FAQ = DOCS / "faq.md"


# --- the built site ---------------------------------------------------------------------------------------------------
class Page(HTMLParser):
    """A built page: the targets of its links, the files that it loads, and its anchors."""

    LOADED: ClassVar = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "link": "href"}

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        if self.LOADED.get(tag, "") in values:
            self.loaded.append(values[self.LOADED[tag]])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; warnings are errors."""
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "docs", str(out)]
    without_network = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | without_network, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return out


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    """The built pages by path."""
    return {path: Page(path.read_text()) for path in sorted(site.rglob("*.html"))}


def test_every_page_is_built(site: Path) -> None:
    """Sphinx itself warns of a page that no toctree has."""
    sources = [path for path in DOCS.rglob("*") if path.suffix in (".md", ".rst", ".ipynb")]
    missing = [path for path in sources if not (site / path.relative_to(DOCS)).with_suffix(".html").exists()]
    assert len(sources) > 15
    assert missing == []


def test_links_and_anchors_of_the_site_lead_somewhere(site: Path, pages: dict[Path, Page]) -> None:
    broken = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or not link:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchor = unquote(parts.fragment)
            is_there = target.exists() and (not anchor or target not in pages or anchor in pages[target].anchors)
            broken += [] if is_there else [f"{path.relative_to(site)}: {link}"]
    assert broken == []


def test_the_site_loads_nothing_from_elsewhere(site: Path, pages: dict[Path, Page]) -> None:
    assert {path for path, page in pages.items() if any(re.match(r"(\w+:)?//", name) for name in page.loaded)} == set()
    imported = re.compile(r"(?:@import|url\()\s*(?:url\()?[\"']?(?:https?:)?//[^)\"']*")
    found = {path.name: imported.findall(path.read_text()) for path in site.rglob("*.css")}
    assert found
    assert not any(found.values())


def test_the_reference_has_every_public_name(pages: dict[Path, Page], site: Path) -> None:
    assert {f"show1_jax.{name}" for name in show1_jax.__all__} <= pages[site / "api.html"].anchors


# --- links of the documents, as a code host shows them ----------------------------------------------------------------
def anchors(document: Path) -> set[str]:
    """Return the anchors that a code host makes of a document's headings."""
    headings = re.findall(r"^#+ (.+)$", prose(document), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_anchors_of_documents_exist(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(document)):
        file, _, anchor = target.partition("#")
        if anchor and not re.match(r"https?://", target):
            assert anchor in anchors(document.parent / file if file else document), target


# --- examples of the reference ----------------------------------------------------------------------------------------
def black_videos(self: Cascade, prompts: list[str], *arguments: Any, **options: Any) -> dict[str, np.ndarray]:
    """Return black videos in place of `Cascade.sample`."""
    inspect.signature(Cascade.sample).bind(self, prompts, *arguments, **options)
    height, width = self.spec.sizes({})["superres_latent"]
    return {"superres_latent": np.full((len(prompts), self.spec.config.num_frames, height, width, 3), -1, np.float32)}


@pytest.mark.parametrize("name", show1_jax.__all__)
def test_examples_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every public name has an example, which needs nothing but a checkout and itself; no network runs."""
    for folder in ("checkpoints", "configs", "docs"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    monkeypatch.chdir(tmp_path)
    if name == "Cascade":
        monkeypatch.setattr(Cascade, "sample", black_videos)
    entry = getattr(show1_jax, name)
    text = inspect.getdoc(entry) or ""
    example = doctest.DocTestParser().get_doctest(text, {}, name, None, None)
    said: list[str] = []
    result = doctest.DocTestRunner(verbose=False).run(example, out=said.append)
    assert result.attempted, f"{name} has no example"
    assert not result.failed, "".join(said)
    assert re.search(rf"from show1_jax import (?:\w+, )*{name}\b", text), "the example imports the name"


# --- errors in the FAQ ------------------------------------------------------------------------------------------------
MIN_WORDS = 2
"""Words that a template must have itself; the rest of a line is filled in."""


def faq_lines() -> list[str]:
    """Return the quoted lines of the FAQ."""
    return [line for block in blocks(FAQ) if block.language == "text" for line in block.text.splitlines()]


@functools.cache
def templates() -> list[re.Pattern[str]]:
    """Return the strings of the source with a few words, as patterns in which anything may be filled in."""
    found = []
    for path in [*(ROOT / "show1_jax").rglob("*.py"), *(ROOT / "convert").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                texts = [part.value if isinstance(part, ast.Constant) else None for part in node.values]
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts = [node.value]
            else:
                continue
            words = re.findall(r"[a-z]{2,}", " ".join(str(text) for text in texts if text is not None))
            if len(words) >= MIN_WORDS:
                found.append(re.compile("".join(".*" if text is None else re.escape(str(text)) for text in texts)))
    return found


def is_said(message: str) -> bool:
    """Return whether templates match a message as a whole, or all parts that `; ` separates."""
    if any(template.fullmatch(message) for template in templates()):
        return True
    cuts = [match.start() for match in re.finditer("; ", message)]
    return any(is_said(message[:cut]) and is_said(message[cut + 2 :]) for cut in cuts)


def test_the_program_says_every_line_of_the_faq() -> None:
    lines = faq_lines()
    assert len(lines) > 30
    assert [line for line in lines if not is_said(line.partition(": ")[2]) and not is_said(line)] == []


def test_a_line_that_nothing_says_is_found() -> None:
    assert not is_said("the prompt is empty; describe the film")
    assert is_said("the prompt is empty; describe the video")


DEMO = ["--config", str(ROOT / "configs/demo.py"), "--prompt", "a red circle"]
RAISED = {
    "sample.py": [
        ["--config", str(ROOT / "configs/demo.py"), "a red circle"],
        [*DEMO, "--promt", "a red circle"],
        [*DEMO, "--config.keyframes.num_stebs=2"],
        [*DEMO, "--config.keyframes.num_steps=0"],
        [*DEMO, "--video", "my.mp4"],
        [*DEMO, "--strength", "0.5"],
        ["--config", "s3://bucket/my.py"],
        [*DEMO, "--out", "hdfs://server/videos"],
        [*DEMO, "--checkpoint", "checkpoints/show1"],
        [*DEMO, "--adapter", "runs/loop"],
        [*DEMO, "--config.keyframes.height=11"],
        [*DEMO, "--from_stage", "first_frame", "--video", "my.mp4"],
        [*DEMO, "--image", "my.txt"],
    ],
    "train.py": [
        ["--config", str(ROOT / "configs/demo.py"), "--workdir", "runs/keyframes"],
        ["--config", str(ROOT / "configs/full.py"), "--stage", "keyframes", "--workdir", "runs/keyframes"],
        [
            *("--config", str(ROOT / "configs/demo.py"), "--stage", "keyframes", "--workdir", "runs/keyframes"),
            "--config.train.keyframes.trainable=lora",
        ],
    ],
}
"""Command lines whose errors the FAQ quotes."""


@pytest.mark.parametrize(
    ("program", "arguments"), [(program, arguments) for program, lines in RAISED.items() for arguments in lines]
)
def test_errors_of_the_faq_are_raised(
    program: str, arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/demo").symlink_to(ROOT / "checkpoints/demo")
    (tmp_path / "my.txt").write_text("no picture")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as raised:
        READERS[program](arguments)
    assert f"{program.removesuffix('.py')}: {raised.value}" in faq_lines()


# --- plots ------------------------------------------------------------------------------------------------------------
def test_plots_are_those_of_their_numbers(tmp_path: Path) -> None:
    """Drawn again, they are equal; by another version of matplotlib, their texts are."""
    from docs.figures import draw

    draw.draw(tmp_path)
    for plot in draw.PLOTS:
        name = f"{plot.__name__}.svg"
        drawn, kept = (tmp_path / name).read_text(), (DOCS / "figures" / name).read_text()
        versions = [re.findall(r"matplotlib [\d.]+", text) for text in (drawn, kept)]
        if versions[0] == versions[1]:
            assert drawn == kept, name
        assert re.findall(r"<text[^>]*>([^<]*)", drawn) == re.findall(r"<text[^>]*>([^<]*)", kept), name


@pytest.mark.parametrize("path", sorted((DOCS / "figures").glob("*.json")), ids=lambda path: path.stem)
def test_numbers_of_plots_stand_in_the_documents(path: Path) -> None:
    values = json.loads(path.read_text())
    source = (ROOT / values["source"].split(",")[0]).read_text()
    numbers = set(re.findall(r"-?\d+(?:\.\d+)?", source))
    known = {float(number) for number in numbers}

    def leaves(value: Any) -> Iterator[float]:
        if isinstance(value, list | dict):
            for item in value.values() if isinstance(value, dict) else value:
                yield from leaves(item)
        elif isinstance(value, int | float):
            yield value

    assert not [number for number in leaves(values) if number not in known]
