"""The prompts that weights know, and the answers to others."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from show1_jax.cli import load_config
from show1_jax.config.config_file import Config
from show1_jax.data.synthetic.nearest import is_sentence
from show1_jax.web.vocabulary import UnknownPromptError, Vocabulary
from tests.helpers.web_pages import ROOT, manifest_of


@pytest.fixture(scope="module")
def config() -> Config:
    return load_config(ROOT / "configs" / "demo.py")


@pytest.fixture(scope="module")
def demo(config: Config) -> Vocabulary:
    return Vocabulary.of(config, manifest_of(config))


def test_the_demo_knows_its_examples_alone(demo: Vocabulary) -> None:
    assert demo.is_world
    assert len(demo.examples) >= 4
    for example in demo.examples:
        assert is_sentence(example)
        demo.check(example)


def test_an_unknown_prompt_is_answered_with_the_words_and_near_sentences(demo: Vocabulary) -> None:
    with pytest.raises(UnknownPromptError, match="know only") as refused:
        demo.check("two big yellow balls")
    near = refused.value.near
    assert near[0] == "a large yellow circle moves right"
    assert len(set(near)) == len(near) == 3
    assert all(map(is_sentence, near))
    assert "colours: red, green, blue, yellow, purple or white; shapes: circle, square or triangle;" in (
        refused.value.known
    )
    assert not set("|[]") & set(refused.value.known)


@given(st.text(max_size=80))
def test_every_text_is_known_or_answered_with_sentences(demo: Vocabulary, text: str) -> None:
    near: tuple[str, ...] = ()
    try:
        demo.check(text)
    except UnknownPromptError as error:
        near = error.near
    assert all(map(is_sentence, near))
    assert bool(near) != (is_sentence(text) or not text.strip())


def test_other_weights_take_every_prompt(config: Config) -> None:
    demo = manifest_of(config)
    parts = {
        name: dataclasses.replace(part, provenance=part.provenance | {"source": "elsewhere"})
        for name, part in demo.components.items()
    }
    other = Vocabulary.of(config, dataclasses.replace(demo, components=parts))
    assert not other.is_world
    assert other.known is None
    assert len(other.examples) >= 3
    other.check("a cat")
    full = load_config(ROOT / "configs" / "full.py")
    assert Vocabulary.of(full, dataclasses.replace(demo, components=parts)).examples == full.prompts
