"""Checks of prompts, and file names of prompts."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from show1_jax.cascade.prompts import MAX_PROMPT_LENGTH, check_negative, check_prompt, slug
from show1_jax.errors import UserError
from tests.sampling.test_prompt_files import seeds


@pytest.mark.parametrize("text", ["", " ", "\t\r\n", "\u3000\u00a0"])
def test_empty_prompts_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="empty"):
        check_prompt(text)


def test_undecodable_arguments_are_refused() -> None:
    with pytest.raises(UserError, match="not valid Unicode"):
        check_prompt(b"caf\xe9".decode("utf-8", "surrogateescape"))


@given(prompt=st.text(), seed=seeds)
def test_slugs_are_safe_file_names(prompt: str, seed: int) -> None:
    name = slug(prompt, seed)
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name)
    assert len(name) <= 60
    assert name == slug(prompt, seed)


@given(prompts=st.lists(st.tuples(st.text(), seeds), min_size=2, unique=True))
def test_slugs_differ(prompts: list[tuple[str, int]]) -> None:
    assert len({slug(*prompt) for prompt in prompts}) == len(prompts)


def test_slugs_can_be_read() -> None:
    assert slug("A panda, eating bamb\u00f3o/../..", 7).startswith("a-panda-eating-bamboo-7-")
    assert slug("\u718a\u732b", 7).startswith("prompt-7-")
    assert slug("Same words", 1) != slug("same words", 1)


@pytest.mark.parametrize("length", [MAX_PROMPT_LENGTH + 1, 10 * MAX_PROMPT_LENGTH])
def test_prompts_that_no_encoder_reads_are_refused(length: int) -> None:
    check_prompt("x" * MAX_PROMPT_LENGTH)
    for check in (check_prompt, check_negative):
        with pytest.raises(UserError, match=f"{length:,} characters, more than 10,000") as error:
            check("x" * length)
        assert len(str(error.value)) < 200
