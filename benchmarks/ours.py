"""Our own rows, through the public API.

On a GPU `fit` is timed by what its history says of its steps, which ends when the host has read the last loss: the
peers, too, have their data on the GPU before they begin. Single kernels are timed by the GPU's events.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np

import nnkernels as nnk
from benchmarks.copies import Copies
from benchmarks.gpu import Scrap, scrap
from benchmarks.operations import Operation
from benchmarks.problem import SEED, Host, Many, Problem, dense
from benchmarks.workers import Absent, Fresh, Measured


def available() -> str | None:
    """Return None: we are always there."""
    return None


def fit(problem: Problem, *, device: str, way: str | None) -> Fresh:
    """`Sequential.fit`: everything it does for the user is timed on a CPU, the making of the network is not."""
    _kernels(device)
    arguments: dict[str, Any] = {
        "loss": problem.own_loss(),
        "optimizer": problem.own_optimizer(),
        "batch_size": problem.batch,
        "steps": problem.steps,
        "sampling": problem.sampling,
        "plan": way,
    }
    gpu = device.startswith("cuda")

    def fresh() -> Callable[[], Any]:
        net = problem.own_network(device)
        if gpu:
            _scrap().zero()

        def run() -> Any:
            history = net.fit(problem.x, problem.t, **arguments)
            weights = list(net.parameters.to_host().values())
            return Measured(history.seconds, weights) if gpu else weights

        return run

    try:
        problem.own_network(device).plan(problem.x, problem.t, **arguments)
    except nnk.PlanError as error:
        raise Absent(str(error)) from None
    return fresh


@cache
def _scrap() -> Scrap:
    return scrap()


def _kernels(device: str) -> Any:
    try:
        return nnk.device(device).kernels
    except nnk.BackendUnavailable as error:
        raise Absent(str(error)) from None


# ---- many networks ---------------------------------------------------------------------------------------------------

ORDER_BYTES = 1 << 29  #: of the row numbers drawn for a launch


def ensemble(problem: Many, *, device: str) -> Fresh:
    """Many networks in one call, each with its own learning rate; it draws the order of rows."""
    return _ensemble(problem, problem.start, problem.networks, nnk.SGD(problem.rates), lambda arrays: arrays, device)


def copies(problem: Copies, *, device: str) -> Fresh:
    """Copies of a run in one call."""
    one = problem.one
    return _ensemble(one, problem.start, problem.networks, one.own_optimizer(), problem.picked, device)


def _ensemble(
    problem: Problem, start: list[Host], n: int, optimizer: nnk.Optimizer, result: Callable[[Any], Any], device: str
) -> Fresh:
    """`Ensemble.fit`: everything it does for the user is timed, the making of the networks is not."""
    arguments: dict[str, Any] = {
        "loss": problem.own_loss(),
        "optimizer": optimizer,
        "batch_size": problem.batch,
        "steps": problem.steps,
        "sampling": problem.sampling,
    }
    try:
        networks = nnk.Ensemble(dense(problem.layers), n=n, device=device, dtype=problem.dtype, rng=SEED)
        networks.plan(problem.x, problem.t, **arguments)
    except (nnk.BackendUnavailable, nnk.PlanError) as error:
        raise Absent(str(error)) from None

    def fresh() -> Callable[[], Any]:
        networks.parameters.update(dict(zip(networks.parameters, start, strict=True)))
        networks.fits = 0

        def run() -> Any:
            networks.fit(problem.x, problem.t, **arguments)
            return result(list(networks.parameters.to_host().values()))

        return run

    return fresh


def program(problem: Many, *, device: str, form: str) -> Fresh:
    """The whole-run program of many networks, launched as it is: a thread or a warp for each of them.

    Drawing the order of rows, a launch for each block of steps, is part of the time.
    """
    kernels, networks = _kernels(device), problem.networks
    if not device.startswith("cuda"):
        raise Absent("is a launch of a GPU")
    whole, run = _whole(problem, form)
    block = max(1, min(problem.steps, ORDER_BYTES // (8 * networks)))
    order = kernels.empty((networks * block,), "int64")
    flat = np.concatenate([array.reshape(networks, -1) for array in problem.start], 1)
    parameters, total = kernels.from_host(flat), kernels.empty((networks,), "float64")
    start, settings = kernels.from_host(flat), kernels.from_host(np.zeros(1, problem.dtype))
    x, t = kernels.from_host(problem.x), kernels.from_host(problem.t)
    rates = kernels.from_host(np.repeat(problem.rates, block))  # of every step: a schedule

    def steps() -> None:
        for first in range(0, problem.steps, block):
            count = min(block, problem.steps - first)
            drawn = order[: networks * count].reshape(networks, count, 1)
            kernels.draw_indices(problem.seed, 0, first, sampling=problem.sampling, n_rows=len(problem.x), out=drawn)
            arrays = (parameters, None, total, x, t, None, drawn, None, rates, settings)
            numbers = (problem.seed, 0, first, count, networks, 0, 0, count, block)
            run(whole.blocks(networks), whole.threads, *arrays, *numbers)

    def fresh() -> Callable[[], Any]:
        kernels.copy(start, out=parameters)
        kernels.fill(0, out=total)
        return lambda: Measured(_scrap().seconds_of(steps, 1), _split(kernels.to_host(parameters), problem.start))

    return fresh


def _whole(problem: Many, form: str) -> tuple[Any, Any]:
    """Return the program for a network of the problem, and its kernel."""
    from nnkernels._recipe import Recipe
    from nnkernels.backends.cupy import launch
    from nnkernels.backends.cupy.codegen import rows, units

    recipe = Recipe.of(
        tuple(dense(problem.layers)),
        problem.own_loss(),
        problem.own_optimizer(),
        n_rows=len(problem.x),
        batch=1,
        sampling=problem.sampling,
        weighted=False,
        dtype=problem.dtype,
    )
    whole = rows.write(recipe, 1) if form == "thread" else units.write(recipe)
    return whole, launch.library(whole.complete, recipe.dtype, 0, contracted=False).kernel("run")


def _split(flat: Host, like: list[Host]) -> list[Host]:
    """Cut the parameters of all networks into arrays of the start's shapes."""
    ends = np.cumsum([array[0].size for array in like])[:-1]
    return [part.reshape(array.shape) for part, array in zip(np.split(flat, ends, 1), like, strict=True)]


def chosen_way(problem: Problem, device: str, steps: int) -> str:
    """Return the way that the plan chooses for a run of this many steps."""
    plan = problem.own_network(device).plan(
        problem.x,
        problem.t,
        loss=problem.own_loss(),
        optimizer=problem.own_optimizer(),
        batch_size=problem.batch,
        steps=steps,
        sampling=problem.sampling,
    )
    return plan.way


def operation(op: Operation, *, device: str) -> Fresh:
    """One kernel, or the pair, called again and again."""
    kernels = _kernels(device)
    arrays = {name: kernels.from_host(array) for name, array in op.arrays().items()}
    call, results = _bind(kernels, op, arrays)

    def run() -> Any:
        if op.cold:
            seconds = _scrap().seconds_of(call, op.loops)
            return Measured(seconds, [kernels.to_host(array) for array in results])
        for _ in range(op.loops):
            call()
        return [kernels.to_host(array) for array in results]

    return lambda: run


def _bind(kernels: Any, op: Operation, arrays: dict[str, Any]) -> tuple[Callable[[], None], list[Any]]:
    """Return the call, and the arrays that it fills."""

    def like(name: str) -> Any:
        return kernels.empty(arrays[name].shape, "float32")

    precision = {} if op.precision == "float32" else {"precision": op.precision}
    if op.name == "matmul_forward":
        out = kernels.empty((op.shape[0], op.shape[2]), "float32")
        return partial(kernels.matmul_forward, arrays["x"], arrays["w"], arrays["b"], out=out, **precision), [out]
    if op.name == "matmul_backward":
        dx, dw, db = like("x"), like("w"), kernels.empty(op.shape[2:], "float32")
        given = arrays["dz"], arrays["x"], arrays["w"]
        return partial(kernels.matmul_backward, *given, dx=dx, dw=dw, db=db, **precision), [dx, dw, db]
    if op.name == "sigmoid_forward":
        a = like("z")
        return partial(kernels.sigmoid_forward, arrays["z"], out=a), [a]
    if op.name == "sigmoid_pair":
        a, slope, dz = like("z"), like("z"), like("z")

        def pair() -> None:
            kernels.sigmoid_forward(arrays["z"], out=a, slope=slope)
            kernels.activation_backward(arrays["da"], slope, out=dz)

        return pair, [a, dz]
    forward, backward = (getattr(kernels, f"{op.name}_{way}") for way in ("forward", "backward"))
    given, scalars = (arrays["p"], arrays["t"], arrays["weight"]), {"delta": 1.0} if op.name == "huber" else {}
    total, dp = kernels.empty((), "float64"), like("p")

    def loss() -> None:
        kernels.fill(0, out=total)
        forward(*given, out=total, **scalars)
        backward(*given, out=dp, **scalars)

    return loss, [total, dp]
