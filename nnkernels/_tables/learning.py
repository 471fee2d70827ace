"""A table and a target -> a trained network, and what it is worth on rows that training has not seen."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import numpy as np

from nnkernels import _optimizers
from nnkernels._callbacks import Callback, EarlyStopping
from nnkernels._errors import DataError
from nnkernels._layers import Dense
from nnkernels._network import Sequential
from nnkernels._record import Record
from nnkernels._sampling import steps_per_epoch
from nnkernels._tables.columns import Matrix, encode_columns, learn_columns
from nnkernels._tables.model import Model
from nnkernels._tables.reading import Column, Table
from nnkernels._tables.targets import Classification, Regression, learn_target, tell_task
from nnkernels._training import History

MIN_ROWS = 10
TEST, VALIDATION = 0.2, 0.15  #: shares of the rows


class Settings(Record):
    """How a network is trained on a table; what `nnkernels train` has options for.

    The defaults are for tables of 100 to 100,000 rows: a network that is larger than they need, kept in check by
    weight decay and early stopping.
    """

    task: str | None = None
    hidden: tuple[int, ...] = (32, 16)
    activation: str = "tanh"
    loss: str | None = None
    optimizer: str = "adamw"
    lr: float = 3e-3
    epochs: int = 200
    batch_size: int | None = None
    patience: int = 20
    device: str | None = None
    seed: int = 0


class Parts(Record):
    """Indices of the rows that are trained on, that say when to stop, and that are only ever tested on."""

    train: Column
    validation: Column
    test: Column


class Study:
    """A table as a network sees it.

    Attributes
    ----------
    model : Model
        The untrained network, with all that turns a table into its inputs.
    x : ndarray
        Inputs, (rows, n_in).
    t : ndarray
        What the network shall give, (rows,): standardized numbers, counts or class numbers.
    parts : Parts
        Which rows are for what.
    reason : str
        What the target is like.
    is_text : bool
        Whether the target is text, which only a classification can have.
    notes : list of str
        What was found on the way and ought to be known.
    """

    def __init__(self, model: Model, x: Matrix, t: Column, parts: Parts, table: Table) -> None:
        self.model, self.x, self.t, self.parts = model, x, t, parts
        self.reason, self.notes = tell_task(table, model.target.name)[1], table.notes
        self.is_text = table.column(model.target.name).dtype == object


class Scores(Record):
    """Metrics on the test rows: the network's, and those of a prediction that ignores the inputs.

    Parameters
    ----------
    baseline_name : str
        That prediction: the training rows' mean, or their most frequent class.
    network, baseline : dict of str to float
        "R^2" and "RMSE" in the target's own units, or "accuracy".
    """

    baseline_name: str
    network: dict[str, float]
    baseline: dict[str, float]


def prepare(table: Table, target: str, settings: Settings) -> Study:
    """Turn a table into matrices and an untrained network; notes go to the table's.

    Raises
    ------
    DataError
        The table cannot be trained on; the message names the column and the remedy.
    BackendUnavailable, DeviceError
        The device cannot be used, or does not exist.
    """
    table.column(target)
    if table.n_rows < MIN_ROWS:
        rows = "1 row" if table.n_rows == 1 else f"{table.n_rows} rows"
        raise DataError(f"{table.path} has {rows}; to train, validate and test takes at least {MIN_ROWS}")
    table = _with_target(table, target)
    task = settings.task or tell_task(table, target)[0]
    spec = learn_target(table, target, task, settings.loss)
    labels = spec.encode(table.column(target)) if isinstance(spec, Classification) else None
    parts = split(table.n_rows, labels, settings.seed)
    if labels is None:
        spec = learn_target(table, target, task, settings.loss, parts.train)
    columns = learn_columns(table, target, parts.train, table.notes)
    x = encode_columns(table, columns, table.notes)
    model = Model(build(x.shape[1], spec, settings), columns, spec)
    t = spec.encode(table.column(target))
    if not np.isfinite(t).all():
        row = int(np.argmin(np.isfinite(t)))
        raise DataError(
            f"{table.where(row)}, column {target!r}: {table.column(target)[row]:.6g} is out of all proportion to the "
            "training rows; correct it, leave the cell empty if it is missing, or give the target in another unit"
        )
    return Study(model, x, t, parts, table)


def split(n_rows: int, labels: Column | None, seed: int) -> Parts:
    """Cut rows at random into training, validation and test rows; each part gets its share of each class.

    Examples
    --------
    >>> parts = split(100, None, seed=0)
    >>> len(parts.train), len(parts.validation), len(parts.test)
    (65, 15, 20)
    """
    rng = np.random.default_rng(seed)
    rows = rng.permutation(n_rows)
    if labels is not None:
        rows = rows[np.argsort(labels[rows], kind="stable")]
    test, rest = _every(rows, TEST, rng)
    validation, train = _every(rest, VALIDATION / (1 - TEST), rng)
    return Parts(train, validation, test)


def build(n_in: int, spec: Regression | Classification, settings: Settings) -> Sequential:
    """Return the untrained network."""
    sizes = [n_in, *settings.hidden]
    hidden = [Dense(before, after, settings.activation) for before, after in pairwise(sizes)]
    last = Dense(sizes[-1], spec.n_out, spec.activation)
    return Sequential(*hidden, last, device=settings.device, rng=settings.seed)


def batch_size_for(n_rows: int) -> int:
    """Return the usual batch size: a power of 2, so that an epoch has some 30 steps, from 16 to 256.

    Examples
    --------
    >>> batch_size_for(300), batch_size_for(3_000), batch_size_for(1_000_000)
    (16, 128, 256)
    """
    return int(min(256, max(16, 2 ** round(np.log2(max(1, n_rows / 30))))))


class Best(EarlyStopping):
    """Early stopping whose best weights can be asked for when a run is interrupted, too."""

    def restore(self, network: Sequential) -> None:
        """Copy the best weights so far, if there are any, into the network."""
        if getattr(self, "parameters", None):
            network.parameters.update(self.parameters)


def learn(study: Study, settings: Settings, callbacks: Iterable[Callback] = ()) -> tuple[History, int]:
    """Train a study's network in place, until the loss of the validation rows no longer falls.

    Returns
    -------
    history : History
        With a log point an epoch.
    best_epoch : int
        The epoch whose weights were kept.

    Raises
    ------
    DivergenceError
        The loss stopped being a number.
    KeyboardInterrupt
        Passed on, with the best weights so far in the network.
    """
    parts, n_train = study.parts, len(study.parts.train)
    batch_size = min(n_train, settings.batch_size or batch_size_for(n_train))
    epoch = steps_per_epoch(n_train, batch_size)
    best, network = Best(settings.patience), study.model.network
    try:
        history = network.fit(
            study.x[parts.train],
            study.t[parts.train],
            loss=loss_of(study, settings),
            optimizer=_optimizers.NAMES[settings.optimizer](settings.lr),
            batch_size=batch_size,
            epochs=settings.epochs,
            validation_data=(study.x[parts.validation], study.t[parts.validation]),
            log_every=epoch,
            callbacks=[best, *callbacks],
        )
    except KeyboardInterrupt:
        best.restore(network)
        raise
    return history, best.best_step // epoch


def loss_of(study: Study, settings: Settings) -> str:
    """Return the name of the loss that a study is trained with."""
    spec = study.model.target
    return spec.loss if isinstance(spec, Classification) else settings.loss or "mean_squared_error"


def score(study: Study) -> Scores:
    """Return the metrics on the test rows, beside the trivial baseline's."""
    train, test, spec = study.t[study.parts.train], study.t[study.parts.test], study.model.target
    outputs = study.model.network.predict(study.x[study.parts.test])
    if isinstance(spec, Classification):
        majority = np.bincount(train).argmax()
        labels = spec.probabilities(outputs).argmax(axis=1)
        return Scores("majority", {"accuracy": _share(labels == test)}, {"accuracy": _share(majority == test)})
    truth, mean = _own_units(spec, test), float(_own_units(spec, train).mean())
    unit = spec.std
    return Scores("mean", _errors(spec.decode(outputs), truth, unit), _errors(np.full(len(truth), mean), truth, unit))


def _own_units(spec: Regression, t: Column) -> Column:
    return t.astype(np.float64) * spec.std + spec.mean


def _errors(predictions: Column, truth: Column, unit: float) -> dict[str, float]:
    """Return R^2 and RMSE; a unit near the target's scale keeps the squares within float64."""
    squared, variance = float((((predictions - truth) / unit) ** 2).mean()), float((truth / unit).var())
    r2 = 1 - squared / variance if variance else float("nan")
    return {"R^2": r2, "RMSE": squared**0.5 * unit}


def _share(hits: Any) -> float:
    return float(np.mean(hits))


def _with_target(table: Table, target: str) -> Table:
    """Leave out rows whose target is missing, and say how many they are."""
    column = table.column(target)
    there = np.array([cell is not None for cell in column]) if column.dtype == object else ~np.isnan(column)
    if there.all():
        return table
    table.notes.append(f"the target {target!r} is missing in {(~there).sum():,} of {table.n_rows:,} rows: left out")
    if there.sum() < MIN_ROWS:
        raise DataError(f"the target {target!r} is missing in all but {there.sum()} rows of {table.path}")
    return table.take(there)


def _every(rows: Column, share: float, rng: np.random.Generator) -> tuple[Column, Column]:
    """Take a share of the rows at even distances, from a random start; return them, and the rest."""
    count = np.floor(np.arange(len(rows) + 1) * share + rng.random())
    taken = count[1:] > count[:-1]
    return rows[taken], rows[~taken]
