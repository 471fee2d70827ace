"""The CUDA backend: every kernel of the Protocol, through CuPy. Each is a launch; the arithmetic is in the `.cu` files.

The elementwise kernels stand beside it in `activations.py`, `losses.py` and `optimizers.py`, their formulas in
`formulas.cu`; the random ones in `random.py`.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import cupy
import numpy as np

from nnkernels._errors import BackendUnavailable
from nnkernels.backends.cupy import cublas, memory
from nnkernels.backends.cupy import probe as cuda
from nnkernels.backends.cupy.activations import *  # noqa: F403 - every printed kernel is part of the backend
from nnkernels.backends.cupy.launch import constant, contiguous, elementwise, kernel, networks, rowwise, summed
from nnkernels.backends.cupy.launch import copy as copy
from nnkernels.backends.cupy.launch import fill as fill
from nnkernels.backends.cupy.losses import *  # noqa: F403
from nnkernels.backends.cupy.memory import empty as empty
from nnkernels.backends.cupy.optimizers import *  # noqa: F403
from nnkernels.backends.cupy.random import draw_indices as draw_indices
from nnkernels.backends.cupy.random import dropout_mask as dropout_mask
from nnkernels.backends.protocol import Array

PRECISIONS = tuple(cublas.MATH_MODES)  #: of a product of float32 matrices

# ---- the device ------------------------------------------------------------------------------------------------------


def probe(index: int) -> None:
    """Raise unless there is a GPU of that number."""
    cuda.check_cuda()
    if index >= (count := cuda.count_devices()):
        raise BackendUnavailable(
            f"cuda:{index}", f"does not exist: there are {count} GPUs, counted from 0", 'Use "cuda:0".'
        )


def device_scope(index: int) -> AbstractContextManager[Any]:
    """Return a context in which a GPU is current."""
    device: AbstractContextManager[Any] = cupy.cuda.Device(index)
    return device


def from_host(array: np.ndarray[Any, Any]) -> Array:
    """Return a C-contiguous copy on the device."""
    host = np.array(array, order="C")
    out = empty(host.shape, host.dtype)
    memory.upload(host, out=out)
    return out


def to_host(array: Array) -> np.ndarray[Any, Any]:
    """Return a copy on the host, after all kernels that write to it."""
    host = np.empty(array.shape, array.dtype)
    with device_scope(array.data.device_id):
        memory.download(contiguous(array), out=host)
    return host


def owns(array: object) -> bool:
    """Tell whether `array` is a CuPy array."""
    return isinstance(array, cupy.ndarray)


# ---- layers ----------------------------------------------------------------------------------------------------------


def matmul_forward(x: Array, w: Array, b: Array | None, *, out: Array, precision: str = "float32") -> None:
    """``out = x @ w + b``."""
    _product(x, w, out, bias=b, precision=precision)


def matmul_backward(
    dz: Array,
    x: Array,
    w: Array,
    *,
    dx: Array | None,
    dw: Array,
    db: Array | None,
    precision: str = "float32",
) -> None:
    """``dw = x^T dz``, ``db = sum(dz)``, ``dx = dz w^T``."""
    _product(x, dz, dw, transpose="a", precision=precision)
    if db is not None:
        rows, n = dz.shape[-2:]
        warps = min(32, max(1, -(-rows // 8)))
        kernel("column_sums", dz.dtype)((-(-n // 32), networks(dz, 2)), 32 * warps, db, dz, rows, n)
    if dx is not None:
        _product(dz, w, dx, transpose="b", precision=precision)


def _product(a: Array, b: Array, out: Array, *, bias: Array | None = None, transpose: str = "", precision: str) -> None:
    """``out = op(a) @ op(b) + bias``; `transpose` names the operands whose last two axes are swapped."""
    handle = cublas.handle()
    if handle is None or not (a.size and b.size and out.size):
        _tiled_product(a, b, out, bias, transpose)
        return
    arrays = [contiguous(array) for array in (a, b)]
    whole = out if out.flags.c_contiguous else empty(out.shape, out.dtype)
    flat = [array.reshape(-1, *array.shape[-2:]) for array in (*arrays, whole)]
    handle.product(*flat, transpose=transpose, precision=precision)
    if bias is not None:
        rows, n = out.shape[-2:]
        elementwise("add_bias", out.dtype, out.size, whole, bias, rows, n)
    if whole is not out:
        copy(whole, out=out)


def _tiled_product(a: Array, b: Array, out: Array, bias: Array | None, transpose: str) -> None:
    """Multiply by the plain kernel: where there is no cuBLAS, and for matrices without elements."""
    m, n = out.shape[-2:]
    k = a.shape[-2] if "a" in transpose else a.shape[-1]
    strides = []
    for name, array in (("a", a), ("b", b)):
        rows, columns = array.shape[-2:]
        along = (columns, 1)
        strides.append((array, *(along[::-1] if name in transpose else along), rows * columns))
    tile = constant("layers", "TILE")
    grid = (-(-n // tile), -(-m // tile), networks(out, 2))
    kernel("matmul", out.dtype)(grid, tile * tile, out, *strides[0], *strides[1], bias, m, n, k)


def activation_backward(da: Array, slope: Array, *, out: Array) -> None:
    """``out = da * slope``."""
    elementwise("activation_backward", out.dtype, out.size, out, da, slope)


def softmax_forward(z: Array, *, out: Array) -> None:
    """``out = exp(z) / sum(exp(z))`` over the last axis."""
    rowwise("softmax_forward", z, out, z)


def softmax_backward(da: Array, a: Array, *, out: Array) -> None:
    """``out = a * (da - sum(da * a))`` over the last axis."""
    rowwise("softmax_backward", a, out, da, a)


# ---- losses ----------------------------------------------------------------------------------------------------------


def categorical_cross_entropy_forward(p: Array, t: Array, weight: Array, *, out: Array) -> None:
    """``log(sum(exp(p))) - p[label]``: p are the logits, t is one-hot."""
    summed("categorical_cross_entropy_forward", p, out, p, t, weight, *p.shape[-2:])


def categorical_cross_entropy_backward(p: Array, t: Array, weight: Array, *, out: Array) -> None:
    """``softmax(p) - t``."""
    rowwise("categorical_cross_entropy_backward", p, out, p, t, weight)


# ---- optimizers ------------------------------------------------------------------------------------------------------


def penalty_backward(w: Array, *, l1: float, l2: float, out: Array) -> None:
    """``out += l1 * sign(w) + l2 * w``."""
    elementwise("penalty_backward", w.dtype, w.size, out, w, l1, l2)


def clip_by_value(g: Array, limit: float) -> None:
    """Clip g to [-limit, limit]."""
    elementwise("clip_by_value", g.dtype, g.size, g, limit)


def clip_by_norm(g: Array, limit: float) -> None:
    """Scale g so that its norm is at most `limit`."""
    kernel("clip_by_norm", g.dtype)(networks(g, 1), constant("prelude", "SUM_THREADS"), g, limit, g.shape[-1])


# ---- rows ------------------------------------------------------------------------------------------------------------


def gather(x: Array, rows: Array, *, out: Array) -> None:
    """``out = x[rows]``."""
    n = out.shape[-1]
    own = x.shape[-2] * n if x.ndim > 2 else 0
    elementwise("gather", out.dtype, out.size, out, x, rows, n, out.shape[-2] * n, own)
