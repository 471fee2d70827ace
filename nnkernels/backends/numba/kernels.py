"""The Numba backend: every kernel of the Protocol, compiled loops around NumPy's BLAS.

The same names as in the NumPy reference, in the same files: activations, losses and optimizer updates in
`activations.py`, `losses.py` and `optimizers.py`, the random ones in `random.py`.
"""

from __future__ import annotations

import math

import numpy as np

from nnkernels._errors import BackendUnavailable
from nnkernels.backends.numba.activations import *  # noqa: F403 - every printed kernel is part of the backend
from nnkernels.backends.numba.compile import kernel
from nnkernels.backends.numba.losses import *  # noqa: F403
from nnkernels.backends.numba.optimizers import *  # noqa: F403
from nnkernels.backends.numba.random import draw_indices as draw_indices
from nnkernels.backends.numba.random import dropout_mask as dropout_mask
from nnkernels.backends.numba.vectorized import vectorized
from nnkernels.backends.numpy.kernels import copy as copy
from nnkernels.backends.numpy.kernels import device_scope as device_scope
from nnkernels.backends.numpy.kernels import empty as empty
from nnkernels.backends.numpy.kernels import fill as fill
from nnkernels.backends.numpy.kernels import from_host as from_host
from nnkernels.backends.numpy.kernels import gather as gather
from nnkernels.backends.numpy.kernels import matmul_backward as matmul_backward
from nnkernels.backends.numpy.kernels import matmul_forward as matmul_forward
from nnkernels.backends.numpy.kernels import owns as owns
from nnkernels.backends.numpy.kernels import to_host as to_host
from nnkernels.backends.protocol import Array


def probe(index: int) -> None:
    """Raise unless `index` is 0: the host is one device."""
    if index:
        raise BackendUnavailable(f"numba:{index}", "does not exist: the host is one device", 'Use "numba".')


# ---- layers ----------------------------------------------------------------------------------------------------------


@vectorized
@kernel
def activation_backward(da: Array, slope: Array, *, out: Array) -> None:
    """``out = da * slope``."""
    for i in range(da.size):
        out.flat[i] = da.flat[i] * slope.flat[i]


@kernel
def _softmax(z: Array, out: Array) -> None:
    n = z.shape[-1]
    for start in range(0, z.size, n):
        top = z.flat[start]
        for i in range(start, start + n):
            top = np.maximum(top, z.flat[i])
        total = z.dtype.type(0)
        for i in range(start, start + n):
            e = math.exp(z.flat[i] - top)
            out.flat[i] = e
            total += e
        for i in range(start, start + n):
            out.flat[i] /= total


@vectorized
@kernel
def softmax_forward(z: Array, *, out: Array) -> None:
    """``out = exp(z) / sum(exp(z))`` over the last axis."""
    _softmax(z, out)  # compiled code cannot call a kernel with keyword-only arguments


@vectorized
@kernel
def softmax_backward(da: Array, a: Array, *, out: Array) -> None:
    """``out = a * (da - sum(da * a))`` over the last axis."""
    n = a.shape[-1]
    for start in range(0, a.size, n):
        dot = a.dtype.type(0)
        for i in range(start, start + n):
            dot += da.flat[i] * a.flat[i]
        for i in range(start, start + n):
            out.flat[i] = a.flat[i] * (da.flat[i] - dot)


# ---- losses ----------------------------------------------------------------------------------------------------------


@vectorized
@kernel
def categorical_cross_entropy_forward(p: Array, t: Array, weight: Array, *, out: Array) -> None:
    """``log(sum(exp(p))) - p[label]``: p are the logits, t is one-hot."""
    n, rows = p.shape[-1], weight.shape[-1]
    zero, one = p.dtype.type(0), p.dtype.type(1)
    for network in range(out.size):
        loss = 0.0
        for row in range(network * rows, (network + 1) * rows):
            top = p.flat[row * n]
            for i in range(row * n, (row + 1) * n):
                top = np.maximum(top, p.flat[i])
            others, label, shifted = zero, -one, zero
            for i in range(row * n, (row + 1) * n):
                e = math.exp(p.flat[i] - top)
                others += (one - t.flat[i]) * e
                label += t.flat[i] * e
                shifted += t.flat[i] * (p.flat[i] - top)
            loss += weight.flat[row] * (math.log1p(others + label) - shifted)
        out.flat[network] += loss


@vectorized
@kernel
def categorical_cross_entropy_backward(p: Array, t: Array, weight: Array, *, out: Array) -> None:
    """``softmax(p) - t``; at the label as minus the sum of the others, which does not cancel."""
    n = p.shape[-1]
    one = p.dtype.type(1)
    _softmax(p, out)
    for row in range(weight.size):
        others = p.dtype.type(0)
        for i in range(row * n, (row + 1) * n):
            others += out.flat[i] * (one - t.flat[i])
        for i in range(row * n, (row + 1) * n):
            out.flat[i] = weight.flat[row] * (out.flat[i] * (one - t.flat[i]) - t.flat[i] * others)


# ---- optimizers ------------------------------------------------------------------------------------------------------


@vectorized
@kernel
def penalty_backward(w: Array, *, l1: float, l2: float, out: Array) -> None:
    """``out += l1 * sign(w) + l2 * w``."""
    T = w.dtype.type
    for i in range(w.size):
        out.flat[i] += T(l1) * np.sign(w.flat[i]) + T(l2) * w.flat[i]


@vectorized
@kernel
def clip_by_value(g: Array, limit: float) -> None:
    """Clip g to [-limit, limit]."""
    T = g.dtype.type
    for i in range(g.size):
        g.flat[i] = np.minimum(np.maximum(g.flat[i], T(-limit)), T(limit))


@vectorized
@kernel
def clip_by_norm(g: Array, limit: float) -> None:
    """Scale g so that its norm is at most `limit`; relative to the largest element, whose square may overflow."""
    size = g.shape[-1]
    for start in range(0, g.size, max(size, 1)):
        top = np.float64(0)
        for i in range(start, start + size):
            top = np.maximum(top, np.float64(abs(g.flat[i])))
        if top == 0:
            continue
        total = 0.0
        for i in range(start, start + size):
            total += (np.float64(g.flat[i]) / top) ** 2
        scale = np.minimum(1.0, limit / top / math.sqrt(total))
        for i in range(start, start + size):
            g.flat[i] *= scale
