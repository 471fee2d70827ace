"""Activations: z -> a, and the accurate slope da/dz.

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
def identity_forward(z: Array, out: Array, slope: Array | None = None) -> None:
    """a = z."""
    T = z.dtype.type
    for i in range(z.size):
        z_i = z.flat[i]
        out.flat[i] = T(1) * z_i
        if slope is not None:
            slope.flat[i] = T(1)


@vectorized
@kernel
def sigmoid_forward(z: Array, out: Array, slope: Array | None = None) -> None:
    """a = 1 / (1 + exp(-z))."""
    T = z.dtype.type
    for i in range(z.size):
        z_i = z.flat[i]
        e = math.exp(-abs(z_i))
        r = T(1) / (T(1) + e)
        out.flat[i] = e * r if z_i < T(0) else r
        if slope is not None:
            slope.flat[i] = e * r * r


@vectorized
@kernel
def tanh_forward(z: Array, out: Array, slope: Array | None = None) -> None:
    """a = tanh(z); the slope as 4 e / (1 + e)**2 with e = exp(-2 |z|), since 1 - a**2 dies at |z| = 9 in float32."""
    T = z.dtype.type
    for i in range(z.size):
        z_i = z.flat[i]
        out.flat[i] = math.tanh(z_i)
        if slope is not None:
            e = math.exp(-T(2) * abs(z_i))
            r = T(1) / (T(1) + e)
            slope.flat[i] = T(4) * e * r * r


@vectorized
@kernel
def relu_forward(z: Array, out: Array, slope: Array | None = None) -> None:
    """a = max(z, 0); the slope at 0 is 0."""
    T = z.dtype.type
    for i in range(z.size):
        z_i = z.flat[i]
        out.flat[i] = np.maximum(z_i, T(0))
        if slope is not None:
            slope.flat[i] = T(1) if z_i > T(0) else T(0)


@vectorized
@kernel
def leaky_relu_forward(z: Array, out: Array, slope: Array | None = None) -> None:
    """a = z for z > 0, else 0.01 z."""
    T = z.dtype.type
    for i in range(z.size):
        z_i = z.flat[i]
        out.flat[i] = z_i if z_i > T(0) else T(0.01) * z_i
        if slope is not None:
            slope.flat[i] = T(1) if z_i > T(0) else T(0.01)


@vectorized
@kernel
def elu_forward(z: Array, out: Array, slope: Array | None = None) -> None:
    """a = z for z > 0, else exp(z) - 1."""
    T = z.dtype.type
    for i in range(z.size):
        z_i = z.flat[i]
        m = np.minimum(z_i, T(0))
        out.flat[i] = z_i if z_i > T(0) else math.expm1(m)
        if slope is not None:
            slope.flat[i] = math.exp(m)


@vectorized
@kernel
def softplus_forward(z: Array, out: Array, slope: Array | None = None) -> None:
    """a = log(1 + exp(z))."""
    T = z.dtype.type
    for i in range(z.size):
        z_i = z.flat[i]
        e = math.exp(-abs(z_i))
        out.flat[i] = np.maximum(z_i, T(0)) + math.log1p(e)
        if slope is not None:
            r = T(1) / (T(1) + e)
            slope.flat[i] = e * r if z_i < T(0) else r


@vectorized
@kernel
def silu_forward(z: Array, out: Array, slope: Array | None = None) -> None:
    """a = z sigmoid(z), also called swish."""
    T = z.dtype.type
    for i in range(z.size):
        z_i = z.flat[i]
        e = math.exp(-abs(z_i))
        r = T(1) / (T(1) + e)
        s = e * r if z_i < T(0) else r
        out.flat[i] = z_i * s
        if slope is not None:
            c = r if z_i < T(0) else e * r
            slope.flat[i] = s * (T(1) + z_i * c)


@vectorized
@kernel
def gelu_forward(z: Array, out: Array, slope: Array | None = None) -> None:
    """a = z Phi(z), with the normal distribution function itself, not its tanh approximation."""
    T = z.dtype.type
    for i in range(z.size):
        z_i = z.flat[i]
        y = np.minimum(abs(z_i), T(40))
        h = np.floor(T(16) * y) / T(16)
        density = math.exp(-T(0.5) * h * h) * math.exp(-T(0.5) * (y - h) * (y + h))
        x = T(0.7071067811865476) * y
        q = (x - T(4)) / (x + T(4))
        w = (((T(9.655408225482863e-10) * q + T(1.5712153638319064e-09)) * q + -T(1.2544825403855518e-08)) * q + -T(1.6357383982124768e-08)) * q + T(1.0683442926744586e-07)
        w = (((w * q + T(7.111912428010423e-08)) * q + -T(8.218020654813044e-07)) * q + T(2.980596055322769e-07)) * q + T(5.707239573693257e-06)
        w = (((w * q + -T(1.1225140354449658e-05)) * q + -T(2.439811794207995e-05)) * q + T(0.0001506231178516207)) * q + -T(0.00019925700412184815)
        w = (((w * q + -T(0.0007577737141838885)) * q + T(0.005031970032548695)) * q + -T(0.01619773397992426)) * q + T(0.0371675155318432)
        w = (((w * q + -T(0.06633036582050367)) * q + T(0.09373283499865172)) * q + -T(0.10103906603585294)) * q + T(0.0680970542546862)
        w = ((w * q + T(0.015379652102610162)) * q + -T(0.1396211168405625)) * q + T(1.2329951186255526)
        tail = T(0.5) * density * w / (T(1) + T(2) * x)
        cdf = tail if z_i < T(0) else T(1) - tail
        out.flat[i] = z_i * cdf
        if slope is not None:
            slope.flat[i] = cdf + T(0.3989422804014327) * z_i * density
