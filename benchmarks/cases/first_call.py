"""Whole processes: 500,000 steps of the sine network, imports and compilation included, beside imports alone."""

from __future__ import annotations

import compileall
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import nnkernels as nnk
from benchmarks.case import Case, Row, Settings
from benchmarks.peers import missing
from benchmarks.processes import SINE, run
from benchmarks.timing import timed
from benchmarks.workers import Workers

IMPORTS = {
    "numpy": "numpy",
    "jax": "jax",
    "torch": "torch",
    "tensorflow": "tensorflow",
    "sklearn": "sklearn.neural_network",
}


def cases(settings: Settings, _: Workers) -> Iterator[Case]:
    """Yield the case."""
    compileall.compile_dir(Path(nnk.__file__).parent, quiet=1)  # as pip does when it installs
    steps = 20_000 if settings.quick else 500_000
    usable = [status.device for status in nnk.devices() if status.available]
    rows = {}
    with tempfile.TemporaryDirectory(prefix="nnkernels-first-call-") as folder:
        for device in settings.devices or tuple(name for name in ("numba", "cuda") if name in usable):
            code, warm = SINE.format(device=device, steps=steps), {"NNKERNELS_CACHE_DIR": str(Path(folder) / device)}
            rows[f"nnkernels {device}, warm"] = Row("own", timed(lambda code=code, warm=warm: run(code, warm)))
            rows[f"nnkernels {device}, cold"] = Row("own", timed(_cold(code)))
        for name, module in IMPORTS.items():
            if settings.peers is not None and name not in settings.peers:
                continue
            reason = missing(name, "scikit-learn" if name == "sklearn" else None)
            function = None if reason else timed(lambda module=module: run(f"import {module}"))
            rows[f"import {module}"] = Row("peer", function, note=reason or "")
        yield Case(
            name="first-call",
            title=f"first call: whole processes; ours import and train {steps:,} steps of 1-10-1, others import",
            unit="s",
            scale=1,
            rows=rows,
            rounds=settings.rounds or (1 if settings.quick else 7),
        )


def _cold(code: str) -> Callable[[], None]:
    """Return a run that has nothing compiled to start from."""

    def function() -> None:
        with tempfile.TemporaryDirectory(prefix="nnkernels-cold-") as folder:
            run(code, {"NNKERNELS_CACHE_DIR": folder})

    return function
