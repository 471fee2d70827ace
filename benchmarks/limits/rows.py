"""Rows of the limits: each calls one C function on buffers made before."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

from benchmarks.limits.compile import compiler, load
from benchmarks.problem import Host, Problem
from benchmarks.workers import Fresh


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
