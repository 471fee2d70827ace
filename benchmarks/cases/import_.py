"""Whole processes that import: the package against NumPy alone."""

from __future__ import annotations

import compileall
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nnkernels as nnk
from benchmarks.case import Case, Row, Settings
from benchmarks.timing import timed
from benchmarks.workers import Workers


def cases(settings: Settings, _: Workers) -> Iterator[Case]:
    """Yield the case."""
    compileall.compile_dir(Path(nnk.__file__).parent, quiet=1)  # as pip does when it installs

    def row(name: str) -> Row:
        command = [sys.executable, "-c", f"import {name}"]
        return Row("own" if name == "nnkernels" else "peer", timed(lambda: subprocess.run(command, check=True)))

    rows = {f"import {name}": row(name) for name in ("nnkernels", "numpy", "numba")}
    rounds = settings.rounds or (5 if settings.quick else 31)
    yield Case("import", "import, whole process", "ms", 1e3, rows, rounds)
