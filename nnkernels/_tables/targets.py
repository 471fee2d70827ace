"""The target column: regression or classification, and the way from network outputs back to its own units."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from nnkernels._errors import DataError
from nnkernels._record import Record
from nnkernels._tables.columns import as_text
from nnkernels._tables.reading import Column, Table

FEW = 10  #: distinct whole numbers, and no more, are classes
ROWS_OF_A_CLASS = 5  #: ... if there are that many rows of each, on average

LOSSES = {
    "regression": ("mean_squared_error", "half_squared_error", "absolute_error", "huber", "poisson"),
    "classification": ("binary_cross_entropy", "categorical_cross_entropy"),
}


class Regression(Record):
    """A target that is a number, standardized; or a count, whose logarithm the network gives.

    Parameters
    ----------
    name : str
        The column.
    mean, std : float
        Of its training rows; 0 and 1 for counts.
    log : bool
        Whether the network gives the logarithm, as the Poisson loss has it.
    """

    name: str
    mean: float
    std: float
    log: bool = False

    task = "regression"
    n_out = 1
    activation = None

    def encode(self, column: Column) -> Column:
        """Return what the network shall give, (rows,)."""
        with np.errstate(over="ignore"):  # `prepare` looks for what float32 cannot hold
            return np.asarray((column - self.mean) / self.std, np.float32)

    def decode(self, outputs: Column) -> Column:
        """Return predictions in the target's own units, (rows,)."""
        values = outputs[:, 0].astype(np.float64)
        return np.exp(values) if self.log else values * self.std + self.mean


class Classification(Record):
    """A target that is one of a few classes.

    Parameters
    ----------
    name : str
        The column.
    classes : tuple of str
        In order.
    loss : str
        binary_cross_entropy, for two classes over one sigmoid output, or categorical_cross_entropy over a softmax.
    """

    name: str
    classes: tuple[str, ...]
    loss: str

    task = "classification"

    @property
    def n_out(self) -> int:
        """Number of outputs."""
        return 1 if self.loss == "binary_cross_entropy" else len(self.classes)

    @property
    def activation(self) -> str:
        """The last layer's."""
        return "sigmoid" if self.n_out == 1 else "softmax"

    def encode(self, column: Column) -> Column:
        """Return class numbers, (rows,)."""
        places = {text: place for place, text in enumerate(self.classes)}
        return np.array([places[text] for text in as_text(column)], np.int64)

    def probabilities(self, outputs: Column) -> Column:
        """Return each class's probability, (rows, classes)."""
        values = outputs.astype(np.float64)
        return np.hstack([1 - values, values]) if self.n_out == 1 else values


def tell_task(table: Table, target: str) -> tuple[str, str]:
    """Return "regression" or "classification", and why.

    Examples
    --------
    >>> import numpy as np, pathlib
    >>> table = Table(pathlib.Path("a.csv"), ",", {"y": np.arange(100) % 3 + 0.0}, [])
    >>> tell_task(table, "y")
    ('classification', '3 distinct whole numbers')
    """
    column = table.column(target)
    if column.dtype == object:
        return "classification", f"{len(set(column) - {None})} distinct texts"
    known = column[~np.isnan(column)]
    distinct = np.unique(known)
    whole = bool((distinct == np.round(distinct)).all())
    what = f"{len(distinct):,} distinct {'whole numbers' if whole else 'numbers'}"
    few = len(distinct) <= FEW and len(known) >= ROWS_OF_A_CLASS * len(distinct)
    return ("classification" if whole and few else "regression"), what


def learn_target(
    table: Table, target: str, task: str, loss: str | None, rows: Column | None = None
) -> Regression | Classification:
    """Return how the target becomes what the network shall give; a regression's scale is told from some rows.

    Raises
    ------
    DataError
        A constant target, text where numbers are needed, numbers whose scale float64 cannot hold, too many classes,
        or a loss that does not fit.
    """
    if loss is not None and loss not in LOSSES[task]:
        other = "classification" if task == "regression" else "regression"
        raise DataError(f"--loss {loss} is for {other}; for {task} there are {', '.join(LOSSES[task])}. See --task.")
    column = table.column(target)
    distinct = set(column.tolist())
    if len(distinct) == 1:
        raise DataError(f"the target {target!r} is constant ({distinct.pop()}): there is nothing to learn")
    if task == "classification":
        return _learn_classes(target, column, loss)
    if column.dtype == object:
        raise DataError(f"the target {target!r} is text; --task regression needs numbers")
    if loss == "poisson":
        if column.min() < 0:
            raise DataError(f"the target {target!r} is below 0 in {table.where(int(column.argmin()))}, no count")
        return Regression(target, 0.0, 1.0, log=True)
    values = column if rows is None else column[rows]
    if values.min() == values.max():
        raise DataError(f"the target {target!r} is constant in the training rows ({values[0]}): nothing to learn")
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        mean, std = float(values.mean()), float(values.std())
    if not 0 < std < np.inf:
        raise DataError(
            f"the target {target!r} varies beyond the reach of float64, from {values.min():.6g} to {values.max():.6g}; "
            "correct the cells that are wrong, or give it in another unit"
        )
    return Regression(target, mean, std)


def _learn_classes(target: str, column: Column, loss: str | None) -> Classification:
    counts = Counter(as_text(column))
    if len(counts) > max(2, len(column) / 2):
        raise DataError(
            f"the target {target!r} has {len(counts):,} classes in {len(column):,} rows, too few rows of each. "
            "Is it an identifier? For a number, pass --task regression."
        )
    if loss == "binary_cross_entropy" and len(counts) > 2:
        raise DataError(f"--loss {loss} is for 2 classes, and {target!r} has {len(counts)}: categorical_cross_entropy")
    usual = "binary_cross_entropy" if len(counts) == 2 else "categorical_cross_entropy"
    return Classification(target, tuple(sorted(counts, key=_in_order)), loss or usual)


def _in_order(text: str) -> tuple[Any, ...]:
    """Numbers by value, before texts by letter."""
    try:
        return 0, float(text), text
    except ValueError:
        return 1, 0.0, text
