"""Runs of an ensemble on arrays that belong to the networks at work: composed kernels, and launches on a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from nnkernels._composed import ComposedRun, Data
from nnkernels._ensemble_data import Members

if TYPE_CHECKING:
    from nnkernels._data import Host
    from nnkernels._ensemble import Ensemble
    from nnkernels._losses import Loss
    from nnkernels._optimizers import Optimizer
    from nnkernels._plan import Plan
    from nnkernels.backends.protocol import Array


class Bound(Protocol):
    """What trains m networks at once."""

    @property
    def arrays(self) -> dict[str, Array]:
        """The parameters and the optimizer's state, (m, P) each, and the "total" of the losses, (m,)."""

    def advance(self, first_step: int, stops: Sequence[int]) -> list[Any]:
        """Take steps up to the last of `stops`; return the sums of the losses up to each of them, (m,)."""


class BoundRun:
    """A training run of some networks of an ensemble; those that go on are bound together, until one drops out.

    What is known of the networks after their last good chunk is kept on the host, where it is checked.

    Parameters
    ----------
    plan, ensemble, rows, loss, optimizer, data, batch_size, sampling, seed
        As for `nnkernels.backends.numba.networks.NetworksRun`.
    """

    def __init__(
        self,
        plan: Plan,
        ensemble: Ensemble,
        rows: Host,
        loss: Loss,
        optimizer: Optimizer,
        data: Data,
        *,
        batch_size: int,
        sampling: str,
        seed: int,
    ) -> None:
        self.plan, self.ensemble, self.rows, self.kernels = plan, ensemble, rows, ensemble.device.kernels
        self.loss, self.optimizer, self.data = loss, optimizer, data
        self.settings: dict[str, Any] = {
            "batch_size": batch_size,
            "sampling": sampling,
            "seed": seed,
            "steps": plan.work.steps,
        }
        shape = len(rows), ensemble.n_parameters
        self.state = {name: np.zeros(shape, ensemble.dtype) for name in optimizer.state}
        self.bound: Bound | None = None
        self.members = np.empty(0, np.int64)

    def advance(self, members: Host, first_step: int, stops: list[int]) -> tuple[Host, Host]:
        """Take steps with some networks; see `nnkernels._ensemble_training.Run`."""
        if self.bound is None or not np.array_equal(members, self.members):
            self.bound, self.members = self._bind(members), members
        flat = self.ensemble.flat_on_host()
        before = {"parameters": flat[self.rows[members]], "total": np.zeros(len(members))}
        before |= {name: state[members] for name, state in self.state.items()}
        arrays = self.bound.arrays
        for name, array in arrays.items():
            self.kernels.copy(self.kernels.from_host(before[name]), out=array)
        losses = np.stack(self.bound.advance(first_step, stops), axis=1)
        after = {name: self.kernels.to_host(array) for name, array in arrays.items()}
        numbers = (losses, *after.values())
        good = np.logical_and.reduce([np.isfinite(array.reshape(len(members), -1)).all(1) for array in numbers])
        flat[self.rows[members[good]]] = after["parameters"][good]
        for name, state in self.state.items():
            state[members[good]] = after[name][good]
        self.ensemble.set_flat(flat)
        return losses, good

    def _bind(self, members: Host) -> Bound:
        rows = self.rows[members]
        names = [name for name in self.optimizer.varied if name == "lr"]
        optimizer = self.optimizer.replace(**{name: np.array(getattr(self.optimizer, name))[members] for name in names})
        flat = self.kernels.empty((len(members), self.ensemble.n_parameters), self.ensemble.dtype)
        network = Members(self.ensemble, flat, self.ensemble.numbers[rows])
        if self.plan.way == "generated":
            from nnkernels.backends.cupy.networks import Launches

            data = [part if part is None or part.ndim == 2 else part[rows] for part in self.data]
            return Launches(self.plan, network, self.loss, optimizer, Data(*data), **self.settings)
        whole = self.plan.work.recipe.whole
        data = [None if part is None else _own(part, rows, repeat=whole) for part in self.data]
        moved = Data(*(None if part is None else self.kernels.from_host(part) for part in data))
        return _Composed(network, self.loss, optimizer, moved, **self.settings)


def _own(part: Host, rows: Host, *, repeat: bool) -> Host:
    """Return the data of some networks; what all of them share is repeated if it is to be a batch itself."""
    if part.ndim == 3:
        return part[rows]
    return np.broadcast_to(part, (len(rows), *part.shape)) if repeat else part


class _Composed(ComposedRun):
    """A composed run of several networks at once, each with its own learning rate."""

    @property
    def arrays(self) -> dict[str, Array]:
        """What changes from step to step, by name."""
        return self._changing()

    def _draw_rates(self, start: int) -> None:
        rates = network_rates(self.optimizer, self.leading[0], start, self.block, self.network.dtype)
        self.rates: Any = self.kernels.from_host(rates[..., None])

    def _set_rate(self, number: int) -> None:
        self.kernels.copy(self.rates[number], out=self.rate)


def network_rates(optimizer: Optimizer, n: int, first_step: int, count: int, dtype: str) -> Host:
    """Return the learning rates of each of n networks, (count, n)."""
    factors = optimizer.replace(lr=1.0).rates(first_step, count, np.float64)
    rates: Host = (factors[:, None] * np.broadcast_to(optimizer.lr, n)).astype(dtype)
    return rates
