"""The cases: what is run, how it is known to be right, and which rows it has.

A case is a function of `quick` that returns a `Case`. Its first rows are ours; `peer` names the row of the ratios.
"""

from __future__ import annotations

import atexit
import compileall
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import nnkernels as nnk
from nnkernels._tables.reading import read_table


class Case(NamedTuple):
    """Rows to be timed against each other."""

    title: str
    unit: str  #: of a row's figure
    scale: float  #: seconds of a run times this is the figure
    peer: str
    rows: Mapping[str, Callable[[], Any]]
    rounds: int


def importing(quick: bool) -> Case:
    """Whole processes that import: the package against NumPy alone."""

    def process(code: str) -> Callable[[], Any]:
        return lambda: subprocess.run([sys.executable, "-c", code], check=True)

    compileall.compile_dir(Path(nnk.__file__).parent, quiet=1)  # as pip does when it installs
    rows = {
        "import nnkernels": process("import nnkernels"),
        "import numpy": process("import numpy"),
        "import numba": process("import numba"),
    }
    return Case("import, whole process", "ms", 1e3, "import numpy", rows, 5 if quick else 31)


def sine(quick: bool) -> Case:
    """1-10-1, sigmoid, no biases, batch 1, plain SGD: nanoseconds a step."""
    steps = 2_000 if quick else 50_000
    x = np.linspace(0, 1, 500, dtype=np.float32)
    y = np.sin(x)
    start = nnk.Sequential(*_sine_layers(), device="numpy", rng=0)
    rows: dict[str, Callable[[], Any]] = {}
    trained: dict[str, Any] = {}
    for status in nnk.devices():
        if status.available:
            rows[f"nnkernels {status.device}, composed"] = _ours(status.device, x, y, steps, trained)
    order = np.empty((steps, 1), np.int64)
    start.device.kernels.draw_indices(start.key.for_fit(0), 0, 0, sampling="replacement", n_rows=len(x), out=order)
    rows["NumPy by hand"] = lambda: trained.update(hand=_by_hand(start, x, y, order[:, 0]))
    for run in rows.values():
        run()
    for name, weights in trained.items():
        for got, expected in zip(weights, trained["hand"], strict=True):
            np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-4, err_msg=name)
    return Case(f"sine, {steps:,} steps", "ns/step", 1e9 / steps, "NumPy by hand", rows, 3 if quick else 9)


def _sine_layers() -> tuple[nnk.Dense, ...]:
    start = {"bias": False, "weight_initializer": nnk.Uniform(-1, 1)}
    return nnk.Dense(1, 10, activation="sigmoid", **start), nnk.Dense(10, 1, **start)


def _ours(device: str, x: Any, y: Any, steps: int, trained: dict[str, Any]) -> Callable[[], None]:
    def run() -> None:
        net = nnk.Sequential(*_sine_layers(), device=device, rng=0)
        net.fit(
            x,
            y,
            loss="half_squared_error",
            optimizer=nnk.SGD(0.01),
            batch_size=1,
            steps=steps,
            sampling="replacement",
        )
        trained[device] = list(net.parameters.to_host().values())

    return run


def _by_hand(start: nnk.Sequential, x: Any, y: Any, order: Any) -> list[Any]:
    """What a careful NumPy user writes, given the order of the rows."""
    w1, w2 = start.parameters.to_host().values()
    w1, w2 = w1[0], w2[:, 0]
    rate = np.float32(0.01)
    a, slope = np.empty_like(w1), np.empty_like(w1)
    for row in order:
        np.multiply(w1, -x[row], out=a)
        np.exp(a, out=a)
        a += 1
        np.reciprocal(a, out=a)
        np.subtract(1, a, out=slope)
        slope *= a
        error = (a @ w2 - y[row]) * rate
        slope *= w2
        slope *= error * x[row]
        w1 -= slope
        a *= error
        w2 -= a
    return [w1[None, :], w2[:, None]]


def reading(quick: bool) -> Case:
    """A CSV file of numbers, 20 columns: what `nnkernels train` reads it with, against NumPy's own reader."""
    n_rows = 20_000 if quick else 1_000_000
    folder = Path(tempfile.mkdtemp(prefix="nnkernels-benchmark-"))
    atexit.register(shutil.rmtree, folder)
    values = np.random.default_rng(0).normal(size=(n_rows, 20)).round(6)
    header = ",".join(f"x{i}" for i in range(20))
    clean, missing = folder / "clean.csv", folder / "missing.csv"
    np.savetxt(clean, values, "%.6f", ",", header=header, comments="")
    lines = clean.read_text().splitlines()
    lines[1 + n_rows // 2] = lines[1 + n_rows // 2].replace(lines[1 + n_rows // 2].split(",")[3], "", 1)
    missing.write_text("\n".join(lines) + "\n")
    np.testing.assert_array_equal(np.column_stack(list(read_table(clean).columns.values())), values)
    assert sum(np.isnan(column).sum() for column in read_table(missing).columns.values()) == 1
    rows = {
        "nnkernels": lambda: read_table(clean),
        "nnkernels, a cell missing": lambda: read_table(missing),
        "numpy.loadtxt": lambda: np.loadtxt(clean, delimiter=",", skiprows=1),
    }
    return Case(f"CSV, {n_rows:,} rows of 20 numbers", "s", 1, "numpy.loadtxt", rows, 3 if quick else 5)


CASES: dict[str, Callable[[bool], Case]] = {"import": importing, "sine": sine, "csv": reading}
