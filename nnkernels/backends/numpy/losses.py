"""Elementwise losses: the weighted sum of a batch, and its slope.

Printed from nnkernels/_formulas.py by `python -m nnkernels.backends`: edit the formulas, not this file.
"""

from __future__ import annotations

import numpy as np

from nnkernels.backends.protocol import Array


def half_squared_error_forward(p: Array, t: Array, weight: Array, *, out: Array) -> None:
    """(p - t)**2 / 2, summed over a row's outputs."""
    d = p - t
    loss = 0.5 * d * d
    out += np.matmul(weight[..., None, :], loss)[..., 0, :].sum(axis=-1)


def half_squared_error_backward(p: Array, t: Array, weight: Array, *, out: Array) -> None:
    """Slope of half_squared_error with respect to p."""
    d = p - t
    slope = d
    np.multiply(slope, weight[..., None], out=out)


def mean_squared_error_forward(p: Array, t: Array, weight: Array, *, out: Array) -> None:
    """(p - t)**2, averaged over a row's outputs."""
    n = p.shape[-1]
    d = p - t
    loss = d * d / n
    out += np.matmul(weight[..., None, :], loss)[..., 0, :].sum(axis=-1)


def mean_squared_error_backward(p: Array, t: Array, weight: Array, *, out: Array) -> None:
    """Slope of mean_squared_error with respect to p."""
    n = p.shape[-1]
    d = p - t
    slope = 2 * d / n
    np.multiply(slope, weight[..., None], out=out)


def absolute_error_forward(p: Array, t: Array, weight: Array, *, out: Array) -> None:
    """|p - t|, averaged over a row's outputs; the slope at 0 is 0."""
    n = p.shape[-1]
    d = p - t
    loss = np.abs(d) / n
    out += np.matmul(weight[..., None, :], loss)[..., 0, :].sum(axis=-1)


def absolute_error_backward(p: Array, t: Array, weight: Array, *, out: Array) -> None:
    """Slope of absolute_error with respect to p."""
    n = p.shape[-1]
    d = p - t
    slope = np.sign(d) / n
    np.multiply(slope, weight[..., None], out=out)


def huber_forward(p: Array, t: Array, weight: Array, *, out: Array, delta: float) -> None:
    """(p - t)**2 / 2 up to |p - t| = delta and linear beyond, averaged over a row's outputs."""
    n = p.shape[-1]
    d = p - t
    q = np.minimum(np.abs(d), delta)
    loss = q * (np.abs(d) - 0.5 * q) / n
    out += np.matmul(weight[..., None, :], loss)[..., 0, :].sum(axis=-1)


def huber_backward(p: Array, t: Array, weight: Array, *, out: Array, delta: float) -> None:
    """Slope of huber with respect to p."""
    n = p.shape[-1]
    d = p - t
    q = np.minimum(np.abs(d), delta)
    slope = np.sign(d) * q / n
    np.multiply(slope, weight[..., None], out=out)


def poisson_forward(p: Array, t: Array, weight: Array, *, out: Array) -> None:
    """exp(p) - t p, averaged over a row's outputs: p is the logarithm of the rate."""
    n = p.shape[-1]
    rate = np.exp(p)
    loss = (rate - t * p) / n
    out += np.matmul(weight[..., None, :], loss)[..., 0, :].sum(axis=-1)


def poisson_backward(p: Array, t: Array, weight: Array, *, out: Array) -> None:
    """Slope of poisson with respect to p."""
    n = p.shape[-1]
    rate = np.exp(p)
    slope = (rate - t) / n
    np.multiply(slope, weight[..., None], out=out)


def poisson_rate_forward(p: Array, t: Array, weight: Array, *, out: Array) -> None:
    """p - t log(p), averaged over a row's outputs: p is the rate itself."""
    n = p.shape[-1]
    loss = (p - t * np.log(p)) / n
    out += np.matmul(weight[..., None, :], loss)[..., 0, :].sum(axis=-1)


def poisson_rate_backward(p: Array, t: Array, weight: Array, *, out: Array) -> None:
    """Slope of poisson_rate with respect to p."""
    n = p.shape[-1]
    slope = (1 - t / p) / n
    np.multiply(slope, weight[..., None], out=out)


def binary_cross_entropy_forward(p: Array, t: Array, weight: Array, *, out: Array) -> None:
    """-t log(sigmoid(p)) - (1 - t) log(1 - sigmoid(p)), averaged over a row's outputs: p is the logit."""
    n = p.shape[-1]
    e = np.exp(-np.abs(p))
    loss = (np.maximum(p, 0) - t * p + np.log1p(e)) / n
    out += np.matmul(weight[..., None, :], loss)[..., 0, :].sum(axis=-1)


def binary_cross_entropy_backward(p: Array, t: Array, weight: Array, *, out: Array) -> None:
    """Slope of binary_cross_entropy with respect to p."""
    n = p.shape[-1]
    e = np.exp(-np.abs(p))
    r = 1 / (1 + e)
    slope = ((1 - t) * np.where(p < 0, e * r, r) - t * np.where(p < 0, r, e * r)) / n
    np.multiply(slope, weight[..., None], out=out)
