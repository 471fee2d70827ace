"""Our own rows, through the public API."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import nnkernels as nnk
from benchmarks.problem import Problem
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
