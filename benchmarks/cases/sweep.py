"""Our own ways over widths, depths and batches: whether what the plan chooses is the best of them everywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache

import numpy as np

import nnkernels as nnk
from benchmarks import ours, reference
from benchmarks.case import WRONG, Case, Row, Settings
from benchmarks.problem import Host, Layer, Problem, make
from benchmarks.training import OURS, deviation
from benchmarks.workers import Absent, Failed, Workers

N_ROWS, N_IN, CHECKED_STEPS = 1024, 8, 20
LONG = 100_000_000  #: steps of the run for which the plan chooses, so long that compiling does not count
SECONDS = 0.02  #: of a run that is timed, at least
WAYS = ("composed", "generic", "generated")
Expected = Callable[[], list[Host]]


def cases(settings: Settings, workers: Workers) -> Iterator[Case]:
    """Yield a case a point."""
    usable = [status.device for status in nnk.devices() if status.available]
    devices = settings.devices or tuple(name for name in ("numba", "numpy") if name in usable)[:1]
    for device in devices:
        for width, depth, batch in points(settings.quick, gpu=settings.gpu):
            yield _case(settings, workers, device, width, depth, batch)


def points(quick: bool, gpu: bool = False) -> list[tuple[int, int, int]]:
    """Return (width, hidden layers, batch) of every point; few on a GPU, where a run has to end within minutes."""
    short, full = ((4, 64), (1, 3), (1, 64)), ((1, 4, 16, 64, 256), (1, 2, 3, 6), (1, 16, 256))
    widths, depths, batches = short if quick else ((4, 16, 64), (1, 3), (1, 16)) if gpu else full
    return [(width, depth, batch) for batch in batches for depth in depths for width in widths]


def problem(width: int, depth: int, batch: int) -> Problem:
    """Return a short run of the network of a point."""
    x = np.random.default_rng(0).normal(size=(N_ROWS, N_IN))
    sizes = [N_IN, *[width] * depth]
    layers = [Layer(n_in, n_out, "tanh") for n_in, n_out in zip(sizes[:-1], sizes[1:], strict=True)]
    layers.append(Layer(width, 1))
    t = np.sin(x.sum(1, keepdims=True))
    return make(tuple(layers), x, t, loss="half_squared_error", lr=0.001, batch=batch, steps=CHECKED_STEPS)


def _case(settings: Settings, workers: Workers, device: str, width: int, depth: int, batch: int) -> Case:
    workers.forget()
    short = problem(width, depth, batch)
    expected = cache(lambda: reference.train(short))
    rows = {f"nnkernels {device}, {way}": _row(settings, workers, short, expected, device, way) for way in WAYS}
    usable = any(row.run for row in rows.values())
    chosen = f"{device}, {ours.chosen_way(short, device, LONG)}" if usable else f"{device}, none"
    return Case(
        name=f"sweep, {device}, {width}, {depth}, {batch}",
        title=f"sweep: {depth} hidden layers of {width}, batch {batch}",
        unit="us/step",
        scale=1e6,
        rows=rows,
        rounds=settings.rounds or 3,
        point={"device": device, "width": width, "depth": depth, "batch": batch, "chosen": chosen},
    )


def _row(settings: Settings, workers: Workers, short: Problem, expected: Expected, device: str, way: str) -> Row:
    options = {"device": device, "way": way}
    try:
        run, result = workers.row(OURS, "fit", short, processors=settings.threads, **options)
        off = deviation(result(), expected(), short.dtype)
        if off:
            return Row("own", None, note=f"{WRONG}: {off}")
        steps = short.steps
        while (seconds := run()) < SECONDS:  # as many steps as the timing needs
            steps = int(steps * min(20.0, max(1.5, 1.3 * SECONDS / seconds)))
            run, _ = workers.row(OURS, "fit", replace(short, steps=steps), processors=settings.threads, **options)
    except (Absent, Failed) as reason:
        return Row("own", None, note=str(reason))
    return Row("own", run, steps)
