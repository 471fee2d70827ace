"""What a backend is: a module of stateless functions with these names and arguments.

A backend is a *module*; `mypy` and a signature test hold every shipped one to the `Kernels` Protocol below, and
`nnkernels.testing.check_backend` holds anybody's. The rules that all kernels share:

- A kernel writes its result into ``out=`` (or the arrays its docstring names) and returns None. It allocates nothing
  that outlives the call and never moves data between the host and the device.
- Arrays are float32 or float64, all of one dtype in a call; integers only where said. ``out`` has the result's shape.
- "..." in a shape stands for leading network axes, none for a single network. Arrays may have any strides.
- A value that changes from step to step is a *device scalar*: an array of shape () on the device, so that a captured
  graph can be replayed. Python numbers are constants of a run.
- A backend may have more: ``bias_<activation>_forward(z, b, *, out, slope=None)``, the activation of ``z + b`` in one
  pass; and, if its module has ``PRECISIONS``, a keyword ``precision`` of both matrix products.
- Accuracy: within 6 ulp of the exact value; where a slope crosses zero (silu, gelu), of the larger of its two terms.
  Reductions are deterministic.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np

Array = Any
"""A backend's own array: `numpy.ndarray`, `cupy.ndarray`, or a third party's with ``shape``, ``dtype``, ``ndim``,
``size``, ``nbytes``, basic slicing into views, and ``reshape``."""


class Kernels(Protocol):
    """The functions of a backend module. Adding an activation adds its line here, and nothing else by hand."""

    # ---- the device: arrays in and out. These may allocate and copy; they are called outside the training loop.

    def probe(self, index: int) -> None:
        """Raise `BackendUnavailable` with a reason and a remedy unless device number `index` can be used."""

    def device_scope(self, index: int) -> AbstractContextManager[Any]:
        """Return a context in which arrays are made, and kernels run, on device number `index`."""

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """Return a new C-contiguous array with undefined content."""

    def from_host(self, array: np.ndarray[Any, Any]) -> Array:
        """Return a C-contiguous copy of a NumPy array on the device."""

    def to_host(self, array: Array) -> np.ndarray[Any, Any]:
        """Return a NumPy copy of a device array, after all kernels that write to it."""

    def owns(self, array: object) -> bool:
        """Tell whether `array` is one of this backend's own."""

    def copy(self, source: Array, *, out: Array) -> None:
        """``out = source``, shapes equal, both on the device."""

    def fill(self, value: float, *, out: Array) -> None:
        """``out = value``, a host number, in every element."""

    # ---- layers

    def matmul_forward(self, x: Array, w: Array, b: Array | None, *, out: Array) -> None:
        """``out = x @ w + b``: x (..., batch, n_in), w (..., n_in, n_out), b (..., n_out), out (..., batch, n_out)."""

    def matmul_backward(self, dz: Array, x: Array, w: Array, *, dx: Array | None, dw: Array, db: Array | None) -> None:
        """Gradients of `matmul_forward` from dz (..., batch, n_out).

        ``dw = x^T dz``, ``db`` = the sum of dz over the batch, ``dx = dz w^T``; a gradient that is None is not wanted.
        """

    # ---- activations: ``out = f(z)`` and, if `slope` is given, ``slope = f'(z)``, accurate in its tails. All arrays
    # are (..., batch, n_out). `slope` may be z's own buffer; `out` may be, too, but not at the same time.

    def identity_forward(self, z: Array, *, out: Array, slope: Array | None = None) -> None: ...
    def sigmoid_forward(self, z: Array, *, out: Array, slope: Array | None = None) -> None: ...
    def tanh_forward(self, z: Array, *, out: Array, slope: Array | None = None) -> None: ...
    def relu_forward(self, z: Array, *, out: Array, slope: Array | None = None) -> None: ...
    def leaky_relu_forward(self, z: Array, *, out: Array, slope: Array | None = None) -> None: ...
    def elu_forward(self, z: Array, *, out: Array, slope: Array | None = None) -> None: ...
    def softplus_forward(self, z: Array, *, out: Array, slope: Array | None = None) -> None: ...
    def silu_forward(self, z: Array, *, out: Array, slope: Array | None = None) -> None: ...
    def gelu_forward(self, z: Array, *, out: Array, slope: Array | None = None) -> None: ...

    def activation_backward(self, da: Array, slope: Array, *, out: Array) -> None:
        """``out = da * slope``, for every elementwise activation and dropout mask; ``out`` may be ``da``."""

    def softmax_forward(self, z: Array, *, out: Array) -> None:
        """``out = exp(z) / sum(exp(z))`` over the last axis, without overflow."""

    def softmax_backward(self, da: Array, a: Array, *, out: Array) -> None:
        """``out = a * (da - sum(da * a))`` over the last axis; ``out`` may be ``da``."""

    def dropout_mask(self, seed: int, network: int, layer: int, step: Array, rate: float, *, out: Array) -> None:
        """Write 0 with probability `rate`, else 1 / (1 - rate), to out (..., batch, n_out).

        Element ``e = row * n_out + unit`` of leading network i is word ``e % 4`` of
        ``philox(seed, stream=1, network + i, layer, step, e // 4)``; below ``round(rate * 2**32)`` it is dropped.
        `step` is a device scalar, int64.
        """

    # ---- losses of predictions p (..., batch, n_out) against targets t of that shape. A forward kernel *adds* the sum
    # over rows of ``weight * loss of the row`` to out (...), which is float64; a backward kernel writes its slope with
    # respect to p, ``weight * d loss / d p``, to out (..., batch, n_out), which may be p. `weight` (..., batch) is each
    # row's factor, the reduction's 1 / batch included. `binary_cross_entropy`, `categorical_cross_entropy` and
    # `poisson` read p before its sigmoid, softmax or exponential. `huber` is quadratic up to `delta` > 0.

    def half_squared_error_forward(self, p: Array, t: Array, weight: Array, *, out: Array) -> None: ...
    def half_squared_error_backward(self, p: Array, t: Array, weight: Array, *, out: Array) -> None: ...
    def mean_squared_error_forward(self, p: Array, t: Array, weight: Array, *, out: Array) -> None: ...
    def mean_squared_error_backward(self, p: Array, t: Array, weight: Array, *, out: Array) -> None: ...
    def absolute_error_forward(self, p: Array, t: Array, weight: Array, *, out: Array) -> None: ...
    def absolute_error_backward(self, p: Array, t: Array, weight: Array, *, out: Array) -> None: ...
    def huber_forward(self, p: Array, t: Array, weight: Array, *, out: Array, delta: float) -> None: ...
    def huber_backward(self, p: Array, t: Array, weight: Array, *, out: Array, delta: float) -> None: ...
    def poisson_forward(self, p: Array, t: Array, weight: Array, *, out: Array) -> None: ...
    def poisson_backward(self, p: Array, t: Array, weight: Array, *, out: Array) -> None: ...
    def poisson_rate_forward(self, p: Array, t: Array, weight: Array, *, out: Array) -> None: ...
    def poisson_rate_backward(self, p: Array, t: Array, weight: Array, *, out: Array) -> None: ...
    def binary_cross_entropy_forward(self, p: Array, t: Array, weight: Array, *, out: Array) -> None: ...
    def binary_cross_entropy_backward(self, p: Array, t: Array, weight: Array, *, out: Array) -> None: ...
    def categorical_cross_entropy_forward(self, p: Array, t: Array, weight: Array, *, out: Array) -> None: ...
    def categorical_cross_entropy_backward(self, p: Array, t: Array, weight: Array, *, out: Array) -> None: ...

    # ---- optimizers: p, g and the state are flat, (..., P); lr is a device scalar or (..., 1), of p's dtype; step a
    # device scalar, int64, counted from 0. The updates change p and the state in place.

    def sgd_update(self, p: Array, g: Array, *, lr: Array, step: Array, weight_decay: float) -> None:
        """Gradient descent."""

    def sgd_momentum_update(
        self, p: Array, g: Array, v: Array, *, lr: Array, step: Array, momentum: float, weight_decay: float
    ) -> None:
        """Gradient descent with momentum."""

    def sgd_nesterov_update(
        self, p: Array, g: Array, v: Array, *, lr: Array, step: Array, momentum: float, weight_decay: float
    ) -> None:
        """Gradient descent with Nesterov's momentum."""

    def adam_update(
        self,
        p: Array,
        g: Array,
        m: Array,
        v: Array,
        *,
        lr: Array,
        step: Array,
        beta1: float,
        beta2: float,
        eps: float,
        weight_decay: float,
    ) -> None:
        """Adam."""

    def adamw_update(
        self,
        p: Array,
        g: Array,
        m: Array,
        v: Array,
        *,
        lr: Array,
        step: Array,
        beta1: float,
        beta2: float,
        eps: float,
        weight_decay: float,
    ) -> None:
        """Adam with decoupled weight decay."""

    def rmsprop_update(
        self, p: Array, g: Array, v: Array, *, lr: Array, step: Array, alpha: float, eps: float, weight_decay: float
    ) -> None:
        """RMSprop."""

    def penalty_backward(self, w: Array, *, l1: float, l2: float, out: Array) -> None:
        """``out += l1 * sign(w) + l2 * w``: the slope of ``l1 * sum|w| + l2 / 2 * sum w**2``."""

    def clip_by_value(self, g: Array, limit: float) -> None:
        """Clip g to [-limit, limit] in place."""

    def clip_by_norm(self, g: Array, limit: float) -> None:
        """Scale g (..., P) in place so that the Euclidean norm over its last axis is at most `limit`."""

    # ---- rows and their order

    def gather(self, x: Array, rows: Array, *, out: Array) -> None:
        """``out = x[rows]``: x (n, k), or (..., n, k) with its own rows per network; rows (..., batch) int64.

        What a row outside [0, n) gives is undefined.
        """

    def draw_indices(self, seed: int, network: int, first_step: int, *, sampling: str, n_rows: int, out: Array) -> None:
        """Write the rows of steps ``first_step, first_step + 1, ...`` to out (..., count, batch), int64.

        The rows are a pure function of (seed, network + i, step), so a run can resume at any step, in blocks of any
        length, with the same bits on every device. `sampling`:

        - ``"replacement"``: row r of a batch is independent and uniform: 64 bits u, then ``u * n_rows >> 64``.
        - ``"permutation"``: an epoch is a fresh permutation cut into batches.
        - ``"sequential"``: an epoch is 0, 1, ..., n_rows - 1 cut into batches.

        In the last two an epoch has ceil(n_rows / batch) steps; where its last batch is short, the rest of that row of
        `out` is -1.
        """
