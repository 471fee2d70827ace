"""1-1-1, sigmoid both, with biases, every step all 12 rows: a whole network in one register."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

import nnkernels as nnk
from benchmarks.case import Case, Settings
from benchmarks.problem import Layer, Problem, make
from benchmarks.training import HUNDREDTH, THOUSANDTH, Entry, gpu_entries, tiny_entries, training_case
from benchmarks.workers import Workers

LAYERS = Layer(1, 1, "sigmoid"), Layer(1, 1, "sigmoid")


def problem(steps: int) -> Problem:
    """Return the run: seven zeros and five ones are to come out as they went in."""
    x = np.repeat([0.0, 1.0], (7, 5))[:, None]
    return make(
        LAYERS,
        x,
        x,
        loss="half_squared_error",
        reduction="sum",
        lr=0.05,
        steps=steps,
        initializer=nnk.Uniform(-1, 1),
    )


def cases(settings: Settings, workers: Workers) -> Iterator[Case]:
    """Yield the run."""
    steps = 200_000 if settings.quick else 1_000_000
    run = problem(steps)
    entries = [
        *tiny_entries("autoencoder", "JAX fori_loop", "train"),
        Entry("Keras fit", "tensorflow", "keras", share=THOUSANDTH / 10),
    ]
    yield training_case(
        settings,
        workers,
        run,
        gpu_entries(run) if settings.gpu else entries,
        name="autoencoder",
        title="autoencoder: 1-1-1 with biases, all 12 rows a step, SGD, float32",
        unit="ns/step",
        scale=1e9,
        composed_share=HUNDREDTH,
        checked_steps=200,
        rounds=9,
    )
