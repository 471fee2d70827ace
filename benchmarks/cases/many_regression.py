"""512 copies of 4-32-16-4, each with its own start and order of rows, batch 32, Adam: matrix exponentials again."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np

from benchmarks.case import Case, Settings
from benchmarks.cases import regression
from benchmarks.cases.many import CHECKED_STEPS, row_of
from benchmarks.copies import Copies, copies
from benchmarks.problem import make
from benchmarks.training import OURS, Entry
from benchmarks.workers import Workers


def problem(networks: int, steps: int) -> Copies:
    """Return the run."""
    x = np.random.default_rng(0).normal(size=(1000, 2, 2)) / 2
    one = make(
        regression.LAYERS,
        x.reshape(-1, 4),
        regression.expm(x).reshape(-1, 4),
        loss="mean_squared_error",
        optimizer="adam",
        lr=1e-3,
        batch=32,
        steps=steps,
        sampling="replacement",
    )
    return copies(one, networks)


def cases(settings: Settings, workers: Workers) -> Iterator[Case]:
    """Yield the run; on a GPU there are no peers of it yet."""
    workers.forget()
    run = problem(512, 50 if settings.quick else 200)
    expected = cache(lambda: run.first(CHECKED_STEPS).by_reference())
    entries = [
        Entry(f"nnkernels {device}, ensemble", OURS, "copies", {"device": device})
        for device in settings.devices or ("numba",)
    ]
    if not settings.gpu:
        entries += [Entry("JAX vmap, scan", "jax", "copies"), Entry("PyTorch vmap", "torch", "copies", share=0.2)]
    yield Case(
        name="many-regression",
        title="many-regression: 512 copies of 4-32-16-4 tanh, batch 32, Adam, float32",
        unit="us/step/network",
        scale=1e6,
        rows={
            entry.name: row_of(settings, workers, run, entry, expected)
            for entry in entries
            if entry.kind != "peer" or settings.peers is None or entry.library in settings.peers
        },
        rounds=settings.rounds or (3 if settings.quick else 5),
    )
