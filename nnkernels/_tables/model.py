"""A network with everything that turns a table into its inputs and its outputs into answers; one file holds both."""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np

from nnkernels._errors import ModelFileError
from nnkernels._io.model_file import load
from nnkernels._record import Record
from nnkernels._tables.columns import Category, Number, encode_columns
from nnkernels._tables.reading import Column, Table
from nnkernels._tables.targets import Classification, Regression

if TYPE_CHECKING:
    from nnkernels._device import Device
    from nnkernels._network import Sequential

KINDS: dict[str, type[Record]] = {
    "number": Number,
    "category": Category,
    "regression": Regression,
    "classification": Classification,
}


class Predictions(Record):
    """What a model says about rows.

    Parameters
    ----------
    target : str
        The column that is predicted.
    values : ndarray
        (rows,): numbers in the target's own units, or class names.
    classes : tuple of str
        All class names; empty for a regression.
    probabilities : ndarray or None
        (rows, classes); None for a regression.
    """

    target: str
    values: Column
    classes: tuple[str, ...] = ()
    probabilities: Column | None = None


class Model:
    """A network, its input columns and its target.

    Parameters
    ----------
    network : Sequential
        Trained or not.
    columns : tuple
        How each column becomes inputs, in their order.
    target : Regression or Classification
        What the outputs mean.
    """

    def __init__(
        self, network: Sequential, columns: tuple[Number | Category, ...], target: Regression | Classification
    ) -> None:
        self.network, self.columns, self.target = network, columns, target

    def predict(self, table: Table) -> Predictions:
        """Return predictions for all rows; what had to be filled in is added to the table's notes.

        Raises
        ------
        DataError
            The table lacks a column, or has text where training had numbers.
        """
        outputs = self.network.predict(encode_columns(table, self.columns, table.notes))
        target = self.target
        if isinstance(target, Regression):
            return Predictions(target.name, target.decode(outputs))
        probabilities = target.probabilities(outputs)
        labels = np.array(target.classes, object)[probabilities.argmax(axis=1)]
        return Predictions(target.name, labels, target.classes, probabilities)

    def save(self, path: str | PathLike[str]) -> None:
        """Write a model file with the network and, as its preprocessing, the columns and the target."""
        columns = [_to_json(spec) for spec in self.columns]
        self.network.preprocessing = {"columns": columns, "target": _to_json(self.target)}
        self.network.save(path)

    @classmethod
    def load(cls, path: str | PathLike[str], *, device: str | Device | None = None) -> Model:
        """Read what `save` wrote.

        Raises
        ------
        ModelFileError
            It is no model file, or one of a network alone.
        """
        network = load(path, device=device)
        preprocessing = network.preprocessing
        if preprocessing is None:
            raise ModelFileError(
                f"{path} holds a network alone, without the columns it was trained on; `nnkernels train` writes both"
            )
        try:
            columns: Any = tuple(_from_json(fields) for fields in preprocessing["columns"])
            target: Any = _from_json(preprocessing["target"])
            n_in = sum(spec.n_inputs for spec in columns)
        except (KeyError, TypeError, AttributeError) as error:
            raise ModelFileError(f"{path} is corrupt: its preprocessing cannot be read ({error})") from error
        if (n_in, target.n_out) != (network.n_in, network.n_out):
            raise ModelFileError(f"{path} is corrupt: its preprocessing does not fit its network")
        return cls(network, columns, target)


def _to_json(spec: Record) -> dict[str, Any]:
    kind = next(kind for kind, known in KINDS.items() if type(spec) is known)
    return {"kind": kind, **vars(spec)}


def _from_json(fields: dict[str, Any]) -> Record:
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
    return KINDS[str(values.pop("kind"))](**values)
