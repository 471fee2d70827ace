"""The composed way to run: one call a kernel. Always there; the oracle of every other way.

The same steps serve several networks at once, whose arrays have a leading axis: see `ComposedNetworks`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nnkernels._sampling import batch_rows
from nnkernels._workspace import Call, Dropout, Step

if TYPE_CHECKING:
    from nnkernels._ensemble_data import Members
    from nnkernels._losses import Loss
    from nnkernels._network import Sequential
    from nnkernels._optimizers import Optimizer
    from nnkernels.backends.protocol import Array, Kernels

BLOCK_STEPS, BLOCK_ROWS = 1024, 2**20  #: row numbers drawn at a time, at most: steps, and rows altogether


class Data(NamedTuple):
    """A data set on the device: (..., rows, n_in), (..., rows, n_out) and, if rows are weighted, (..., rows, 1)."""

    x: Array
    t: Array
    weight: Array | None


class InPlaceRun:
    """What a run has that trains the network's own parameters, on its device.

    Attributes
    ----------
    kernels : Kernels
        The device's.
    flat, total, state : Array, Array, dict of str to Array
        The parameters, the sum of the losses so far, and the optimizer's arrays: all that a step changes.
    """

    note = ""  #: what went another way than planned
    kernels: Kernels
    flat: Array
    total: Array
    state: dict[str, Array]

    def _begin(self) -> None:
        """Begin with a loss and a state of zero, and with room to remember what changes."""
        for array in (*self.state.values(), self.total):
            self.kernels.fill(0, out=array)
        self.kept = {name: self.kernels.empty(array.shape, array.dtype) for name, array in self._changing().items()}

    def _take_loss(self) -> Any:
        """Return the sum of the losses of the steps since the last call."""
        loss = self.kernels.to_host(self.total)
        self.kernels.fill(0, out=self.total)
        return float(loss) if loss.ndim == 0 else loss

    def keep(self) -> None:
        """Remember the parameters, the optimizer's state and the loss so far, for `restore`."""
        for name, array in self._changing().items():
            self.kernels.copy(array, out=self.kept[name])

    def restore(self) -> None:
        """Go back to what was last kept."""
        for name, array in self._changing().items():
            self.kernels.copy(self.kept[name], out=array)

    def publish(self) -> None:
        """Leave the network its parameters: they never were anywhere else."""

    def finite(self) -> bool:
        """Tell whether the loss so far, all parameters and the optimizer's state are numbers."""
        arrays = self._changing().values()
        hosts = (array if isinstance(array, np.ndarray) else self.kernels.to_host(array) for array in arrays)
        return all(bool(np.isfinite(host).all()) for host in hosts)

    def _changing(self) -> dict[str, Array]:
        return {"parameters": self.flat, "total": self.total, **self.state}


class ComposedRun(InPlaceRun):
    """A training run as a sequence of kernel calls on the network's own parameters.

    Parameters
    ----------
    network : Sequential or Members
        Trained in place.
    loss, optimizer : Loss, Optimizer
        What is minimized, and how.
    data : Data
        On the network's device.
    batch_size, steps, sampling : int, int, str
        How batches are drawn, and how many.
    seed : int
        Of the row order and of dropout.
    """

    def __init__(
        self,
        network: Sequential | Members,
        loss: Loss,
        optimizer: Optimizer,
        data: Data,
        *,
        batch_size: int,
        steps: int,
        sampling: str,
        seed: int,
    ) -> None:
        self.network: Any = network
        self.loss, self.optimizer, self.data = loss, optimizer, data
        self.batch_size, self.sampling, self.seed = batch_size, sampling, seed
        kernels, dtype, flat = network.device.kernels, network.dtype, network.parameters.flat
        self.kernels, self.flat = kernels, flat
        self.n_rows, self.leading = data.x.shape[-2], flat.shape[:-1]
        networks = math.prod(self.leading)
        self.block = max(1, min(BLOCK_STEPS, BLOCK_ROWS // (batch_size * networks), steps))
        self.drawn = -1  # first step of the block whose order and rates are at hand
        shape = (*self.leading, self.block, batch_size)
        self.order = None if self._takes_all_rows() else kernels.empty(shape, np.int64)
        self.gradient = kernels.empty(flat.shape, dtype)
        self.state = {name: kernels.empty(flat.shape, dtype) for name in optimizer.state}
        self.rate = kernels.empty((*self.leading, *(1 for _ in self.leading)), dtype)
        self.step, self.total = kernels.empty((), np.int64), kernels.empty(self.leading, np.float64)
        self._begin()
        self.update = self._bind_update()
        self.batches = {rows: self._bind_batch(rows) for rows in self._batch_sizes()}

    def advance(self, first_step: int, stops: Sequence[int]) -> list[Any]:
        """Run up to the last of the steps `stops`; return the sum of the losses up to each of them.

        The row order is drawn in blocks, outside the arithmetic, and kept from call to call.
        """
        losses = []
        for end in stops:
            while first_step < end:
                start = first_step - first_step % self.block
                self._draw(start)
                stop = min(start + self.block, end)
                self._advance_block(start, range(first_step, stop))
                first_step = stop
            losses.append(self._take_loss())
        return losses

    def _draw(self, start: int) -> None:
        """Draw the learning rates and the row order of a block of steps, unless they are the last ones drawn."""
        if start == self.drawn:
            return
        self.drawn = start
        self._draw_rates(start)
        if self.order is not None:
            draw, sampling = self.kernels.draw_indices, self.sampling
            for part, number in self.network.numbers:
                draw(self.seed, number, start, sampling=sampling, n_rows=self.n_rows, out=self.order[part])

    def _draw_rates(self, start: int) -> None:
        self.rates: Any = self.optimizer.rates(start, self.block, self.network.dtype).tolist()

    def _set_rate(self, number: int) -> None:
        """Take a rate of the present block."""
        self.kernels.fill(self.rates[number], out=self.rate)

    def _advance_block(self, start: int, steps: range) -> None:
        kernels = self.kernels
        for step in steps:
            kernels.fill(step, out=self.step)
            self._set_rate(step - start)
            batch, calls = self.batches[batch_rows(step, self.n_rows, self.batch_size, self.sampling)]
            if self.order is not None:
                self._gather(self.order[..., step - start, : batch.x.shape[-2]], batch)
            for call in calls:
                call()

    def _gather(self, rows: Array, batch: Data) -> None:
        """Fill a batch's buffers with some rows of the data."""
        for source, target in zip(self.data, batch, strict=True):
            if source is not None:
                self.kernels.gather(source, rows, out=target)

    def _takes_all_rows(self) -> bool:
        """A batch of all rows needs no order."""
        return self.batch_size == self.n_rows and self.sampling != "replacement"

    def _batch_sizes(self) -> set[int]:
        """Return the full batch and, where an epoch ends with one, the short one."""
        short = self.n_rows % self.batch_size
        return {self.batch_size} | ({short} if short and self.sampling != "replacement" else set())

    def _bind_batch(self, rows: int) -> tuple[Data, list[Call]]:
        """Return buffers for a batch, and the calls that take a step on it."""
        kernels, dtype, data = self.kernels, self.network.dtype, self.data
        if self._takes_all_rows():
            batch = data
        else:
            x, t = (kernels.empty((*self.leading, rows, array.shape[-1]), dtype) for array in (data.x, data.t))
            batch = Data(x, t, None if data.weight is None else kernels.empty((*self.leading, rows, 1), dtype))
        factors = kernels.empty((*self.leading, rows), dtype)
        kernels.fill(1 / rows if self.loss.reduction == "mean" else 1, out=factors)
        calls: list[Call] = []
        if batch.weight is not None:
            shares, factors = factors, kernels.empty((*self.leading, rows), dtype)
            weight = batch.weight.reshape(*self.leading, rows)
            calls.append(partial(kernels.activation_backward, weight, shares, out=factors))
        dropout = Dropout(self.seed, self.network.numbers, self.step)
        step = Step(
            self.network,
            self.loss,
            batch.x,
            batch.t,
            factors,
            gradient=self.gradient,
            total=self.total,
            dropout=dropout,
        )
        return batch, [*calls, *step.calls, *self.update]

    def _bind_update(self) -> list[Call]:
        """Return the calls that turn the gradient into an update: penalties, clipping, the optimizer."""
        kernels, optimizer, parameters = self.kernels, self.optimizer, self.network.parameters
        calls: list[Call] = []
        if optimizer.l1 or optimizer.l2:
            gradients = parameters.layout.views(self.gradient)
            penalties: list[Call] = [
                partial(kernels.penalty_backward, weight, l1=optimizer.l1, l2=optimizer.l2, out=gradients[name])
                for name, weight in parameters.items()
                if name.endswith("weight")
            ]
            calls += penalties
        if optimizer.clip_value is not None:
            calls.append(partial(kernels.clip_by_value, self.gradient, optimizer.clip_value))
        if optimizer.clip_norm is not None:
            calls.append(partial(kernels.clip_by_norm, self.gradient, optimizer.clip_norm))
        update = getattr(kernels, f"{optimizer.kernel}_update")
        arrays = (parameters.flat, self.gradient, *self.state.values())
        calls.append(partial(update, *arrays, lr=self.rate, step=self.step, **optimizer.scalars))
        return calls
