"""784-128-10, sigmoid hidden, softmax and cross-entropy, SGD, four batch sizes, on made-up data of MNIST's shape."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np

from benchmarks.case import Case, Settings
from benchmarks.problem import Host, Layer, Problem, make
from benchmarks.training import Entry, gpu_entries, training_case
from benchmarks.workers import Workers

LAYERS = Layer(784, 128, "sigmoid"), Layer(128, 10, "softmax")
EPOCHS = 5  #: what is done once a run, as checking and copying the data, is a small share of it


@cache
def data(n_rows: int) -> tuple[Host, Host]:
    """Return images of ten kinds, with a fifth of their pixels set, and one-hot classes."""
    rng = np.random.default_rng(0)
    kinds = rng.random((10, 784), np.float32) < 0.2
    labels = rng.integers(0, 10, n_rows)
    x = rng.random((n_rows, 784), np.float32)
    x *= kinds[labels] ^ (rng.random((n_rows, 784), np.float32) < 0.05)
    return x, np.eye(10, dtype=np.float32)[labels]


def problem(batch: int, n_rows: int, epochs: int = EPOCHS) -> Problem:
    """Return the run; every batch is whole."""
    n_rows -= n_rows % batch
    x, t = (array[:n_rows] for array in data(n_rows + -n_rows % 1024))
    return make(
        LAYERS,
        x,
        t,
        loss="categorical_cross_entropy",
        lr=0.1,
        batch=batch,
        steps=epochs * n_rows // batch,
    )


def gpu_problem(batch: int, steps: int) -> Problem:
    """Return a run on a GPU: more steps than there are order drawn for, in tf32 where the batch is large."""
    n_rows = 20_480 if batch < 1024 else 4 * batch
    large = {"precision": "tf32"} if batch >= 1024 else {}
    x, t = data(n_rows)
    loss = "categorical_cross_entropy"
    drawn = min(steps, 10_000_000 // batch)
    return make(LAYERS, x, t, loss=loss, lr=0.1, batch=batch, steps=steps, drawn=drawn, **large)


def entries(settings: Settings, batch: int) -> list[Entry]:
    """Return all rows but ours."""
    limits = [Entry("same matrix products, NumPy's BLAS", "limits", "products", unchecked="it does only those")]
    if batch <= 32:
        limits = [Entry("C, one thread", "limits", "mnist", {"threads": 1})]
        if settings.threads > 1:
            limits.append(Entry("C, two threads", "limits", "mnist", {"threads": 2}))
    small = min(1.0, batch / 128)
    # its threads wait in a loop: a run during which others need the processors takes a hundred times as long
    hand = max(0.1, min(0.5, small))
    return [
        *limits,
        Entry("JAX scan", "jax", "scan"),
        Entry("JAX scan, one thread", "jax", "scan", threads=1),
        Entry("TensorFlow function, XLA", "tensorflow", "function"),
        Entry("NumPy by hand", "numpy", "train", share=0.5),
        Entry("NumPy by hand, one thread", "numpy", "train", share=0.5, threads=1),
        Entry("JAX, a call a step", "jax", "step", share=0.2),
        Entry("PyTorch by hand", "torch", "by_hand", share=hand),
        Entry("PyTorch by hand, compiled", "torch", "by_hand", {"compiled": True}, share=hand),
        Entry("PyTorch Module", "torch", "module", share=max(0.1, small)),
        Entry("PyTorch Module, compiled", "torch", "module", {"compiled": True}, share=max(0.1, small)),
        Entry("scikit-learn fit", "sklearn", "fit", share=0.2),
        Entry("Keras fit", "tensorflow", "keras", share=max(0.02, 0.2 * small)),
    ]


def cases(settings: Settings, workers: Workers) -> Iterator[Case]:
    """Yield the run with batches of 10, 32, 128 and 1,024."""
    if settings.gpu:
        yield from _gpu_cases(settings, workers)
        return
    n_rows = 5_120 if settings.quick else 20_480
    for batch in (10, 128) if settings.quick else (10, 32, 128, 1024):
        yield training_case(
            settings,
            workers,
            problem(batch, n_rows),
            entries(settings, batch),
            name=f"mnist-softmax, batch {batch}",
            title=f"mnist-softmax: 784-128-10, batch {batch}, SGD, float32; we draw the order, others are given it",
            unit="thousand samples/s",
            scale=1e3,
            per_step=batch,
            more_is_better=True,
            checked_steps=5 if batch > 100 else 30,
            rounds=5,
        )


def _gpu_cases(settings: Settings, workers: Workers) -> Iterator[Case]:
    for batch, steps in ((32, 20_000), (8192, 5_000)):
        run = gpu_problem(batch, steps // 10 if settings.quick else steps)
        precise = "" if run.precision == "float32" else f", {run.precision}"
        products = Entry("same matrix products, cuBLAS", "cuda limits", "products", {}, 0.1, unchecked="only those")
        yield training_case(
            settings,
            workers,
            run,
            [products, *gpu_entries(run)],
            name=f"mnist-softmax, batch {batch}{precise}",
            title=f"mnist-softmax: 784-128-10, batch {batch}, SGD, {run.precision}; we draw the order of rows",
            unit="us/step",
            scale=1e6,
            checked_steps=30 if batch < 1024 else 5,
        )
