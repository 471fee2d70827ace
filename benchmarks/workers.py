"""One process a library, so that thread pools, allocators and start-up of one do not disturb another.

A worker imports one module, builds rows from its functions and runs them when told to. A row is what such a function
returns: a callable that prepares one run, untimed, and returns the run itself, which is timed.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

from benchmarks.case import FAILED
from benchmarks.timing import Absent as Absent
from benchmarks.timing import Failed as Failed
from benchmarks.timing import Measured as Measured

Fresh = Callable[[], Callable[[], Any]]

#: how libraries are told their number of threads, beside the processors that their process may use
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS", "NNKERNELS_NUM_THREADS")


class Worker:
    """A process that runs rows of one module.

    Parameters
    ----------
    module, threads : str, int
        What it imports, and the processors that it may use.
    environment : mapping
        More variables of its environment.
    patience : float or None
        Seconds that an answer may take; None waits for ever.
    """

    def __init__(
        self, module: str, threads: int, environment: Mapping[str, str] | None = None, patience: float | None = None
    ) -> None:
        self.patience, self.failed = patience, False
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=_serve, args=(other, module, threads), daemon=True)
        quiet = {"TF_CPP_MIN_LOG_LEVEL": "3"}
        with _environment({**dict.fromkeys(THREADS, str(threads)), **quiet, **(environment or {})}):
            self.process.start()
        other.close()

    def ask(self, *message: Any) -> Any:
        """Send a message, wait for the answer; raise `Absent` or `Failed` if it is one."""
        try:
            self.pipe.send(message)
            if not self.pipe.poll(self.patience):
                self.process.terminate()
                raise Absent(f"took longer than {self.patience:.0f} s")
            answer, value = self.pipe.recv()
        except (EOFError, OSError):
            self.process.join(5)
            raise Absent(f"its process died, exit code {self.process.exitcode}") from None
        if answer == "absent":
            raise Absent(value)
        if answer == "failed":
            self.failed = True
            print(value, file=sys.stderr)
            raise Failed(f"{FAILED}: {value.strip().splitlines()[-1]}"[:300])
        return value

    def close(self) -> None:
        """End the process."""
        self.pipe.close()
        self.process.join(5)
        if self.process.is_alive():
            self.process.terminate()
            self.process.join()
        self.process.close()


class Workers:
    """The workers of a benchmark run, started when first asked for; `Worker` says what the arguments are."""

    def __init__(self, environment: Mapping[str, str] | None = None, patience: float | None = None) -> None:
        self.environment, self.patience = environment, patience
        self.running: dict[tuple[str, int, bool], Worker] = {}
        self.left: list[Worker] = []
        self.built = 0

    def row(
        self, module: str, function: str, *arguments: Any, processors: int, **options: Any
    ) -> tuple[Callable[[], float], Callable[[], Any]]:
        """Build a row; return what runs it and tells the seconds, and what runs it and gives its result.

        Raises
        ------
        Absent
            The row cannot be run here.
        """
        # a compiler that takes too long costs the rows of its own process alone
        place = module, processors, bool(options.get("compiled"))
        worker = self.running.get(place)
        if worker is not None and worker.failed:  # a fault of a GPU is the end of its process
            self.left.append(worker)
            worker = None
        if worker is None:
            worker = self.running[place] = Worker(module, processors, self.environment, self.patience)
        self.built += 1
        key = self.built
        worker.ask("build", key, function, arguments, options)
        return lambda: worker.ask("run", key), lambda: worker.ask("result", key)

    def forget(self) -> None:
        """Drop all rows, and what they hold."""
        for place, worker in list(self.running.items()):
            if worker.failed or not worker.process.is_alive():
                self.left.append(self.running.pop(place))  # another is started when it is needed
            else:
                worker.ask("forget")
        while self.left:
            self.left.pop().close()

    def close(self) -> None:
        """End all processes."""
        for worker in [*self.running.values(), *self.left]:
            worker.close()
        self.running.clear()
        self.left.clear()

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _serve(pipe: Connection, module: str, threads: int) -> None:
    """Answer messages until the other end is closed."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    if ".peers." in module:  # notices of libraries would stand between the tables; errors come back as answers
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    rows: dict[int, Fresh] = {}
    while True:
        try:
            message = pipe.recv()
        except (EOFError, KeyboardInterrupt):
            return
        try:
            answer = "value", _answer(module, rows, *message)
        except Absent as absent:
            answer = "absent", str(absent)
        except KeyboardInterrupt:
            return
        except Exception as error:
            # somebody else's library may fail in any way; ours may not
            theirs = ".peers." in module
            answer = ("absent", _one_line(error)) if theirs else ("failed", traceback.format_exc())
        pipe.send(answer)


def _answer(module: str, rows: dict[int, Fresh], what: str, key: int = 0, *details: Any) -> Any:
    if what == "forget":
        rows.clear()
        return None
    if what == "build":
        function, arguments, options = details
        loaded = importlib.import_module(module)
        reason = loaded.available()
        if reason:
            raise Absent(reason)
        rows[key] = getattr(loaded, function)(*arguments, **options)
        return None
    run = rows[key]()
    start = time.perf_counter()
    result = run()
    seconds = time.perf_counter() - start
    if isinstance(result, Measured):
        seconds, result = result
    return seconds if what == "run" else result


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _one_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"[:160]
