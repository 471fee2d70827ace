"""The most resident memory that whole processes need."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import nnkernels as nnk
from benchmarks.case import Case, Row, Settings
from benchmarks.cases.first_call import IMPORTS
from benchmarks.peers import missing
from benchmarks.processes import MNIST, SINE, peak_megabytes
from benchmarks.workers import Workers


def cases(settings: Settings, _: Workers) -> Iterator[Case]:
    """Yield the case."""
    rows_of_data = 5_000 if settings.quick else 60_000
    usable = [status.device for status in nnk.devices() if status.available]
    rows = {}
    for device in settings.devices or sorted(usable, key=lambda name: name != "numpy"):
        rows[f"nnkernels {device}, sine"] = _row(SINE.format(device=device, steps=2_000))
        rows[f"nnkernels {device}, mnist-softmax"] = _row(MNIST.format(device=device, rows=rows_of_data))
    for name, module in IMPORTS.items():
        if settings.peers is None or name in settings.peers:
            reason = missing(name, "scikit-learn" if name == "sklearn" else None)
            rows[f"import {module}"] = Row("peer", None, note=reason) if reason else _row(f"import {module}", "peer")
    data = rows_of_data * 784 * 4 / 2**20
    yield Case(
        name="memory",
        title=f"memory: peak of whole processes; the data of mnist-softmax are {data:,.0f} MB",
        unit="MB",
        scale=1,
        rows=rows,
        rounds=settings.rounds or (1 if settings.quick else 3),
    )


def _row(code: str, kind: str = "own") -> Row:
    measure: Callable[[], float] = lambda: peak_megabytes(code)  # noqa: E731 (a Row takes what measures)
    return Row(kind, measure)
