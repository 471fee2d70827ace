"""Elementwise losses: the weighted sum of a batch, and its slope.

Printed from nnkernels/_formulas.py by `python -m nnkernels.backends`: edit the formulas, not this file.
"""

from __future__ import annotations

from nnkernels.backends.cupy.launch import elementwise, summed
from nnkernels.backends.protocol import Array


def half_squared_error_forward(p: Array, t: Array, weight: Array, *, out: Array) -> None:
    """(p - t)**2 / 2, summed over a row's outputs."""
    summed("half_squared_error_forward", p, out, p, t, weight, *p.shape[-2:])


def half_squared_error_backward(p: Array, t: Array, weight: Array, *, out: Array) -> None:
    """Slope of half_squared_error with respect to p."""
    elementwise("half_squared_error_backward", p.dtype, p.size, out, p, t, weight, p.shape[-1])


def mean_squared_error_forward(p: Array, t: Array, weight: Array, *, out: Array) -> None:
    """(p - t)**2, averaged over a row's outputs."""
    summed("mean_squared_error_forward", p, out, p, t, weight, *p.shape[-2:])


def mean_squared_error_backward(p: Array, t: Array, weight: Array, *, out: Array) -> None:
    """Slope of mean_squared_error with respect to p."""
    elementwise("mean_squared_error_backward", p.dtype, p.size, out, p, t, weight, p.shape[-1])


def absolute_error_forward(p: Array, t: Array, weight: Array, *, out: Array) -> None:
    """|p - t|, averaged over a row's outputs; the slope at 0 is 0."""
    summed("absolute_error_forward", p, out, p, t, weight, *p.shape[-2:])


def absolute_error_backward(p: Array, t: Array, weight: Array, *, out: Array) -> None:
    """Slope of absolute_error with respect to p."""
    elementwise("absolute_error_backward", p.dtype, p.size, out, p, t, weight, p.shape[-1])


def huber_forward(p: Array, t: Array, weight: Array, *, out: Array, delta: float) -> None:
    """(p - t)**2 / 2 up to |p - t| = delta and linear beyond, averaged over a row's outputs."""
    summed("huber_forward", p, out, p, t, weight, *p.shape[-2:], delta)


def huber_backward(p: Array, t: Array, weight: Array, *, out: Array, delta: float) -> None:
    """Slope of huber with respect to p."""
    elementwise("huber_backward", p.dtype, p.size, out, p, t, weight, p.shape[-1], delta)


def poisson_forward(p: Array, t: Array, weight: Array, *, out: Array) -> None:
    """exp(p) - t p, averaged over a row's outputs: p is the logarithm of the rate."""
    summed("poisson_forward", p, out, p, t, weight, *p.shape[-2:])


def poisson_backward(p: Array, t: Array, weight: Array, *, out: Array) -> None:
    """Slope of poisson with respect to p."""
    elementwise("poisson_backward", p.dtype, p.size, out, p, t, weight, p.shape[-1])


def poisson_rate_forward(p: Array, t: Array, weight: Array, *, out: Array) -> None:
    """p - t log(p), averaged over a row's outputs: p is the rate itself."""
    summed("poisson_rate_forward", p, out, p, t, weight, *p.shape[-2:])


def poisson_rate_backward(p: Array, t: Array, weight: Array, *, out: Array) -> None:
    """Slope of poisson_rate with respect to p."""
    elementwise("poisson_rate_backward", p.dtype, p.size, out, p, t, weight, p.shape[-1])


def binary_cross_entropy_forward(p: Array, t: Array, weight: Array, *, out: Array) -> None:
    """-t log(sigmoid(p)) - (1 - t) log(1 - sigmoid(p)), averaged over a row's outputs: p is the logit."""
    summed("binary_cross_entropy_forward", p, out, p, t, weight, *p.shape[-2:])


def binary_cross_entropy_backward(p: Array, t: Array, weight: Array, *, out: Array) -> None:
    """Slope of binary_cross_entropy with respect to p."""
    elementwise("binary_cross_entropy_backward", p.dtype, p.size, out, p, t, weight, p.shape[-1])
