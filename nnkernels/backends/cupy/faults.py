"""Errors that CUDA reports, with the names of the kernels behind them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import cupy
from cupy.cuda import driver, runtime

from nnkernels._errors import KernelFault

_recent = threading.local()


@contextmanager
def faults(name: str | None = None) -> Iterator[None]:
    """Name the kernels launched last if CUDA reports an error; a launch is asynchronous, and its errors come later."""
    names: deque[str] = _recent.__dict__.setdefault("names", deque(maxlen=8))
    if name is not None:
        names.append(name)
    try:
        yield
    except (runtime.CUDARuntimeError, driver.CUDADriverError) as error:
        raise KernelFault(str(error).strip(), tuple(names)) from error


def synchronize() -> None:
    """Wait for the current stream; what went wrong on it is raised here."""
    with faults():
        runtime.streamSynchronize(cupy.cuda.get_current_stream().ptr)
