"""Files of prompts: text, JSON and tables. The file's name gives the format, and its content is checked.

    .txt                 one prompt per line; or one of the JSON formats, detected by its beginning
    .json .jsonl .ndjson an array of prompts, one prompt, or one prompt per line; a prompt is a string or an object
    .csv .tsv            a table with a header; each further row is a prompt

Objects and tables have the keys `prompt` (required), `negative` and `seed`. VBench's lists have `prompt_en` instead of
`prompt`; their other keys (dimensions of the evaluation) are ignored. A file of any other format is refused in one
line: a line of a table or of broken JSON must not become a prompt.
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
from show1_jax.data.names import marks_missing, split_lines
from show1_jax.errors import UserError
from show1_jax.files import parse_json, read_bounded, storage_path

MAX_FILE_BYTES: Final = 16 << 20
MAX_PROMPTS: Final = 100_000
FORMATS: Final = (
    "prompts are read from .txt (one a line), .json (an array of strings or of objects), .jsonl (an object a line), "
    ".csv and .tsv (with the header prompt,negative,seed)"
)
_KEYS: Final = {"prompt": str, "negative": str, "seed": int}
_VBENCH_PROMPT: Final = "prompt_en"
_CONTROL: Final = re.compile(r"[\x00-\x08\x0e-\x1f]")
_MARKUP: Final = re.compile(r"<(\?xml|!doctype|html)\b", re.IGNORECASE)
_KEY_LINE: Final = re.compile(r"(-\s+)?prompts?\s*[:=]", re.IGNORECASE)
"""The beginning of YAML or a program that contains prompts."""
_LIST_ITEM: Final = re.compile(r"""(["']).*\1,""")
"""One line of a list in JSON or a program, without the list's brackets."""
_ARRAY: Final = re.compile(r"""\[\s*(["'{\[\]]|$)""")
"""The beginning of a JSON array; a prompt may also begin with a word in brackets."""


class Entry(NamedTuple):
    """A prompt as read from a file: a string or an object, and its place in the file, e.g. "line 3"."""

    place: str
    value: Any


class _FormatError(ValueError):
    """A file of unknown format: the reason, and the place in the file that shows it."""

    def __init__(self, reason: str, place: str = ""):
        super().__init__(f", {place}: {reason}" if place else f": {reason}")


def read_prompts(path: str | Path) -> list[Prompt]:
    """Read a UTF-8 file of prompts; see the module's description for the formats.

    In text and JSON files, blank lines and lines that start with # are skipped. In objects null means absent; in tables
    an empty cell does.

    Raises:
      UserError: the file cannot be read, has an unknown format, is too large or contains no prompt, or a prompt is
        wrong (the line names its line or number).
    """
    path = storage_path(path)
    read = _FORMAT_READERS.get(path.suffix.lower())
    if read is None:
        raise UserError(f"{path}: {path.suffix} is an unknown format; {FORMATS}")
    prompts: list[Prompt] = []
    try:
        for place, value in read(_read_text(path)):
            if len(prompts) == MAX_PROMPTS:
                raise UserError(f"{path}: more than {MAX_PROMPTS:,} prompts; divide the file")
            try:
                prompts.append(_to_prompt(value))
            except UserError as error:
                raise UserError(f"{path}, {place}: {error}") from None
    except _FormatError as error:
        raise UserError(f"{path}{error}; {FORMATS}") from None
    if not prompts:
        raise UserError(f"{path}: no prompts in this file; {FORMATS}")
    return prompts


def _read_text(path: Path) -> str:
    try:
        text = read_bounded(path, MAX_FILE_BYTES).decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path of the prompts file") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8") from None
    if match := _CONTROL.search(text):
        raise _FormatError(f"no text (it has the character {match[0]!a})")
    return text


def _numbered_lines(text: str) -> dict[int, str]:
    """Return the lines by number, from 1, without blank lines and comments."""
    return {
        number: line
        for number, line in enumerate(map(_stripped, split_lines(text)), start=1)
        if line and not line.startswith("#")
    }


def _stripped(line: str) -> str:
    """Remove surrounding white space, and a byte order mark, which is there if a file was appended to another."""
    return line.strip().removeprefix("\ufeff").strip()


def _read_text_lines(text: str) -> Iterator[Entry]:
    lines = _numbered_lines(text)
    first = next(iter(lines.values()), "")
    if first.startswith("{") or _ARRAY.match(first):
        yield from _read_json(text)
        return
    if _MARKUP.match(first):
        raise _FormatError("HTML or XML")
    if _KEY_LINE.match(first):
        raise _FormatError(f"YAML or a program, which begins with a name ({first[:60]!r})")
    if _is_header(first):
        raise _FormatError(f"the header of a table ({first[:60]!r}), whose name would end in .csv or .tsv")
    if lines and all("\t" in line for line in lines.values()):
        raise _FormatError("a table (every line has a tab), whose name would end in .tsv")
    for number, line in lines.items():
        if line.startswith("{") or _LIST_ITEM.fullmatch(line) or not any(map(_is_letter_digit_or_symbol, line)):
            raise _FormatError(f"{line[:40]!r} is not a prompt", f"line {number}")
        yield Entry(f"line {number}", line)


def _is_header(line: str) -> bool:
    cells = [cell.strip("\"'").lower() for cell in re.split(r"[,;\t|]", line)]
    is_of_captions = len(cells) > 1 and {"text", "caption"} & set(cells)
    return bool(is_of_captions or {"prompt", "prompts", _VBENCH_PROMPT} & {cell.strip(" \"'") for cell in cells})


def _is_letter_digit_or_symbol(character: str) -> bool:
    """Return whether a character is a letter, a digit or a symbol such as an emoji."""
    category = unicodedata.category(character)
    return category[0] in "LN" or category == "So"


def _read_json(text: str) -> Iterator[Entry]:
    """Yield the entries of one JSON value, or of one JSON value per line."""
    lines = _numbered_lines(text)
    if not lines:
        return
    try:
        value = parse_json("\n".join(lines.get(number, "") for number in range(1, max(lines) + 1)))
    except ValueError as error:
        if len(lines) == 1 or not _is_json(next(iter(lines.values()))):
            raise _FormatError(f"not valid JSON ({error})") from None
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
            raise _FormatError(f"not valid JSON ({error})", f"line {number}") from None


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
                names = _column_names(cells)
            elif len(cells) != len(names):
                raise _FormatError(
                    f"{len(cells)} cells where the header has {len(names)} (a text with {delimiter!r} needs double "
                    "quotation marks)",
                    f"line {first}",
                )
            else:
                yield Entry(f"line {first}", _row_values(names, cells, f"line {first}"))
    except csv.Error as error:
        raise _FormatError(str(error), f"line {rows.line_num}") from None


def _column_names(cells: list[str]) -> list[str]:
    names = [cell.lower() for cell in cells]
    if not {"prompt", _VBENCH_PROMPT} & set(names) or len(set(names)) < len(names):
        raise _FormatError(f"the first line {','.join(cells)[:60]!r} is not a header")
    return names


def _row_values(names: list[str], cells: list[str], place: str) -> dict[str, Any]:
    values = dict(zip(names, map(_cell_value, names, cells), strict=True))
    if values.get("", "") is None:  # programs write empty columns
        del values[""]
    for name, value in values.items():
        if name in (*_KEYS, _VBENCH_PROMPT) and isinstance(value, str) and marks_missing(value):
            raise _FormatError(f"the {name} {value!r} marks a missing one; leave the cell empty", place)
    return values


def _cell_value(name: str, cell: str) -> Any:
    if name == "seed" and re.fullmatch(r"-?[0-9]{1,20}", cell):
        return int(cell)
    return cell or None


def _to_prompt(value: Any) -> Prompt:
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


_FORMAT_READERS: Final[dict[str, Callable[[str], Iterator[Entry]]]] = {
    **dict.fromkeys(("", ".txt"), _read_text_lines),
    **dict.fromkeys((".json", ".jsonl", ".ndjson"), _read_json),
    ".csv": lambda text: _read_table(text, ","),
    ".tsv": lambda text: _read_table(text, "\t"),
}
