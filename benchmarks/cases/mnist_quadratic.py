"""784-30-10, all sigmoid, half squared error, batches of 10: the network of Nielsen's book."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.case import Case, Settings
from benchmarks.cases import mnist_softmax
from benchmarks.problem import Layer, Problem, make
from benchmarks.training import gpu_entries, training_case
from benchmarks.workers import Workers

LAYERS = Layer(784, 30, "sigmoid"), Layer(30, 10, "sigmoid")
BATCH = 10


def problem(n_rows: int, epochs: int = mnist_softmax.EPOCHS) -> Problem:
    """Return the run."""
    x, t = mnist_softmax.data(n_rows)
    return make(LAYERS, x, t, loss="half_squared_error", lr=3.0, batch=BATCH, steps=epochs * n_rows // BATCH)


def gpu_problem(steps: int) -> Problem:
    """Return a run on a GPU."""
    x, t = mnist_softmax.data(20_480)
    return make(LAYERS, x, t, loss="half_squared_error", lr=3.0, batch=BATCH, steps=steps)


def cases(settings: Settings, workers: Workers) -> Iterator[Case]:
    """Yield the run."""
    speeds: dict[str, Any] = {"unit": "thousand samples/s", "scale": 1e3, "per_step": BATCH, "more_is_better": True}
    if settings.gpu:
        run = gpu_problem(2_000 if settings.quick else 20_000)
        entries, speeds = gpu_entries(run), {"unit": "us/step", "scale": 1e6}
    else:
        run = problem(5_120 if settings.quick else 20_480)
        entries = mnist_softmax.entries(settings, BATCH)
    yield training_case(
        settings,
        workers,
        run,
        entries,
        name="mnist-quadratic",
        title="mnist-quadratic: 784-30-10, batch 10, SGD, float32; we draw the order of rows, others are given it",
        **speeds,
        checked_steps=30,
        rounds=5,
    )
