"""A reader of untrusted CSV tables: every row is either read or reported with a problem."""

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from show1_jax.data.names import one_line
from show1_jax.errors import UserError
from show1_jax.files import open_regular

if TYPE_CHECKING:
    from _csv import Reader

TOO_MANY: Final = "more fields than columns; quote captions with commas"
TOO_FEW: Final = "fewer fields than columns"
CUT: Final = "the line after it has fewer fields than columns; quote captions with line breaks"
_MAX_LINE: Final = 1 << 20
"""Maximum number of characters that are read of a line; a field has at most 131,072."""
_NOT_CLOSED: Final = "unexpected end of data"


class Row(NamedTuple):
    """A row of a table.

    Attributes:
        lines: its lines in the file, e.g. "line 7" or "lines 7 to 9".
        values: values by column; "" if the row or the table lacks one.
        problem: reason why the row cannot be used, or None.
    """

    lines: str
    values: dict[str, str]
    problem: str | None


def read_rows(table: Path, required: Sequence[str], optional: Sequence[str]) -> Iterator[Row]:
    """Yield the rows of a table.

    Args:
        table: a UTF-8 file with commas, whose first line that is not blank names the columns, in letters of any case.
        required: columns that the table must have, in small letters.
        optional: columns that it may have, in small letters.

    Raises:
        UserError: the table cannot be read, is not UTF-8, lacks a column, or has an error of CSV that affects more
            than one line.
    """
    try:
        with open_regular(table) as binary, io.TextIOWrapper(binary, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(_lines(file), strict=True)
            line = next((line for line in reader if any(map(one_line, line))), [])
            header = [one_line(column).lower() for column in line]
            _check_header(table, line, header, required)
            places = {column: header.index(column) for column in (*required, *optional) if column in header}
            yield from _rows(reader, places, len(header))
    except OSError as error:
        raise UserError(f"cannot read {table} ({error.strerror}); give the captions as --captions FILE.csv") from None
    except UnicodeDecodeError:
        raise UserError(f"{table} is not UTF-8; save it as UTF-8") from None
    except csv.Error as error:
        raise UserError(f"{table} is not valid CSV ({error}, near line {reader.line_num}); correct it") from None


def _rows(reader: "Reader", places: dict[str, int], width: int) -> Iterator[Row]:
    """Yield each row once the next one is known: an unquoted line break in a row makes the next row too short."""
    row: Row | None = None
    for lines, fields, problem in _fields(reader):
        if not problem and len(fields) != width:
            problem = TOO_MANY if len(fields) > width else TOO_FEW
        if row:
            yield row._replace(problem=CUT) if problem is TOO_FEW and not row.problem else row
        values = {column: fields[place] if place < len(fields) else "" for column, place in places.items()}
        row = Row(lines, values, problem)
    if row:
        yield row


def _fields(reader: "Reader") -> Iterator[tuple[str, list[str], str | None]]:
    """Yield the lines, the fields and the problem of each row that is not blank.

    Raises:
        csv.Error: a quote is never closed, or is closed so late that it hides rows.
    """
    while True:
        before = reader.line_num
        fields, problem = [], None
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if reader.line_num > before + 1 or str(error) == _NOT_CLOSED:
                raise
            problem = f"not valid CSV ({error})"
        if fields or problem:
            first, last = before + 1, reader.line_num
            yield f"line {first}" if first == last else f"lines {first} to {last}", fields, problem


def _lines(file: io.TextIOBase) -> Iterator[str]:
    """Yield the lines of a file, each cut at `_MAX_LINE` characters."""
    while line := file.readline(_MAX_LINE):
        yield line
        while len(line) == _MAX_LINE and not line.endswith(("\n", "\r")):
            line = file.readline(_MAX_LINE)


def _check_header(table: Path, line: Sequence[str], header: Sequence[str], required: Sequence[str]) -> None:
    missing = [column for column in required if column not in header]
    twice = next((column for column in required if header.count(column) > 1), None)
    if not missing and twice is None:
        return
    if any("\0" in column for column in line):  # UTF-16 without a byte order mark
        raise UserError(f"{table} is not UTF-8; save it as UTF-8")
    problem = f"has no column {' and no '.join(missing)}" if missing else f"has the column {twice} twice"
    for separator, name in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars")):
        columns = [one_line(column).lower() for part in line for column in part.split(separator)]
        if missing and all(column in columns for column in required):
            raise UserError(f"{table} has {name} between its columns; save it with commas")
    raise UserError(f"{table} {problem}; its first line names the columns")
