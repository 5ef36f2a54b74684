"""Files of prompts: text, JSON and tables, each form told by the file's name and checked by its content.

    .txt                 a prompt a line; or one of the JSON forms, told by how it begins
    .json .jsonl .ndjson an array of prompts, one prompt, or a prompt a line; a prompt is a string or an object
    .csv .tsv            a table with a header; each further row is a prompt

Objects and tables have the keys `prompt`, `negative` and `seed`, of which the first is needed. In place of `prompt` may
stand `prompt_en`, as in VBench's lists, whose other keys (dimensions of the evaluation) are passed over. Whatever is
none of these forms is refused in one line: a line of a table or of broken JSON must not become a prompt.
"""

import csv
import io
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from show1_jax.cascade.prompts import Prompt, check_negative, check_prompt
from show1_jax.config.bounds import MAX_SEED
from show1_jax.errors import UserError
from show1_jax.files import parse_json, read_bounded, user_path

MAX_FILE_BYTES: Final = 16 << 20
MAX_PROMPTS: Final = 100_000
FORMS: Final = (
    "prompts are read from .txt (one a line), .json (an array of strings or of objects), .jsonl (an object a line), "
    ".csv and .tsv (with the header prompt,negative,seed)"
)
_KEYS: Final = {"prompt": str, "negative": str, "seed": int}
_VBENCH_PROMPT: Final = "prompt_en"
_CONTROL: Final = re.compile(r"[\x00-\x08\x0e-\x1f]")
_MARKUP: Final = re.compile(r"<(\?xml|!doctype|html)\b", re.IGNORECASE)
_KEY: Final = re.compile(r"(-\s+)?prompts?\s*[:=]", re.IGNORECASE)
"""How YAML or a program begins that holds prompts."""
_ITEM: Final = re.compile(r"""(["']).*\1,""")
"""A line of a list in JSON or a program, without the list's brackets."""
_ARRAY: Final = re.compile(r"""\[\s*(["'{\[\]]|$)""")
"""How a JSON array begins; a prompt may begin with a word in brackets."""


class Entry(NamedTuple):
    """A prompt as a file has it: a string or an object, and its place in words."""

    place: str
    value: Any


class _FormError(ValueError):
    """A file is of no known form: why, and where it shows."""

    def __init__(self, reason: str, place: str = ""):
        super().__init__(f", {place}: {reason}" if place else f": {reason}")


def read_prompts(path: str | Path) -> list[Prompt]:
    """Read a UTF-8 file of prompts; see the module's description for its forms.

    In text and JSON files blank lines and lines that start with # are skipped. In objects null is the same as absent,
    in tables an empty cell.

    Raises:
      UserError: the file cannot be read, is of no known form, too large, or holds no prompt, or a prompt is wrong (by
        its line or number).
    """
    path = user_path(path)
    read = _READERS.get(path.suffix.lower())
    if read is None:
        raise UserError(f"{path}: {path.suffix} is no known form; {FORMS}")
    prompts: list[Prompt] = []
    try:
        for place, value in read(_read_text(path)):
            if len(prompts) == MAX_PROMPTS:
                raise UserError(f"{path}: more than {MAX_PROMPTS:,} prompts; divide the file")
            try:
                prompts.append(_as_prompt(value))
            except UserError as error:
                raise UserError(f"{path}, {place}: {error}") from None
    except _FormError as error:
        raise UserError(f"{path}{error}; {FORMS}") from None
    if not prompts:
        raise UserError(f"{path}: no prompts in this file; {FORMS}")
    return prompts


def _read_text(path: Path) -> str:
    try:
        text = read_bounded(path, MAX_FILE_BYTES).decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path of the prompts file") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8") from None
    if match := _CONTROL.search(text):
        raise _FormError(f"no text (it has the character {match[0]!a})")
    return text


def _numbered_lines(text: str) -> dict[int, str]:
    """The lines that count, by number from 1."""
    return {
        number: line
        for number, line in enumerate(map(_stripped, re.split(r"\r\n|\r|\n", text)), start=1)
        if line and not line.startswith("#")
    }


def _stripped(line: str) -> str:
    """A line without white space around it, nor the byte order mark of a file that was appended to another."""
    return line.strip().removeprefix("\ufeff").strip()


def _read_lines(text: str) -> Iterator[Entry]:
    lines = _numbered_lines(text)
    first = next(iter(lines.values()), "")
    if first.startswith("{") or _ARRAY.match(first):
        yield from _read_json(text)
        return
    if _MARKUP.match(first):
        raise _FormError("HTML or XML")
    if _KEY.match(first):
        raise _FormError(f"YAML or a program, which begins with a name ({first[:60]!r})")
    if _is_header(first):
        raise _FormError(f"the header of a table ({first[:60]!r}), whose name would end in .csv or .tsv")
    if lines and all("\t" in line for line in lines.values()):
        raise _FormError("a table (every line has a tab), whose name would end in .tsv")
    for number, line in lines.items():
        if line.startswith("{") or _ITEM.fullmatch(line) or not any(map(_says_something, line)):
            raise _FormError(f"{line[:40]!r} is no prompt", f"line {number}")
        yield Entry(f"line {number}", line)


def _is_header(line: str) -> bool:
    cells = [cell.strip("\"'").lower() for cell in re.split(r"[,;\t|]", line)]
    is_of_captions = len(cells) > 1 and {"text", "caption"} & set(cells)
    return bool(is_of_captions or {"prompt", "prompts", _VBENCH_PROMPT} & {cell.strip(" \"'") for cell in cells})


def _says_something(character: str) -> bool:
    """Whether it is a letter, a digit or a picture such as an emoji."""
    category = unicodedata.category(character)
    return category[0] in "LN" or category == "So"


def _read_json(text: str) -> Iterator[Entry]:
    """One JSON value, or one a line."""
    lines = _numbered_lines(text)
    if not lines:
        return
    try:
        value = parse_json("\n".join(lines.get(number, "") for number in range(1, max(lines) + 1)))
    except ValueError as error:
        if len(lines) == 1 or not _is_json(next(iter(lines.values()))):
            raise _FormError(f"not valid JSON ({error})") from None
        yield from _read_json_lines(text)
        return
    if isinstance(value, list):
        yield from (Entry(f"entry {number}", entry) for number, entry in enumerate(value, start=1))
    else:
        yield Entry(f"line {next(iter(lines))}", value)


def _read_json_lines(text: str) -> Iterator[Entry]:
    for number, line in _numbered_lines(text).items():
        try:
            yield Entry(f"line {number}", parse_json(line))
        except ValueError as error:
            raise _FormError(f"not valid JSON ({error})", f"line {number}") from None


def _is_json(line: str) -> bool:
    try:
        parse_json(line)
    except ValueError:
        return False
    return True


def _read_table(text: str, delimiter: str) -> Iterator[Entry]:
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    names: list[str] = []
    last = 0
    try:
        for row in rows:
            first, last = last + 1, rows.line_num
            cells = [cell.strip() for cell in row]
            if not any(cells):
                continue
            if not names:
                names = _header(cells)
            elif len(cells) != len(names):
                raise _FormError(
                    f"{len(cells)} cells where the header has {len(names)} (a text with {delimiter!r} needs double "
                    "quotation marks)",
                    f"line {first}",
                )
            else:
                values = dict(zip(names, map(_cell, names, cells), strict=True))
                if values.get("", "") is None:  # programs leave empty columns
                    del values[""]
                yield Entry(f"line {first}", values)
    except csv.Error as error:
        raise _FormError(str(error), f"line {rows.line_num}") from None


def _header(cells: list[str]) -> list[str]:
    names = [cell.lower() for cell in cells]
    if not {"prompt", _VBENCH_PROMPT} & set(names) or len(set(names)) < len(names):
        raise _FormError(f"the first line {','.join(cells)[:60]!r} is no header")
    return names


def _cell(name: str, cell: str) -> Any:
    if name == "seed" and re.fullmatch(r"-?[0-9]{1,20}", cell):
        return int(cell)
    return cell or None


def _as_prompt(value: Any) -> Prompt:
    if isinstance(value, str):
        return Prompt(check_prompt(value))
    if not isinstance(value, Mapping):
        raise UserError(f'{str(value)[:40]!r} is neither a string nor an object such as {{"prompt": "a panda"}}')
    if _VBENCH_PROMPT in value and "prompt" not in value:
        value = {"prompt": value[_VBENCH_PROMPT], **{name: value[name] for name in _KEYS if name in value}}
    for name, part in value.items():
        if name not in _KEYS:
            raise UserError(f"unknown key {name[:40]!r}; known are {', '.join(_KEYS)}")
        if part is not None and type(part) is not _KEYS[name]:
            wanted = "whole number" if name == "seed" else "string"
            raise UserError(f"{name} must be a {wanted}, not {str(part)[:40]!r}")
    prompt, negative, seed = (value.get(name) for name in _KEYS)
    if prompt is None:
        raise UserError("the key 'prompt' is missing")
    if seed is not None and not 0 <= seed <= MAX_SEED:
        raise UserError(f"seed must be from 0 to {MAX_SEED}, not {seed}")
    return Prompt(check_prompt(prompt), None if negative is None else check_negative(negative), seed)


_READERS: Final[dict[str, Callable[[str], Iterator[Entry]]]] = {
    **dict.fromkeys(("", ".txt"), _read_lines),
    **dict.fromkeys((".json", ".jsonl", ".ndjson"), _read_json),
    ".csv": lambda text: _read_table(text, ","),
    ".tsv": lambda text: _read_table(text, "\t"),
}
