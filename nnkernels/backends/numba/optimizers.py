"""Optimizer updates on flat parameter buffers.

Printed from nnkernels/_formulas.py by `python -m nnkernels.backends`: edit the formulas, not this file.
"""

from __future__ import annotations

import math

from nnkernels.backends.numba.compile import kernel
from nnkernels.backends.numba.vectorized import vectorized
from nnkernels.backends.protocol import Array


@vectorized
@kernel
def sgd_update(p: Array, g: Array, *, lr: Array, step: Array, weight_decay: float) -> None:
    """Gradient descent."""
    T = p.dtype.type
    size = p.size // lr.size  # parameters of one network
    for network in range(lr.size):
        rate = lr.flat[network]
        for i in range(network * size, (network + 1) * size):
            p_i, g_i = p.flat[i], g.flat[i]
            p_i = p_i - rate * (g_i + T(weight_decay) * p_i)
            p.flat[i] = p_i


@vectorized
@kernel
def sgd_momentum_update(
    p: Array, g: Array, v: Array, *, lr: Array, step: Array, momentum: float, weight_decay: float
) -> None:
    """Gradient descent with momentum (Polyak), dampening 0."""
    T = p.dtype.type
    size = p.size // lr.size  # parameters of one network
    for network in range(lr.size):
        rate = lr.flat[network]
        for i in range(network * size, (network + 1) * size):
            p_i, g_i, v_i = p.flat[i], g.flat[i], v.flat[i]
            v_i = T(momentum) * v_i + (g_i + T(weight_decay) * p_i)
            p_i = p_i - rate * v_i
            p.flat[i] = p_i
            v.flat[i] = v_i


@vectorized
@kernel
def sgd_nesterov_update(
    p: Array, g: Array, v: Array, *, lr: Array, step: Array, momentum: float, weight_decay: float
) -> None:
    """Gradient descent with Nesterov's momentum, as Sutskever et al. (2013) write it."""
    T = p.dtype.type
    size = p.size // lr.size  # parameters of one network
    for network in range(lr.size):
        rate = lr.flat[network]
        for i in range(network * size, (network + 1) * size):
            p_i, g_i, v_i = p.flat[i], g.flat[i], v.flat[i]
            d = g_i + T(weight_decay) * p_i
            v_i = T(momentum) * v_i + d
            p_i = p_i - rate * (d + T(momentum) * v_i)
            p.flat[i] = p_i
            v.flat[i] = v_i


@vectorized
@kernel
def adam_update(
    p: Array, g: Array, m: Array, v: Array, *, lr: Array, step: Array, beta1: float, beta2: float, eps: float, weight_decay: float
) -> None:
    """Adam (Kingma and Ba, 2015); weight decay enters the gradient."""
    T = p.dtype.type
    rest1 = 1 - beta1
    rest2 = 1 - beta2
    correction1 = 1 - beta1 ** (step[()] + 1)
    correction2 = 1 - beta2 ** (step[()] + 1)
    size = p.size // lr.size  # parameters of one network
    for network in range(lr.size):
        rate = lr.flat[network]
        for i in range(network * size, (network + 1) * size):
            p_i, g_i, m_i, v_i = p.flat[i], g.flat[i], m.flat[i], v.flat[i]
            d = g_i + T(weight_decay) * p_i
            m_i = T(beta1) * m_i + T(rest1) * d
            v_i = T(beta2) * v_i + T(rest2) * d * d
            p_i = p_i - rate * (m_i / T(correction1)) / (math.sqrt(v_i / T(correction2)) + T(eps))
            p.flat[i] = p_i
            m.flat[i] = m_i
            v.flat[i] = v_i


@vectorized
@kernel
def adamw_update(
    p: Array, g: Array, m: Array, v: Array, *, lr: Array, step: Array, beta1: float, beta2: float, eps: float, weight_decay: float
) -> None:
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019)."""
    T = p.dtype.type
    rest1 = 1 - beta1
    rest2 = 1 - beta2
    correction1 = 1 - beta1 ** (step[()] + 1)
    correction2 = 1 - beta2 ** (step[()] + 1)
    size = p.size // lr.size  # parameters of one network
    for network in range(lr.size):
        rate = lr.flat[network]
        for i in range(network * size, (network + 1) * size):
            p_i, g_i, m_i, v_i = p.flat[i], g.flat[i], m.flat[i], v.flat[i]
            m_i = T(beta1) * m_i + T(rest1) * g_i
            v_i = T(beta2) * v_i + T(rest2) * g_i * g_i
            p_i = p_i - rate * T(weight_decay) * p_i - rate * (m_i / T(correction1)) / (math.sqrt(v_i / T(correction2)) + T(eps))
            p.flat[i] = p_i
            m.flat[i] = m_i
            v.flat[i] = v_i


@vectorized
@kernel
def rmsprop_update(
    p: Array, g: Array, v: Array, *, lr: Array, step: Array, alpha: float, eps: float, weight_decay: float
) -> None:
    """RMSprop (Tieleman and Hinton, 2012), not centered."""
    T = p.dtype.type
    rest = 1 - alpha
    size = p.size // lr.size  # parameters of one network
    for network in range(lr.size):
        rate = lr.flat[network]
        for i in range(network * size, (network + 1) * size):
            p_i, g_i, v_i = p.flat[i], g.flat[i], v.flat[i]
            d = g_i + T(weight_decay) * p_i
            v_i = T(alpha) * v_i + T(rest) * d * d
            p_i = p_i - rate * d / (math.sqrt(v_i) + T(eps))
            p.flat[i] = p_i
            v.flat[i] = v_i
