"""Delimited text with a header -> a `Table` of named columns, numbers or text."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from nnkernels._errors import DataError
from nnkernels._names import nearest

Column = np.ndarray[Any, Any]
"""(rows,): float64 with NaN where a cell is missing, or objects, str with None where a cell is missing."""

DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "vertical bar"}
MISSING = ("", "NA", "N/A", "n/a", "NaN", "nan", "NULL", "null", "None", "?")
BOOLEANS = {"true", "True", "TRUE", "false", "False", "FALSE"}
HEAD = 30  #: lines that the delimiter is told from
PART = 2**18  #: characters, about, that are looked through for missing cells at a time
THOUSANDS = re.compile(r"[-+]?[1-9][0-9]{0,2}(,[0-9]{3})+(\.[0-9]+)?")


class Table:
    """Columns of a file, by name.

    Parameters
    ----------
    path : Path
        The file.
    delimiter : str
        What separates its cells.
    columns : dict of str to ndarray
        Each (rows,): float64 with NaN, or str objects with None, where a cell is missing.
    notes : list of str
        What was found on the way and ought to be known.
    rows : ndarray or None
        Which rows of the file these are; None is all of them.
    """

    def __init__(
        self, path: Path, delimiter: str, columns: dict[str, Column], notes: list[str], rows: Column | None = None
    ) -> None:
        self.path, self.delimiter, self.columns, self.notes, self.rows = path, delimiter, columns, notes, rows

    @property
    def n_rows(self) -> int:
        """Number of rows, the header not counted."""
        return len(next(iter(self.columns.values())))

    def column(self, name: str) -> Column:
        """Return a column, or say which name is nearest.

        Raises
        ------
        DataError
            There is no such column.
        """
        if name in self.columns:
            return self.columns[name]
        same = [known for known in self.columns if known.casefold() == name.casefold()]
        hint = f" Did you mean {same[0]!r}?" if same else nearest(name, self.columns)
        if len(self.columns) == 1:
            hint += f" It has one column, so its delimiter is perhaps not {self.delimiter!r}: see --delimiter."
        known = ", ".join(list(self.columns)[:20]) + (", ..." if len(self.columns) > 20 else "")
        raise DataError(f"{self.path} has no column {name!r}.{hint} There are: {known}.")

    def take(self, mask: Column) -> Table:
        """Return the rows where a mask (rows,) is true."""
        columns = {name: column[mask] for name, column in self.columns.items()}
        return Table(self.path, self.delimiter, columns, self.notes, np.flatnonzero(mask))

    def where(self, row: int) -> str:
        """Return "line N of FILE" for a row that was read; only errors need it, so the file is read again."""
        row = row if self.rows is None else int(self.rows[row])
        with _opened(self.path) as file:
            reader = csv.reader(file, delimiter=self.delimiter, skipinitialspace=True)
            lines = (reader.line_num for record in reader if record)
            return f"line {next(islice(lines, row + 1, None))} of {self.path}"


def read_table(
    path: str | PathLike[str],
    *,
    delimiter: str | None = None,
    ignore: tuple[str, ...] = (),
    only: tuple[str, ...] | None = None,
) -> Table:
    r"""Read delimited text with a header: numbers by NumPy, all else by pandas or, without it, cell by cell.

    Parameters
    ----------
    path : path
        The file, in UTF-8.
    delimiter : str or None
        One character; None tells it from the first lines, and notes it unless it is a comma.
    ignore : tuple of str
        Columns that are left out.
    only : tuple of str or None
        Columns that are looked into; the others may hold anything. None is all of them.

    Returns
    -------
    Table
        Number columns as float64, others as text; a boolean is text.

    Raises
    ------
    DataError
        No rows, no header, ragged lines, a text cell among numbers, another encoding; with the line named.
    OSError
        The file cannot be opened.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "data.csv"
    >>> _ = path.write_text("size;color\n1.5;red\n2;\n")
    >>> table = read_table(path)
    >>> table.columns["size"].tolist(), table.columns["color"].tolist(), table.notes
    ([1.5, 2.0], ['red', None], ["the delimiter is ';' (semicolon), told from the first lines; --delimiter overrides"])
    """
    path, notes = Path(path), []
    with _opened(path) as file:
        head = list(islice(file, HEAD))
    if not "".join(head).strip():
        raise DataError(f"{path} is empty; it must have a line of column names, then rows")
    if delimiter is None:
        delimiter = tell_delimiter(head)
        if delimiter != ",":
            kind = DELIMITERS[delimiter]
            notes.append(f"the delimiter is {delimiter!r} ({kind}), told from the first lines; --delimiter overrides")
    header = _header(path, head, delimiter)
    table = Table(path, delimiter, {}, notes)
    cells = _read_numbers(path, delimiter, header, head)
    if cells is None:
        cells = (_read_by_pandas if _has_pandas() else _read_cells)(path, delimiter, header)
    for number, (name, column) in enumerate(zip(header, cells, strict=True), start=1):
        if not name:
            notes.append(f"column {number} has no name: ignored")
        elif name not in ignore:
            table.columns[name] = column
    if unknown := set(ignore) - set(header):
        table.column(min(unknown))
    if not table.columns:
        raise DataError(f"{path} has no named columns left")
    for name, column in table.columns.items():
        if only is None or name in only:
            table.columns[name] = _settle(table, name, column)
    return table


def tell_delimiter(lines: list[str]) -> str:
    """Return the delimiter that cuts the first lines most evenly, then finest; a comma where none cuts them.

    Examples
    --------
    >>> tell_delimiter(["a;b", "1,5;2", "2,5;3"])
    ';'
    """

    def cut(delimiter: str) -> tuple[bool, int]:
        widths = [len(record) for record in csv.reader(lines, delimiter=delimiter) if record]
        return widths[0] > 1 and min(widths) == max(widths), widths[0]

    return max(DELIMITERS, key=cut)  # a comma stands first and wins a tie


def _has_pandas() -> bool:
    return find_spec("pandas") is not None


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open text; say what is wrong where it is none. A byte order mark, as spreadsheets write it, is skipped."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield file
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text ({error.reason}); save or export it as CSV in UTF-8") from error
    except csv.Error as error:
        raise DataError(f"{path} cannot be read as delimited text: {error}") from error


def _header(path: Path, head: list[str], delimiter: str) -> list[str]:
    """Return the column names, checked against the first rows."""
    records = [record for record in csv.reader(head, delimiter=delimiter, skipinitialspace=True) if record]
    names = [name.strip() for name in records[0]]
    if all(_number(name) is not None for name in names):
        raise DataError(f"{path} begins with numbers; its first line must name the columns: x1,x2,...")
    if len(records) == 1:
        raise DataError(f"{path} has a header and no rows")
    for name, count in Counter(names).items():
        if name and count > 1:
            raise DataError(f"{path} has {count} columns named {name!r}; rename all but one")
    if len(records[1]) > len(names):
        _check_widths(path, delimiter, len(names))
    return names


def _check_widths(path: Path, delimiter: str, width: int) -> None:
    """Raise at the first line that has not as many cells as the header."""
    with _opened(path) as file:
        reader = csv.reader(file, delimiter=delimiter, skipinitialspace=True)
        for record in reader:
            if record and len(record) != width:
                cells = f"{len(record)} {'cell' if len(record) == 1 else 'cells'}"
                raise DataError(f"line {reader.line_num} of {path} has {cells}, and the header has {width}")


def _read_numbers(path: Path, delimiter: str, header: list[str], head: list[str]) -> list[Column] | None:
    """Read by NumPy's C reader, the fastest there is, if the first rows are numbers; None if the others are not.

    Missing cells are no obstacle, unless cells are quoted or the delimiter is an unusual one.
    """
    reader = csv.reader(head, delimiter=delimiter, skipinitialspace=True)
    next(record for record in reader if record)
    n_lines = reader.line_num
    if any(cell not in MISSING and _number(cell) is None for record in reader for cell in record):
        return None
    rows = _loadtxt(path, delimiter, n_lines)
    if rows is None and delimiter in DELIMITERS and not any('"' in line for line in head[n_lines:]):
        rows = _loadtxt(_lines_with_nan(path, delimiter, n_lines), delimiter, 0)
    return None if rows is None or rows.shape[1] != len(header) else list(rows.T.copy())


def _loadtxt(source: Path | Iterator[str], delimiter: str, n_skipped: int) -> Column | None:
    """Return an array of numbers, or None if there is anything else."""
    try:
        return np.loadtxt(
            source,
            delimiter=delimiter,
            skiprows=n_skipped,
            ndmin=2,
            comments=None,
            quotechar='"',
            encoding="utf-8-sig",
        )
    except ValueError:
        return None


def _lines_with_nan(path: Path, delimiter: str, n_skipped: int) -> Iterator[str]:
    """Yield a file's lines with "nan" in its missing cells; a quotation mark is a ValueError."""
    words, mark = "|".join(re.escape(word) for word in MISSING if word), re.escape(delimiter)
    after_delimiter = re.compile(rf"{mark} *(?:{words})?(?=[{mark}\n])")
    first = re.compile(rf"\n *(?:(?:{words})?(?={mark})|(?:{words})(?=\n))")  # a blank line has no cell
    with path.open(encoding="utf-8-sig") as file:
        for _ in islice(file, n_skipped):
            pass
        while lines := file.readlines(PART):
            text = "".join(["\n", *lines]).rstrip("\n") + "\n"  # each line between two ends, no blank one at the end
            if '"' in text:
                raise ValueError
            if _may_miss(text, delimiter):
                yield from first.sub("\nnan", after_delimiter.sub(f"{delimiter}nan", text)).split("\n")
            else:
                yield from lines


def _may_miss(text: str, delimiter: str) -> bool:
    """Tell, several times faster than by looking for it, whether some lines of numbers may have a missing cell."""
    if " " in text or "?" in text or delimiter * 2 in text.replace("\n", delimiter):
        return True
    without_exponents = text.replace("e", "")
    return without_exponents.lower() != without_exponents.upper()


def _read_by_pandas(path: Path, delimiter: str, header: list[str]) -> list[Column]:
    import pandas as pd

    try:
        frame = pd.read_csv(
            path,
            sep=delimiter,
            header=0,
            index_col=False,
            na_values=list(MISSING),
            keep_default_na=False,
            skipinitialspace=True,
            low_memory=False,
            encoding="utf-8",
        )
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text ({error.reason}); save or export it as CSV in UTF-8") from error
    except pd.errors.ParserError as error:
        _check_widths(path, delimiter, len(header))
        raise DataError(f"{path} cannot be read as delimited text: {error}") from error
    if frame.iloc[:, -1].isna().any():  # pandas fills short lines without a word
        _check_widths(path, delimiter, len(header))
    return [_from_pandas(frame.iloc[:, number]) for number in range(len(header))]


def _from_pandas(series: Any) -> Column:
    if series.dtype.kind in "iuf":
        return np.asarray(series.to_numpy(np.float64))
    cells = np.array([None if gone else str(cell) for cell, gone in zip(series, series.isna(), strict=True)], object)
    return cells if any(cell is not None for cell in cells) else np.full(len(cells), np.nan)


def _read_cells(path: Path, delimiter: str, header: list[str]) -> list[Column]:
    _check_widths(path, delimiter, len(header))
    with _opened(path) as file:
        records = [record for record in csv.reader(file, delimiter=delimiter, skipinitialspace=True) if record][1:]
    texts = ((cell.strip() for cell in column) for column in zip(*records, strict=True))
    return [np.array([None if cell in MISSING else cell for cell in column], object) for column in texts]


def _settle(table: Table, name: str, column: Column) -> Column:
    """Return a column as numbers, or as text where most of its cells are."""
    if column.dtype != object:
        if np.isinf(column).any():
            row = int(np.argmax(np.isinf(column)))
            raise DataError(f"{table.where(row)}, column {name!r}: {column[row]} is not a finite number")
        return column
    counts = Counter(cell.strip() for cell in column if cell is not None)
    numbers = {text: _number(text) for text in counts}
    texts = [text for text, number in numbers.items() if number is None]
    if not texts:
        cells = [np.nan if cell is None else numbers[cell.strip()] for cell in column]
        return _settle(table, name, np.array(cells, np.float64))
    _check_mostly_text(table, name, column, counts, texts)
    if BOOLEANS.issuperset(counts):
        return np.array([None if cell is None else cell.strip().capitalize() for cell in column], object)
    return np.array([None if cell is None else cell.strip() for cell in column], object)


def _check_mostly_text(table: Table, name: str, column: Column, counts: Counter[str], texts: list[str]) -> None:
    """Raise where a column of numbers has a few cells of text, or decimal commas."""
    n_text, n_cells = sum(counts[text] for text in texts), counts.total()
    row = next(row for row, cell in enumerate(column) if cell is not None and cell.strip() in texts)
    first = f"{table.where(row)}, column {name!r}: {column[row].strip()!r}"
    commas = [text for text in texts if THOUSANDS.fullmatch(text) or _number(text.replace(",", ".", 1)) is not None]
    if sum(counts[text] for text in commas) > n_text / 2:
        row = next(row for row, cell in enumerate(column) if cell is not None and cell.strip() in commas)
        cell = column[row].strip()
        raise DataError(f"{table.where(row)}, column {name!r}: {cell!r} has {_about_commas(cell, commas)}")
    if n_text < n_cells / 2:
        others = f" ({n_text} such cells in {n_cells})" if n_text > 1 else ""
        raise DataError(
            f"{first} is not a number, and most cells of this column are{others}. "
            f"Correct it, leave the cell empty if it is missing, or leave the column out: --ignore {name!r}."
        )


def _about_commas(cell: str, texts: list[str]) -> str:
    """Return what the commas in a column's cells are, as far as they tell, and what to write instead."""
    if not all(THOUSANDS.fullmatch(text) for text in texts):
        return "a decimal comma; write decimal points"
    if any("." in text or text.count(",") > 1 for text in texts):
        return "thousands separators; write 1000 for 1,000"
    plain, decimal = cell.replace(",", ""), cell.replace(",", ".")
    return f"a thousands separator or a decimal comma; write {plain} or {decimal}, and so in the whole column"


def _number(text: str) -> float | None:
    """Return the number that a text is to NumPy and pandas, too; to Python, 2020_01 is one."""
    if "_" in text or not text.isascii():
        return None
    try:
        return float(text)
    except ValueError:
        return None
