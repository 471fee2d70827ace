"""A stand-in for cuBLAS: the functions that the package calls through ctypes, by NumPy on host memory.

It is told everything by position, as the C functions are, in column-major order, and takes nothing for granted: the
types that ctypes would pass, leading dimensions, that a stream set takes the workspace away, that C is not read.
"""

import ctypes

import numpy as np

from emulator.host import note_stand_in

OK, NOT_INITIALIZED, INVALID_VALUE = 0, 1, 7
FLOAT32, TF32 = 0, 3  #: math modes


class Cublas:
    """The library, as `ctypes.CDLL` shows it.

    Parameters
    ----------
    emulator : Emulator
        The GPU; products are its stream's work.

    Attributes
    ----------
    calls : list of str
        The functions that were called, in order.
    handles : dict
        What each handle has: stream, workspace and math mode.
    fails : dict
        The statuses that functions return instead of doing something.
    """

    def __init__(self, emulator):
        self.emulator = emulator
        self.calls, self.handles, self.fails = [], {}, {}

    def __getitem__(self, name):
        function = getattr(self, name)

        def call(*arguments):
            note_stand_in()
            self.calls.append(name)
            return self.fails.get(name) or function(*arguments)

        return call

    # ---- handles

    def cublasCreate_v2(self, out):
        pointer = out._obj
        assert type(pointer) is ctypes.c_void_p
        pointer.value = self.calls.count("cublasCreate_v2")
        self.handles[pointer.value] = {"stream": 0, "workspace": None, "mode": FLOAT32}
        return OK

    def cublasDestroy_v2(self, handle):
        return OK if self.handles.pop(handle.value, None) else NOT_INITIALIZED

    def cublasSetStream_v2(self, handle, stream):
        assert type(stream) is ctypes.c_void_p
        return self._set(handle, stream=stream.value or 0, workspace=None)

    def cublasSetWorkspace_v2(self, handle, pointer, size):
        assert (type(pointer), type(size)) == (ctypes.c_void_p, ctypes.c_size_t)
        return self._set(handle, workspace=(pointer.value, size.value))

    def cublasSetMathMode(self, handle, mode):
        return self._set(handle, mode=mode) if mode in (FLOAT32, TF32) else INVALID_VALUE

    def _set(self, handle, **what):
        if handle.value not in self.handles:
            return NOT_INITIALIZED
        self.handles[handle.value].update(what)
        return OK

    # ---- products

    def cublasSgemm_v2(self, *arguments):
        return self._one(np.float32, ctypes.c_float, *arguments)

    def cublasDgemm_v2(self, *arguments):
        return self._one(np.float64, ctypes.c_double, *arguments)

    def cublasSgemmStridedBatched(self, *arguments):
        return self._many(np.float32, ctypes.c_float, *arguments)

    def cublasDgemmStridedBatched(self, *arguments):
        return self._many(np.float64, ctypes.c_double, *arguments)

    def _one(self, dtype, number, *arguments):
        *head, alpha, a, lda, b, ldb, beta, c, ldc = arguments
        step = ctypes.c_longlong(0)
        return self._many(dtype, number, *head, alpha, a, lda, step, b, ldb, step, beta, c, ldc, step, 1)

    def _many(self, dtype, number, *arguments):
        handle, ta, tb, m, n, k, alpha, a, lda, a_step, b, ldb, b_step, beta, c, ldc, c_step, count = arguments
        assert all(type(value) is int for value in (ta, tb, m, n, k, lda, ldb, ldc, count))
        assert all(type(value) is ctypes.c_longlong for value in (a_step, b_step, c_step))
        assert all(type(value) is ctypes.c_void_p and value.value for value in (a, b, c))
        assert all(type(value._obj) is number for value in (alpha, beta))
        if handle.value not in self.handles:
            return NOT_INITIALIZED
        a_shape, b_shape = ((k, m) if ta else (m, k)), ((n, k) if tb else (k, n))
        if min(m, n, k, count) < 0 or lda < max(1, a_shape[0]) or ldb < max(1, b_shape[0]) or ldc < max(1, m):
            return INVALID_VALUE
        mode = self.handles[handle.value]["mode"] if dtype is np.float32 else FLOAT32
        one, zero = alpha._obj.value, beta._obj.value  # read now, as from the host

        def multiply():
            for i in range(count):
                first = _matrix(a.value, i * a_step.value, a_shape, lda, dtype)
                second = _matrix(b.value, i * b_step.value, b_shape, ldb, dtype)
                out = _matrix(c.value, i * c_step.value, (m, n), ldc, dtype)
                first, second = (_tf32(x) if mode == TF32 else x for x in (first, second))
                product = one * ((first.T if ta else first) @ (second.T if tb else second))
                out[...] = product + zero * out if zero else product

        self.emulator.do(multiply)
        return OK


def _matrix(address, step, shape, leading, dtype):
    """Return a column-major matrix in memory."""
    rows, columns = shape
    size = np.dtype(dtype).itemsize
    place = (ctypes.c_char * (size * (leading * (columns - 1) + rows))).from_address(address + step * size)
    return np.ndarray(shape, dtype, place, strides=(size, leading * size))


def _tf32(matrix):
    """Round to the 10 bits after the point that tensor cores keep."""
    bits = np.ascontiguousarray(matrix).view(np.uint32)
    return ((bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32)
