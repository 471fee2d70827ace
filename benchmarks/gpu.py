"""Time on a GPU: its own events around calls, each with a cold L2 cache."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

FLUSH_BYTES = 256 << 20  #: written between calls: several times the largest L2 cache


def seconds_of(
    call: Callable[[], Any],
    loops: int,
    event: Callable[[], Any],
    flush: Callable[[], Any],
    elapsed: Callable[[Any, Any], float],
) -> float:
    """Return the seconds that the GPU spends in `loops` calls.

    While it writes what flushes the cache, the host launches the call: what is timed is the work, not the launch,
    unless launching takes longer than the flush.

    Parameters
    ----------
    event, flush : callable
        Make an event with a `record()` and a `synchronize()`, and enqueue the write.
    elapsed : callable
        The milliseconds between two events.
    """
    pairs = [(event(), event()) for _ in range(loops)]
    for start, stop in pairs:
        flush()
        start.record()
        call()
        stop.record()
    pairs[-1][1].synchronize()
    return sum(elapsed(*pair) for pair in pairs) / 1e3


def scrap() -> Scrap:
    """Return CuPy memory to flush the cache with: its `zero` enqueues the write."""
    import cupy

    return Scrap(cupy.empty(FLUSH_BYTES, "u1"))


class Scrap:
    """Memory that is written so that nothing else is in the L2 cache."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def zero(self) -> None:
        """Enqueue the write."""
        self.array.data.memset_async(0, FLUSH_BYTES)

    def seconds_of(self, call: Callable[[], Any], loops: int) -> float:
        """Return the seconds of calls of CuPy kernels."""
        import cupy

        return seconds_of(call, loops, cupy.cuda.Event, self.zero, cupy.cuda.get_elapsed_time)


def name() -> str | None:
    """Return what the driver calls the first GPU, with the driver's version; None without one."""
    import shutil
    import subprocess

    if shutil.which("nvidia-smi") is None:
        return None
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total,clocks.max.sm", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True, check=False)
    return done.stdout.strip().splitlines()[0] if done.returncode == 0 and done.stdout.strip() else None
