"""Whole-run training of many networks on a GPU: all of them in one launch a block of steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nnkernels._ensemble_composed import network_rates
from nnkernels._recipe import schedule_values, setting_values
from nnkernels._sampling import rows_of_batches
from nnkernels.backends.cupy import kernels
from nnkernels.backends.cupy.codegen import choice
from nnkernels.backends.cupy.training import launch_steps, whole_run

if TYPE_CHECKING:
    from nnkernels._composed import Data
    from nnkernels._ensemble_data import Members
    from nnkernels._losses import Loss
    from nnkernels._optimizers import Optimizer
    from nnkernels._plan import Plan
    from nnkernels.backends.protocol import Array


class Launches:
    """A run of m networks; what it trains are its `arrays`.

    Networks whose numbers are not consecutive, and whose dropout depends on them, are launched one run of them after
    the other.

    Parameters
    ----------
    plan : Plan
        The way to run: "generated".
    network, loss, optimizer, batch_size, steps, sampling, seed
        As for `ComposedRun`; the optimizer's learning rates may be m.
    data : Data
        On the host: (rows, columns), or (m, rows, columns) where networks have their own.
    """

    def __init__(
        self,
        plan: Plan,
        network: Members,
        loss: Loss,
        optimizer: Optimizer,
        data: Data,
        *,
        batch_size: int,
        steps: int,
        sampling: str,
        seed: int,
    ) -> None:
        self.network, self.loss, self.optimizer = network, loss, optimizer
        self.batch_size, self.sampling, self.seed = batch_size, sampling, seed
        self.recipe, flat = plan.work.recipe, network.parameters.flat
        self.networks, self.n_rows = flat.shape[0], data.x.shape[-2]
        self.program = choice.generated(self.recipe, self.networks)
        self.run = whole_run(self.program, self.recipe.dtype)
        self.block = max(1, min(launch_steps(plan, batch_size * self.networks), steps))
        self.data = [None if part is None else kernels.from_host(part) for part in data]
        self.own_data, self.own_weight = data.x.ndim == 3, data.weight is not None and data.weight.ndim == 3
        drops = any(layer.dropout for layer in self.recipe.layers)
        self.parts = network.numbers if drops else [(slice(0, self.networks), network.numbers[0][1])]
        self.settings = kernels.from_host(
            setting_values(self.recipe.settings, self.recipe, loss, optimizer.replace(lr=1.0))
        )
        names = ("parameters", *self.recipe.state)
        self.arrays: dict[str, Array] = {name: kernels.empty(flat.shape, self.recipe.dtype) for name in names}
        self.arrays["total"] = kernels.empty((self.networks,), np.float64)

    def advance(self, first_step: int, stops: Sequence[int]) -> list[Any]:
        """Run up to the last of the steps `stops`, a launch for each block; return the losses up to each of them."""
        losses = []
        for stop in stops:
            for start in range(first_step, stop, self.block):
                self._advance(start, min(self.block, stop - start))
            losses.append(kernels.to_host(self.arrays["total"]))
            kernels.fill(0, out=self.arrays["total"])
            first_step = stop
        return losses

    def _advance(self, first_step: int, count: int) -> None:
        recipe = self.recipe
        rows = np.asarray(rows_of_batches(first_step, count, self.n_rows, self.batch_size, self.sampling), np.int64)
        counts = kernels.from_host(rows) if recipe.factor is None else None
        schedule, order = kernels.from_host(self._schedule(first_step, rows)), None
        if not recipe.whole:
            order = kernels.empty((self.networks, count, self.batch_size), np.int64)
            for part, number in self.network.numbers:
                draw, sampling = kernels.draw_indices, self.sampling
                draw(self.seed, number, first_step, sampling=sampling, n_rows=self.n_rows, out=order[part])
        for part, number in self.parts:
            self._launch(part, number, first_step, count, order, counts, schedule)

    def _schedule(self, first_step: int, rows: Any) -> Any:
        """Return what changes from step to step, for each network, (m, steps, columns)."""
        plain = self.optimizer.replace(lr=1.0)
        table = schedule_values(self.recipe.scheduled, self.recipe, self.loss, plain, first_step, rows)
        tables = np.repeat(table[None], self.networks, axis=0)
        rates = network_rates(self.optimizer, self.networks, first_step, len(rows), self.recipe.dtype)
        tables[:, :, self.recipe.scheduled.index("lr")] = rates.T
        return tables

    def _launch(
        self, part: slice, number: int, first_step: int, count: int, order: Any, counts: Any, schedule: Any
    ) -> None:
        """Launch the networks of a part; the state is put together, as the program wants it, and taken apart again."""
        n, recipe, arrays = part.stop - part.start, self.recipe, self.arrays
        shape = len(recipe.state), n, recipe.n_parameters
        state: Any = kernels.empty(shape, recipe.dtype) if recipe.state else None
        for k, name in enumerate(recipe.state):
            kernels.copy(arrays[name][part], out=state[k])
        x, t, weight = self.data
        own = [array[part] if array is not None and array.ndim == 3 else array for array in (x, t, weight)]
        weight = None if own[2] is None else own[2].reshape(-1)
        networks = (arrays["parameters"][part], state, arrays["total"][part])
        order = None if order is None else order[part]
        passed = (*networks, own[0], own[1], weight, order, counts, schedule[part], self.settings)
        strides = (self.n_rows * self.own_data, self.n_rows * self.own_weight)
        steps = (0 if order is None else count * self.batch_size, count * len(recipe.scheduled))
        program = self.program
        self.run(program.blocks(n), program.threads, *passed, self.seed, number, first_step, count, n, *strides, *steps)
        for k, name in enumerate(recipe.state):
            kernels.copy(state[k], out=arrays[name][part])
