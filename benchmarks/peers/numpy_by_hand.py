"""NumPy as a careful user writes it: every result into a buffer made before, nothing allocated in the loop."""

# ruff: noqa: PLW2901 (`parameter -= ...` changes the array, which is the point)
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.operations import Operation
from benchmarks.problem import Problem
from benchmarks.workers import Absent, Fresh


def available() -> str | None:
    """Return None: NumPy is always there."""
    return None


def train(problem: Problem) -> Fresh:
    """Any network: forward, backward and update, layer by layer."""
    x, t = (
        np.empty((problem.batch, problem.x.shape[1]), problem.dtype),
        np.empty((problem.batch, problem.t.shape[1]), problem.dtype),
    )
    if problem.order is None:
        x, t = problem.x, problem.t

    def fresh() -> Callable[[], Any]:
        parameters = [array.copy() for array in problem.start]
        step = _bind(problem, parameters, x, t)

        def run() -> Any:
            for number in range(problem.steps):
                if problem.order is not None:
                    # "clip" writes to out without a buffer between; the rows are in range anyway
                    np.take(problem.x, problem.order[number], axis=0, out=x, mode="clip")
                    np.take(problem.t, problem.order[number], axis=0, out=t, mode="clip")
                step(number)
            return parameters

        return run

    return fresh


def _bind(problem: Problem, parameters: list[Any], x: Any, t: Any) -> Callable[[int], None]:
    """Allocate what a step needs, and return the step."""
    layers = problem.by_layer(parameters)
    outs = [np.empty((problem.batch, layer.n_out), problem.dtype) for layer in problem.layers]
    deltas, scratch = [np.empty_like(out) for out in outs], [np.empty_like(out) for out in outs]
    inputs = [x, *outs[:-1]]
    gradients = [np.empty_like(array) for array in parameters]
    by_layer = problem.by_layer(gradients)
    update = (
        _sgd(problem, parameters, gradients) if problem.optimizer == "sgd" else _adam(problem, parameters, gradients)
    )
    share = 1.0 if problem.reduction == "sum" else 1 / problem.batch
    if problem.loss == "mean_squared_error":
        share *= 2 / problem.layers[-1].n_out

    def step(number: int) -> None:
        for (layer, weight, bias), a, out in zip(layers, inputs, outs, strict=True):
            np.matmul(a, weight, out=out)
            if bias is not None:
                out += bias
            _activate(layer.activation, out)
        np.subtract(outs[-1], t, out=deltas[-1])
        deltas[-1] *= share
        for i in reversed(range(len(layers))):
            _times_slope(layers[i][0].activation, outs[i], deltas[i], scratch[i])
            np.matmul(inputs[i].T, deltas[i], out=by_layer[i][1])
            if by_layer[i][2] is not None:
                np.sum(deltas[i], axis=0, out=by_layer[i][2])
            if i:
                np.matmul(deltas[i], layers[i][1].T, out=deltas[i - 1])
        update(number)

    return step


def _activate(name: str, z: Any) -> None:
    """Z becomes a, in place."""
    if name == "sigmoid":
        np.negative(z, out=z)
        np.exp(z, out=z)
        z += 1
        np.reciprocal(z, out=z)
    elif name == "tanh":
        np.tanh(z, out=z)
    elif name == "relu":
        np.maximum(z, 0, out=z)
    elif name == "softmax":
        z -= z.max(axis=1, keepdims=True)
        np.exp(z, out=z)
        z /= z.sum(axis=1, keepdims=True)


def _times_slope(name: str, a: Any, delta: Any, scratch: Any) -> None:
    """Multiply delta by the slope of an activation, from what came out of it."""
    if name == "sigmoid":
        np.subtract(1, a, out=scratch)
        scratch *= a
        delta *= scratch
    elif name == "tanh":
        np.multiply(a, a, out=scratch)
        np.subtract(1, scratch, out=scratch)
        delta *= scratch
    elif name == "relu":
        np.greater(a, 0, out=scratch, casting="unsafe")
        delta *= scratch


def _sgd(problem: Problem, parameters: list[Any], gradients: list[Any]) -> Callable[[int], None]:
    def update(_: int) -> None:
        for parameter, gradient in zip(parameters, gradients, strict=True):
            gradient *= problem.lr
            parameter -= gradient

    return update


def _adam(problem: Problem, parameters: list[Any], gradients: list[Any]) -> Callable[[int], None]:
    state = [(p, g, np.zeros_like(p), np.zeros_like(p)) for p, g in zip(parameters, gradients, strict=True)]

    def update(number: int) -> None:
        first, second = 1 - 0.9 ** (number + 1), 1 - 0.999 ** (number + 1)
        rate, root = problem.lr / first, second**0.5
        for parameter, gradient, m, v in state:
            m *= 0.9
            v *= 0.999
            v += 0.001 * gradient * gradient
            gradient *= 0.1
            m += gradient
            np.sqrt(v, out=gradient)
            gradient /= root
            gradient += 1e-8
            np.divide(m, gradient, out=gradient)
            gradient *= rate
            parameter -= gradient

    return update


def sine(problem: Problem) -> Fresh:
    """1-10-1, batch 1: the weights are two vectors, and a step is 15 calls."""
    x, t, rate = problem.x[:, 0], problem.t[:, 0], problem.x.dtype.type(problem.lr)

    def fresh() -> Callable[[], Any]:
        w1, w2 = problem.start[0][0].copy(), problem.start[1][:, 0].copy()
        a, slope = np.empty_like(w1), np.empty_like(w1)

        def run() -> Any:
            for row in problem.order[:, 0]:
                np.multiply(w1, -x[row], out=a)
                np.exp(a, out=a)
                np.add(a, 1, out=a)
                np.reciprocal(a, out=a)
                np.subtract(1, a, out=slope)
                np.multiply(slope, a, out=slope)
                error = (a @ w2 - t[row]) * rate
                np.multiply(slope, w2, out=slope)
                np.multiply(slope, error * x[row], out=slope)
                np.subtract(w1, slope, out=w1)
                np.multiply(a, error, out=a)
                np.subtract(w2, a, out=w2)
            return [w1[None, :], w2[:, None]]

        return run

    return fresh


def operation(op: Operation) -> Fresh:
    """Sigmoid and its backward pass, in place."""
    if not op.name.startswith("sigmoid"):
        raise Absent("is what our own numpy row is")
    arrays = op.arrays()
    z, da, results = arrays["z"], arrays.get("da"), [np.empty_like(array) for array in arrays.values()]

    def run() -> Any:
        for _ in range(op.loops):
            np.negative(z, out=results[0])
            np.exp(results[0], out=results[0])
            np.add(results[0], 1, out=results[0])
            np.reciprocal(results[0], out=results[0])
            if da is not None:
                np.subtract(1, results[0], out=results[1])
                np.multiply(results[1], results[0], out=results[1])
                np.multiply(results[1], da, out=results[1])
        return results

    return lambda: run
