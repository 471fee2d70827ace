"""Matrix products by cuBLAS, through ctypes: CuPy's own wrappers refuse to be captured in a CUDA graph.

A handle belongs to a thread, a device and a stream, and owns its workspace. A thread keeps a few of them; whoever has
captured a product in a graph keeps its handle as long as the graph.
"""

from __future__ import annotations

import ctypes
import threading
from functools import cache
from typing import Any

import cupy
import numpy as np
from cupy.cuda import runtime

from nnkernels._errors import KernelFault
from nnkernels.backends.cupy import memory
from nnkernels.backends.protocol import Array

WORKSPACE_BYTES = 32 << 20  #: what NVIDIA recommends for Hopper
MOST_HANDLES = 4  #: of a thread; a user may come with any number of streams
MATH_MODES = {"float32": 0, "tf32": 3}  #: CUBLAS_DEFAULT_MATH, which is true float32, and CUBLAS_TF32_TENSOR_OP_MATH

_PREFIX = {"float32": ("S", ctypes.c_float), "float64": ("D", ctypes.c_double)}
_threads = threading.local()


@cache
def load() -> Any:
    """Return the library, or None where there is none."""
    try:
        from cuda.pathfinder import load_nvidia_dynamic_lib

        return ctypes.CDLL(load_nvidia_dynamic_lib("cublas").abs_path)
    except Exception:  # whatever the finder raises for a library that is not there
        return None


class Handle:
    """A cuBLAS handle on the current device's current stream, with a workspace of its own."""

    def __init__(self, library: Any) -> None:
        self.library, self.pointer = library, ctypes.c_void_p()
        self.workspace = memory.empty((WORKSPACE_BYTES,), np.uint8)
        self._call("cublasCreate_v2", ctypes.byref(self.pointer))
        # the stream first: setting it takes the workspace away
        self._call("cublasSetStream_v2", self.pointer, ctypes.c_void_p(cupy.cuda.get_current_stream().ptr))
        workspace = ctypes.c_void_p(self.workspace.data.ptr)
        self._call("cublasSetWorkspace_v2", self.pointer, workspace, ctypes.c_size_t(WORKSPACE_BYTES))

    def product(self, a: Array, b: Array, out: Array, *, transpose: str, precision: str) -> None:
        """``out = op(a) @ op(b)`` for contiguous arrays (networks, rows, columns); `transpose` names some of them."""
        count, m, n = out.shape
        k = a.shape[1] if "a" in transpose else a.shape[2]
        letter, number = _PREFIX[out.dtype.name]
        one, zero = number(1), number(0)
        # cuBLAS counts along columns: row-major out = a @ b is its out^T = b^T @ a^T
        operands = [(array.data.ptr, array.shape[2], array.shape[1] * array.shape[2]) for array in (b, a, out)]
        flags = [int(name in transpose) for name in "ba"]
        sizes = (n, m, k)
        self._call("cublasSetMathMode", self.pointer, MATH_MODES[precision])
        if count == 1:
            (b_at, b_ld, _), (a_at, a_ld, _), (out_at, out_ld, _) = operands
            tail = [ctypes.c_void_p(b_at), b_ld, ctypes.c_void_p(a_at), a_ld, ctypes.byref(zero)]
            tail += [ctypes.c_void_p(out_at), out_ld]
            self._call(f"cublas{letter}gemm_v2", self.pointer, *flags, *sizes, ctypes.byref(one), *tail)
            return
        (b_at, b_ld, b_step), (a_at, a_ld, a_step), (out_at, out_ld, out_step) = operands
        tail = [ctypes.c_void_p(b_at), b_ld, ctypes.c_longlong(b_step)]
        tail += [ctypes.c_void_p(a_at), a_ld, ctypes.c_longlong(a_step), ctypes.byref(zero)]
        tail += [ctypes.c_void_p(out_at), out_ld, ctypes.c_longlong(out_step), count]
        self._call(f"cublas{letter}gemmStridedBatched", self.pointer, *flags, *sizes, ctypes.byref(one), *tail)

    def __del__(self) -> None:
        if self.pointer:
            self.library["cublasDestroy_v2"](self.pointer)

    def _call(self, name: str, *arguments: Any) -> None:
        status = self.library[name](*arguments)
        if status:
            raise KernelFault(f"cuBLAS reports status {status}", (name,))


def handle() -> Handle | None:
    """Return this thread's handle for the current device and stream, or None where there is no cuBLAS."""
    library = load()
    if library is None:
        return None
    handles: dict[tuple[int, int], Handle] = _threads.__dict__.setdefault("handles", {})
    key = runtime.getDevice(), cupy.cuda.get_current_stream().ptr
    if key not in handles:
        if len(handles) >= MOST_HANDLES:
            del handles[next(iter(handles))]
        handles[key] = Handle(library)
    return handles[key]
