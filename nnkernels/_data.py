"""Data from the user: checked once, completely, before anything is changed."""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np

from nnkernels._errors import DataError, DeviceError, ShapeError

Host = np.ndarray[Any, Any]


def to_floats(value: Any, dtype: Any, name: str) -> Host:
    """Return host data as a float array, or say what is wrong with it.

    Raises
    ------
    DataError
        NaN or infinity (located), text or objects, integers or magnitudes that `dtype` cannot hold.
    DeviceError
        An array that lives on a GPU.
    """
    dtype = np.dtype(dtype)
    array = to_numpy(value, name)
    if array.dtype.kind in "iu":
        exact = 2 ** (np.finfo(dtype).nmant + 1)
        if array.size and max(int(array.max()), -int(array.min())) > exact:
            raise DataError(
                f"{name} has integers beyond {exact}, which {dtype.name} would truncate. "
                f"Convert it yourself, {name}.astype(float), or use dtype='float64'."
            )
    elif array.dtype.kind not in "fb":
        raise DataError(f"{name} must be numeric, but its dtype is {array.dtype}. Encode text and objects as numbers.")
    if not np.isfinite(array).all():
        raise DataError(f"{name} has {_first(~np.isfinite(array), array)}. Remove or impute such values.")
    with np.errstate(over="ignore"):
        floats = array.astype(dtype, order="C", copy=False)
    if floats.dtype != array.dtype and not np.isfinite(floats).all():
        raise DataError(
            f"{name} has {_first(~np.isfinite(floats), array)}, which is beyond {dtype.name}. Scale it down."
        )
    return floats


def to_numpy(value: Any, name: str) -> Host:
    """Return host data as a NumPy array of any dtype."""
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise DataError(f"{name} has masked entries. Fill them first: {name}.filled(...).")
    if hasattr(value, "__cuda_array_interface__"):
        raise DeviceError(f"{name} is on a GPU, and the network is not. Copy it first: {name}.get() or {name}.cpu()")
    try:
        array = np.asarray(value)
        if array.dtype == object and all(isinstance(cell, (Real, np.bool_)) for cell in array.flat):
            array = array.astype(np.float64)  # a frame whose columns have several dtypes
        return array
    except (ValueError, TypeError, RuntimeError) as error:
        raise DataError(f"{name} cannot be read as an array: {error}") from error


def to_rows(value: Any, dtype: Any, name: str, n_columns: int, what: str = "inputs") -> Host:
    """Return host data as (rows, columns); one axis is one column.

    Raises
    ------
    ShapeError
        More than two axes or none, or another number of columns than `n_columns`.
    """
    array = to_floats(value, dtype, name)
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim != 2:
        remedy = f"Flatten each row: {name}.reshape(len({name}), -1)." if array.ndim else "Pass an array of rows."
        raise ShapeError(f"{name} must have the shape (rows, columns), not {array.shape}. {remedy}")
    if array.shape[1] != n_columns:
        hint = f" For a single row, pass {name}.reshape(1, -1)." if array.shape == (n_columns, 1) else ""
        raise ShapeError(f"{name} has the shape {array.shape}, but the network has {n_columns} {what}.{hint}")
    return np.ascontiguousarray(array)


def to_weights(value: Any, n_rows: int, name: str) -> Host:
    """Return per-row weights, at least 0, as (rows,) of float64."""
    weights = to_floats(value, np.float64, name)
    if weights.shape != (n_rows,):
        raise ShapeError(f"{name} must have the shape ({n_rows},), one weight a row, not {weights.shape}")
    if (weights < 0).any():
        raise DataError(f"{name} has {_first(weights < 0, weights)}. Weights must be at least 0.")
    return weights


def to_classes(value: Any, n_classes: int, dtype: Any, name: str) -> Host:
    """Return class indices (rows,) or one-hot rows (rows, n_classes) as one-hot rows.

    Raises
    ------
    DataError
        Labels out of range or not whole, rows that are not one-hot.
    """
    array = to_numpy(value, name)
    if array.dtype.kind not in "fbiu":
        raise DataError(
            f"{name} must hold class indices 0 to {n_classes - 1}, but its dtype is {array.dtype}. "
            f"Number the classes: names, {name} = np.unique({name}, return_inverse=True)."
        )
    if array.ndim == 2 and array.shape[1] == n_classes:
        one_hot = (np.isin(array, (0, 1)).all(axis=1)) & (array.sum(axis=1) == 1)
        if not one_hot.all():
            raise DataError(f"{name} must be one-hot; row {int(np.argmin(one_hot))} is {array[np.argmin(one_hot)]}")
        return np.ascontiguousarray(array, dtype)
    labels = array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array
    if labels.ndim != 1:
        raise ShapeError(f"{name} must have the shape (rows,) or (rows, {n_classes}), not {array.shape}")
    wrong = ~np.isin(labels, np.arange(n_classes))
    if wrong.any():
        raise DataError(
            f"{name} has {_first(wrong, labels)}, but the network's {n_classes} outputs stand for the classes "
            f"0 to {n_classes - 1}. Number the classes from 0, or give the last layer more outputs."
        )
    return np.eye(n_classes, dtype=dtype)[labels.astype(np.int64)]


def check_validation(problem: Any, network: Any, validation_data: Any, loss: Any) -> Any:
    """Return checked validation data or None; `problem` is the kind that the network, or ensemble, takes."""
    if validation_data is None:
        return None
    if not isinstance(validation_data, (tuple, list)) or len(validation_data) not in (2, 3):
        raise TypeError("validation_data must be (x, y) or (x, y, sample_weight)")
    x, y, *weight = validation_data
    return problem.check(network, x, y, loss, *weight, whose="validation_data's ")


def require_range(array: Host, low: float, high: float, name: str, why: str) -> Host:
    """Return the array if all its values are in [low, high]."""
    wrong = (array < low) | (array > high)
    if wrong.any():
        raise DataError(f"{name} has {_first(wrong, array)}, but {why}")
    return array


def _first(wrong: Host, array: Host) -> str:
    """Name the first wrong value: its value, its place, and how many more there are."""
    where = tuple(int(i) for i in np.argwhere(wrong)[0])
    place = f"row {where[0]}" + "".join(f", column {i}" for i in where[1:2]) if where else "it"
    more = int(wrong.sum()) - 1
    return f"the value {array[where]} in {place}" + (f" ({more} more like it)" if more else "")
