"""Thousands of small networks at once: 1-10-1 on a sine, and 4-32-16-4 on matrix exponentials."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

import nnkernels as nnk
from benchmarks.case import Case, Settings
from benchmarks.cases import regression, sine
from benchmarks.many import Many, copies
from benchmarks.problem import make
from benchmarks.training import OURS, Entry, training_case
from benchmarks.workers import Workers

PEERS = [
    Entry("JAX vmap", "jax", "vmapped"),
    Entry("JAX vmap, one thread", "jax", "vmapped", threads=1),
    Entry("PyTorch vmap", "torch", "vmapped", share=0.02),
]


def sines(n: int, steps: int) -> Many:
    """Return copies of the sine network."""
    return copies(sine.problem(steps), n, sine.LAYERS, nnk.Uniform(-1, 1))


def regressions(n: int, steps: int) -> Many:
    """Return copies of the regression network, batch 32."""
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
    return copies(one, n, regression.LAYERS, "glorot_uniform")


def cases(settings: Settings, workers: Workers) -> Iterator[Case]:
    """Yield the cases: nanoseconds and microseconds of a step of one network."""
    usable = [status.device for status in nnk.devices() if status.available]
    devices = settings.devices or usable
    own = [
        Entry(f"nnkernels {device}, {way}", OURS, "fit_many", {"device": device, "way": way}, share=share)
        for device in devices
        for way, share in (("lanes", 1.0), ("generated", 1.0), ("composed", 0.02))
    ]
    columns = [Entry("XLA, networks as columns", "jax", "columns"), Entry("C", "limits", "many_sine")]
    for n, steps in ((1024, 2_000 if settings.quick else 10_000), (8192, 500 if settings.quick else 2_000)):
        yield training_case(
            settings,
            workers,
            sines(n, steps),
            [*columns, *PEERS],
            own=own,
            name=f"many-sine, {n:,}",
            title=f"many-sine: {n:,} copies of 1-10-1, batch 1, SGD, float32; all but we and C are given rows",
            unit="ns/step/network",
            scale=1e9,
            per_step=n,
            checked_steps=100,
            rounds=5,
        )
    yield training_case(
        settings,
        workers,
        regressions(512, 50 if settings.quick else 200),
        PEERS,
        own=own,
        name="many-regression",
        title="many-regression: 512 copies of 4-32-16-4 tanh, batch 32, Adam, float32",
        unit="us/step/network",
        scale=1e6,
        per_step=512,
        checked_steps=20,
        rounds=5,
    )
