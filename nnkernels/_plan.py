"""How a run is executed, chosen once: a pure function of the work, never of a clock, a cache or the machine's load."""

from __future__ import annotations

from typing import Any

import numpy as np

from nnkernels._crossover import COSTS, TWO_THREADS, Cost
from nnkernels._device import Device
from nnkernels._errors import PlanError
from nnkernels._layers import chain
from nnkernels._names import nearest
from nnkernels._recipe import Recipe
from nnkernels._record import Record

WAYS = ("composed", "generic", "generated", "lanes")
CHUNK_SECONDS = 0.1  #: a chunk's length: progress, callbacks, Ctrl-C and NaN checks live at its ends
LANES = {"float32": 16, "float64": 8}  #: of vectors of 64 bytes, by which work is predicted
LANES_CHUNK = 64  #: steps of a chunk of many networks, at least
THREADED_SECONDS = 8e-6  #: a step that is predicted to take less is not worth its barriers


class Work(Record):
    """Everything that a plan depends on.

    Parameters
    ----------
    device : Device
        Where the run takes place.
    recipe : Recipe
        What a step computes: the network, loss, optimizer, batch and dtype.
    n_rows, steps : int
        Rows of the data, number of updates.
    networks : int or None
        How many networks an ensemble trains; None is a single network that is none.
    """

    device: Device
    recipe: Recipe
    n_rows: int
    steps: int
    networks: int | None = None

    @property
    def bytes(self) -> int:
        """Memory of the run: parameters, gradients, state, data, activations and deltas."""
        recipe = self.recipe
        width = sum(3 * layer.n_out for layer in recipe.layers)
        numbers = recipe.n_parameters * (3 + 2 * len(recipe.state)) + recipe.batch * width
        numbers *= self.networks or 1
        return (numbers + self.n_rows * (recipe.n_in + recipe.n_out)) * np.dtype(recipe.dtype).itemsize

    def offers(self, way: str) -> bool:
        """Tell whether a plan may choose a way unasked: a single network in a lane leaves the others idle."""
        return way != "lanes" or self.networks is not None

    @property
    def worth_threads(self) -> bool:
        """Whether whole-run programs cut a step into parts for several threads."""
        return self._generated_operations() * COSTS["generated"].operation > THREADED_SECONDS

    def seconds(self, way: str) -> float:
        """Predict the seconds of the whole run."""
        if way == "lanes":
            return self._lanes_seconds()
        if self.networks is not None and self.device.kind != "cuda":
            return self.steps * self._composed_step(self.networks)
        if self.device.kind == "cuda":
            from nnkernels.backends.cupy.codegen import choice as cuda

            return cuda.seconds(self, way)
        if way == "composed":
            return self.steps * self._composed_step()
        if way == "generic":
            return self.steps * self._step(COSTS["generic"], self._generic_operations())
        step = self._step(COSTS["generated"], self._generated_operations())
        return self.start_seconds + self.steps * (step / TWO_THREADS if self._on_two_threads else step)

    @property
    def _on_two_threads(self) -> bool:
        return self.worth_threads and not (self.recipe.serial or self.recipe.batch == 1)

    @property
    def start_seconds(self) -> float:
        """Predicted seconds of writing and compiling a program for this very network."""
        if self.device.kind == "cuda":
            from nnkernels.backends.cupy.codegen import choice as cuda

            return cuda.START
        from nnkernels.backends.numba.codegen import choice

        cost = COSTS["generated"]
        return cost.start + (0 if choice.in_registers(self.recipe) else cost.layer * len(self.recipe.layers))

    def _lanes_seconds(self) -> float:
        from nnkernels.backends.numba.codegen import choice

        cost, networks = COSTS["lanes"], self.networks or 1
        step = self._step(cost, choice.networks_operations(self.recipe))
        return cost.start + self.steps * step * (
            networks / LANES[self.recipe.dtype] / TWO_THREADS if self.networks else 1
        )

    def _step(self, cost: Cost, operations: float) -> float:
        return cost.call + cost.operation * operations

    def _composed_step(self, networks: int = 1) -> float:
        cost, recipe = COSTS.get(self.device.kind, COSTS["numpy"]), self.recipe
        calls = (6 + 5 * len(recipe.layers)) / networks + (4.0 * len(recipe.layers) if self.networks else 0)
        flops = 6 * recipe.batch * sum(layer.n_in * layer.n_out for layer in recipe.layers)
        elements = recipe.batch * sum(4 * layer.n_out for layer in recipe.layers) + 3 * recipe.n_parameters
        return networks * (cost.call * calls + cost.flop * flops + cost.element * elements)

    def _generated_operations(self) -> float:
        from nnkernels.backends.numba.codegen import choice

        return choice.operations(self.recipe)

    def _generic_operations(self) -> float:
        from nnkernels.backends.numba.codegen import choice

        return choice.generic_operations(self.recipe)


class Plan(Record):
    """A way to run, and why.

    Parameters
    ----------
    way : str
        "composed": one call a kernel; "generic": the whole run in one compiled program that reads the network's sizes;
        "generated": in one that is written for this very network; "lanes": in one for many networks, one in each lane.
    reason : str
        Why this way.
    work : Work
        What it was chosen for.
    chunk : int
        Steps between two checks.
    seconds : dict
        Predicted seconds of the whole run by each way that the device has.
    """

    way: str
    reason: str
    work: Work
    chunk: int
    seconds: dict[str, float]

    @property
    def source(self) -> str:
        """The program of a whole run, as text that can be read; empty for composed kernels.

        Examples
        --------
        >>> import nnkernels as nnk
        >>> net = nnk.Sequential(nnk.Dense(1, 2, activation="tanh"), nnk.Dense(2, 1), device="numba")
        >>> plan = net.plan([0.0, 1.0], [0.0, 1.0], loss="half_squared_error", steps=10**6, plan="generated")
        >>> "def run(" in plan.source
        True
        """
        if self.way == "composed":
            return ""
        if self.work.device.kind == "cuda":
            from nnkernels.backends.cupy.codegen import choice

            return choice.generated(self.work.recipe).source
        if self.way == "lanes":
            from nnkernels.backends.numba.networks import written as lanes

            return lanes(self.work.recipe).source
        from nnkernels.backends.numba.training import written

        return written(self.work.recipe, self.way).source

    def explain(self) -> str:
        """Return the choice, the reason, the predicted time of each way, and the bytes, as text.

        Examples
        --------
        >>> import nnkernels as nnk
        >>> net = nnk.Sequential(nnk.Dense(1, 1), device="numpy")
        >>> plan = net.plan([0.0, 1.0], [0.0, 1.0], loss="half_squared_error", optimizer="sgd", steps=10)
        >>> print(plan.explain().splitlines()[0])
        composed on numpy: the only way this device has
        """
        work, recipe = self.work, self.work.recipe
        lines = [
            f"{self.way} on {work.device}: {self.reason}",
            f"  work       {work.steps:,} steps of {recipe.batch} rows from {work.n_rows:,}, {recipe.dtype}",
            f"  network    {chain(recipe.layers)}, {recipe.n_parameters:,} parameters{_copies(work.networks)}",
            f"  update     {recipe.optimizer} on {recipe.loss}",
            f"  memory     {work.bytes:,} bytes",
            f"  chunk      {self.chunk:,} steps",
        ]
        lines += [f"  predicted  {way}: {seconds:.3g} s" for way, seconds in self.seconds.items()]
        return "\n".join(lines)


def choose(work: Work, way: str | Plan | None = None) -> Plan:
    """Return the plan for some work; `way` forces it.

    Raises
    ------
    PlanError
        The device does not have that way, or the plan was made for other work.
    """
    if isinstance(way, Plan):
        if way.work != work:
            raise PlanError("plan= was made for other work: " + _difference(way.work, work))
        return way
    if way is not None and way not in WAYS:
        raise PlanError(f"plan must be one of {', '.join(WAYS)}, a Plan or None, not {way!r}.{nearest(str(way), WAYS)}")
    absent = {name: why for name in WAYS if (why := why_not(work, name))}
    if way in absent:
        raise PlanError(f'plan="{way}" {absent[way]}. Use plan="composed", or None.')
    seconds = {name: work.seconds(name) for name in WAYS if name not in absent and (name == way or work.offers(name))}
    chosen = way or min(seconds, key=seconds.__getitem__)
    reason = "asked for" if way else "the only way this device has" if len(seconds) == 1 else "predicted to be fastest"
    start = work.start_seconds if chosen == "generated" else 0.0
    step = (seconds[chosen] - start) / work.steps
    shortest = LANES_CHUNK if chosen == "lanes" else 1  # packing must not take longer than the steps
    chunk = 2 ** max(0, min(22, int(np.log2(max(CHUNK_SECONDS / step, shortest)))))
    return Plan(chosen, reason, work, chunk, seconds)


def why_not(work: Work, way: str) -> str | None:
    """Return why some work cannot be done in a way, or None."""
    if way == "composed":
        return None
    if work.device.kind == "cuda" and way == "generated":
        from nnkernels.backends.cupy.codegen import choice as cuda

        return cuda.why_not(work.recipe, work.networks or 1)
    if work.device.kind != "numba":
        return f"is not there on {work.device}"
    if work.networks is not None and way != "lanes":
        return "is not there for an ensemble on numba"
    if way in ("lanes", "generic"):
        return None
    from nnkernels.backends.numba.codegen import choice

    return choice.why_not(work.recipe)


def _difference(planned: Work, actual: Work) -> str:
    fields = [
        (name, getattr(planned, name), getattr(actual, name)) for name in ("device", "n_rows", "steps", "networks")
    ]
    fields += [(name, getattr(planned.recipe, name), value) for name, value in vars(actual.recipe).items()]
    return "; ".join(f"{name} was {_short(old)}, now {_short(new)}" for name, old, new in fields if old != new)


def _short(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _copies(networks: int | None) -> str:
    return "" if networks is None else f", {networks:,} times"
