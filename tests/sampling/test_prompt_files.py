"""Files of prompts."""

import csv
import json
import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from show1_jax.cascade.prompts import MAX_PROMPT_LENGTH, Prompt, check_prompt
from show1_jax.config.bounds import MAX_SEED
from show1_jax.data.names import MISSING
from show1_jax.errors import UserError
from show1_jax.sampling.prompt_files import MAX_PROMPTS, read_prompts
from tests.helpers.buckets import BUCKET
from tests.helpers.gcs_server import GcsServer

printable = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), min_size=1).filter(str.strip)


seeds = st.integers(0, MAX_SEED)


@pytest.fixture(scope="module")
def prompt_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("prompts") / "prompts"


@given(
    prompts=st.lists(printable.map(lambda text: f"a {text.strip()}"), min_size=1),
    newline=st.sampled_from(["\n", "\r\n", "\r"]),
    bom=st.sampled_from([b"", b"\xef\xbb\xbf"]),
    between=st.sampled_from(["", "  ", "# not a prompt", "\t#"]),
)
def test_text_file(prompt_file: Path, prompts: list[str], newline: str, bom: bytes, between: str) -> None:
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
def test_json_lines(prompt_file: Path, prompts: list[Prompt], suffix: str, ascii_only: bool) -> None:
    path = prompt_file.with_suffix(suffix)
    lines = [
        json.dumps({"prompt": p.text, "negative": p.negative, "seed": p.seed}, ensure_ascii=ascii_only) for p in prompts
    ]
    path.write_text("# comment\n\n" + "\n".join(lines), encoding="utf-8")
    assert read_prompts(path) == prompts


def test_json_keys_may_be_omitted(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "a"}\n{"prompt": "b", "seed": 3}\n{"prompt": "c", "negative": ""}')
    assert read_prompts(path) == [Prompt("a"), Prompt("b", None, 3), Prompt("c", "", None)]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"prompt": "a", "sed": 1}', "unknown key 'sed'"),
        ('{"prompt": 1}', "prompt must be a string, not '1'"),
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
        ("[1]", "'[1]' is neither a string nor an object"),
        ("[" * 100_000, "not valid JSON"),
    ],
)
def test_wrong_json_lines_are_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "fine"}\n\n' + line)
    with pytest.raises(UserError, match=re.escape(f"{path}, line 3: ")) as error:
        read_prompts(path)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@given(content=st.binary(), suffix=st.sampled_from([".txt", ".json", ".jsonl", ".csv", ".tsv", ".yaml"]))
def test_any_file_gives_prompts_or_one_line(prompt_file: Path, content: bytes, suffix: str) -> None:
    path = prompt_file.with_suffix(suffix)
    path.write_bytes(content)
    try:
        prompts = read_prompts(path)
    except UserError as error:
        prompts, lines = [], str(error).splitlines()
        assert len(lines) == 1
    assert all(check_prompt(prompt.text) for prompt in prompts)


@pytest.mark.parametrize("content", ["", "\n\n", "# only a comment\n", "\ufeff"])
def test_a_file_without_prompts(tmp_path: Path, content: str) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match="no prompts"):
        read_prompts(path)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file"):
        read_prompts(tmp_path / "missing.txt")
    with pytest.raises(UserError, match="cannot be read"):
        read_prompts(tmp_path)
    (tmp_path / "latin.txt").write_bytes("caf\u00e9".encode("latin-1"))
    with pytest.raises(UserError, match=r"latin.txt: byte 3 is not UTF-8"):
        read_prompts(tmp_path / "latin.txt")


def file_of(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


TWO = [Prompt("a panda, eating"), Prompt("a fox", "dull", 3)]


ARRAY = [{"prompt": "a panda, eating"}, {"prompt": "a fox", "negative": "dull", "seed": 3}]


LINES = "\n".join(map(json.dumps, ARRAY))


TABLE = 'Prompt,seed,negative\r\n"a panda, eating",,\r\n\r\na fox,3,dull\r\n'


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("list.json", json.dumps(ARRAY)),
        ("list.json", json.dumps(ARRAY, indent=4)),
        ("list.txt", json.dumps(ARRAY, indent=4)),
        ("list", "# mine\n\n" + json.dumps(ARRAY, indent="\t")),
        ("list.jsonl", json.dumps(ARRAY)),
        ("list.json", LINES),
        ("list.ndjson", "# mine\n" + LINES),
        ("list.csv", TABLE),
        ("LIST.CSV", "\ufeff" + TABLE.replace("\r\n", "\n")),
        ("list.tsv", "negative\tprompt\tseed\n\ta panda, eating\t\ndull\ta fox\t3\n"),
    ],
)
def test_every_format_gives_the_same_prompts(tmp_path: Path, name: str, content: str) -> None:
    assert read_prompts(file_of(tmp_path, name, content)) == TWO


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".txt"])
def test_arrays_of_strings_and_single_objects(tmp_path: Path, suffix: str, indent: int | None) -> None:
    strings = json.dumps(["[", "a \u732b", '"x"'], indent=indent)
    expected = [Prompt("["), Prompt("a \u732b"), Prompt('"x"')]
    assert read_prompts(file_of(tmp_path, f"strings{suffix}", strings)) == expected
    one = json.dumps({"prompt": "a", "seed": 1}, indent=indent)
    assert read_prompts(file_of(tmp_path, f"one{suffix}", one)) == [Prompt("a", None, 1)]


def test_lists_of_vbench(tmp_path: Path) -> None:
    """They have `prompt_en` and keys for the evaluation of the video."""
    entries = [
        {"prompt_en": "a red bird", "color": "red"},
        {"prompt_en": "a cat", "auxiliary_info": {"x": [1]}, "seed": 2},
    ]
    expected = [Prompt("a red bird"), Prompt("a cat", None, 2)]
    assert read_prompts(file_of(tmp_path, "color.json", json.dumps(entries, indent=4))) == expected
    assert read_prompts(file_of(tmp_path, "a.csv", "prompt_en,seed,color\na cat,2,\n")) == expected[1:]


@given(
    prompts=st.lists(
        st.builds(
            Prompt,
            st.text(st.characters(codec="utf-8", exclude_characters="\r", exclude_categories=["Cc"]), min_size=1)
            .map(str.strip)
            .filter(lambda text: text and text.casefold() not in MISSING),
            st.none() | st.text("ab ,\"'\n").map(str.strip).filter(bool),
            st.none() | seeds,
        ),
        min_size=1,
    ),
    suffix=st.sampled_from([".csv", ".tsv"]),
)
def test_tables_written_by_programs(prompt_file: Path, prompts: list[Prompt], suffix: str) -> None:
    path = prompt_file.with_suffix(suffix)
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, delimiter="," if suffix == ".csv" else "\t")
        table.writerows([["prompt", "negative", "seed"], *((p.text, p.negative, p.seed) for p in prompts)])
    assert read_prompts(path) == prompts


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.txt", "prompt,seed\na panda,1", "the header of a table ('prompt,seed')"),
        ("a.txt", '"Prompt"\tCategory\na panda\tx', "the header of a table"),
        ("a.txt", "prompt\na panda", "the header of a table"),
        ("a.txt", "<!DOCTYPE html>\n<p>a panda", "HTML or XML"),
        ("a", "<?xml version='1.0'?>\n<a/>", "HTML or XML"),
        ("a.txt", "a panda\n{'prompt': 'a fox'}", "line 2: \"{'prompt': 'a fox'}\" is not a prompt"),
        ("a.txt", "a panda\n---\na fox", "line 2: '---' is not a prompt"),
        ("a.txt", "```\na panda\n```", "line 1: '```' is not a prompt"),
        ("a.txt", "Pandas\n=======\na panda", "line 2: '=======' is not a prompt"),
        ("a.txt", '"a panda",\n"a fox"', "line 1: '\"a panda\",' is not a prompt"),
        ("a.txt", "a panda\n'a fox',", "line 2: \"'a fox',\" is not a prompt"),
        ("a.txt", "prompts:\n  - a panda", "YAML or a program, which begins with a name ('prompts:')"),
        ("a.txt", "- prompt: a panda\n  seed: 3", "YAML or a program"),
        ("a.txt", "prompts = ['a panda', 'a fox']", "YAML or a program"),
        ("a.txt", "id,caption\n1,a panda", "the header of a table ('id,caption')"),
        ("a.txt", "Text\tseed\na panda\t1", "the header of a table"),
        ("a.txt", "a panda\t1\na fox\t2", "a table (every line has a tab)"),
        ("a.txt", '[\n"a panda",\n"a fox",\n]', "not valid JSON ("),
        ("a.txt", "['a panda', 'a fox']", "not valid JSON"),
        ("a.txt", '{\n"prompt": "a panda",\n}', "not valid JSON"),
        ("a.json", "a panda\na fox", "not valid JSON"),
        ("a.json", "", "no prompts"),
        ("a.json", "[]", "no prompts"),
        ("a.json", "[[1]]", "entry 1: '[1]' is neither a string nor an object"),
        ("a.json", '["a", null]', "entry 2: 'None' is neither a string nor an object"),
        ("a.json", "3", "line 1: '3' is neither"),
        ("a.json", '{"prompts": ["a"]}', "line 1: unknown key 'prompts'; known are prompt, negative, seed"),
        ("a.json", '["a", {"prompt": "b", "sed": 1}]', "entry 2: unknown key 'sed'"),
        ("a.json", '["a", "b\\ud800"]', "not valid JSON"),
        ("a.json", "[" * 100_000, "nested more than"),
        ("a.csv", "a panda\na fox", "the first line 'a panda' is not a header"),
        ("a.csv", "prompt;seed\na panda;1", "the first line 'prompt;seed' is not a header"),
        ("a.csv", "prompt,seed\na panda, eating,1", "line 2: 3 cells where the header has 2"),
        ("a.csv", "prompt,seed\na panda", "line 2: 1 cells"),
        ("a.csv", "prompt,colour\na panda,red", "line 2: unknown key 'colour'"),
        ("a.csv", "prompt,prompt\na,b", "is not a header"),
        ("a.csv", ",prompt\n0,a", "line 2: unknown key ''"),
        ("a.csv", "prompt,seed\na panda,first", "line 2: seed must be a whole number, not 'first'"),
        ("a.csv", "prompt,seed\nNaN,1", "line 2: the prompt 'NaN' marks a missing one"),
        ("a.csv", "prompt,negative\na fox,nan", "line 2: the negative 'nan' marks a missing one"),
        ("a.csv", "prompt,seed\n,1", "line 2: the key 'prompt' is missing"),
        ("a.csv", 'prompt,seed\n"a\nb",1\na,-1', "line 4: seed must be from 0"),
        ("a.csv", 'prompt\n"a panda', "line 2: unexpected end of data"),
        ("a.csv", "prompt\n", "no prompts"),
        ("a.yaml", "- a panda", ".yaml is an unknown format"),
        ("a.xlsx", "x", ".xlsx is an unknown format"),
        ("a.txt", "a panda\0", "no text (it has the character '\\x00')"),
        ("a.txt", "a panda".encode("utf-16-le"), "no text"),
        ("a.txt", "a panda".encode("utf-16"), "byte 0 is not UTF-8"),
        ("a.txt", "x" * (MAX_PROMPT_LENGTH + 1), "line 1: the prompt 'xxx"),
        ("a.txt", "a\n" * (MAX_PROMPTS + 1), "more than 100,000 prompts"),
        ("a.txt", bytes(17 << 20), "more than 16,777,216 bytes"),
    ],
)
def test_other_formats_are_refused(tmp_path: Path, name: str, content: str | bytes, said: str) -> None:
    with pytest.raises(UserError) as error:
        read_prompts(file_of(tmp_path, name, content))
    assert said in str(error.value)
    assert str(error.value).startswith(str(tmp_path / name))
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500


@pytest.mark.parametrize(
    "prompt",
    [
        "a sign, text, blue light",
        '"Stay," said the panda',
        '"Stay", she said, "here"',
        "prompt people queue",
        "\U0001f43c",
        "1",
        "- a\tpanda",
    ],
)
def test_prompts_that_look_like_another_format_are_read(tmp_path: Path, prompt: str) -> None:
    (tmp_path / "a.txt").write_text(f"a panda\n{prompt}\n", encoding="utf-8")
    assert read_prompts(tmp_path / "a.txt") == [Prompt("a panda"), Prompt(prompt)]


def test_files_that_were_joined_keep_no_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfa panda\r\n\xef\xbb\xbf# foxes\r\n\xef\xbb\xbfa fox\r\n")
    assert read_prompts(tmp_path / "a.txt") == [Prompt("a panda"), Prompt("a fox")]


def test_empty_columns_of_a_table_are_ignored(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("prompt,seed,\na panda,1,\n")
    assert read_prompts(tmp_path / "a.csv") == [Prompt("a panda", None, 1)]


def test_a_prompt_may_begin_with_a_word_in_brackets(tmp_path: Path) -> None:
    lines = ["[cinematic] a panda", "- a fox", "\U0001f43c", "a prompt, a seed", "<b> a fox"]
    assert read_prompts(file_of(tmp_path, "a.txt", "\n".join(lines))) == [Prompt(line) for line in lines]


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    for path in (tmp_path / "pipe.txt", Path("/dev/zero")):
        with pytest.raises(UserError, match=r"cannot be read \(not a regular file\)"):
            read_prompts(path)


def test_prompts_in_a_bucket(gcs: GcsServer) -> None:
    gcs.write(BUCKET, "prompts.jsonl", b'{"prompt": "a cat", "seed": 3}\n{"prompt": "a dog"}\n')
    assert read_prompts(f"gs://{BUCKET}/prompts.jsonl") == [Prompt("a cat", seed=3), Prompt("a dog")]
    gcs.write(BUCKET, "prompts.txt", b"\xff")
    with pytest.raises(UserError, match=f"gs://{BUCKET}/prompts.txt: byte 0 is not UTF-8"):
        read_prompts(f"gs://{BUCKET}/prompts.txt")
