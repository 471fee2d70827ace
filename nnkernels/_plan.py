"""How a run is executed, chosen once: a pure function of the work, never of a clock, a cache or the machine's load."""

from __future__ import annotations

from typing import Any

import numpy as np

from nnkernels._device import Device
from nnkernels._errors import PlanError
from nnkernels._names import nearest
from nnkernels._record import Record

WAYS = ("composed", "generic", "generated")
CHUNK_SECONDS = 0.1  #: a chunk's length: progress, callbacks, Ctrl-C and NaN checks live at its ends


class Cost(Record):
    """Seconds that composed kernels take: a call, a floating-point operation of a matmul, an element of a pass."""

    call: float
    flop: float
    element: float


# Measured on a 2-core x86-64 server with AVX-512. They only predict; being wrong makes a chunk shorter or longer.
COSTS = {"numpy": Cost(1.4e-6, 1.2e-11, 2.5e-9), "numba": Cost(0.64e-6, 1.2e-11, 1.5e-9)}


class Work(Record):
    """Everything that a plan depends on.

    Parameters
    ----------
    device : Device
        Where the run takes place.
    layers : tuple of (n_in, n_out, activation)
        The network.
    loss, optimizer : str
        Names of the kernels.
    dtype : str
        "float32" or "float64".
    n_rows, batch_size, steps : int
        Rows of the data, rows of a batch, number of updates.
    n_parameters, n_state : int
        Parameters, and optimizer state arrays a parameter.
    """

    device: Device
    layers: tuple[tuple[int, int, str], ...]
    loss: str
    optimizer: str
    dtype: str
    n_rows: int
    batch_size: int
    steps: int
    n_parameters: int
    n_state: int

    @property
    def bytes(self) -> int:
        """Memory of the run: parameters, gradients, state, data, activations and deltas."""
        width = sum(3 * n_out for _, n_out, _ in self.layers)
        data = self.n_rows * (self.layers[0][0] + self.layers[-1][1])
        return (self.n_parameters * (3 + 2 * self.n_state) + data + self.batch_size * width) * np.dtype(
            self.dtype
        ).itemsize

    def composed_seconds(self) -> float:
        """Predicted seconds of one step of composed kernels."""
        cost = COSTS.get(self.device.kind, COSTS["numpy"])
        calls = 6 + 5 * len(self.layers)
        flops = 6 * self.batch_size * sum(n_in * n_out for n_in, n_out, _ in self.layers)
        elements = self.batch_size * sum(4 * n_out for _, n_out, _ in self.layers) + 3 * self.n_parameters
        return cost.call * calls + cost.flop * flops + cost.element * elements


class Plan(Record):
    """A way to run, and why.

    Parameters
    ----------
    way : str
        "composed": one call a kernel.
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
        work = self.work
        chain = " -> ".join([str(work.layers[0][0]), *(f"{n_out} {name}" for _, n_out, name in work.layers)])
        lines = [
            f"{self.way} on {work.device}: {self.reason}",
            f"  work       {work.steps:,} steps of {work.batch_size} rows from {work.n_rows:,}, {work.dtype}",
            f"  network    {chain}, {work.n_parameters:,} parameters",
            f"  update     {work.optimizer} on {work.loss}",
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
    if way not in (None, "composed"):
        raise PlanError(f'plan="{way}" is not there on {work.device}. Use plan="composed", or None.')
    step = work.composed_seconds()
    chunk = 2 ** max(0, min(20, int(np.log2(CHUNK_SECONDS / step))))
    reason = "asked for" if way else "the only way this device has"
    return Plan("composed", reason, work, chunk, {"composed": step * work.steps})


def _difference(planned: Work, actual: Work) -> str:
    differing: list[tuple[str, Any, Any]] = [
        (name, getattr(planned, name), getattr(actual, name)) for name in vars(actual)
    ]
    return "; ".join(f"{name} was {old}, now {new}" for name, old, new in differing if old != new)
