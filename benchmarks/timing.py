"""Interleaved timing: one round runs every row once, so that a slow phase of the machine slows them all."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any


def interleave(rows: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each row in each round, after one round that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in rows}
    for number in range(rounds + 1):
        for name, run in rows.items():
            start = time.perf_counter()
            run()
            if number:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def summarize(seconds: list[float]) -> dict[str, float]:
    """Return median, smallest and largest."""
    return {"median": statistics.median(seconds), "min": min(seconds), "max": max(seconds)}
