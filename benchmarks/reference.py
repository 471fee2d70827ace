"""The oracle: training written for reading, in float64, with nothing shared with what is measured."""

# ruff: noqa: PLW2901 (`parameter -= ...` changes the array, which is the point)
from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.problem import Host, Many, Problem


def train(problem: Problem) -> list[Host]:
    """Return the weights after the run, in float64."""
    problem = problem.wide()
    parameters = [array.copy() for array in problem.start]
    state = [(np.zeros_like(array), np.zeros_like(array)) for array in parameters]
    for step in range(problem.steps):
        rows = slice(None) if problem.order is None else problem.order[step]
        gradients = _gradients(problem, parameters, problem.x[rows], problem.t[rows])
        for parameter, gradient, (m, v) in zip(parameters, gradients, state, strict=True):
            if problem.optimizer == "sgd":
                parameter -= problem.lr * gradient
            else:
                m += 0.1 * (gradient - m)
                v += 0.001 * (gradient**2 - v)
                parameter -= problem.lr * m / (1 - 0.9 ** (step + 1)) / (np.sqrt(v / (1 - 0.999 ** (step + 1))) + 1e-8)
    return parameters


def train_many(problem: Many) -> list[Host]:
    """Return the weights of all networks after the run, in float64."""
    one = problem.wide()
    parameters = [array.copy() for array in one.start]
    for rows in problem.rows[: one.steps]:  # a row a network
        gradients = _gradients(one, parameters, one.x[rows][:, None], one.t[rows][:, None])
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter -= problem.rates.astype(float).reshape(-1, *[1] * (parameter.ndim - 1)) * gradient
    return parameters


def _gradients(problem: Problem, parameters: list[Host], x: Host, t: Host) -> list[Host]:
    """Return the gradients over a batch (..., rows, n); the axes before are those of networks."""
    inputs, slopes = [x], []
    for layer, weight, bias in problem.by_layer(parameters):
        z = inputs[-1] @ weight + (0 if bias is None else bias[..., None, :])
        a, slope = _activation(layer.activation, z)
        inputs.append(a)
        slopes.append(slope)
    delta = inputs[-1] - t  # of softmax and cross-entropy, too, with respect to z
    if problem.loss == "mean_squared_error":
        delta = delta * (2 / t.shape[-1])
    if problem.reduction == "mean":
        delta = delta / x.shape[-2]
    gradients: list[Any] = []
    for layer, weight, bias in reversed(problem.by_layer(parameters)):
        delta = delta * slopes.pop()
        if bias is not None:
            gradients.append(delta.sum(-2))
        inputs.pop()
        gradients.append(inputs[-1].swapaxes(-1, -2) @ delta)
        delta = delta @ weight.swapaxes(-1, -2)
        del layer
    return gradients[::-1]


def _activation(name: str, z: Host) -> tuple[Host, Any]:
    if name == "sigmoid":
        a = 1 / (1 + np.exp(-z))
        return a, a * (1 - a)
    if name == "tanh":
        return np.tanh(z), 1 - np.tanh(z) ** 2
    if name == "relu":
        return np.maximum(z, 0), z > 0
    if name == "softmax":
        e = np.exp(z - z.max(axis=1, keepdims=True))
        return e / e.sum(axis=1, keepdims=True), 1
    return z, 1
