"""The stylisation benchmark: its pictures show the style that their captions do not name, and its table counts."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.stylise import Outcome, write_pictures
from show1_jax.data.synthetic.shapes import FILLS
from show1_jax.data.synthetic.world import parse_sentence, render
from show1_jax.evaluation.demo_world.alignment import make_case
from show1_jax.evaluation.demo_world.fills import FilledThing, measure_fills
from show1_jax.evaluation.demo_world.measure import judge
from show1_jax.media.images import read_image


@pytest.mark.parametrize("fill", FILLS[1:])
def test_pictures_show_what_their_captions_say_in_the_style(tmp_path: Path, fill: str) -> None:
    write_pictures(tmp_path, fill, 2)
    assert len(list(tmp_path.iterdir())) == 4
    for picture in tmp_path.glob("*.png"):
        found = measure_fills(read_image(picture)[None])
        caption = picture.with_suffix(".txt").read_text()
        assert "still" in caption
        assert judge(found, parse_sentence(caption)).all
        assert {thing.fill for thing in found.things if isinstance(thing, FilledThing)} == {fill}


def test_the_table_counts_style_and_prompt_separately() -> None:
    outcome, case = Outcome(), make_case("one", 0, 0)
    times = np.arange(29) / 8
    for fill, placed in (("outline", case.placed), ("plain", case.placed), ("outline", make_case("one", 1, 0).placed)):
        outcome.add(case, render(placed, times, 40, 64, fill), "outline")
    assert [right["style"] for right in outcome.rights] == [True, False, True]
    assert [right["color"] for right in outcome.rights] == [True, True, False]
    assert outcome.row("1").startswith("| 1 | 2 of 3 | 2 of 3 |")
    assert outcome.row("1").endswith("| 2 of 3 | 1 of 3 |")
