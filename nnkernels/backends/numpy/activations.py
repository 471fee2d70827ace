"""Activations: z -> a, and the accurate slope da/dz.

Printed from nnkernels/_formulas.py by `python -m nnkernels.backends`: edit the formulas, not this file.
"""

from __future__ import annotations

import numpy as np

from nnkernels.backends.protocol import Array


def identity_forward(z: Array, *, out: Array, slope: Array | None = None) -> None:
    """a = z."""
    a = 1 * z
    if slope is not None:
        slope[...] = 1
    out[...] = a


def sigmoid_forward(z: Array, *, out: Array, slope: Array | None = None) -> None:
    """a = 1 / (1 + exp(-z))."""
    e = np.exp(-np.abs(z))
    r = 1 / (1 + e)
    a = np.where(z < 0, e * r, r)
    if slope is not None:
        slope[...] = e * r * r
    out[...] = a


def tanh_forward(z: Array, *, out: Array, slope: Array | None = None) -> None:
    """a = tanh(z); the slope as 4 e / (1 + e)**2 with e = exp(-2 |z|), since 1 - a**2 dies at |z| = 9 in float32."""
    a = np.tanh(z)
    if slope is not None:
        e = np.exp(-2 * np.abs(z))
        r = 1 / (1 + e)
        slope[...] = 4 * e * r * r
    out[...] = a


def relu_forward(z: Array, *, out: Array, slope: Array | None = None) -> None:
    """a = max(z, 0); the slope at 0 is 0."""
    a = np.maximum(z, 0)
    if slope is not None:
        slope[...] = np.where(z > 0, 1, 0)
    out[...] = a


def leaky_relu_forward(z: Array, *, out: Array, slope: Array | None = None) -> None:
    """a = z for z > 0, else 0.01 z."""
    a = np.where(z > 0, z, 0.01 * z)
    if slope is not None:
        slope[...] = np.where(z > 0, 1, 0.01)
    out[...] = a


def elu_forward(z: Array, *, out: Array, slope: Array | None = None) -> None:
    """a = z for z > 0, else exp(z) - 1."""
    m = np.minimum(z, 0)
    a = np.where(z > 0, z, np.expm1(m))
    if slope is not None:
        slope[...] = np.exp(m)
    out[...] = a


def softplus_forward(z: Array, *, out: Array, slope: Array | None = None) -> None:
    """a = log(1 + exp(z))."""
    e = np.exp(-np.abs(z))
    a = np.maximum(z, 0) + np.log1p(e)
    if slope is not None:
        r = 1 / (1 + e)
        slope[...] = np.where(z < 0, e * r, r)
    out[...] = a


def silu_forward(z: Array, *, out: Array, slope: Array | None = None) -> None:
    """a = z sigmoid(z), also called swish."""
    e = np.exp(-np.abs(z))
    r = 1 / (1 + e)
    s = np.where(z < 0, e * r, r)
    a = z * s
    if slope is not None:
        c = np.where(z < 0, r, e * r)
        slope[...] = s * (1 + z * c)
    out[...] = a


def gelu_forward(z: Array, *, out: Array, slope: Array | None = None) -> None:
    """a = z Phi(z), with the normal distribution function itself, not its tanh approximation."""
    y = np.minimum(np.abs(z), 40)
    h = np.floor(16 * y) / 16
    density = np.exp(-0.5 * h * h) * np.exp(-0.5 * (y - h) * (y + h))
    x = 0.7071067811865476 * y
    q = (x - 4) / (x + 4)
    w = (((9.655408225482863e-10 * q + 1.5712153638319064e-09) * q + -1.2544825403855518e-08) * q + -1.6357383982124768e-08) * q + 1.0683442926744586e-07
    w = (((w * q + 7.111912428010423e-08) * q + -8.218020654813044e-07) * q + 2.980596055322769e-07) * q + 5.707239573693257e-06
    w = (((w * q + -1.1225140354449658e-05) * q + -2.439811794207995e-05) * q + 0.0001506231178516207) * q + -0.00019925700412184815
    w = (((w * q + -0.0007577737141838885) * q + 0.005031970032548695) * q + -0.01619773397992426) * q + 0.0371675155318432
    w = (((w * q + -0.06633036582050367) * q + 0.09373283499865172) * q + -0.10103906603585294) * q + 0.0680970542546862
    w = ((w * q + 0.015379652102610162) * q + -0.1396211168405625) * q + 1.2329951186255526
    tail = 0.5 * density * w / (1 + 2 * x)
    cdf = np.where(z < 0, tail, 1 - tail)
    a = z * cdf
    if slope is not None:
        slope[...] = cdf + 0.3989422804014327 * z * density
    out[...] = a
