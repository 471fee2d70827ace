"""1024-1024-1024-10, relu, batch 1024, SGD: large enough for BLAS, whose share of the time is what counts here.

On a GPU 4096-4096-4096-10, batch 8192, in tf32 and in float32.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from benchmarks.case import Case, Settings
from benchmarks.problem import Host, Layer, Problem, make
from benchmarks.training import Entry, gpu_entries, training_case
from benchmarks.workers import Workers

LAYERS = Layer(1024, 1024, "relu"), Layer(1024, 1024, "relu"), Layer(1024, 10, "softmax")
GPU_LAYERS = Layer(4096, 4096, "relu"), Layer(4096, 4096, "relu"), Layer(4096, 10, "softmax")
BATCH, BATCHES = 1024, 4
STEPS = 16  #: what is done once a run, as checking data and asking for memory, is a small share of it
GPU_BATCH, GPU_BATCHES = 8192, 2


def gflop(layers: tuple[Layer, ...], batch: int) -> float:
    """Return the size of a step's matrix products."""
    return 2e-9 * batch * sum(layer.n_in * layer.n_out * (2 + (number > 0)) for number, layer in enumerate(layers))


GFLOP = gflop(LAYERS, BATCH)


def problem(steps: int) -> Problem:
    """Return the run."""
    x, t = _data(BATCH * BATCHES, 1024)
    return make(LAYERS, x, t, loss="categorical_cross_entropy", lr=0.01, batch=BATCH, steps=steps)


def gpu_problem(steps: int, precision: str) -> Problem:
    """Return the run on a GPU."""
    x, t = _data(GPU_BATCH * GPU_BATCHES, 4096)
    loss = "categorical_cross_entropy"
    return make(GPU_LAYERS, x, t, loss=loss, lr=0.01, batch=GPU_BATCH, steps=steps, precision=precision)


def _data(n_rows: int, n_in: int) -> tuple[Host, Host]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n_rows, n_in), np.float32)
    return x, np.eye(10, dtype=np.float32)[rng.integers(0, 10, n_rows)]


def cases(settings: Settings, workers: Workers) -> Iterator[Case]:
    """Yield the run."""
    if settings.gpu:
        yield from _gpu_cases(settings, workers)
        return
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


def _gpu_cases(settings: Settings, workers: Workers) -> Iterator[Case]:
    size = gflop(GPU_LAYERS, GPU_BATCH)
    for precision in ("tf32",) if settings.quick else ("tf32", "float32"):
        run = gpu_problem(20 if precision == "tf32" else 6, precision)
        limits = [Entry("same matrix products, cuBLAS", "cuda limits", "products", unchecked="it does only those")]
        yield training_case(
            settings,
            workers,
            run,
            [*limits, *gpu_entries(run, compiled=precision == "tf32")],
            name=f"wide, {precision}",
            title=f"wide: 4096-4096-4096-10 relu, batch 8192, SGD, {precision}; {size:,.0f} GFLOP of products a step",
            unit="ms/step",
            scale=1e3,
            checked_steps=1,
            rounds=5,
        )
