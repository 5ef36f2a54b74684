"""Draws and settings that all protocols have."""

import hashlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from show1_jax.errors import UserError
from show1_jax.evaluation.protocols.msrvtt import Msrvtt
from show1_jax.evaluation.protocols.protocol import MAX_EVALUATION_SEED, SEEDS, Protocol
from show1_jax.evaluation.protocols.table import PROTOCOLS
from show1_jax.evaluation.protocols.ucf101 import Ucf101


@given(st.sets(st.text(max_size=8), max_size=30), st.integers(0, 40), st.integers(0, MAX_EVALUATION_SEED))
def test_draws_depend_on_the_seed_and_the_names_only(names: set[str], count: int, seed: int) -> None:
    protocol = Ucf101(seed=seed)
    drawn = protocol.drawn(sorted(names), count)
    assert drawn == protocol.drawn(sorted(names, reverse=True), count)
    assert len(set(drawn)) == len(drawn) == min(count, len(names))
    assert set(drawn) <= names
    assert protocol.drawn(names, count + 1)[:count] == drawn


def test_the_draw_is_the_documented_one() -> None:
    names = [f"video{number}" for number in range(200)]
    by_hash = sorted(names, key=lambda name: hashlib.sha256(b"7 " + name.encode()).hexdigest())
    assert Msrvtt(seed=7).drawn(names, 50) == by_hash[:50]
    assert Msrvtt(seed=8).drawn(names, 50) != by_hash[:50]


def test_seeds_of_evaluations_do_not_overlap() -> None:
    assert Ucf101(seed=1).video_seed(0) == Ucf101().video_seed(SEEDS - 1) + 1
    assert Ucf101(seed=MAX_EVALUATION_SEED).video_seed(SEEDS - 1) < 2**32


@pytest.mark.parametrize("kind", PROTOCOLS.values(), ids=list(PROTOCOLS))
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"num_videos": 0}, "--num_videos=0 must be at least 1"),
        ({"size": -1}, "--size=-1 must be at least 1"),
        ({"seed": -1}, f"--seed=-1 must be from 0 to {MAX_EVALUATION_SEED}"),
        ({"seed": MAX_EVALUATION_SEED + 1}, "must be from 0"),
    ],
)
def test_settings_that_no_evaluation_has(kind: type[Protocol], settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        kind(**settings)


def test_the_paper_s_numbers() -> None:
    assert {name: score.value for name, score in Ucf101.paper.items()} == {"is": 35.42, "fvd": 394.46}
    assert [score.value for score in Msrvtt.paper.values()] == [13.08, 538, 0.3072]
    assert "0.3076" in Msrvtt.paper["clipsim"].note
    assert (Ucf101().videos_per_prompt, Ucf101().num_videos, Msrvtt().num_videos) == (20, 2048, 2048)
