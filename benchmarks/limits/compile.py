"""Compile a C file of this folder for this processor, into a temporary folder, and load it."""

from __future__ import annotations

import atexit
import ctypes
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from benchmarks.workers import Absent

FOLDER = Path(__file__).parent
# all of -ffast-math but what would let the compiler reorder sums, or drop NaN and infinity
FLAGS = ("-O3", "-march=native", "-std=gnu11", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math")


def compiler() -> str | None:
    """Return the C compiler: ``$CC``, else ``cc``; None if there is none."""
    return shutil.which(os.environ.get("CC", "cc"))


@cache
def _folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="nnkernels-limits-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@cache
def load(name: str) -> ctypes.CDLL:
    """Return the library made from ``<name>.c``.

    Raises
    ------
    Absent
        There is no compiler, or it does not take the file (it needs vector extensions of GCC or Clang).
    """
    program = compiler()
    if program is None:
        raise Absent("there is no C compiler (cc)")
    target = _folder() / f"{name}.so"
    command = [program, *FLAGS, "-shared", "-fPIC", "-pthread", str(FOLDER / f"{name}.c"), "-o", str(target), "-lm"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        lines = [line for line in result.stderr.splitlines() if "error" in line] or ["it failed"]
        raise Absent(f"{Path(program).name}: {lines[0].rpartition('error: ')[2]}"[:160])
    return ctypes.CDLL(str(target))
