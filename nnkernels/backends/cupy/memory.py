"""Memory of the GPU: allocated, written from the host, read by it."""

from __future__ import annotations

from typing import Any

import cupy
import numpy as np
from cupy.cuda import runtime

from nnkernels._errors import DeviceMemoryError
from nnkernels.backends.cupy.faults import faults, synchronize
from nnkernels.backends.protocol import Array

Host = np.ndarray[Any, Any]


def empty(shape: tuple[int, ...], dtype: Any) -> Array:
    """Return a new array; where memory is short, after giving back what the pool keeps.

    Raises
    ------
    DeviceMemoryError
        There is not enough; the message says how much was asked for, and how much is free.
    """
    try:
        return cupy.empty(shape, dtype)
    except cupy.cuda.memory.OutOfMemoryError:
        cupy.get_default_memory_pool().free_all_blocks()
    try:
        return cupy.empty(shape, dtype)
    except cupy.cuda.memory.OutOfMemoryError as error:
        asked = int(np.prod(shape)) * np.dtype(dtype).itemsize
        raise DeviceMemoryError(asked, runtime.memGetInfo()[0]) from error


def upload(host: Host, *, out: Array) -> None:
    """Copy between contiguous arrays; returns when `host` may change."""
    _move(out.data.ptr, host.ctypes.data, out.nbytes, runtime.memcpyHostToDevice)
    synchronize()


def download(array: Array, *, out: Host) -> None:
    """Copy between contiguous arrays, after all kernels that write to `array`."""
    _move(out.ctypes.data, array.data.ptr, out.nbytes, runtime.memcpyDeviceToHost)
    synchronize()


def duplicate(source: Array, *, out: Array) -> None:
    """Copy between contiguous arrays on the device."""
    _move(out.data.ptr, source.data.ptr, out.nbytes, runtime.memcpyDeviceToDevice)


def _move(to: int, source: int, nbytes: int, kind: int) -> None:
    if nbytes:
        with faults():
            runtime.memcpyAsync(to, source, nbytes, kind, cupy.cuda.get_current_stream().ptr)
