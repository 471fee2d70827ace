"""Interleaved timing: one round runs every row once, so that a slow phase of the machine slows them all."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


def timed(function: Callable[[], Any]) -> Callable[[], float]:
    """Return a row of a case from a function: it runs the function and returns the seconds that this took."""

    def run() -> float:
        start = time.perf_counter()
        function()
        return time.perf_counter() - start

    return run


class Measured(NamedTuple):
    """What a run returns that has timed itself, as those on a GPU do, by the GPU's own events."""

    seconds: float
    result: Any


class Absent(Exception):
    """A row that cannot be run here, with the reason."""


class Failed(Exception):
    """A row of ours that broke. The others are still measured, and the benchmark ends with an error."""


def interleave(rows: Mapping[str, Callable[[], float]], rounds: int) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Run every row once a round, after one round that is not counted.

    Returns
    -------
    measured : dict of str to list of float
        What each row measured in each round.
    lost : dict of str to str
        Rows that raised `Absent` or `Failed` on the way, with the reason.
    """
    measured: dict[str, list[float]] = {name: [] for name in rows}
    lost: dict[str, str] = {}
    for number in range(rounds + 1):
        for name, run in rows.items():
            if name in lost:
                continue
            try:
                value = run()
            except (Absent, Failed) as reason:
                lost[name] = str(reason)
                del measured[name]
                continue
            if number:
                measured[name].append(value)
    return measured, lost


def summarize(values: list[float]) -> dict[str, float]:
    """Return median, smallest and largest."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}
