"""Real CuPy arrays over host memory, and the package's real launch code over the emulator: no driver needed.

What stands in for CUDA here: the allocator, `cupy.RawModule`, and the few functions of the runtime that move bytes and
wait. Everything else of CuPy stays real, so an operation that needs a device raises, as it must: a test cannot pass by
quietly computing on the host.
"""

import ctypes
import os
import threading
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace

import cupy
import numpy as np
import pytest
from cupy.cuda import memory as cupy_memory
from cupy.cuda import runtime

from emulator.compiler import Library
from nnkernels.backends.cupy import cublas, faults, launch, probe, training

MARK = 0xA5

load_cublas = cublas.load  #: what it is where no GPU is emulated
_noted = set()


def note_stand_in():
    """Note that the running test owes what it reaches to a stand-in for cuBLAS or for captured graphs."""
    path, test = os.environ.get("NNKERNELS_STAND_INS"), os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" ")[0]
    if path and test not in _noted:
        _noted.add(test)
        with Path(path).open("a") as file:
            file.write(test + "\n")


class Emulator:
    """The pretended GPU: how it schedules threads, and what was launched on it.

    Attributes
    ----------
    schedule, seed : str, int
        Of the threads of every launch.
    launched : list of str
        The kernels, in order.
    edit : callable
        Changes a source before it is compiled; for the mutation test.
    options : tuple of str
        More options for the compiler, such as sanitizers.
    free, kept, times_freed : int
        Bytes that can be allocated, bytes that CuPy's pool keeps, and how often it was told to give them back.
    guard : int
        Bytes before and behind every array, which nothing may write to.
    """

    def __init__(self):
        self.schedule, self.seed = "forward", 0
        self.launched, self.edit, self.options = [], lambda source: source, ()
        self.guard, self.guarded = 64, []
        self.recording, self.refuses_capture = None, False
        self.free, self.kept, self.times_freed = 1 << 40, 0, 0

    # ---- memory

    def allocate(self, nbytes):
        """Return host memory as the GPU's: 0xff in every byte, so that a float that nobody wrote is NaN."""
        if nbytes > self.free:
            raise cupy.cuda.memory.OutOfMemoryError(nbytes, 0, 0)
        block = np.full(nbytes + 2 * self.guard, 0xFF, np.uint8)
        block[: self.guard] = block[self.guard + nbytes :] = MARK
        self.guarded.append((block, nbytes))
        self.guarded = self.guarded[-4096:]
        memory = cupy_memory.UnownedMemory(block.ctypes.data, block.nbytes, block, device_id=0)
        return cupy_memory.MemoryPointer(memory, self.guard)

    def free_all_blocks(self):
        """Stand in for the pool's method: what it keeps can be allocated again."""
        self.times_freed += 1
        self.free, self.kept = self.free + self.kept, 0

    def check_guards(self):
        """Raise if a kernel has written beside an array."""
        for block, nbytes in self.guarded:
            guard = (len(block) - nbytes) // 2
            if not ((block[:guard] == MARK).all() and (block[guard + nbytes :] == MARK).all()):
                raise AssertionError(
                    f"a kernel wrote beside an array of {nbytes} bytes; launched: {self.launched[-5:]}"
                )

    # ---- launches

    def raw_module(self, code, options, backend):
        """Stand in for `cupy.RawModule`."""
        assert backend == "nvrtc"
        library = Library(self.edit(code), (*options, *self.options))
        return SimpleNamespace(get_function=lambda name: self._function(library, name))

    def _function(self, library, name):
        signature = library.signature(name)

        def function(grid, block, arguments, shared_mem=0):
            assert len(arguments) == len(signature), f"{name}: {len(arguments)} arguments"
            cells = [_cell(name, *pair) for pair in zip(arguments, signature, strict=True)]
            self.do(lambda: self._launch(library, name, grid, block, cells, shared_mem))

        return function

    def _launch(self, library, name, grid, block, cells, shared):
        self.launched.append(name)
        seed = self.seed + len(self.launched)
        library.launch(name, grid, block, cells, shared=shared, schedule=self.schedule, seed=seed)

    # ---- capture

    def do(self, work):
        """Do some work of the stream, or record it while a graph is captured."""
        if self.recording is None:
            work()
        else:
            self.recording.append(work)

    def copy(self, to, source, nbytes, kind, stream):
        """Stand in for cudaMemcpyAsync."""
        self.do(lambda: ctypes.memmove(to, source, nbytes))


def _cell(name, value, code):
    """Return a launch argument as ctypes, if it is what the compiler sees in the kernel's signature."""
    if isinstance(value, cupy.ndarray):
        assert code == f"*{value.dtype.str[1:]}", f"{name} takes {code}, and was given an array of {value.dtype}"
        return ctypes.c_void_p(value.data.ptr if value.size else 0)
    if code.startswith("*"):
        assert value == 0, f"{name} takes {code}, and was given {value!r}"
        return ctypes.c_void_p(0)
    assert code == value.dtype.str[1:], f"{name} takes {code}, and was given {value.dtype}"
    return (ctypes.c_char * value.nbytes).from_buffer_copy(value.tobytes())


class Stream:
    """Stand in for `cupy.cuda.Stream`: it can be captured."""

    def __init__(self, emulator):
        self.emulator, self.ptr = emulator, 1

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def synchronize(self):
        assert self.emulator.recording is None, "a capture may not be waited for"

    def begin_capture(self):
        if self.emulator.refuses_capture:
            raise runtime.CUDARuntimeError(1)  # cudaErrorInvalidValue
        note_stand_in()
        self.emulator.recording = []

    def end_capture(self):
        work, self.emulator.recording = self.emulator.recording, None
        return SimpleNamespace(launch=lambda: [step() for step in work])


@contextmanager
def emulated(**settings):
    """Let CUDA be the emulator; yields it. `settings` are its attributes."""
    emulator = Emulator()
    vars(emulator).update(settings)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cupy, "RawModule", emulator.raw_module)
        patch.setattr(cupy.cuda, "Device", lambda index: nullcontext())
        patch.setattr(cupy.cuda, "get_current_stream", lambda: Stream(emulator))
        patch.setattr(cupy.cuda, "Stream", lambda non_blocking: Stream(emulator))
        for name, stand_in in {
            "getDevice": lambda: 0,
            "memcpyAsync": emulator.copy,
            "streamSynchronize": lambda stream: Stream(emulator).synchronize(),
            "memGetInfo": lambda: (emulator.free, 1 << 40),
        }.items():
            patch.setattr(runtime, name, stand_in)
        patch.setattr(cupy, "get_default_memory_pool", lambda: emulator)
        patch.setattr(cublas, "load", lambda: None)
        for module, name in ((cublas, "_threads"), (faults, "_recent"), (training, "_threads")):
            patch.setattr(module, name, threading.local())  # handles, names and streams are one GPU's
        for cached in (launch.library, launch._kernel):
            cached.cache_clear()
        allocator = cupy.cuda.get_allocator()
        cupy.cuda.set_allocator(emulator.allocate)
        try:
            yield emulator
            emulator.check_guards()
        finally:
            cupy.cuda.set_allocator(allocator)
            for cached in (launch.library, launch._kernel):
                cached.cache_clear()


@contextmanager
def pretended(**settings):
    """Let CUDA be the emulator, and let the package find a GPU; yields the emulator."""
    with emulated(**settings) as emulator, pytest.MonkeyPatch.context() as patch:
        patch.setattr(probe, "check_cuda", lambda: None)
        patch.setattr(probe, "count_devices", lambda: 1)
        yield emulator
