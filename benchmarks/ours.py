"""Our own rows, through the public API.

On a GPU `fit` is timed by what its history says of its steps, which ends when the host has read the last loss: the
peers, too, have their data on the GPU before they begin. Single kernels are timed by the GPU's events.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import nnkernels as nnk
from benchmarks.gpu import Scrap, scrap
from benchmarks.operations import Operation
from benchmarks.problem import Many, Problem
from benchmarks.workers import Absent, Fresh, Measured


def available() -> str | None:
    """Return None: we are always there."""
    return None


def fit(problem: Problem, *, device: str, way: str | None) -> Fresh:
    """`Sequential.fit`: everything it does for the user is timed on a CPU, the making of the network is not."""
    arguments: dict[str, Any] = {
        "loss": problem.own_loss(),
        "optimizer": problem.own_optimizer(),
        "batch_size": problem.batch,
        "steps": problem.steps,
        "sampling": problem.sampling,
        "plan": way,
    } | _precision(problem)
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
    except (nnk.BackendUnavailable, nnk.PlanError) as error:
        raise Absent(str(error)) from None
    return fresh


def _precision(problem: Problem) -> dict[str, str]:
    """Return the argument of `fit` that asks for products of a precision, if one is asked for."""
    if problem.precision == "float32":
        return {}
    if "precision" not in inspect.signature(nnk.Sequential.fit).parameters:
        raise Absent(f"fit cannot be asked for {problem.precision} in this version")
    return {"precision": problem.precision}


@cache
def _scrap() -> Scrap:
    return scrap()


def ensemble(problem: Many, *, device: str) -> Fresh:
    """Many networks in one call."""
    if not hasattr(nnk, "Ensemble"):
        raise Absent("nnkernels has no Ensemble in this version")
    raise NotImplementedError(f"Ensemble is there: train {problem.networks} networks on {device} with it here")


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
    try:
        kernels = nnk.device(device).kernels
    except nnk.BackendUnavailable as error:
        raise Absent(str(error)) from None
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
