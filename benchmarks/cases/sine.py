"""1-10-1, sigmoid, no biases, batch 1, plain SGD, on 500 points of a sine: the smallest network, the shortest step."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

import nnkernels as nnk
from benchmarks.case import Case, Settings
from benchmarks.problem import Layer, Problem, make
from benchmarks.training import HUNDREDTH, THOUSANDTH, Entry, gpu_entries, tiny_entries, training_case
from benchmarks.workers import Workers

LAYERS = Layer(1, 10, "sigmoid", bias=False), Layer(10, 1, bias=False)


def problem(steps: int, dtype: str = "float32", drawn: int | None = None) -> Problem:
    """Return the run."""
    x = np.linspace(0, 1, 500)[:, None]
    return make(
        LAYERS,
        x,
        np.sin(x),
        loss="half_squared_error",
        lr=0.01,
        batch=1,
        steps=steps,
        sampling="replacement",
        dtype=dtype,
        drawn=drawn,
        initializer=nnk.Uniform(-1, 1),
    )


def cases(settings: Settings, workers: Workers) -> Iterator[Case]:
    """Yield the run in float32 and in float64."""
    if settings.gpu:
        yield _gpu_case(settings, workers)
        return
    steps = 200_000 if settings.quick else 1_000_000
    entries = tiny_entries("sine", "JAX scan", "sine", sklearn_unchecked="it always has biases")
    # Keras keeps the learning rate in float32, so that it is no row of a float64 run
    keras = Entry("Keras fit", "tensorflow", "keras", share=THOUSANDTH / 5)
    for dtype in ("float32", "float64"):
        yield training_case(
            settings,
            workers,
            problem(steps, dtype),
            [*entries, keras] if dtype == "float32" else entries,
            name="sine" if dtype == "float32" else "sine, float64",
            title=f"sine: 1-10-1, batch 1, SGD, {dtype}; we and C draw the order of rows, others are given it",
            unit="ns/step",
            scale=1e9,
            composed_share=HUNDREDTH,
            checked_steps=200,
            rounds=9,
        )


def _gpu_case(settings: Settings, workers: Workers) -> Case:
    run = problem(100_000 if settings.quick else 500_000, drawn=30_000)
    return training_case(
        settings,
        workers,
        run,
        gpu_entries(run),
        name="sine",
        title="sine: 1-10-1, batch 1, SGD, float32; we draw the order of rows, others are given it",
        unit="ns/step",
        scale=1e9,
        composed_share=HUNDREDTH,
        checked_steps=200,
    )
