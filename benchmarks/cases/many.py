"""Thousands of 1-10-1 networks, each with its own start, order of rows and learning rate, batch 1, plain SGD."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache

from benchmarks import floors, reference
from benchmarks.case import WRONG, Case, Row, Settings
from benchmarks.cases import sine
from benchmarks.copies import Copies
from benchmarks.problem import Host, Many
from benchmarks.problem import many as of_networks
from benchmarks.training import MODULES, OURS, Entry, deviation
from benchmarks.workers import Absent, Failed, Workers

CHECKED_STEPS = 20
GPU_STEPS = 500_000_000  #: network-steps of our own run there, which draws its order itself


def problem(networks: int, steps: int, drawn: int = 1) -> Many:
    """Return the run."""
    return of_networks(sine.problem(steps), networks, drawn)


def cases(settings: Settings, workers: Workers) -> Iterator[Case]:
    """Yield the run for two numbers of networks."""
    counts = (8192, 65536) if settings.gpu else (1024, 8192)
    for networks in counts[:1] if settings.quick else counts:
        given = 2_000_000 if settings.quick else 16_000_000
        drawn = given // networks
        yield _case(settings, workers, problem(networks, GPU_STEPS // networks if settings.gpu else drawn, drawn))


def _entries(settings: Settings) -> Iterator[Entry]:
    place, short = ({"device": "cuda"}, 0.2) if settings.gpu else ({}, 0.02)
    for device in settings.devices or ("numba",):
        yield Entry(f"nnkernels {device}, ensemble", OURS, "ensemble", {"device": device})
    for device in settings.devices if settings.gpu else ():
        for form in ("thread", "warp"):
            options = {"device": device, "form": form}
            yield Entry(f"nnkernels {device}, a {form} a network", OURS, "program", options)
    if not settings.gpu:
        yield Entry("C", "limits", "many_sine", {"threads": settings.threads})
    yield Entry("JAX vmap, scan", "jax", "many")
    yield Entry("JAX scan, networks as columns", "jax", "many", {"columns": True})
    yield Entry("PyTorch vmap", "torch", "many", place, share=short)
    if not settings.quick:
        yield Entry("PyTorch vmap, compiled", "torch", "many", place | {"compiled": True}, share=short)


def _case(settings: Settings, workers: Workers, run: Many) -> Case:
    workers.forget()
    expected = cache(lambda: reference.train_many(run.first(CHECKED_STEPS)))
    rows = {
        entry.name: row_of(settings, workers, run, entry, expected)
        for entry in _entries(settings)
        if entry.kind != "peer" or settings.peers is None or entry.library in settings.peers
    }
    if settings.gpu:
        rows |= floors.rows(floors.of_many(run), run.networks)
    return Case(
        name=f"many, {run.networks} networks",
        title=f"many: {run.networks:,} networks 1-10-1, batch 1, SGD, float32, each with its own rate and order",
        unit="million network-steps/s",
        scale=1e6,
        rows=rows,
        rounds=settings.rounds or (3 if settings.quick else 5),
        more_is_better=True,
    )


def row_of(
    settings: Settings, workers: Workers, run: Many | Copies, entry: Entry, expected: Callable[[], list[Host]]
) -> Row:
    """Build a row, check it, and return what times it."""
    module = MODULES.get(entry.library, entry.library)
    steps = run.steps if entry.kind == "own" else max(1, round(len(run.rows) * entry.share))
    options = {"processors": settings.threads, **entry.options}
    try:
        _, result = workers.row(module, entry.function, run.first(CHECKED_STEPS), **options)
        if off := deviation(result(), expected(), run.dtype):
            raise Absent(f"{WRONG}: {off}")
        timed, _ = workers.row(module, entry.function, run.first(steps), **options)
    except (Absent, Failed) as reason:
        return Row(entry.kind, None, note=str(reason))
    return Row(entry.kind, timed, steps * run.networks)
