"""Optimizer updates on flat parameter buffers.

Printed from nnkernels/_formulas.py by `python -m nnkernels.backends`: edit the formulas, not this file.
"""

from __future__ import annotations

import numpy as np

from nnkernels.backends.protocol import Array


def sgd_update(p: Array, g: Array, *, lr: Array, step: Array, weight_decay: float) -> None:
    """Gradient descent."""
    p[...] = p - lr * (g + weight_decay * p)


def sgd_momentum_update(
    p: Array, g: Array, v: Array, *, lr: Array, step: Array, momentum: float, weight_decay: float
) -> None:
    """Gradient descent with momentum (Polyak), dampening 0."""
    v[...] = momentum * v + (g + weight_decay * p)
    p[...] = p - lr * v


def sgd_nesterov_update(
    p: Array, g: Array, v: Array, *, lr: Array, step: Array, momentum: float, weight_decay: float
) -> None:
    """Gradient descent with Nesterov's momentum, as Sutskever et al. (2013) write it."""
    d = g + weight_decay * p
    v[...] = momentum * v + d
    p[...] = p - lr * (d + momentum * v)


def adam_update(
    p: Array, g: Array, m: Array, v: Array, *, lr: Array, step: Array, beta1: float, beta2: float, eps: float, weight_decay: float
) -> None:
    """Adam (Kingma and Ba, 2015); weight decay enters the gradient."""
    rest1 = 1 - beta1
    rest2 = 1 - beta2
    correction1 = 1 - beta1 ** (int(step) + 1)
    correction2 = 1 - beta2 ** (int(step) + 1)
    d = g + weight_decay * p
    m[...] = beta1 * m + rest1 * d
    v[...] = beta2 * v + rest2 * d * d
    p[...] = p - lr * (m / correction1) / (np.sqrt(v / correction2) + eps)


def adamw_update(
    p: Array, g: Array, m: Array, v: Array, *, lr: Array, step: Array, beta1: float, beta2: float, eps: float, weight_decay: float
) -> None:
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019)."""
    rest1 = 1 - beta1
    rest2 = 1 - beta2
    correction1 = 1 - beta1 ** (int(step) + 1)
    correction2 = 1 - beta2 ** (int(step) + 1)
    m[...] = beta1 * m + rest1 * g
    v[...] = beta2 * v + rest2 * g * g
    p[...] = p - lr * weight_decay * p - lr * (m / correction1) / (np.sqrt(v / correction2) + eps)


def rmsprop_update(
    p: Array, g: Array, v: Array, *, lr: Array, step: Array, alpha: float, eps: float, weight_decay: float
) -> None:
    """RMSprop (Tieleman and Hinton, 2012), not centered."""
    rest = 1 - alpha
    d = g + weight_decay * p
    v[...] = alpha * v + rest * d * d
    p[...] = p - lr * d / (np.sqrt(v) + eps)
