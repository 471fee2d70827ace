"""Activations: z -> a, and the accurate slope da/dz.

Printed from nnkernels/_formulas.py by `python -m nnkernels.backends`: edit the formulas, not this file.
"""

from __future__ import annotations

from nnkernels.backends.cupy.launch import elementwise
from nnkernels.backends.protocol import Array


def identity_forward(z: Array, *, out: Array, slope: Array | None = None) -> None:
    """a = z."""
    elementwise("identity_forward", z.dtype, z.size, out, slope, z)


def bias_identity_forward(z: Array, b: Array, *, out: Array, slope: Array | None = None) -> None:
    """identity_forward of z + b."""
    n = z.shape[-1]
    elementwise("bias_identity_forward", z.dtype, z.size, out, slope, z, b, z.shape[-2] * n, n)


def sigmoid_forward(z: Array, *, out: Array, slope: Array | None = None) -> None:
    """a = 1 / (1 + exp(-z))."""
    elementwise("sigmoid_forward", z.dtype, z.size, out, slope, z)


def bias_sigmoid_forward(z: Array, b: Array, *, out: Array, slope: Array | None = None) -> None:
    """sigmoid_forward of z + b."""
    n = z.shape[-1]
    elementwise("bias_sigmoid_forward", z.dtype, z.size, out, slope, z, b, z.shape[-2] * n, n)


def tanh_forward(z: Array, *, out: Array, slope: Array | None = None) -> None:
    """a = tanh(z); the slope as 4 e / (1 + e)**2 with e = exp(-2 |z|), since 1 - a**2 dies at |z| = 9 in float32."""
    elementwise("tanh_forward", z.dtype, z.size, out, slope, z)


def bias_tanh_forward(z: Array, b: Array, *, out: Array, slope: Array | None = None) -> None:
    """tanh_forward of z + b."""
    n = z.shape[-1]
    elementwise("bias_tanh_forward", z.dtype, z.size, out, slope, z, b, z.shape[-2] * n, n)


def relu_forward(z: Array, *, out: Array, slope: Array | None = None) -> None:
    """a = max(z, 0); the slope at 0 is 0."""
    elementwise("relu_forward", z.dtype, z.size, out, slope, z)


def bias_relu_forward(z: Array, b: Array, *, out: Array, slope: Array | None = None) -> None:
    """relu_forward of z + b."""
    n = z.shape[-1]
    elementwise("bias_relu_forward", z.dtype, z.size, out, slope, z, b, z.shape[-2] * n, n)


def leaky_relu_forward(z: Array, *, out: Array, slope: Array | None = None) -> None:
    """a = z for z > 0, else 0.01 z."""
    elementwise("leaky_relu_forward", z.dtype, z.size, out, slope, z)


def bias_leaky_relu_forward(z: Array, b: Array, *, out: Array, slope: Array | None = None) -> None:
    """leaky_relu_forward of z + b."""
    n = z.shape[-1]
    elementwise("bias_leaky_relu_forward", z.dtype, z.size, out, slope, z, b, z.shape[-2] * n, n)


def elu_forward(z: Array, *, out: Array, slope: Array | None = None) -> None:
    """a = z for z > 0, else exp(z) - 1."""
    elementwise("elu_forward", z.dtype, z.size, out, slope, z)


def bias_elu_forward(z: Array, b: Array, *, out: Array, slope: Array | None = None) -> None:
    """elu_forward of z + b."""
    n = z.shape[-1]
    elementwise("bias_elu_forward", z.dtype, z.size, out, slope, z, b, z.shape[-2] * n, n)


def softplus_forward(z: Array, *, out: Array, slope: Array | None = None) -> None:
    """a = log(1 + exp(z))."""
    elementwise("softplus_forward", z.dtype, z.size, out, slope, z)


def bias_softplus_forward(z: Array, b: Array, *, out: Array, slope: Array | None = None) -> None:
    """softplus_forward of z + b."""
    n = z.shape[-1]
    elementwise("bias_softplus_forward", z.dtype, z.size, out, slope, z, b, z.shape[-2] * n, n)


def silu_forward(z: Array, *, out: Array, slope: Array | None = None) -> None:
    """a = z sigmoid(z), also called swish."""
    elementwise("silu_forward", z.dtype, z.size, out, slope, z)


def bias_silu_forward(z: Array, b: Array, *, out: Array, slope: Array | None = None) -> None:
    """silu_forward of z + b."""
    n = z.shape[-1]
    elementwise("bias_silu_forward", z.dtype, z.size, out, slope, z, b, z.shape[-2] * n, n)


def gelu_forward(z: Array, *, out: Array, slope: Array | None = None) -> None:
    """a = z Phi(z), with the normal distribution function itself, not its tanh approximation."""
    elementwise("gelu_forward", z.dtype, z.size, out, slope, z)


def bias_gelu_forward(z: Array, b: Array, *, out: Array, slope: Array | None = None) -> None:
    """gelu_forward of z + b."""
    n = z.shape[-1]
    elementwise("bias_gelu_forward", z.dtype, z.size, out, slope, z, b, z.shape[-2] * n, n)
