"""One small gang of threads that run a compiled program together.

A program cuts its work into parts that are the same for any number of threads, and meets at barriers. Only one gang
runs at a time: a second run, in another thread of the process, runs all its parts alone, to the same bits.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from queue import SimpleQueue

Call = Callable[[int, int], None]

_running: dict[str, _Job] = {}  # the job of the gang, if it has one: set and read in single steps
_workers: list[_Worker] = []


class _Worker(threading.Thread):
    """A thread that waits for something to call."""

    def __init__(self, number: int) -> None:
        super().__init__(name=f"nnkernels-{number}", daemon=True)
        self.calls: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self.start()

    def run(self) -> None:
        while True:
            self.calls.get()()


class _Job:
    """A call for each thread of a gang.

    All of them are made by workers, which no Ctrl-C reaches: a thread that were interrupted before its call would be
    waited for at a barrier for ever.
    """

    def __init__(self, call: Call, threads: int) -> None:
        self.call, self.threads = call, threads
        self.claim = threading.Lock()  # whoever takes it begins the job, or sees to it that it does not begin
        self.ends: SimpleQueue[BaseException | None] = SimpleQueue()
        self.errors: list[BaseException] = []
        self.ended = False
        self.wake = threading.Lock()  # held until the end: an Event, interrupted at the wrong place, stays locked
        self.wake.acquire()

    def lead(self) -> None:
        """Make all calls, the first one here, and wait for their ends."""
        if not self.claim.acquire(blocking=False):
            return
        for number, worker in enumerate(_workers[1 : self.threads], start=1):
            worker.calls.put(partial(self.share, number))
        self.share(0)
        self.errors = [error for error in (self.ends.get() for _ in range(self.threads)) if error]
        del _running["gang"]
        self.ended = True
        self.wake.release()

    def share(self, thread: int) -> None:
        """Make one call; its error is handed to the thread that waits."""
        try:
            self.call(thread, self.threads)
        except BaseException as error:
            self.ends.put(error)
        else:
            self.ends.put(None)

    def abandon(self) -> None:
        """Do not begin; or, where it has begun, wait for its end, however often that is interrupted."""
        if self.claim.acquire(blocking=False):
            del _running["gang"]
            return
        while not self.ended:  # the lock itself may have been taken just before an interrupt
            with suppress(KeyboardInterrupt):
                self.wake.acquire(timeout=0.01)


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


def together(call: Call, threads: int) -> None:
    """Run ``call(thread, threads)`` for each of the threads at once, or ``call(0, 1)`` while another gang runs."""
    if threads == 1:
        call(0, 1)
        return
    job = _Job(call, threads)
    try:
        if _running.setdefault("gang", job) is job:
            while len(_workers) < threads:
                _workers.append(_Worker(len(_workers) + 1))
            _workers[0].calls.put(job.lead)
            job.wake.acquire()
        else:
            call(0, 1)
    except BaseException:  # an interrupt must not leave threads behind that still write
        if _running.get("gang") is job:
            job.abandon()
        raise
    if job.errors:
        raise job.errors[0]


def _forget() -> None:
    """A forked process has no threads but the one that forked."""
    _running.clear()
    _workers.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
