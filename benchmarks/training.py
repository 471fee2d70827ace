"""A training case: who takes part, that all arrive at the same weights, and then who is how fast."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Any, NamedTuple

import numpy as np

import nnkernels as nnk
from benchmarks import floors, reference
from benchmarks.case import WRONG, Case, Kind, Row, Settings
from benchmarks.problem import Host, Problem
from benchmarks.workers import Absent, Failed, Workers

OURS = "benchmarks.ours"
#: name of a peer on the command line -> its module
MODULES = {
    "numpy": "benchmarks.peers.numpy_by_hand",
    "jax": "benchmarks.peers.jax",
    "torch": "benchmarks.peers.torch",
    "tensorflow": "benchmarks.peers.tensorflow",
    "sklearn": "benchmarks.peers.sklearn",
    "limits": "benchmarks.limits.rows",
    "cuda limits": "benchmarks.limits.cuda",
}
#: of the largest weight of an array, after the steps that are checked
TOLERANCE = {"float32": 2e-4, "float64": 1e-9, "tf32": 2e-3}


class Entry(NamedTuple):
    """A row before it is built.

    Parameters
    ----------
    name : str
        As it is shown.
    library, function : str
        Who builds it: a key of `MODULES` or a module, and a function there.
    options : dict
        Keyword arguments of the function.
    share : float
        Of the steps that it runs, where a step of it takes very long.
    threads : int or None
        Where it is faster with fewer than the machine has.
    unchecked : str
        Why its weights cannot be those of the others; empty if they must be.
    """

    name: str
    library: str
    function: str
    options: dict[str, Any] = {}  # noqa: RUF012 (never changed)
    share: float = 1.0
    threads: int | None = None
    unchecked: str = ""

    @property
    def kind(self) -> Kind:
        """Whose row it is."""
        return "own" if self.library == OURS else "limit" if self.library.endswith("limits") else "peer"


def own_entries(settings: Settings, composed_share: float) -> Iterator[Entry]:
    """Yield our own rows: each device that can be used, each way it may have."""
    usable = [status.device for status in nnk.devices() if status.available]
    devices = settings.devices or sorted(usable, key=lambda name: name != "numpy")
    for device in devices:
        if device == "numpy":
            yield Entry("nnkernels numpy", OURS, "fit", {"device": device, "way": "composed"}, share=composed_share)
            continue
        for way in ("composed", "generic", "generated"):
            share = composed_share if way == "composed" else 1.0
            yield Entry(f"nnkernels {device}, {way}", OURS, "fit", {"device": device, "way": way}, share=share)


HUNDREDTH, THOUSANDTH = 1e-2, 1e-3  #: of the steps: what rows of tiny networks run whose time goes into calls


def tiny_entries(limit: str, scan: str, by_hand: str, sklearn_unchecked: str = "") -> list[Entry]:
    """Return the limit and the peers of a network so small that frameworks spend their time around its arithmetic.

    Parameters
    ----------
    limit, by_hand : str
        The builders in C and in NumPy.
    scan : str
        What JAX's loop is called.
    sklearn_unchecked : str
        Why scikit-learn's weights are not compared, if they are not.
    """
    return [
        Entry("C", "limits", limit),
        Entry(scan, "jax", "scan"),
        Entry(f"{scan}, one thread", "jax", "scan", threads=1),
        Entry("TensorFlow function, XLA", "tensorflow", "function"),
        Entry("NumPy by hand", "numpy", by_hand, share=HUNDREDTH),
        Entry("JAX, a call a step", "jax", "step", share=HUNDREDTH),
        Entry("PyTorch by hand", "torch", "by_hand", share=THOUSANDTH),
        Entry("PyTorch by hand, compiled", "torch", "by_hand", {"compiled": True}, share=THOUSANDTH),
        Entry("PyTorch Module", "torch", "module", share=THOUSANDTH),
        Entry("PyTorch Module, compiled", "torch", "module", {"compiled": True}, share=THOUSANDTH),
        Entry("scikit-learn fit", "sklearn", "fit", share=THOUSANDTH, unchecked=sklearn_unchecked),
    ]


GPU_SECONDS = 0.3  #: that a row on a GPU runs in a round, about
#: what a step of a small network takes on a GPU, about: it is a number of launches, of graph nodes, or of XLA's kernels
GPU_STEPS = {"module": 500e-6, "by_hand": 200e-6, "graphs": 20e-6, "module_graphs": 40e-6, "scan": 10e-6}


def gpu_entries(problem: Problem, *, compiled: bool = True) -> list[Entry]:
    """Return the peers on a GPU: PyTorch as its users write it, by hand, compiled, and as CUDA graphs; JAX's loop.

    Parameters
    ----------
    problem : Problem
        Of all steps, of which a row runs what takes about `GPU_SECONDS`.
    compiled : bool
        Whether to compile what PyTorch runs, which takes longer than all the rest.
    """
    graphs, cuda = ("graphs" if problem.optimizer == "sgd" else "module_graphs"), {"device": "cuda"}
    rows: list[tuple[str, str, str, dict[str, Any]]] = [
        ("JAX scan" if problem.order is not None else "JAX fori_loop", "jax", "scan", {}),
        ("PyTorch CUDA graphs", "torch", graphs, cuda),
        ("PyTorch by hand", "torch", "by_hand", cuda),
        ("PyTorch Module", "torch", "module", cuda),
    ]
    if compiled and graphs == "graphs":
        rows.append(("PyTorch CUDA graphs, compiled", "torch", graphs, cuda | {"compiled": True}))
        rows.append(("PyTorch by hand, compiled", "torch", "by_hand", cuda | {"compiled": True}))
    elif compiled:
        rows.append(("PyTorch Module, compiled", "torch", "module", cuda | {"compiled": True}))
    return [Entry(*row, share=gpu_share(problem, row[2])) for row in rows]


def gpu_share(problem: Problem, function: str) -> float:
    """Return what share of the steps takes about `GPU_SECONDS`."""
    return min(1.0, GPU_SECONDS / (problem.steps * GPU_STEPS[function]))


def training_case(
    settings: Settings,
    workers: Workers,
    problem: Problem,
    entries: Iterable[Entry],
    *,
    name: str,
    title: str,
    unit: str,
    scale: float,
    per_step: float = 1.0,
    more_is_better: bool = False,
    composed_share: float = 1.0,
    checked_steps: int,
    rounds: int = 7,
) -> Case:
    """Build the rows, check each against the reference, and return the case; ours come first.

    Parameters
    ----------
    per_step : float
        Work of one step, in what the unit counts: 1 for steps, the batch for samples.
    composed_share : float
        Of the steps that our composed ways run: a small network's steps take them hundreds of times as long.
    checked_steps : int
        Length of the run whose weights are compared.
    """
    workers.forget()
    checked = problem.first(checked_steps)
    expected = cache(lambda: reference.train(checked))  # not computed where no row can be built
    rows = {}
    for entry in (*own_entries(settings, composed_share), *entries):
        if entry.kind == "peer" and settings.peers is not None and entry.library not in settings.peers:
            continue
        if settings.quick and entry.options.get("compiled"):  # it compiles longer than a quick run takes
            continue
        rows[entry.name] = _row(settings, workers, problem, entry, checked, expected, per_step)
    if settings.gpu:
        rows |= floors.rows(floors.of_step(problem), per_step)
    rounds = settings.rounds or (3 if settings.quick else rounds)
    return Case(name, title, unit, scale, rows, rounds, more_is_better)


def _row(
    settings: Settings,
    workers: Workers,
    problem: Problem,
    entry: Entry,
    checked: Problem,
    expected: Callable[[], list[Host]],
    per_step: float,
) -> Row:
    module = MODULES.get(entry.library, entry.library)
    threads = min(entry.threads or settings.threads, settings.threads)
    steps = max(1, round(problem.steps * entry.share))
    if entry.kind != "own" and problem.order is not None:  # we draw the order ourselves, others are given it
        steps = min(steps, len(problem.order))
    try:
        if not entry.unchecked:
            _, result = workers.row(module, entry.function, checked, processors=threads, **entry.options)
            off = deviation(result(), expected(), problem.dtype if problem.precision == "float32" else "tf32")
            if off:
                raise Absent(f"{WRONG}: {off}")
        run, _ = workers.row(module, entry.function, problem.first(steps), processors=threads, **entry.options)
    except (Absent, Failed) as reason:
        return Row(entry.kind, None, note=str(reason))
    note = f"weights not compared: {entry.unchecked}" if entry.unchecked else ""
    return Row(entry.kind, run, steps * per_step, note)


def deviation(got: list[Any], expected: list[Host], dtype: str) -> str:
    """Tell in what weights are not those of the reference; empty if they are."""
    if len(got) != len(expected):
        return f"has {len(got)} arrays, not {len(expected)}"
    for number, (array, right) in enumerate(zip(got, expected, strict=True)):
        error = np.abs(np.asarray(array, np.float64).reshape(right.shape) - right).max()
        allowed = TOLERANCE[dtype] * max(1.0, np.abs(right).max())
        if not error <= allowed:
            return f"its array {number} is off by {error:.2g}, allowed is {allowed:.2g}"
    return ""
