"""One small gang of threads that run a compiled program together.

A program cuts its work into parts that are the same for any number of threads, and meets at barriers. Only one gang
runs at a time: a second run, in another thread of the process, runs all its parts alone, to the same bits.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from queue import SimpleQueue

Job = tuple[Callable[[int, int], None], int, int]

_busy = threading.Lock()
_workers: list[_Worker] = []


class _Worker(threading.Thread):
    """A thread that waits for its share of a job."""

    def __init__(self, number: int) -> None:
        super().__init__(name=f"nnkernels-{number}", daemon=True)
        self.jobs: SimpleQueue[Job] = SimpleQueue()
        self.done: SimpleQueue[BaseException | None] = SimpleQueue()
        self.start()

    def run(self) -> None:
        while True:
            call, thread, threads = self.jobs.get()
            try:
                call(thread, threads)
            except BaseException as error:  # handed to the thread that waits
                self.done.put(error)
            else:
                self.done.put(None)


def count() -> int:
    """Return how many threads a run may use: ``NNKERNELS_NUM_THREADS``, else the cores of this process.

    Raises
    ------
    ValueError
        The variable is not a positive number.
    """
    chosen = os.environ.get("NNKERNELS_NUM_THREADS")
    if not chosen:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not chosen.strip().isdecimal() or int(chosen) < 1:
        raise ValueError(f"NNKERNELS_NUM_THREADS must be a number of threads, at least 1, not {chosen!r}")
    return int(chosen)


def together(call: Callable[[int, int], None], threads: int) -> None:
    """Run ``call(thread, threads)`` for each of the threads at once, or ``call(0, 1)`` while another gang runs."""
    if threads == 1 or not _busy.acquire(blocking=False):
        call(0, 1)
        return
    try:
        while len(_workers) < threads - 1:
            _workers.append(_Worker(len(_workers) + 1))
        gang = _workers[: threads - 1]
        for number, worker in enumerate(gang, start=1):
            worker.jobs.put((call, number, threads))
        try:
            call(0, threads)
        finally:  # an interrupt must not leave a thread behind that still writes
            errors = [error for error in (_wait(worker) for worker in gang) if error]
        if errors:
            raise errors[0]
    finally:
        _busy.release()


def _wait(worker: _Worker) -> BaseException | None:
    """Wait for a worker's end, interrupted or not; an interrupt is passed on afterwards."""
    try:
        return worker.done.get()
    except KeyboardInterrupt as interrupt:
        worker.done.get()
        return interrupt


def _forget() -> None:
    """A forked process has no threads but the one that forked."""
    global _busy  # noqa: PLW0603
    _busy = threading.Lock()
    _workers.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
