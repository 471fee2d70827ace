"""Our own rows, through the public API."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import nnkernels as nnk
from benchmarks.many import Many
from benchmarks.operations import Operation
from benchmarks.problem import Problem, dense
from benchmarks.workers import Absent, Fresh


def available() -> str | None:
    """Return None: we are always there."""
    return None


def fit(problem: Problem, *, device: str, way: str | None) -> Fresh:
    """`Sequential.fit`: everything it does for the user is timed, the making of the network is not."""
    arguments: dict[str, Any] = {
        "loss": problem.own_loss(),
        "optimizer": problem.own_optimizer(),
        "batch_size": problem.batch,
        "steps": problem.steps,
        "sampling": problem.sampling,
        "plan": way,
    }

    def fresh() -> Callable[[], Any]:
        net = problem.own_network(device)

        def run() -> Any:
            net.fit(problem.x, problem.t, **arguments)
            return list(net.parameters.to_host().values())

        return run

    try:
        problem.own_network(device).plan(problem.x, problem.t, **arguments)
    except (nnk.BackendUnavailable, nnk.PlanError) as error:
        raise Absent(str(error)) from None
    return fresh


def fit_many(many: Many, *, device: str, way: str) -> Fresh:
    """`Ensemble.fit`: everything it does for the user is timed, the making of the networks is not."""
    one = many.one
    arguments: dict[str, Any] = {
        "loss": one.own_loss(),
        "optimizer": one.own_optimizer(),
        "batch_size": one.batch,
        "steps": one.steps,
        "sampling": one.sampling,
        "plan": way,
    }

    def fresh() -> Callable[[], Any]:
        ensemble = many.ensemble(device)

        def run() -> Any:
            ensemble.fit(one.x, one.t, **arguments)
            return many.picked(list(ensemble.parameters.to_host().values()))

        return run

    try:
        nnk.Ensemble(dense(one.layers), n=many.n, device=device).plan(one.x, one.t, **arguments)
    except (nnk.BackendUnavailable, nnk.PlanError) as error:
        raise Absent(str(error)) from None
    return fresh


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
    kernels = nnk.device(device).kernels
    arrays = {name: kernels.from_host(array) for name, array in op.arrays().items()}
    call, results = _bind(kernels, op, arrays)

    def run() -> Any:
        for _ in range(op.loops):
            call()
        return [kernels.to_host(array) for array in results]

    return lambda: run


def _bind(kernels: Any, op: Operation, arrays: dict[str, Any]) -> tuple[Callable[[], None], list[Any]]:
    """Return the call, and the arrays that it fills."""

    def like(name: str) -> Any:
        return kernels.empty(arrays[name].shape, "float32")

    if op.name == "matmul_forward":
        out = kernels.empty((op.shape[0], op.shape[2]), "float32")
        return partial(kernels.matmul_forward, arrays["x"], arrays["w"], arrays["b"], out=out), [out]
    if op.name == "matmul_backward":
        dx, dw, db = like("x"), like("w"), kernels.empty(op.shape[2:], "float32")
        given = arrays["dz"], arrays["x"], arrays["w"]
        return partial(kernels.matmul_backward, *given, dx=dx, dw=dw, db=db), [dx, dw, db]
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
