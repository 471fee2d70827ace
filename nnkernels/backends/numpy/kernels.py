"""The reference backend: every kernel of the Protocol, in NumPy. Read this file first.

The elementwise kernels (activations, losses, optimizer updates) stand beside it in `activations.py`, `losses.py` and
`optimizers.py`; the random ones in `random.py`.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

from nnkernels._errors import BackendUnavailable
from nnkernels.backends.numpy.activations import *  # noqa: F403 - every printed kernel is part of the backend
from nnkernels.backends.numpy.losses import *  # noqa: F403
from nnkernels.backends.numpy.optimizers import *  # noqa: F403
from nnkernels.backends.numpy.random import draw_indices as draw_indices
from nnkernels.backends.numpy.random import dropout_mask as dropout_mask
from nnkernels.backends.protocol import Array

# ---- the device ------------------------------------------------------------------------------------------------------


def probe(index: int) -> None:
    """Raise unless `index` is 0: the host is one device."""
    if index:
        raise BackendUnavailable(f"numpy:{index}", "does not exist: the host is one device", 'Use "numpy".')


def device_scope(index: int) -> AbstractContextManager[Any]:
    """Return a context that does nothing."""
    return nullcontext()


def empty(shape: tuple[int, ...], dtype: Any) -> Array:
    """Return a new array with undefined content."""
    return np.empty(shape, dtype)


def from_host(array: np.ndarray[Any, Any]) -> Array:
    """Return a C-contiguous copy."""
    return np.array(array, order="C")


def to_host(array: Array) -> np.ndarray[Any, Any]:
    """Return a copy."""
    return np.array(array)


def owns(array: object) -> bool:
    """Tell whether `array` is a NumPy array."""
    return isinstance(array, np.ndarray)


def copy(source: Array, *, out: Array) -> None:
    """``out = source``."""
    np.copyto(out, source)


def fill(value: float, *, out: Array) -> None:
    """``out = value``."""
    out[...] = value


# ---- layers ----------------------------------------------------------------------------------------------------------


def matmul_forward(x: Array, w: Array, b: Array | None, *, out: Array) -> None:
    """``out = x @ w + b``."""
    np.matmul(x, w, out=out)
    if b is not None:
        np.add(out, b[..., None, :], out=out)


def matmul_backward(dz: Array, x: Array, w: Array, *, dx: Array | None, dw: Array, db: Array | None) -> None:
    """``dw = x^T dz``, ``db = sum(dz)``, ``dx = dz w^T``."""
    np.matmul(np.swapaxes(x, -1, -2), dz, out=dw)
    if db is not None:
        np.add.reduce(dz, axis=-2, out=db)
    if dx is not None:
        np.matmul(dz, np.swapaxes(w, -1, -2), out=dx)


def activation_backward(da: Array, slope: Array, *, out: Array) -> None:
    """``out = da * slope``."""
    np.multiply(da, slope, out=out)


def softmax_forward(z: Array, *, out: Array) -> None:
    """``out = exp(z) / sum(exp(z))`` over the last axis."""
    np.exp(z - z.max(axis=-1, keepdims=True), out=out)
    out /= out.sum(axis=-1, keepdims=True)


def softmax_backward(da: Array, a: Array, *, out: Array) -> None:
    """``out = a * (da - sum(da * a))`` over the last axis."""
    np.multiply(a, da - (da * a).sum(axis=-1, keepdims=True), out=out)


# ---- losses ----------------------------------------------------------------------------------------------------------


def categorical_cross_entropy_forward(p: Array, t: Array, weight: Array, *, out: Array) -> None:
    """``log(sum(exp(p))) - p[label]``: p are the logits, t is one-hot."""
    shifted = p - p.max(axis=-1, keepdims=True)
    e = np.exp(shifted)
    label = t * e
    # log(sum(e)) as log1p, without the label's own 1 where it is the largest: a small loss keeps its digits
    loss = np.log1p((e - label).sum(axis=-1) + (label.sum(axis=-1) - 1)) - (t * shifted).sum(axis=-1)
    out += (weight * loss).sum(axis=-1)


def categorical_cross_entropy_backward(p: Array, t: Array, weight: Array, *, out: Array) -> None:
    """``softmax(p) - t``; at the label as minus the sum of the others, which does not cancel."""
    a = np.empty_like(p)
    softmax_forward(p, out=a)
    others = a * (1 - t)
    np.multiply(others - t * others.sum(axis=-1, keepdims=True), weight[..., None], out=out)


# ---- optimizers ------------------------------------------------------------------------------------------------------


def penalty_backward(w: Array, *, l1: float, l2: float, out: Array) -> None:
    """``out += l1 * sign(w) + l2 * w``."""
    out += l1 * np.sign(w) + l2 * w


def clip_by_value(g: Array, limit: float) -> None:
    """Clip g to [-limit, limit]."""
    np.clip(g, -limit, limit, out=g)


def clip_by_norm(g: Array, limit: float) -> None:
    """Scale g so that its norm is at most `limit`; relative to the largest element, whose square may overflow."""
    top = np.abs(g).max(axis=-1, keepdims=True, initial=0).astype(np.float64)
    top += top == 0
    norm = np.sqrt(np.square(g / top).sum(axis=-1, keepdims=True))
    g *= np.minimum(1, limit / top / (norm + (norm == 0)))


# ---- rows ------------------------------------------------------------------------------------------------------------


def gather(x: Array, rows: Array, *, out: Array) -> None:
    """``out = x[rows]``."""
    if x.ndim == 2:
        x.take(rows, 0, out, "clip")  # the other modes buffer `out`
    else:
        out[...] = np.take_along_axis(x, rows[..., None], axis=-2)
