"""1024-1024-1024-10, relu, batch 1024, SGD: large enough for BLAS, whose share of the time is what counts here."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from benchmarks.case import Case, Settings
from benchmarks.problem import Layer, Problem, make
from benchmarks.training import Entry, training_case
from benchmarks.workers import Workers

LAYERS = Layer(1024, 1024, "relu"), Layer(1024, 1024, "relu"), Layer(1024, 10, "softmax")
BATCH, BATCHES = 1024, 4
STEPS = 16  #: what is done once a run, as checking data and asking for memory, is a small share of it
GFLOP = 2e-9 * BATCH * (2 * 1024 * 1024 + 3 * 1024 * 1024 + 3 * 1024 * 10)  #: of a step's matrix products


def problem(steps: int) -> Problem:
    """Return the run."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(BATCH * BATCHES, 1024)).astype(np.float32)
    t = np.eye(10, dtype=np.float32)[rng.integers(0, 10, len(x))]
    return make(LAYERS, x, t, loss="categorical_cross_entropy", lr=0.01, batch=BATCH, steps=steps)


def cases(settings: Settings, workers: Workers) -> Iterator[Case]:
    """Yield the run."""
    entries = [
        Entry("same matrix products, NumPy's BLAS", "limits", "products", unchecked="it does only those"),
        Entry("JAX scan", "jax", "scan"),
        Entry("JAX, a call a step", "jax", "step"),
        Entry("PyTorch by hand", "torch", "by_hand"),
        Entry("PyTorch by hand, compiled", "torch", "by_hand", {"compiled": True}),
        Entry("PyTorch Module", "torch", "module"),
        Entry("PyTorch Module, compiled", "torch", "module", {"compiled": True}),
        Entry("TensorFlow function, XLA", "tensorflow", "function"),
        Entry("Keras fit", "tensorflow", "keras"),
        Entry("NumPy by hand", "numpy", "train"),
        Entry("scikit-learn fit", "sklearn", "fit"),
    ]
    yield training_case(
        settings,
        workers,
        problem(2 if settings.quick else STEPS),
        entries,
        name="wide",
        title=f"wide: 1024-1024-1024-10 relu, batch 1024, SGD, float32; {GFLOP:.1f} GFLOP of matrix products a step",
        unit="GFLOP/s",
        scale=1.0,
        per_step=GFLOP,
        more_is_better=True,
        checked_steps=2,
        rounds=5,
    )
