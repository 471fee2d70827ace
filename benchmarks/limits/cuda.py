"""What a GPU can do at most, measured: the same matrix products and nothing else, and copies of as many bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import nnkernels as nnk
from benchmarks.gpu import Scrap, scrap
from benchmarks.operations import Operation
from benchmarks.problem import Problem
from benchmarks.workers import Absent, Fresh, Measured


def available() -> str | None:
    """Return why there is no GPU to measure, or None."""
    try:
        nnk.device("cuda")
    except nnk.BackendUnavailable as error:
        return str(error)
    return None


def _product(shape: tuple[int, ...], precision: str) -> Callable[[], Any]:
    """Return a call of cuBLAS: (m, k) @ (k, n) of numbers that are drawn, into an array made before."""
    import cupy
    import numpy as np

    from nnkernels.backends.cupy import cublas

    handle = cublas.handle()
    if handle is None:
        raise Absent("there is no cuBLAS")
    m, k, n = shape
    draw = np.random.default_rng(0).standard_normal
    a, b = (cupy.asarray(draw((1, *sizes), np.float32)) for sizes in ((m, k), (k, n)))
    out = cupy.empty((1, m, n), "f4")
    return lambda: handle.product(a, b, out, transpose="", precision=precision)


def products(problem: Problem) -> Fresh:
    """The matrix products of a step back to back, step after step, by cuBLAS; transposes are not what counts here."""
    calls = []
    for number, layer in enumerate(problem.layers):
        batch, n_in, n_out = problem.batch, layer.n_in, layer.n_out
        shapes = [(batch, n_in, n_out), (n_in, batch, n_out), *([(batch, n_out, n_in)] if number else [])]
        calls += [_product(shape, problem.precision) for shape in shapes]
    memory = scrap()

    def fresh() -> Callable[[], Any]:
        memory.zero()
        return lambda: _together(memory, calls, problem.steps)

    return fresh


def _together(memory: Scrap, calls: list[Callable[[], Any]], loops: int) -> Measured:
    """Return the seconds of calls that follow each other without a flush between them."""

    def all_of_them() -> None:
        for _ in range(loops):
            for call in calls:
                call()

    return Measured(memory.seconds_of(all_of_them, 1), None)


def product(op: Operation) -> Fresh:
    """The product of a forward pass alone, without a bias, by cuBLAS."""
    call, memory = _product(op.shape, op.precision), scrap()
    return lambda: lambda: Measured(memory.seconds_of(call, op.loops), None)


def copy(op: Operation) -> Fresh:
    """Copies from array to array of the operation's size: a read and a write of each element."""
    import cupy

    source, target = (cupy.ones(op.shape, "f4") for _ in range(2))
    memory = scrap()

    def call() -> None:
        target.data.copy_from_device_async(source.data, source.nbytes)

    return lambda: lambda: Measured(memory.seconds_of(call, op.loops), None)
