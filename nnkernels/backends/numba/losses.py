"""Elementwise losses: the weighted sum of a batch, and its slope.

Printed from nnkernels/_formulas.py by `python -m nnkernels.backends`: edit the formulas, not this file.
"""

from __future__ import annotations

import math

import numpy as np

from nnkernels.backends.numba.compile import kernel
from nnkernels.backends.numba.vectorized import vectorized
from nnkernels.backends.protocol import Array


@vectorized
@kernel
def half_squared_error_forward(p: Array, t: Array, weight: Array, *, out: Array) -> None:
    """(p - t)**2 / 2, summed over a row's outputs."""
    T = p.dtype.type
    n, rows = p.shape[-1], weight.shape[-1]
    for network in range(out.size):
        total = 0.0
        for row in range(network * rows, (network + 1) * rows):
            for k in range(n):
                i = row * n + k
                p_i, t_i = p.flat[i], t.flat[i]
                d = p_i - t_i
                loss = T(0.5) * d * d
                total += weight.flat[row] * loss
        out.flat[network] += total


@vectorized
@kernel
def half_squared_error_backward(p: Array, t: Array, weight: Array, *, out: Array) -> None:
    """Slope of half_squared_error with respect to p."""
    n = p.shape[-1]
    for row in range(weight.size):
        for k in range(n):
            i = row * n + k
            p_i, t_i = p.flat[i], t.flat[i]
            d = p_i - t_i
            slope = d
            out.flat[i] = weight.flat[row] * slope


@vectorized
@kernel
def mean_squared_error_forward(p: Array, t: Array, weight: Array, *, out: Array) -> None:
    """(p - t)**2, averaged over a row's outputs."""
    T = p.dtype.type
    n, rows = p.shape[-1], weight.shape[-1]
    for network in range(out.size):
        total = 0.0
        for row in range(network * rows, (network + 1) * rows):
            for k in range(n):
                i = row * n + k
                p_i, t_i = p.flat[i], t.flat[i]
                d = p_i - t_i
                loss = d * d / T(n)
                total += weight.flat[row] * loss
        out.flat[network] += total


@vectorized
@kernel
def mean_squared_error_backward(p: Array, t: Array, weight: Array, *, out: Array) -> None:
    """Slope of mean_squared_error with respect to p."""
    T = p.dtype.type
    n = p.shape[-1]
    for row in range(weight.size):
        for k in range(n):
            i = row * n + k
            p_i, t_i = p.flat[i], t.flat[i]
            d = p_i - t_i
            slope = T(2) * d / T(n)
            out.flat[i] = weight.flat[row] * slope


@vectorized
@kernel
def absolute_error_forward(p: Array, t: Array, weight: Array, *, out: Array) -> None:
    """|p - t|, averaged over a row's outputs; the slope at 0 is 0."""
    T = p.dtype.type
    n, rows = p.shape[-1], weight.shape[-1]
    for network in range(out.size):
        total = 0.0
        for row in range(network * rows, (network + 1) * rows):
            for k in range(n):
                i = row * n + k
                p_i, t_i = p.flat[i], t.flat[i]
                d = p_i - t_i
                loss = abs(d) / T(n)
                total += weight.flat[row] * loss
        out.flat[network] += total


@vectorized
@kernel
def absolute_error_backward(p: Array, t: Array, weight: Array, *, out: Array) -> None:
    """Slope of absolute_error with respect to p."""
    T = p.dtype.type
    n = p.shape[-1]
    for row in range(weight.size):
        for k in range(n):
            i = row * n + k
            p_i, t_i = p.flat[i], t.flat[i]
            d = p_i - t_i
            slope = np.sign(d) / T(n)
            out.flat[i] = weight.flat[row] * slope


@vectorized
@kernel
def huber_forward(p: Array, t: Array, weight: Array, *, out: Array, delta: float) -> None:
    """(p - t)**2 / 2 up to |p - t| = delta and linear beyond, averaged over a row's outputs."""
    T = p.dtype.type
    n, rows = p.shape[-1], weight.shape[-1]
    for network in range(out.size):
        total = 0.0
        for row in range(network * rows, (network + 1) * rows):
            for k in range(n):
                i = row * n + k
                p_i, t_i = p.flat[i], t.flat[i]
                d = p_i - t_i
                q = np.minimum(abs(d), T(delta))
                loss = q * (abs(d) - T(0.5) * q) / T(n)
                total += weight.flat[row] * loss
        out.flat[network] += total


@vectorized
@kernel
def huber_backward(p: Array, t: Array, weight: Array, *, out: Array, delta: float) -> None:
    """Slope of huber with respect to p."""
    T = p.dtype.type
    n = p.shape[-1]
    for row in range(weight.size):
        for k in range(n):
            i = row * n + k
            p_i, t_i = p.flat[i], t.flat[i]
            d = p_i - t_i
            q = np.minimum(abs(d), T(delta))
            slope = np.sign(d) * q / T(n)
            out.flat[i] = weight.flat[row] * slope


@vectorized
@kernel
def poisson_forward(p: Array, t: Array, weight: Array, *, out: Array) -> None:
    """exp(p) - t p, averaged over a row's outputs: p is the logarithm of the rate."""
    T = p.dtype.type
    n, rows = p.shape[-1], weight.shape[-1]
    for network in range(out.size):
        total = 0.0
        for row in range(network * rows, (network + 1) * rows):
            for k in range(n):
                i = row * n + k
                p_i, t_i = p.flat[i], t.flat[i]
                rate = math.exp(p_i)
                loss = (rate - t_i * p_i) / T(n)
                total += weight.flat[row] * loss
        out.flat[network] += total


@vectorized
@kernel
def poisson_backward(p: Array, t: Array, weight: Array, *, out: Array) -> None:
    """Slope of poisson with respect to p."""
    T = p.dtype.type
    n = p.shape[-1]
    for row in range(weight.size):
        for k in range(n):
            i = row * n + k
            p_i, t_i = p.flat[i], t.flat[i]
            rate = math.exp(p_i)
            slope = (rate - t_i) / T(n)
            out.flat[i] = weight.flat[row] * slope


@vectorized
@kernel
def poisson_rate_forward(p: Array, t: Array, weight: Array, *, out: Array) -> None:
    """p - t log(p), averaged over a row's outputs: p is the rate itself."""
    T = p.dtype.type
    n, rows = p.shape[-1], weight.shape[-1]
    for network in range(out.size):
        total = 0.0
        for row in range(network * rows, (network + 1) * rows):
            for k in range(n):
                i = row * n + k
                p_i, t_i = p.flat[i], t.flat[i]
                loss = (p_i - t_i * math.log(p_i)) / T(n)
                total += weight.flat[row] * loss
        out.flat[network] += total


@vectorized
@kernel
def poisson_rate_backward(p: Array, t: Array, weight: Array, *, out: Array) -> None:
    """Slope of poisson_rate with respect to p."""
    T = p.dtype.type
    n = p.shape[-1]
    for row in range(weight.size):
        for k in range(n):
            i = row * n + k
            p_i, t_i = p.flat[i], t.flat[i]
            slope = (T(1) - t_i / p_i) / T(n)
            out.flat[i] = weight.flat[row] * slope


@vectorized
@kernel
def binary_cross_entropy_forward(p: Array, t: Array, weight: Array, *, out: Array) -> None:
    """-t log(sigmoid(p)) - (1 - t) log(1 - sigmoid(p)), averaged over a row's outputs: p is the logit."""
    T = p.dtype.type
    n, rows = p.shape[-1], weight.shape[-1]
    for network in range(out.size):
        total = 0.0
        for row in range(network * rows, (network + 1) * rows):
            for k in range(n):
                i = row * n + k
                p_i, t_i = p.flat[i], t.flat[i]
                e = math.exp(-abs(p_i))
                loss = (np.maximum(p_i, T(0)) - t_i * p_i + math.log1p(e)) / T(n)
                total += weight.flat[row] * loss
        out.flat[network] += total


@vectorized
@kernel
def binary_cross_entropy_backward(p: Array, t: Array, weight: Array, *, out: Array) -> None:
    """Slope of binary_cross_entropy with respect to p."""
    T = p.dtype.type
    n = p.shape[-1]
    for row in range(weight.size):
        for k in range(n):
            i = row * n + k
            p_i, t_i = p.flat[i], t.flat[i]
            e = math.exp(-abs(p_i))
            r = T(1) / (T(1) + e)
            slope = ((T(1) - t_i) * (e * r if p_i < T(0) else r) - t_i * (r if p_i < T(0) else e * r)) / T(n)
            out.flat[i] = weight.flat[row] * slope
