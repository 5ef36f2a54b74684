"""The nearest sentence of the world keeps what a text says, and any text has one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from show1_jax.data.synthetic.nearest import is_sentence, nearest_sentence
from show1_jax.data.synthetic.world import scene_from_index


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a cat", "a red circle moves right"),
        ("", "a red circle moves right"),
        ("一只猫", "a red circle moves right"),
        ("three red circles", "a red circle moves right"),
        ("A BIG green box, growing", "a large green square grows"),
        ("blue triangle falls", "a blue triangle moves down"),
        ("two triangles, one yellow and one white", "a yellow triangle moves right and a white circle moves right"),
        ("a red circle and a blue square on navy", "a red circle moves right and a blue square moves right on a navy "
        "background"),
        ("red square moves left on a grey background", "a red square moves left on a gray background"),
        ("a  Red circle MOVES right.", "a red circle moves right"),
    ],
)  # fmt: skip
def test_examples(text: str, sentence: str) -> None:
    assert nearest_sentence(text) == sentence


WORDS = ("a", "red", "two", "circles", "blue", "grey", "on", "up", "still", "box")


@given(st.text(max_size=200) | st.lists(st.sampled_from(WORDS)).map(" ".join))
def test_any_text_has_a_sentence(text: str) -> None:
    assert is_sentence(nearest_sentence(text))


@given(st.integers(0, 10**6))
def test_a_sentence_is_its_own(index: int) -> None:
    sentence = scene_from_index(index, pairs=0.5).scene.sentence()
    assert nearest_sentence(sentence) == sentence
