"""The language of docstrings: no head without a noun or a verb, and few clauses that begin with "what".

Run this file with `-s` to see the figures.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
SOURCES = ("show1_jax", "convert", "configs", "benchmarks", "sample.py", "train.py")
HEADS = ("What", "Whether", "Where", "Of")
MAX_WHAT = 2
"""Times that "what" may stand in 1,000 words."""


def docstrings() -> Iterator[tuple[str, str]]:
    """File and text of the docstrings of modules, classes and functions, and of the strings below attributes."""
    for source in SOURCES:
        paths = [ROOT / source] if source.endswith(".py") else sorted((ROOT / source).rglob("*.py"))
        for path in paths:
            for node in ast.walk(ast.parse(path.read_text())):
                if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                    continue
                if text := ast.get_docstring(node):
                    yield path.name, text
                if isinstance(node, ast.Module | ast.ClassDef):
                    for before, after in zip(node.body, node.body[1:], strict=False):
                        is_attribute = isinstance(before, ast.Assign | ast.AnnAssign)
                        if is_attribute and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                            yield path.name, str(after.value.value)


def test_docstrings_begin_with_a_noun_or_a_verb() -> None:
    heads = [(name, text.splitlines()[0]) for name, text in docstrings() if text.split()[0].strip(",.:") in HEADS]
    assert heads == []


def test_docstrings_say_things_by_name() -> None:
    texts = [text for _, text in docstrings()]
    words = [word.lower() for text in texts for word in re.findall(r"[A-Za-z']+", text)]
    share = 1000 * words.count("what") / len(words)
    print(f"{len(texts)} docstrings of {len(words)} words, {share:.2f} times 'what' in 1,000")
    assert len(texts) > 1000
    assert share < MAX_WHAT
