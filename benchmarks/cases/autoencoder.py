"""1-1-1, sigmoid both, with biases, every step all 12 rows: a whole network in one register."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

import nnkernels as nnk
from benchmarks.case import Case, Settings
from benchmarks.problem import Layer, Problem, make
from benchmarks.training import Entry, training_case
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
    hundredth, thousandth = 1e-2, 1e-3
    entries = [
        Entry("C", "limits", "autoencoder"),
        Entry("JAX fori_loop", "jax", "scan"),
        Entry("JAX fori_loop, one thread", "jax", "scan", threads=1),
        Entry("TensorFlow function, XLA", "tensorflow", "function"),
        Entry("NumPy by hand", "numpy", "train", share=hundredth),
        Entry("JAX, a call a step", "jax", "step", share=hundredth),
        Entry("PyTorch by hand", "torch", "by_hand", share=thousandth),
        Entry("PyTorch by hand, compiled", "torch", "by_hand", {"compiled": True}, share=thousandth),
        Entry("PyTorch Module", "torch", "module", share=thousandth),
        Entry("PyTorch Module, compiled", "torch", "module", {"compiled": True}, share=thousandth),
        Entry("scikit-learn fit", "sklearn", "fit", share=thousandth),
        Entry("Keras fit", "tensorflow", "keras", share=thousandth / 10),
    ]
    yield training_case(
        settings,
        workers,
        problem(steps),
        entries,
        name="autoencoder",
        title="autoencoder: 1-1-1 with biases, all 12 rows a step, SGD, float32",
        unit="ns/step",
        scale=1e9,
        composed_share=hundredth,
        checked_steps=200,
        rounds=9,
    )
