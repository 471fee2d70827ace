"""Optimizer updates on flat parameter buffers.

Printed from nnkernels/_formulas.py by `python -m nnkernels.backends`: edit the formulas, not this file.
"""

from __future__ import annotations

from nnkernels.backends.cupy.launch import elementwise
from nnkernels.backends.protocol import Array


def sgd_update(p: Array, g: Array, *, lr: Array, step: Array, weight_decay: float) -> None:
    """Gradient descent."""
    elementwise("sgd_update", p.dtype, p.size, p, g, lr, step, weight_decay, p.size // lr.size)


def sgd_momentum_update(
    p: Array, g: Array, v: Array, *, lr: Array, step: Array, momentum: float, weight_decay: float
) -> None:
    """Gradient descent with momentum (Polyak), dampening 0."""
    elementwise("sgd_momentum_update", p.dtype, p.size, p, g, v, lr, step, momentum, weight_decay, p.size // lr.size)


def sgd_nesterov_update(
    p: Array, g: Array, v: Array, *, lr: Array, step: Array, momentum: float, weight_decay: float
) -> None:
    """Gradient descent with Nesterov's momentum, as Sutskever et al. (2013) write it."""
    elementwise("sgd_nesterov_update", p.dtype, p.size, p, g, v, lr, step, momentum, weight_decay, p.size // lr.size)


def adam_update(
    p: Array, g: Array, m: Array, v: Array, *, lr: Array, step: Array, beta1: float, beta2: float, eps: float, weight_decay: float
) -> None:
    """Adam (Kingma and Ba, 2015); weight decay enters the gradient."""
    elementwise("adam_update", p.dtype, p.size, p, g, m, v, lr, step, beta1, beta2, eps, weight_decay, p.size // lr.size)


def adamw_update(
    p: Array, g: Array, m: Array, v: Array, *, lr: Array, step: Array, beta1: float, beta2: float, eps: float, weight_decay: float
) -> None:
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019)."""
    elementwise("adamw_update", p.dtype, p.size, p, g, m, v, lr, step, beta1, beta2, eps, weight_decay, p.size // lr.size)


def rmsprop_update(
    p: Array, g: Array, v: Array, *, lr: Array, step: Array, alpha: float, eps: float, weight_decay: float
) -> None:
    """RMSprop (Tieleman and Hinton, 2012), not centered."""
    elementwise("rmsprop_update", p.dtype, p.size, p, g, v, lr, step, alpha, eps, weight_decay, p.size // lr.size)
