"""The user's gradient arrays: checked, never changed, and read in every layout that people use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from nnkernels._data import Host, to_numpy
from nnkernels._diagnosis.point import Point
from nnkernels._errors import DataError, ShapeError
from nnkernels._names import nearest

EPS32, EPS64 = float(np.finfo(np.float32).eps), float(np.finfo(np.float64).eps)
UNSUMMED = "unsummed"  #: a bias's gradient that still has its rows


class View(NamedTuple):
    """One way to read an array: as which gradient, in what layout, and the mistake that would be, if any."""

    array: Host
    layout: str  # "straight", "transposed", or what shows no orientation: "vector"
    mistake: str = ""


class Target(NamedTuple):
    """A gradient of the user's: whose it is, the ways to read it, and the precision of its numbers."""

    parameter: str
    layer: int
    kind: str
    views: tuple[View, ...]
    eps: float
    integer: bool

    @property
    def size(self) -> float:
        """The largest magnitude in it."""
        return max(float(np.abs(view.array).max()) for view in self.views)


def read(point: Point, gradients: Mapping[str, Any], eps: float) -> list[Target]:
    """Return the user's gradients, or say what is wrong with them.

    Raises
    ------
    TypeError
        Not a mapping of names to arrays.
    KeyError
        A name that is no parameter of the network's.
    DataError
        NaN or infinity (located), text or objects.
    ShapeError
        A shape that fits the parameter in no orientation.
    """
    if not isinstance(gradients, Mapping):
        raise TypeError(
            f'gradients must map parameter names to arrays, {{"0.weight": ...}}, not {type(gradients).__name__}'
        )
    if not gradients:
        raise ValueError(f"gradients is empty. Give at least one of {', '.join(point.parameters)}.")
    for name in gradients:
        if name not in point.parameters:
            raise KeyError(_unknown(str(name), point))
    arrays = {name: _numbers(value, f'gradients["{name}"]') for name, value in gradients.items()}
    sampled = any(array.ndim == 3 for array in arrays.values())
    return [_target(point, name, arrays[name], eps, sampled) for name in point.parameters if name in arrays]


def _unknown(name: str, point: Point) -> str:
    layer, _, kind = name.partition(".")
    if kind == "bias" and f"{layer}.weight" in point.parameters:
        return f"no parameter {name!r}: layer {layer} was made with bias=False"
    return f"no parameter {name!r}; there are {', '.join(point.parameters)}.{nearest(name, point.parameters)}"


def _numbers(value: Any, name: str) -> Host:
    array = to_numpy(value, name)
    if array.dtype.kind not in "fbiu":
        raise DataError(f"{name} must be numeric, but its dtype is {array.dtype}")
    if not np.isfinite(array).all():
        where = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        count = int((~np.isfinite(array)).sum())
        raise DataError(
            f"{name} has the value {array[where]} at {where or 'its only place'} ({count} of {array.size} are not "
            "finite). Look for a division by 0, log(0) or an overflowing exp before asking which derivative is wrong."
        )
    return array


def _target(point: Point, name: str, array: Host, eps: float, sampled: bool) -> Target:
    layer, _, kind = name.partition(".")
    shape = point.parameters[name].shape
    integer = array.dtype.kind in "iub"
    own = EPS32 if array.dtype.kind == "f" and array.dtype.itemsize < 8 else EPS64
    views = (_weight_views if kind == "weight" else _bias_views)(array.astype(np.float64), shape, point.rows, sampled)
    if not views:
        fits = f"{shape}, its transpose, flat, or one a row, {(point.rows, *shape)}"
        raise ShapeError(
            f'gradients["{name}"] has the shape {array.shape}, which fits {name} of shape {shape} in no orientation. '
            f"It may be {fits}.{_slip(point, kind, array)}"
        )
    if kind == "weight" and any(point.penalty):
        views = [view._replace(array=view.array - point.penalty_slope(int(layer))) for view in views]
    return Target(name, int(layer), kind, tuple(views), max(eps, own), integer)


def _slip(point: Point, kind: str, array: Host) -> str:
    """Tell of the commonest reason for a shape with rows in it."""
    if kind == "weight" and point.rows > 1 and array.ndim == 2 and point.rows in array.shape:
        slip = "and reshape y to (rows, 1), since (rows, 1) - (rows,) is (rows, rows)."
        return f" An axis of rows is left in it: sum over it, {slip}"
    return ""


def _weight_views(array: Host, shape: tuple[int, ...], rows: int, sampled: bool) -> list[View]:
    size, single = shape[0] * shape[1], 1 in shape
    if array.size == rows * size != size and array.ndim >= 2 and array.shape[0] == rows:
        parts = array.sum(axis=0), array.mean(axis=0)
        return [view for part in parts for view in _weight_views(part, shape, 1, sampled)]
    array = array if array.ndim == 2 or array.size != size else array.squeeze()
    if array.size == size and (array.shape not in (shape, shape[::-1]) or single):
        if array.ndim == 2 and 1 not in array.shape:
            return []
        straight = View(array.reshape(shape), "vector" if single else "straight")
        return [straight] if single else [straight, View(array.reshape(shape[::-1]).T, "transposed")]
    views = [View(array, "straight")] if array.shape == shape else []
    return views + ([View(array.T, "transposed")] if array.shape == shape[::-1] else [])


def _bias_views(array: Host, shape: tuple[int, ...], rows: int, sampled: bool) -> list[View]:
    (n,) = shape
    if array.size == n:
        return [View(array.reshape(n), "vector")]
    mistake = "" if sampled else UNSUMMED
    if array.size == rows * n and array.shape[-1] == rows and array.ndim == 2 and array.shape[0] == n:
        return [View(array.sum(axis=1), "vector", mistake), View(array.mean(axis=1), "vector", mistake)]
    if array.size == rows * n and array.shape[0] == rows:
        by_row = array.reshape(rows, n)
        return [View(by_row.sum(axis=0), "vector", mistake), View(by_row.mean(axis=0), "vector", mistake)]
    return []


def layout(targets: list[Target]) -> str | None:
    """Return the layout that the weights' shapes tell, or None if they tell nothing."""
    told = [t.views[0].layout for t in targets if t.kind == "weight" and len({view.layout for view in t.views}) == 1]
    told = [name for name in told if name != "vector"]
    return max(set(told), key=told.count) if told else None
