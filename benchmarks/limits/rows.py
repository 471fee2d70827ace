"""Rows of the limits: each calls one C function on buffers made before."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from benchmarks.limits.compile import compiler, load
from benchmarks.operations import Operation
from benchmarks.problem import Host, Many, Problem
from benchmarks.workers import Absent, Fresh


def available() -> str | None:
    """Return why there are no limits here, or None."""
    return None if compiler() else "there is no C compiler (cc)"


def _pointer(array: Host) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def _function(library: str, name: str) -> Any:
    function = getattr(load(library), name)
    function.restype = ctypes.c_double  # the mean loss of the steps
    return function


def sine(problem: Problem) -> Fresh:
    """1-10-1 in float32 or float64; draws the order of rows itself."""
    function = _function("sine", f"sine_{problem.dtype}")

    def fresh() -> Callable[[], Any]:
        w1, w2 = (array.copy() for array in problem.start)
        seed, lr = ctypes.c_uint64(problem.seed), ctypes.c_double(problem.lr)
        counts = ctypes.c_int64(len(problem.x)), ctypes.c_int64(problem.steps)
        arguments = (*map(_pointer, (problem.x, problem.t)), *counts, seed, lr, _pointer(w1), _pointer(w2))

        def run() -> Any:
            function(*arguments)
            return [w1, w2]

        return run

    return fresh


def many_sine(problem: Many, *, threads: int) -> Fresh:
    """Networks 1-10-1 in float32, 16 in the lanes of a vector; draws the rows itself."""
    function = _function("many_sine", "many_sine_float32")
    bounds = [problem.networks // 16 * thread // threads * 16 for thread in range(threads + 1)]

    def fresh() -> Callable[[], Any]:
        weights = [array.copy() for array in problem.start]
        seed, counts = ctypes.c_uint64(problem.seed), (ctypes.c_int64(len(problem.x)), ctypes.c_int64(problem.steps))
        arguments = *map(_pointer, (problem.x, problem.t)), *counts, seed, *map(_pointer, (problem.rates, *weights))

        def part(first: int, stop: int) -> None:
            function(*arguments, ctypes.c_int64(first), ctypes.c_int64(stop))

        def run() -> Any:
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(part, bounds[:-1], bounds[1:]))
            return weights

        return run

    return fresh


def autoencoder(problem: Problem) -> Fresh:
    """1-1-1 over all rows of a small batch, in float32."""
    function = _function("autoencoder", "autoencoder_float32")

    def fresh() -> Callable[[], Any]:
        flat = np.concatenate([array.ravel() for array in problem.start])
        counts = ctypes.c_int64(len(problem.x)), ctypes.c_int64(problem.steps)
        arguments = (*map(_pointer, (problem.x, problem.t)), *counts, ctypes.c_double(problem.lr), _pointer(flat))

        def run() -> Any:
            function(*arguments)
            return _like(problem, flat)

        return run

    return fresh


def regression(problem: Problem, *, threads: int) -> Fresh:
    """4-32-16-4 over all rows, in float32."""
    function = _function("regression", "regression_float32")

    def fresh() -> Callable[[], Any]:
        flat = np.concatenate([array.ravel() for array in problem.start])
        counts = ctypes.c_int64(len(problem.x)), ctypes.c_int64(problem.steps)
        rest = ctypes.c_double(problem.lr), _pointer(flat), ctypes.c_int64(threads)

        def run() -> Any:
            function(*map(_pointer, (problem.x, problem.t)), *counts, *rest)
            return _like(problem, flat)

        return run

    return fresh


def _like(problem: Problem, flat: Host) -> list[Host]:
    """Cut flat parameters into arrays of the start's shapes."""
    ends = np.cumsum([array.size for array in problem.start])
    return [part.reshape(array.shape) for part, array in zip(np.split(flat, ends[:-1]), problem.start, strict=True)]


def mnist(problem: Problem, *, threads: int) -> Fresh:
    """784-h-10 in small batches, in float32; the order of rows is given."""
    function = _function("mnist", "mnist_float32")
    quadratic = problem.loss == "half_squared_error"

    def fresh() -> Callable[[], Any]:
        arrays = [array.copy() for array in problem.start]
        data = *map(_pointer, (problem.x, problem.t, problem.order)), ctypes.c_int64(problem.steps)
        sizes = problem.batch, problem.layers[0].n_out, quadratic, threads
        arguments = *data, ctypes.c_double(problem.lr), *map(_pointer, arrays), *map(ctypes.c_int64, sizes)

        def run() -> Any:
            function(*arguments)
            return arrays

        return run

    return fresh


def products(problem: Problem) -> Fresh:
    """The matrix products of the steps and nothing else, with NumPy's BLAS, into buffers made before."""
    x = problem.x[: problem.batch]
    inputs = [x, *(np.ones((problem.batch, layer.n_out), problem.dtype) for layer in problem.layers)]
    calls: list[tuple[Host, Host, Host]] = []
    for number, (layer, weight, _) in enumerate(problem.by_layer(problem.start)):
        a, z = inputs[number], inputs[number + 1]
        calls.append((a, weight, np.empty_like(z)))
        calls.append((a.T, z, np.empty((layer.n_in, layer.n_out), problem.dtype)))
        if number:
            calls.append((z, weight.T, np.empty_like(a)))

    def run() -> None:
        for _ in range(problem.steps):
            for left, right, out in calls:
                np.matmul(left, right, out=out)

    return lambda: run


def operation(op: Operation, *, threads: int) -> Fresh:
    """Sigmoid in C, each thread on a part of the array of its own."""
    if not op.name.startswith("sigmoid"):
        raise Absent("is written for sigmoid")
    arrays = [array.ravel() for array in op.arrays().values()]
    a, slope, dz = (np.empty_like(arrays[0]) for _ in range(3))
    if op.name == "sigmoid_forward":
        calls = [("sigmoid_forward", [arrays[0], a])]
    else:
        calls = [("sigmoid_forward_slope", [arrays[0], a, slope]), ("sigmoid_backward", [arrays[1], slope, dz])]
    run = _in_parts(calls, op.loops, threads)

    def whole() -> list[Host]:
        run()
        return [a] if op.name == "sigmoid_forward" else [a, dz]

    return lambda: whole


def copy(op: Operation, *, threads: int) -> Fresh:
    """Copy as many bytes as the operation reads and writes, from array to array of its size."""
    count = op.shape[0] * op.shape[1]
    source, target = np.ones(count, np.float32), np.zeros(count, np.float32)
    return lambda: _in_parts([("copy", [source, target])], op.loops, threads)


def peak(op: Operation) -> Fresh:
    """Matrix products of 2048 x 2048 with NumPy's BLAS, as much arithmetic as the operation's."""
    left = np.ones((2048, 2048), np.float32)
    out = np.empty_like(left)
    loops = max(1, round(op.loops * op.gflop / (2e-9 * 2048**3)))

    def run() -> None:
        for _ in range(loops):
            np.matmul(left, left, out=out)

    return lambda: run


def _in_parts(calls: list[tuple[str, list[Host]]], loops: int, threads: int) -> Callable[[], None]:
    """Return what makes the calls `loops` times, each thread on its part of the arrays."""
    count = calls[0][1][0].size
    edges = [count * i // threads // 32 * 32 for i in range(threads)] + [count]
    parts: list[list[tuple[Any, list[Any]]]] = []
    for start, stop in zip(edges[:-1], edges[1:], strict=True):
        part = []
        for name, arrays in calls:
            function = getattr(load("sigmoid"), name)
            function.restype = None
            pointers = [_pointer(array[start:stop]) for array in arrays]
            part.append((function, [*pointers, ctypes.c_int64(stop - start)]))
        parts.append(part)

    def work(part: list[tuple[Any, list[Any]]], _keep: Any = calls) -> None:  # pointers keep no array alive
        for _ in range(loops):
            for function, arguments in part:
                function(*arguments)

    if threads == 1:
        return lambda: work(parts[0])
    pool = ThreadPoolExecutor(threads)
    return lambda: list(pool.map(work, parts)) and None
