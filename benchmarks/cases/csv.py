"""A CSV file of numbers, 20 columns: what `nnkernels train` reads it with, against NumPy's own reader."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.case import Case, Row, Settings
from benchmarks.timing import timed
from benchmarks.workers import Workers
from nnkernels._tables.reading import read_table


def cases(settings: Settings, _: Workers) -> Iterator[Case]:
    """Yield the case."""
    n_rows = 20_000 if settings.quick else 1_000_000
    with tempfile.TemporaryDirectory(prefix="nnkernels-benchmark-") as folder:
        clean, missing = _write(Path(folder), n_rows)
        rows = {
            "nnkernels": Row("own", timed(lambda: read_table(clean))),
            "nnkernels, a cell missing": Row("own", timed(lambda: read_table(missing))),
            "numpy.loadtxt": Row("peer", timed(lambda: np.loadtxt(clean, delimiter=",", skiprows=1))),
        }
        rounds = settings.rounds or (3 if settings.quick else 5)
        yield Case("csv", f"CSV, {n_rows:,} rows of 20 numbers", "s", 1, rows, rounds)


def _write(folder: Path, n_rows: int) -> tuple[Path, Path]:
    """Write the file, and one with an empty cell; check that both are read right."""
    values = np.random.default_rng(0).normal(size=(n_rows, 20)).round(6)
    clean, missing = folder / "clean.csv", folder / "missing.csv"
    np.savetxt(clean, values, "%.6f", ",", header=",".join(f"x{i}" for i in range(20)), comments="")
    lines = clean.read_text().splitlines()
    cells = lines[1 + n_rows // 2].split(",")
    lines[1 + n_rows // 2] = ",".join([*cells[:3], "", *cells[4:]])
    missing.write_text("\n".join(lines) + "\n")
    np.testing.assert_array_equal(np.column_stack(list(read_table(clean).columns.values())), values)
    assert sum(np.isnan(column).sum() for column in read_table(missing).columns.values()) == 1
    return clean, missing
