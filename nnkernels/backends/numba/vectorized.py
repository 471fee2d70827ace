"""Kernels as programs of the vector language, for arrays whose elements lie one after the other.

A kernel of this backend is a loop that Numba compiles, for arrays of any strides. `vectorized` gives it a program
beside it: native lanes, no temporaries, no GIL, large arrays cut among threads into parts that are the same for any
number of them. A call hands its arrays over as the objects they are; compiled code reads their fields, as Numba's
does (`programs/arrays.py`), in a tenth of the time that Python would need to ask for them. What a program cannot
take, it leaves to the loop.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache, partial, update_wrapper
from typing import Any, TypeVar, cast

import numpy as np

from nnkernels._formulas import ACTIVATIONS
from nnkernels.backends.numba import threads
from nnkernels.backends.numba.lanes import adds_up, arguments

Function = TypeVar("Function", bound=Callable[..., Any])

LARGE = 400_000  #: elements from which on threads pay
PAST_CACHES = 6_000_000  #: elements from which on results are written past the caches
PARTS = 16  #: of a large sum

_DTYPES = np.dtype(np.float32), np.dtype(np.float64)
_IN_PARTS = 2  # what a program answers to a call of so many elements
_FOR_THE_LOOP = AttributeError, KeyError, IndexError, ctypes.ArgumentError  # it tells what is wrong, if anything is
_SLOPED = frozenset(f"{name}_forward" for name in ACTIVATIONS)


def vectorized(loop: Function) -> Function:
    """Give a kernel its program; a decorator."""
    name = loop.__name__
    names = {"programs": _Programs(name), "loop": loop, "for_the_loop": _FOR_THE_LOOP}
    if name in _SLOPED:
        names["sloped"] = _Programs(name, slope=True)
    exec(_call_source(name), names)  # a call that knows its arguments takes half the time
    call = names["call"]
    update_wrapper(cast(Any, call), loop, assigned=("__module__", "__name__", "__qualname__", "__doc__"))
    return cast(Function, call)


def _call_source(name: str) -> str:
    """Return the source of a kernel: its program's call, and the loop's where that returns anything but 0."""
    takes = arguments(name)
    given, signature = ", ".join(takes.all), ", ".join([*takes.positional, *["*"] * bool(takes.named), *takes.named])
    passed = [*takes.positional, *(f"{argument}={argument}" for argument in takes.named)]
    attempt = f"programs[{takes.all[0]}.dtype]({given}) and programs.in_parts({given})"
    if name in _SLOPED:
        signature, passed = "z, out, slope=None", ["z", "out=out", "slope=slope"]
        attempt += f" if slope is None else {attempt.replace('out)', 'out, slope)').replace('programs', 'sloped')}"
    return f"""
def call({signature}):
    try:
        left = {attempt}
    except for_the_loop:
        left = True
    if left:
        loop({", ".join(passed)})
"""


class _Programs(dict[Any, Callable[..., int]]):
    """A kernel's programs by dtype, compiled when they are first asked for."""

    def __init__(self, name: str, *, slope: bool = False) -> None:
        super().__init__()
        self.name, self.slope, self.takes = name, slope, arguments(name, slope=slope)

    def __missing__(self, dtype: Any) -> Callable[..., int]:
        if not _layout_is_known() or dtype not in _DTYPES:
            raise KeyError(dtype)
        call: Callable[..., int] = partial(self._function(dtype.name), _address(_frame(dtype)))
        self[dtype] = call
        return call

    def _function(self, dtype: str) -> Any:
        return _function(self.name, self.slope, dtype)

    def in_parts(self, *given: Any) -> bool:
        """Make a call in parts if it was too large for one; tell whether it is one for the loop."""
        dtype, n_threads = given[0].dtype, threads.count()
        if self[dtype](*given) != _IN_PARTS:
            return True
        call = self._function(dtype.name)
        if adds_up(self.name):
            self._add_up(call, given)
        else:  # the same bits wherever it is cut

            def share(thread: int, n_threads: int) -> None:
                call(_address(_frame(dtype, thread, n_threads)), *given)

            threads.together(share, n_threads)
        return False

    def _add_up(self, call: Any, given: Any) -> None:
        """Add the sums of as many parts as always, in their order, to `out`."""
        place, dtype = self.takes.all.index("out"), given[0].dtype
        sums = np.zeros((PARTS, *given[place].shape))

        def share(thread: int, n_threads: int) -> None:
            for part in range(thread, PARTS, n_threads):
                call(
                    _address(_frame(dtype, part, PARTS)),
                    *given[:place],
                    sums[part : part + 1],
                    *given[place + 1 :],
                )

        threads.together(share, min(threads.count(), PARTS))
        given[place][...] += sums.sum(axis=0)


@cache
def _function(name: str, slope: bool, dtype: str) -> Any:
    """Return a compiled program's function."""
    from nnkernels.backends.numba.lanes import source
    from nnkernels.backends.numba.language import Target
    from nnkernels.backends.numba.machine import Program, vector_bytes

    takes = arguments(name, slope=slope)
    types = [ctypes.c_double if argument in takes.numbers else ctypes.py_object for argument in takes.all]
    program = Program(source(name, slope=slope), Target(dtype, vector_bytes() // np.dtype(dtype).itemsize))
    return program.function("apply", ctypes.c_void_p, *types, result=ctypes.c_int64)


# ---- what compiled code is told about a call -------------------------------------------------------------------------


@cache
def _frame(dtype: Any, part: int = 0, parts: int = 0) -> Any:
    """What `programs/arrays.py` calls `call`."""
    described = [id(np.dtype(kind)) for kind in (dtype, np.float64, np.int64)]
    return np.array([id(np.ndarray), *described, LARGE, PAST_CACHES, part, parts], np.int64)


def _address(array: Any) -> int:
    return int(array.ctypes.data)


@cache
def _layout_is_known() -> bool:
    """Whether an array's fields lie where NumPy's C headers have them, after the two words of any object."""
    array = np.zeros((3, 5), np.float32)[1:]
    words = (ctypes.c_int64 * 9).from_address(id(array))
    data, n_axes, lengths, flags = words[2], words[3] & 0xFFFFFFFF, words[4], words[8]
    return (
        (object.__basicsize__, words[1], words[7]) == (16, id(np.ndarray), id(np.dtype(np.float32)))
        and (data, n_axes, flags & 0x501) == (array.ctypes.data, 2, 0x501)
        and tuple((ctypes.c_int64 * 2).from_address(lengths)) == array.shape
    )
