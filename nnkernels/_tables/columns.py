"""Columns of a table -> inputs of a network: what was learned from the training rows, and how it is applied."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from nnkernels._errors import DataError
from nnkernels._record import Record
from nnkernels._tables.reading import Column, Table

Matrix = np.ndarray[Any, np.dtype[np.float32]]

MAX_CATEGORIES = 100  #: inputs that one column of text may become


class Number(Record):
    """A column of numbers, standardized; a missing cell becomes the training rows' mean.

    Parameters
    ----------
    name : str
        The column.
    mean, std : float
        Of its training rows.
    """

    name: str
    mean: float
    std: float

    n_inputs = 1

    def encode(self, column: Column, notes: list[str]) -> Matrix:
        """Return the inputs (rows, 1)."""
        if n_missing := int(np.isnan(column).sum()):
            notes.append(
                f"column {self.name!r}: {n_missing:,} of {len(column):,} cells are missing; "
                f"filled with the training mean, {self.mean:.6g}"
            )
        with np.errstate(over="ignore"):  # `encode_columns` refuses what float32 cannot hold
            standardized = ((column - self.mean) / self.std).astype(np.float32)
        return np.where(np.isnan(standardized), np.float32(0), standardized)[:, None]


class Category(Record):
    """A column of text, one input a category; a category that training has not seen is zero in all of them.

    Parameters
    ----------
    name : str
        The column.
    categories : tuple of str
        The texts that training has seen.
    missing : bool
        Whether missing cells are a category of their own, the last one.
    """

    name: str
    categories: tuple[str, ...]
    missing: bool

    @property
    def n_inputs(self) -> int:
        """Number of inputs that the column becomes."""
        return len(self.categories) + self.missing

    def encode(self, column: Column, notes: list[str]) -> Matrix:
        """Return the inputs (rows, n_inputs)."""
        places: dict[str | None, int] = {text: place for place, text in enumerate(self.categories)}
        if self.missing:
            places[None] = len(self.categories)
        hot = np.array([places.get(cell, -1) for cell in column], np.int64)
        one_hot = np.zeros((len(column), self.n_inputs), np.float32)
        known = np.flatnonzero(hot >= 0)
        one_hot[known, hot[known]] = 1
        self._note(Counter(column[hot < 0]), int((column == None).sum()), notes)  # noqa: E711 - elementwise
        return one_hot

    def _note(self, unknown: Counter[str | None], n_missing: int, notes: list[str]) -> None:
        if self.missing and n_missing:
            notes.append(f"column {self.name!r}: {n_missing:,} cells are missing; that is a category of its own")
        elif unknown.pop(None, 0):
            notes.append(
                f"column {self.name!r}: {n_missing:,} cells are missing, as none was in training; all its inputs are 0"
            )
        if unknown:
            names = ", ".join(repr(text) for text, _ in unknown.most_common(3)) + (", ..." if len(unknown) > 3 else "")
            notes.append(
                f"column {self.name!r}: {unknown.total():,} cells hold categories unknown from training ({names}); "
                "all its inputs are 0 there"
            )


def learn_columns(table: Table, target: str, rows: Column, notes: list[str]) -> tuple[Number | Category, ...]:
    """Return how each column but the target becomes inputs, told from some rows; note those that are dropped.

    Raises
    ------
    DataError
        No column is left.
    """
    learned = []
    for name, column in table.columns.items():
        if name != target:
            spec = _learn_number(name, column[rows], notes)
            if spec is not None:
                learned.append(spec)
    if not learned:
        raise DataError(f"{table.path} has no column to learn {target!r} from: " + ("; ".join(notes) or "no other"))
    return tuple(learned)


def encode_columns(table: Table, specs: tuple[Number | Category, ...], notes: list[str]) -> Matrix:
    """Return the inputs of a table's rows, (rows, n_in), with columns matched by name.

    Raises
    ------
    DataError
        A column is missing, has text where training had numbers, or a number that float32 cannot hold beside those.
    """
    absent = [spec.name for spec in specs if spec.name not in table.columns]
    if len(absent) > 1:
        raise DataError(f"{table.path} lacks columns that the model needs: {', '.join(absent)}")
    columns = [_of_kind(table, spec, table.column(spec.name)) for spec in specs]
    inputs = [spec.encode(column, notes) for spec, column in zip(specs, columns, strict=True)]
    for spec, column, part in zip(specs, columns, inputs, strict=True):
        if not np.isfinite(part).all():
            row = int(np.argmin(np.isfinite(part[:, 0])))
            raise DataError(
                f"{table.where(row)}, column {spec.name!r}: {column[row]:.6g} is out of all proportion to the training "
                "rows. Correct it, or leave the cell empty if it is missing."
            )
    return np.hstack(inputs)


def as_text(column: Column) -> Column:
    """Return a column as text, a whole number without its point."""
    if column.dtype == object:
        return column
    return np.array([None if np.isnan(cell) else number_text(cell) for cell in column], object)


def number_text(value: float) -> str:
    """Return a number as text, as short as it can be: 1 for 1.0."""
    return str(int(value)) if float(value).is_integer() and abs(value) < 2**53 else repr(float(value))


def _learn_number(name: str, column: Column, notes: list[str]) -> Number | Category | None:
    if column.dtype == object:
        return _learn_category(name, column, notes)
    known = column[~np.isnan(column)]
    if not len(known):
        notes.append(f"column {name!r} has no values: ignored")
    elif known.min() == known.max():
        notes.append(f"column {name!r} is constant ({number_text(known[0])}): ignored")
    else:
        with np.errstate(over="ignore", invalid="ignore"):
            mean, std = float(known.mean()), float(known.std())
        if std > 0 and np.isfinite(std):
            return Number(name, mean, std)
        notes.append(f"column {name!r} varies beyond the reach of float64: ignored")
    return None


def _learn_category(name: str, column: Column, notes: list[str]) -> Category | None:
    counts = Counter(column)
    missing = counts.pop(None, 0) > 0
    if len(counts) + missing == 1:
        only = repr(next(iter(counts))) if counts else "nothing"
        notes.append(f"column {name!r} is constant ({only}): ignored")
        return None
    if len(counts) > max(20, counts.total() / 2):
        notes.append(f"column {name!r} has a text of its own in almost every row, as names have: ignored")
        return None
    if len(counts) > MAX_CATEGORIES:
        notes.append(f"column {name!r} has {len(counts):,} categories: the {MAX_CATEGORIES} most frequent are used")
    return Category(name, tuple(sorted(text for text, _ in counts.most_common(MAX_CATEGORIES))), missing)


def _of_kind(table: Table, spec: Number | Category, column: Column) -> Column:
    """Return a column as the kind that training had: a file of a few rows may look different."""
    if isinstance(spec, Category):
        return as_text(column)
    if column.dtype != object:
        return column
    row = next(row for row, cell in enumerate(column) if cell is not None)
    raise DataError(
        f"{table.where(row)}, column {spec.name!r}: {column[row]!r} is not a number, and in training all were"
    )
