"""4-32-16-4, tanh, learns the exponential of 2x2 matrices from 10,000 of them, every step all rows, Adam.

The case that SimpleChains.jl made known. All rows start from the same weights and are held to the same ones, which is
more than the same loss.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from benchmarks.case import Case, Settings
from benchmarks.problem import Host, Layer, Problem, make
from benchmarks.training import Entry, gpu_entries, training_case
from benchmarks.workers import Workers

LAYERS = Layer(4, 32, "tanh"), Layer(32, 16, "tanh"), Layer(16, 4)
N_ROWS = 10_000
FLOP = 2 * N_ROWS * (2 * 4 * 32 + 3 * 32 * 16 + 3 * 16 * 4)  #: of a step's matrix products


def expm(matrices: Host) -> Host:
    """Return the exponentials of (n, 2, 2) matrices of moderate size: scaled, by its series, squared."""
    scaled, power = matrices / 64, np.broadcast_to(np.eye(2), matrices.shape)
    result = power.copy()
    for order in range(1, 12):
        power = power @ scaled / order
        result += power
    for _ in range(6):
        result = result @ result
    return result


def problem(steps: int) -> Problem:
    """Return the run."""
    x = np.random.default_rng(0).normal(size=(N_ROWS, 2, 2)) / 2
    t = expm(x)
    return make(
        LAYERS,
        x.reshape(-1, 4),
        t.reshape(-1, 4),
        loss="mean_squared_error",
        optimizer="adam",
        lr=1e-3,
        steps=steps,
    )


def cases(settings: Settings, workers: Workers) -> Iterator[Case]:
    """Yield the run."""
    entries = [
        Entry("C, one thread", "limits", "regression", {"threads": 1}),
        *([Entry("C, two threads", "limits", "regression", {"threads": 2})] if settings.threads > 1 else []),
        Entry("JAX fori_loop", "jax", "scan"),
        Entry("JAX, a call a step", "jax", "step"),
        Entry("PyTorch Module", "torch", "module"),
        Entry("PyTorch Module, compiled", "torch", "module", {"compiled": True}),
        Entry("TensorFlow function, XLA", "tensorflow", "function"),
        Entry("NumPy by hand", "numpy", "train", share=0.5),
        Entry("scikit-learn fit", "sklearn", "fit", share=0.2),
        Entry("Keras fit", "tensorflow", "keras", share=0.2),
    ]
    steps = 50 if settings.quick else 200
    run = problem(10 * steps if settings.gpu else steps)
    yield training_case(
        settings,
        workers,
        run,
        gpu_entries(run) if settings.gpu else entries,
        name="regression",
        title=f"regression: 4-32-16-4 tanh, {N_ROWS:,} rows a step, Adam, float32; {FLOP / 1e6:.0f} MFLOP a step",
        unit="ms/epoch",
        scale=1e3,
        composed_share=0.2,
        checked_steps=20,
        rounds=9,
    )
