"""Data of an ensemble: shared, or with a leading axis of networks; checked once, before anything is changed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from nnkernels import _losses
from nnkernels._data import Host, to_floats, to_numpy, to_rows, to_weights
from nnkernels._errors import DataError, ShapeError
from nnkernels._losses import Loss
from nnkernels._parameters import Layout, Parameters
from nnkernels._record import Record
from nnkernels._sampling import consecutive
from nnkernels._training import _call_all, _scaled
from nnkernels._workspace import Forward

if TYPE_CHECKING:
    from nnkernels._ensemble import Ensemble
    from nnkernels._workspace import Numbers
    from nnkernels.backends.protocol import Array

NUMBERS_AT_ONCE = 2**22  #: of the widest layer's outputs, in a forward pass


class Members:
    """Some networks of an ensemble, as what forward passes and composed steps read of a network.

    Parameters
    ----------
    ensemble : Ensemble
        Theirs.
    flat : Array
        Their parameters, (m, P), on its device.
    numbers : ndarray or None
        Theirs in the streams of random numbers, (m,).
    """

    def __init__(self, ensemble: Ensemble, flat: Array, numbers: Host | None = None) -> None:
        self.layers, self.device, self.dtype = ensemble.layers, ensemble.device, ensemble.dtype
        self.parameters = Parameters(Layout(ensemble.layers), flat, ensemble.device)
        self.product_options = ensemble.product_options
        self.numbers: Numbers = [] if numbers is None else [(part, first) for part, first in consecutive(numbers)]


class Problem(Record):
    """A checked data set with its loss, on the host.

    Parameters
    ----------
    loss : Loss
        What is minimized.
    x, t : ndarray
        (rows, n_in) and (rows, n_out), or both with a leading axis of networks, in the ensemble's dtype.
    weight : ndarray or None
        (rows,) or (n, rows): sample weights times class weights, as in `nnkernels._training.Problem`.
    """

    loss: Loss
    x: Host
    t: Host
    weight: Host | None

    @classmethod
    def check(
        cls, ensemble: Ensemble, x: Any, y: Any, loss: str | Loss, sample_weight: Any = None, *, whose: str = ""
    ) -> Problem:
        """Check everything about the data; `whose` goes before the names in errors."""
        resolved = _losses.loss(loss)
        resolved.kernel(ensemble.layers[-1].activation_name)
        x, y = (_on_host(ensemble, value, f"{whose}{name}") for name, value in (("x", x), ("y", y)))
        own_x = x.ndim == 3
        own_y = y.ndim == 3 or (own_x and y.ndim == 2 and y.shape == x.shape[:2])
        n = ensemble.n
        rows = to_networks(x, ensemble.dtype, f"{whose}x", ensemble.n_in, n)
        if own_y and len(y) != n:
            raise ShapeError(f"{whose}y has a leading axis of {len(y)}, and the ensemble {n} networks")
        flat_y = y.reshape(-1, *y.shape[2:]) if own_y else y
        t = resolved.targets(flat_y, ensemble.n_out, ensemble.dtype, f"{whose}y")
        t = t.reshape(n, -1, t.shape[-1]) if own_y else t
        if rows.shape[-2] != t.shape[-2]:
            raise ShapeError(f"{whose}x has {rows.shape[-2]} rows and {whose}y has {t.shape[-2]}; they must be as long")
        if not t.shape[-2]:
            raise DataError(f"{whose}x and {whose}y have no rows")
        weight = _weights(resolved, t, sample_weight, n, f"{whose}sample_weight", ensemble.dtype)
        if own_x != own_y:
            rows, t = (np.ascontiguousarray(np.broadcast_to(part, (n, *part.shape[-2:]))) for part in (rows, t))
        if weight is not None and weight.ndim == 1 and own_x | own_y:
            weight = np.ascontiguousarray(np.broadcast_to(weight, (n, len(weight))))
        return cls(resolved, rows, t, weight)

    def factors(self, networks: Host, rows: slice) -> Host:
        """Return the factor of some rows of some networks in the reduced loss of the whole data set."""
        n_rows = self.t.shape[-2]
        share = 1 / n_rows if self.loss.reduction == "mean" else 1.0
        shape = (len(networks), len(range(*rows.indices(n_rows))))
        weight = 1 if self.weight is None else _of(self.weight, networks, 1)[:, rows]
        return np.ascontiguousarray(np.broadcast_to(np.asarray(share * weight, self.t.dtype), shape))


def to_networks(x: Any, dtype: str, name: str, n_in: int, n: int) -> Host:
    """Return inputs, (rows, n_in) or, where networks have their own, (n, rows, n_in)."""
    if x.ndim != 3:
        return to_rows(x, dtype, name, n_in)
    if len(x) != n:
        raise ShapeError(
            f"{name} has a leading axis of {len(x)}, and the ensemble {n} networks; "
            f"give (rows, {n_in}) for all of them, or ({n}, rows, {n_in})"
        )
    return to_rows(x.reshape(-1, x.shape[2]), dtype, name, n_in).reshape(n, -1, n_in)


def _on_host(ensemble: Ensemble, value: Any, name: str) -> Host:
    if ensemble.device.holds(value):
        value = ensemble.device.kernels.to_host(value)
    return to_numpy(value, name)


def _weights(loss: Loss, t: Host, samples: Any, n: int, name: str, dtype: str) -> Host | None:
    """Return the weights of rows, (rows,) or (n, rows), or None."""
    own = None
    if samples is not None:
        own = to_floats(samples, np.float64, name)
        if own.ndim == 2 and own.shape != (n, t.shape[-2]):
            raise ShapeError(f"{name} must have the shape ({t.shape[-2]},) or ({n}, {t.shape[-2]}), not {own.shape}")
        flat = own.reshape(-1) if own.ndim == 2 else own
        own = to_weights(flat, len(flat) if own.ndim == 2 else t.shape[-2], name).reshape(own.shape)
    classes = [loss.row_weights(part) for part in t] if t.ndim == 3 else [loss.row_weights(t)]
    if classes[0] is not None:
        by_class = np.array(classes) if t.ndim == 3 else classes[0]
        own = by_class if own is None else own * by_class
    if own is None:
        return None
    if own.ndim == 1:
        return _scaled(own, loss, dtype)
    return np.stack([_scaled(row, loss, dtype) for row in own])


def _of(array: Host, networks: Host, shared_ndim: int) -> Host:
    """Return some networks' part of an array, which may be everyone's."""
    return array[None] if array.ndim == shared_ndim else array[networks]


class Evaluation:
    """The loss of each of some networks over a whole data set, without dropout."""

    def __init__(self, ensemble: Ensemble, problem: Problem) -> None:
        self.ensemble, self.problem = ensemble, problem

    def __call__(self, networks: Host) -> Host:
        """Return the losses with the present parameters, (m,)."""
        found = np.empty(len(networks))
        flat = self.ensemble.flat_on_host()
        for part in blocks(len(networks), self.problem.t.shape[-2], self.ensemble):
            found[part] = self._losses(flat[networks[part]], networks[part])
        return found

    def _losses(self, flat: Host, networks: Host) -> Host:
        ensemble, problem = self.ensemble, self.problem
        kernels, last = ensemble.device.kernels, ensemble.layers[-1].activation_name
        members = Members(ensemble, kernels.from_host(flat))
        loss = getattr(kernels, f"{problem.loss.kernel(last)}_forward")
        total = kernels.from_host(np.zeros(len(networks)))
        for rows in row_blocks(problem.t.shape[-2], ensemble):
            x, t = (
                kernels.from_host(np.broadcast_to(part, (len(networks), *part.shape[1:])))
                for part in (_of(array, networks, 2)[:, rows] for array in (problem.x, problem.t))
            )
            weight = kernels.from_host(problem.factors(networks, rows))
            forward = Forward(members, x, last_activation=not problem.loss.from_z(last))
            score = partial(loss, forward.output, t, weight, out=total, **problem.loss.scalars)
            _call_all([*forward.calls, score])
        losses: Host = kernels.to_host(total)
        return losses


def predict(ensemble: Ensemble, x: Array) -> Array:
    """Return outputs, (n, rows, n_out), for inputs (rows, n_in) or (n, rows, n_in) on the ensemble's device."""
    kernels, n_rows = ensemble.device.kernels, x.shape[-2]
    out = kernels.empty((ensemble.n, n_rows, ensemble.n_out), ensemble.dtype)
    flat = ensemble.parameters.flat
    for part in blocks(ensemble.n, n_rows, ensemble):
        members = Members(ensemble, flat[part])
        for rows in row_blocks(n_rows, ensemble):
            inputs = x[part, rows] if x.ndim == 3 else _repeated(kernels, x[rows], part.stop - part.start)
            forward = Forward(members, inputs)
            _call_all([*forward.calls, partial(kernels.copy, forward.output, out=out[part, rows])])
    return out


def _repeated(kernels: Any, rows: Array, n: int) -> Array:
    """Return the same rows for each of n networks."""
    out = kernels.empty((n, *rows.shape), rows.dtype)
    index = np.ascontiguousarray(np.broadcast_to(np.arange(rows.shape[0]), (n, rows.shape[0])))
    kernels.gather(rows, kernels.from_host(index), out=out)
    return out


def row_blocks(n_rows: int, ensemble: Ensemble) -> list[slice]:
    """Cut rows into blocks of a forward pass."""
    size = max(1, NUMBERS_AT_ONCE // _width(ensemble))
    return [slice(start, min(start + size, n_rows)) for start in range(0, n_rows, size)]


def blocks(n: int, n_rows: int, ensemble: Ensemble) -> list[slice]:
    """Cut networks into blocks of a forward pass over so many rows."""
    size = max(1, NUMBERS_AT_ONCE // (_width(ensemble) * max(1, n_rows)))
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]


def _width(ensemble: Ensemble) -> int:
    return max(ensemble.n_in, *(layer.n_out for layer in ensemble.layers))


# ---- an ensemble's inputs, answers and beginning ---------------------------------------------------------------------


def inputs(ensemble: Ensemble, x: Any) -> Host:
    """Return host inputs, checked, (rows, n_in) or (n, rows, n_in)."""
    return to_networks(to_numpy(x, "x"), ensemble.dtype, "x", ensemble.n_in, ensemble.n)


def device_inputs(ensemble: Ensemble, x: Array) -> Array:
    """Check inputs that are on the device already; their values are not read back."""
    rows = x.reshape(-1, 1) if x.ndim == 1 else x
    good = rows.ndim in (2, 3) and rows.shape[-1] == ensemble.n_in and rows.dtype == np.dtype(ensemble.dtype)
    if not good or (rows.ndim == 3 and rows.shape[0] != ensemble.n):
        shapes = f"(rows, {ensemble.n_in}) or ({ensemble.n}, rows, {ensemble.n_in})"
        raise ShapeError(f"x must be {shapes} of {ensemble.dtype}, not {x.shape} of {x.dtype}")
    return rows


def over_networks(ensemble: Ensemble, x: Any, statistic: Callable[[Host], Host]) -> Host:
    """Return a statistic over the networks' outputs, some rows at a time."""
    rows = inputs(ensemble, ensemble.device.kernels.to_host(x) if ensemble.device.holds(x) else x)
    size = max(1, NUMBERS_AT_ONCE // (ensemble.n * ensemble.n_out))
    found = [
        statistic(np.asarray(ensemble.predict(rows[..., start : start + size, :]), np.float64))
        for start in range(0, max(1, rows.shape[-2]), size)
    ]
    return np.concatenate(found, axis=-2)
