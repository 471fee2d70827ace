"""From a program to a function that can be called: LLVM's optimizer, object files kept on disk, ctypes.

A program's machine code is kept in the user's cache folder and loaded without Numba, whose import alone would take
longer than many a training run.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import threading
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite
import llvmlite.binding as llvm

from nnkernels._io.model_file import write_atomically
from nnkernels.backends.numba.compile import cache_folder, warn_uncached
from nnkernels.backends.numba.language import Target, translate

LIBRARY = tuple(
    Path(__file__).parent.joinpath("programs", name)
    for name in ("mathematics.py", "order.py", "pieces.py", "arrays.py", "kernels.py")
)
_HERE = Path(__file__).parent
_lock = threading.Lock()


@cache
def _machine() -> llvm.TargetMachine:
    """Code generation for this very processor."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    features = llvm.get_host_cpu_features().flatten()
    return _target().create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=features, opt=3, reloc="pic", jit=True
    )


def _target() -> llvm.Target:
    return llvm.Target.from_triple(llvm.get_process_triple())


@cache
def vector_bytes() -> int:
    """Width of this processor's vector registers."""
    features = llvm.get_host_cpu_features()
    return 64 if features.get("avx512f") else 32 if features.get("avx2") else 16


@cache
def _compiler_key() -> bytes:
    """What machine code depends on beside the program: the compiler's own sources, LLVM, the processor."""
    digest = hashlib.sha256()
    for path in (*(_HERE / name for name in ("language.py", "intrinsics.py", "machine.py")), *LIBRARY):
        digest.update(path.read_bytes())
    for part in (llvmlite.__version__, llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()):
        digest.update(part.encode())
    return digest.digest()


class Program:
    """A compiled program.

    Parameters
    ----------
    source : str
        In the language of `language.py`.
    target : Target
        Real type and lanes.
    """

    def __init__(self, source: str, target: Target) -> None:
        key = hashlib.sha256(_compiler_key() + repr(tuple(target)).encode() + source.encode()).hexdigest()
        path = cache_folder() / "programs" / f"{key}.o"
        code = _read(path)
        self.cached = code is not None
        if code is None:
            code = compile_object(source, target)
            _write(path, code)
        with _lock:  # one MCJIT a program: it owns the code for as long as the program lives
            self._engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), _fresh_machine())
            self._engine.add_object_file(llvm.ObjectFileRef.from_data(code))
            self._engine.finalize_object()

    def function(self, name: str, *argtypes: Any, result: Any = None) -> Any:
        """Return an exported function, callable without the GIL."""
        call = ctypes.CFUNCTYPE(result, *argtypes)(self._engine.get_function_address(name))
        call.program = self  # type: ignore[attr-defined]  # its code is there as long as somebody can call it
        return call


def _fresh_machine() -> llvm.TargetMachine:
    _machine()  # initializes LLVM
    return _target().create_target_machine(opt=3, jit=True)


def optimized(source: str, target: Target) -> llvm.ModuleRef:
    """Return a program's optimized LLVM module."""
    machine = _machine()
    module = llvm.parse_assembly(translate(source, target, LIBRARY))
    module.triple = llvm.get_process_triple()
    module.data_layout = str(machine.target_data)
    options = llvm.create_pipeline_tuning_options(speed_level=3)
    options.loop_vectorization = options.slp_vectorization = False  # the programs are vectors already
    builder = llvm.create_pass_builder(machine, options)
    builder.getModulePassManager().run(module, builder)
    return module


def compile_object(source: str, target: Target) -> bytes:
    """Return a program's object file."""
    with _lock:
        code: bytes = _machine().emit_object(optimized(source, target))
    return code


def assembly(source: str, target: Target) -> str:
    """Return a program's machine code as text, to be looked at."""
    with _lock:
        text: str = _machine().emit_assembly(optimized(source, target))
    return text


if hasattr(os, "register_at_fork"):  # a fork waits for a program that is being compiled: its child could not go on
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)


# ---- files -----------------------------------------------------------------------------------------------------------


def _read(path: Path) -> bytes | None:
    """Return the code in a cache file; None if there is none, or one that is damaged."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    digest, code = data[:32], data[32:]
    return code if hashlib.sha256(code).digest() == digest else None


def _write(path: Path, code: bytes) -> None:
    """Write a cache file, with the digest by which damage is noticed."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomically(path, hashlib.sha256(code).digest() + code, private=True)
    except OSError as error:
        warn_uncached(str(error))
