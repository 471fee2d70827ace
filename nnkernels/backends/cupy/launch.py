"""Kernels of the `.cu` files: compiled once, and launched with every argument checked against the source.

CuPy passes whatever it is given: a float64 array where a kernel reads float, a Python int as eight bytes where it reads
four. Here a kernel's own parameter list, read from its source, says what it takes.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any, NamedTuple

import cupy
import numpy as np
from cupy.cuda import runtime

from nnkernels._errors import DeviceError
from nnkernels.backends.cupy import memory
from nnkernels.backends.cupy.faults import faults
from nnkernels.backends.cupy.files import read
from nnkernels.backends.protocol import Array

THREADS = 256  #: of a block of an elementwise kernel
MOST_BLOCKS = 4096  #: of such a launch; kernels loop where there is more work

#: the files that hold kernels, and what is compiled before each
SOURCES = {
    "activations": ("prelude", "formulas"),
    "losses": ("prelude", "formulas"),
    "optimizers": ("prelude", "formulas"),
    "layers": ("prelude",),
    "softmax": ("prelude",),
    "updates": ("prelude",),
    "random": ("prelude", "philox"),
    "arrays": ("prelude",),
    "steps": ("prelude",),
}
OPTIONS = ("--std=c++17",)

_KERNEL = re.compile(
    r'extern\s+"C"\s+__global__\s+void\s+(?:__launch_bounds__\s*\([^)]*\)\s*)?(\w+)\s*\(([^)]*)\)\s*\{', re.DOTALL
)
_PARAMETER = re.compile(r"(const )?(\w+) (\*?)(OPTIONAL )?(\w+)")
_INTEGERS = (int, np.integer)  # not whatever has __int__: that of a device array waits for the GPU
_NUMBERS = {"f": (float, np.floating, *_INTEGERS), "i": _INTEGERS, "u": _INTEGERS}
_TYPES = {"float": "f4", "double": "f8", "int": "i4", "uint32": "u4", "int64": "i8", "uint64": "u8"}


# ---- what a kernel takes ---------------------------------------------------------------------------------------------


class Parameter(NamedTuple):
    """What a kernel takes in one place."""

    name: str
    dtype: np.dtype[Any]
    pointer: bool
    constant: bool  # the kernel only reads what it points to
    optional: bool  # it may be a null pointer


def signatures(source: str, dtype: str) -> dict[str, tuple[Parameter, ...]]:
    """Return the parameters of every kernel of a source, in which `real` is a dtype."""
    found = {}
    for name, text in _KERNEL.findall(source):
        parameters = []
        for part in re.sub(r"\s+", " ", text).split(","):
            match = _PARAMETER.fullmatch(part.strip())
            if match is None or match[2] not in ("real", *_TYPES):
                raise ValueError(f"{name}: cannot read the parameter {part.strip()!r}")
            constant, kind, star, optional, parameter = match.groups()
            code = np.dtype(dtype if kind == "real" else _TYPES[kind])
            parameters.append(Parameter(parameter, code, bool(star), bool(constant), bool(optional)))
        found[name] = tuple(parameters)
    return found


class Kernel:
    """A kernel that checks what it is given.

    Parameters
    ----------
    name : str
        Its name.
    parameters : tuple of Parameter
        What it takes.
    function : callable
        CuPy's raw kernel.
    """

    def __init__(self, name: str, parameters: tuple[Parameter, ...], function: Any) -> None:
        self.name, self.parameters, self.function = name, parameters, function

    def __call__(self, blocks: int | tuple[int, ...], threads: int, *arguments: Any) -> None:
        """Launch on the current device's current stream; strided arrays are copied to contiguous ones, and back."""
        grid = blocks if isinstance(blocks, tuple) else (blocks,)
        if 0 in grid:
            return
        if len(arguments) != len(self.parameters):
            raise TypeError(f"{self.name} takes {len(self.parameters)} arguments, not {len(arguments)}")
        device, staged = runtime.getDevice(), Staged()
        given = tuple(
            self._array(parameter, value, device, staged) if parameter.pointer else self._number(parameter, value)
            for parameter, value in zip(self.parameters, arguments, strict=True)
        )
        with faults(self.name):
            self.function(grid, (threads,), given)
        staged.copy_back()

    def _array(self, parameter: Parameter, array: Any, device: int, staged: Staged) -> Any:
        if array is None and parameter.optional:
            return np.uint64(0)
        if not isinstance(array, cupy.ndarray):
            raise TypeError(f"{self.name} takes a CuPy array as {parameter.name}, not {type(array).__name__}")
        if array.dtype != parameter.dtype:
            raise TypeError(f"{self.name} takes {parameter.dtype} as {parameter.name}, not {array.dtype}")
        if array.size and array.data.device_id != device:
            raise DeviceError(
                f'{self.name} runs on "cuda:{device}", and its {parameter.name} is on "cuda:{array.data.device_id}". '
                "Move it there, or make the other device current."
            )
        return array if array.flags.c_contiguous else staged.stand_in(array, written=not parameter.constant)

    def _number(self, parameter: Parameter, value: Any) -> Any:
        try:
            if isinstance(value, _NUMBERS[parameter.dtype.kind]):
                return parameter.dtype.type(value.item() if isinstance(value, np.generic) else value)
        except OverflowError:
            pass
        given = type(value).__name__ if isinstance(value, cupy.ndarray) else repr(value)
        raise TypeError(f"{self.name} takes {parameter.dtype} as {parameter.name}, not {given}")


# ---- where kernels come from -----------------------------------------------------------------------------------------


class Library:
    """A compiled source: its kernels by name.

    Parameters
    ----------
    source : str
        CUDA C++, complete.
    dtype : str
        Of `real`.
    contracted : bool
        Whether the compiler may make one rounding of ``a * b + c``.
    """

    def __init__(self, source: str, dtype: str, contracted: bool = True) -> None:
        self.signatures = signatures(source, dtype)
        self.module = cupy.RawModule(code=source, options=options(dtype, contracted), backend="nvrtc")
        self.kernels: dict[str, Kernel] = {}

    def kernel(self, name: str) -> Kernel:
        """Return a kernel."""
        if name not in self.kernels:
            self.kernels[name] = Kernel(name, self.signatures[name], self.module.get_function(name))
        return self.kernels[name]


def options(dtype: str, contracted: bool = True) -> tuple[str, ...]:
    """Return the compiler's options."""
    rest = ("--fmad=true",) if contracted else ("--fmad=false", "-DWHOLE_RUN")
    return (*OPTIONS, f"-DREAL={'float' if dtype == 'float32' else 'double'}", *rest)


def complete(file: str) -> str:
    """Return a file of kernels with what it needs before it."""
    return read(*SOURCES[file], file)


@cache
def library(source: str, dtype: str, device: int, contracted: bool = True) -> Library:
    """Return a compiled source; it is compiled once for a dtype and a device."""
    return Library(source, dtype, contracted)


@cache
def _files() -> dict[str, str]:
    """Return in which file each kernel stands."""
    return {name: file for file in SOURCES for name in signatures(read(file), "float32")}


@cache
def _kernel(name: str, dtype: str, device: int) -> Kernel:
    return library(complete(_files()[name]), dtype, device).kernel(name)


def kernel(name: str, dtype: Any) -> Kernel:
    """Return one of the package's own kernels, for arrays of a dtype, on the current device."""
    return _kernel(name, np.dtype(dtype).name, runtime.getDevice())


def elementwise(name: str, dtype: Any, size: int, *arguments: Any) -> None:
    """Launch a kernel whose last parameter is the number of its elements."""
    blocks = min(-(-size // THREADS), MOST_BLOCKS)
    kernel(name, dtype)(blocks, THREADS, *arguments, size)


def summed(name: str, array: Array, *arguments: Any) -> None:
    """Launch a kernel that sums over an array (..., rows, n), a block a network."""
    kernel(name, array.dtype)(networks(array, 2), constant("prelude", "SUM_THREADS"), *arguments)


def rowwise(name: str, array: Array, *arguments: Any) -> None:
    """Launch a kernel that gives a warp to each row of an array (..., n); rows and n are its last parameters."""
    n = array.shape[-1]
    rows = array.size // n
    blocks = min(-(-rows // (THREADS // 32)), MOST_BLOCKS)
    kernel(name, array.dtype)(blocks, THREADS, *arguments, rows, n)


def networks(array: Array, axes: int) -> int:
    """Return the number of networks of an array whose last axes are one network's."""
    return int(np.prod(array.shape[: array.ndim - axes]))


@cache
def constant(file: str, name: str) -> int:
    """Return the value of a `constexpr int` of a file."""
    match = re.search(rf"constexpr int {name} = (\d+);", read(file))
    assert match, f"{file}.cu defines no {name}"
    return int(match[1])


# ---- arrays of any strides -------------------------------------------------------------------------------------------


def copy(source: Array, *, out: Array) -> None:
    """``out = source``, of one shape and dtype."""
    if source.flags.c_contiguous and out.flags.c_contiguous:
        memory.duplicate(source, out=out)
        return
    shape, (to, start) = _four_axes(out, source)
    words = (_words(out), *to, _words(source), *start)
    elementwise(f"copy_words{out.itemsize}", np.float32, out.size, *words, *shape[1:])


def fill(value: float, *, out: Array) -> None:
    """``out = value`` in every element."""
    word = np.array(value, out.dtype).view(f"u{out.itemsize}")[()]
    shape, (to,) = _four_axes(out)
    elementwise(f"fill_words{out.itemsize}", np.float32, out.size, _words(out), *to, word, *shape[1:])


def contiguous(array: Array) -> Array:
    """Return the array itself if it is C-contiguous, else a copy that is."""
    if array.flags.c_contiguous:
        return array
    out = memory.empty(array.shape, array.dtype)
    copy(array, out=out)
    return out


def _four_axes(*arrays: Array) -> tuple[tuple[int, ...], list[tuple[int, ...]]]:
    """Return the arrays' shape with four axes, and their strides along them, in elements."""
    shape = arrays[0].shape
    if len(shape) > 4:
        raise ValueError(f"an array of the cuda backend that is not contiguous has at most 4 axes, not {len(shape)}")
    missing = 4 - len(shape)
    strides = [(*[0] * missing, *(stride // array.itemsize for stride in array.strides)) for array in arrays]
    return (*[1] * missing, *shape), strides


def _words(array: Array) -> Array:
    """Return what lies from an array's first element on, as unsigned words; its kernels know the strides."""
    return cupy.ndarray((array.size,), f"u{array.itemsize}", array.data)


class Staged:
    """Contiguous stand-ins for the strided arrays of a launch; arrays that share their memory share theirs, too."""

    def __init__(self) -> None:
        self.places: dict[tuple[Any, ...], tuple[Array, Array]] = {}
        self.written: set[tuple[Any, ...]] = set()

    def stand_in(self, array: Array, *, written: bool) -> Array:
        """Return a contiguous copy of an array, which is copied back if it is written to."""
        key = (array.data.ptr, array.shape, array.strides)
        if key not in self.places:
            self.places[key] = contiguous(array), array
        if written:
            self.written.add(key)
        return self.places[key][0]

    def copy_back(self) -> None:
        """Copy what was written to."""
        for key in self.written:
            stand_in, array = self.places[key]
            copy(stand_in, out=array)
