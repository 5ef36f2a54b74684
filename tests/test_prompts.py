"""Prompt files and file names."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from show1_jax.errors import UserError
from show1_jax.prompts import MAX_SEED, Prompt, check_prompt, read_prompts, slug

printable = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), min_size=1).filter(str.strip)
seeds = st.integers(0, MAX_SEED)


@pytest.fixture(scope="module")
def prompt_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("prompts") / "prompts"


@given(
    prompts=st.lists(printable.map(str.strip).filter(lambda line: line[0] not in "#{\ufeff"), min_size=1),
    newline=st.sampled_from(["\n", "\r\n", "\r"]),
    bom=st.sampled_from([b"", b"\xef\xbb\xbf"]),
    between=st.sampled_from(["", "  ", "# not a prompt", "\t#"]),
)
def test_text_file(prompt_file, prompts, newline, bom, between):
    lines = [part for prompt in prompts for part in (between, f"  {prompt}\t")]
    prompt_file.write_bytes(bom + newline.join(lines).encode())
    assert read_prompts(prompt_file) == [Prompt(prompt) for prompt in prompts]


@given(
    prompts=st.lists(
        st.builds(Prompt, st.text(min_size=1).filter(str.strip), st.none() | st.text(), st.none() | seeds), min_size=1
    ),
    suffix=st.sampled_from(["", ".jsonl", ".txt"]),
    ascii_only=st.booleans(),
)
def test_json_lines(prompt_file, prompts, suffix, ascii_only):
    path = prompt_file.with_suffix(suffix)
    lines = [
        json.dumps({"prompt": p.text, "negative": p.negative, "seed": p.seed}, ensure_ascii=ascii_only) for p in prompts
    ]
    path.write_text("# comment\n\n" + "\n".join(lines), encoding="utf-8")
    assert read_prompts(path) == prompts


def test_json_keys_may_be_left_out(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "a"}\n{"prompt": "b", "seed": 3}\n{"prompt": "c", "negative": ""}')
    assert read_prompts(path) == [Prompt("a"), Prompt("b", None, 3), Prompt("c", "", None)]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"prompt": "a", "sed": 1}', "unknown key 'sed'"),
        ('{"prompt": 1}', "prompt must be a string, not 1"),
        ('{"prompt": "a", "negative": ["b"]}', "negative must be a string"),
        ('{"prompt": "a", "seed": "1"}', "seed must be a whole number, not '1'"),
        ('{"prompt": "a", "seed": 1.5}', "seed must be a whole number"),
        ('{"prompt": "a", "seed": true}', "seed must be a whole number"),
        ('{"prompt": "a", "seed": NaN}', "seed must be a whole number"),
        ('{"prompt": "a", "seed": -1}', "seed must be from 0 to 4294967295, not -1"),
        ('{"prompt": "a", "seed": 4294967296}', "seed must be from 0"),
        ('{"prompt": " "}', "the prompt is empty"),
        ('{"prompt": null}', "'prompt' is missing"),
        ('{"negative": "a"}', "'prompt' is missing"),
        ('{"prompt": "\\ud800"}', "not valid Unicode"),
        ('{"prompt": "a", "negative": "\\udfff"}', "not valid Unicode"),
        ('{"prompt": "a"', "not valid JSON"),
        ("a panda", "not valid JSON"),
        ("[1]", "not a JSON object"),
        ("[" * 100_000, "not valid JSON"),
    ],
)
def test_wrong_json_lines_are_named(tmp_path, line, message):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "fine"}\n\n' + line)
    with pytest.raises(UserError, match=re.escape(f"{path}, line 3: ")) as error:
        read_prompts(path)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@given(content=st.binary(), suffix=st.sampled_from([".txt", ".jsonl"]))
def test_any_file_gives_prompts_or_one_line(prompt_file, content, suffix):
    path = prompt_file.with_suffix(suffix)
    path.write_bytes(content)
    try:
        prompts = read_prompts(path)
    except UserError as error:
        prompts, lines = [], str(error).splitlines()
        assert len(lines) == 1
    assert all(check_prompt(prompt.text) for prompt in prompts)


@pytest.mark.parametrize("content", ["", "\n\n", "# only a comment\n", "\ufeff"])
def test_a_file_without_prompts(tmp_path, content):
    path = tmp_path / "prompts.txt"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match="no prompts"):
        read_prompts(path)


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match="No such file"):
        read_prompts(tmp_path / "missing.txt")
    with pytest.raises(UserError, match="cannot be read"):
        read_prompts(tmp_path)
    (tmp_path / "latin.txt").write_bytes("caf\u00e9".encode("latin-1"))
    with pytest.raises(UserError, match=r"latin.txt: byte 3 is not UTF-8"):
        read_prompts(tmp_path / "latin.txt")


@pytest.mark.parametrize("text", ["", " ", "\t\r\n", "\u3000\u00a0"])
def test_empty_prompts_are_refused(text):
    with pytest.raises(UserError, match="empty"):
        check_prompt(text)


def test_undecodable_arguments_are_refused():
    with pytest.raises(UserError, match="not valid Unicode"):
        check_prompt(b"caf\xe9".decode("utf-8", "surrogateescape"))


@given(prompt=st.text(), seed=seeds)
def test_slugs_are_safe_file_names(prompt, seed):
    name = slug(prompt, seed)
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name)
    assert len(name) <= 60
    assert name == slug(prompt, seed)


@given(prompts=st.lists(st.tuples(st.text(), seeds), min_size=2, unique=True))
def test_slugs_differ(prompts):
    assert len({slug(*prompt) for prompt in prompts}) == len(prompts)


def test_slugs_can_be_read():
    assert slug("A panda, eating bamb\u00f3o/../..", 7).startswith("a-panda-eating-bamboo-7-")
    assert slug("\u718a\u732b", 7).startswith("prompt-7-")
    assert slug("Same words", 1) != slug("same words", 1)
