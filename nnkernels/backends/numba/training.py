"""Whole-run training: all steps in one call of compiled code.

The interface is that of `nnkernels._composed.ComposedRun`: `fit` does not know which of them it drives.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from nnkernels._recipe import Recipe, schedule_values, setting_values
from nnkernels._sampling import rows_of_batches
from nnkernels.backends.numba import threads
from nnkernels.backends.numba.codegen.program import ARGUMENTS, Whole

if TYPE_CHECKING:
    from nnkernels._composed import Data
    from nnkernels._losses import Loss
    from nnkernels._network import Sequential
    from nnkernels._optimizers import Optimizer
    from nnkernels._plan import Plan
    from nnkernels.backends.numba.machine import Program

BLOCK_STEPS, BLOCK_ROWS = 8192, 2**18  #: steps of one call at most, and row numbers drawn for it
BLOCK_SECONDS = 0.05  #: of one call, as predicted: Ctrl-C is noticed after it

_TYPES = {"int": ctypes.c_int64}
_STEPS, _THREAD, _THREADS = (list(ARGUMENTS).index(name) for name in ("steps", "thread", "threads"))


@lru_cache(maxsize=256)
def program(source: str, dtype: str, lanes: int) -> Program:
    """Return the compiled program, once a process."""
    from nnkernels.backends.numba.language import Target
    from nnkernels.backends.numba.machine import Program

    return Program(source, Target(dtype, lanes))


class WholeRun:
    """A training run in compiled code, on a copy of the parameters in the program's own layout.

    Parameters
    ----------
    network, loss, optimizer, data, batch_size, steps, sampling, seed
        As for `ComposedRun`.
    plan : Plan
        The way to run: "generic" or "generated".
    """

    note = ""  #: nothing can go another way than planned

    def __init__(
        self,
        network: Sequential,
        loss: Loss,
        optimizer: Optimizer,
        data: Data,
        *,
        batch_size: int,
        steps: int,
        sampling: str,
        seed: int,
        plan: Plan,
    ) -> None:
        self.network, self.loss, self.optimizer, self.plan = network, loss, optimizer, plan
        self.batch_size, self.sampling, self.seed = batch_size, sampling, seed
        self.recipe, self.n_rows = plan.work.recipe, len(data.x)
        self.flat = network.parameters.flat
        self.generated = written(self.recipe, plan.way)
        self.call = program(self.generated.source, self.recipe.dtype, self.generated.lanes).function(
            "run", *(_TYPES.get(kind, ctypes.c_void_p) for kind in ARGUMENTS.values())
        )
        step_seconds = plan.seconds[plan.way] / plan.work.steps
        block = min(
            BLOCK_STEPS, BLOCK_ROWS // self.generated.batch, int(BLOCK_SECONDS / max(step_seconds, 1e-9)), steps
        )
        self.block = max(1, block)
        self.threads = min(self.generated.parts, threads.count()) if plan.work.worth_threads else 1
        self._allocate(data)

    def _allocate(self, data: Data) -> None:
        recipe, generated, dtype = self.recipe, self.generated, self.recipe.dtype
        arrays: dict[str, Any] = {
            "parameters": _aligned((1 + generated.n_state) * generated.packing.size, dtype),
            "workspace": _aligned(generated.workspace, dtype),
            "order": np.zeros((self.block, generated.batch), np.int64),
            "counts": np.full(self.block, self.batch_size, np.int64),
            "schedule": np.zeros((self.block, len(generated.scheduled)), dtype),
            "settings": setting_values(generated.settings, recipe, self.loss, self.optimizer),
            "sizes": generated.sizes,
            "loss": np.zeros(generated.parts + self.block),
            "seeds": np.array([self.seed, self.network.key.network, 0], np.uint64).view(np.int64),
            "sync": np.zeros(16, np.int64),
        }
        weight = None if data.weight is None else data.weight.reshape(-1)
        columns = generated.columns
        arrays["x"] = _columns(data.x, generated.batch) if columns else np.ascontiguousarray(data.x)
        arrays["t"] = _columns(data.t, generated.batch) if columns else _padded_rows(data.t, generated.targets)
        if weight is not None:
            weight = _columns(weight[:, None], generated.batch) if columns else np.ascontiguousarray(weight)
        arrays["weight"] = arrays["settings"] if weight is None else weight
        self.arrays = arrays
        self.packed = arrays["parameters"][: generated.packing.size]
        self.summed = arrays["loss"][generated.parts :]  # over the steps of a block
        self.ahead = False  # of the network's parameters, the program's
        self.kept = np.empty_like(arrays["parameters"])
        self.drawn = np.empty((self.block, self.batch_size), np.int64)
        self.arguments = [arrays[name].ctypes.data if name in arrays else 0 for name in ARGUMENTS]
        self.draw_indices = self.network.device.kernels.draw_indices
        self.scheduled = generated.scheduled == ("lr",) and self.optimizer.has_constant_rate
        if self.scheduled:
            arrays["schedule"][:] = self.optimizer.rates(0, 1, dtype)

    def advance(self, first_step: int, stops: Sequence[int]) -> list[float]:
        """Run up to the last of the steps `stops`, a block at a time; return the sum of the losses up to each."""
        losses: list[float] = []
        rest, self.ahead = 0.0, True  # of the losses, what came since the last stop
        while first_step < stops[-1]:
            count = min(self.block, stops[-1] - first_step)
            self._advance_block(first_step, count)
            upto = 0.0
            while len(losses) < len(stops) and stops[len(losses)] <= first_step + count:
                before, upto = upto, float(self.summed[stops[len(losses)] - first_step - 1])
                losses.append(rest + (upto - before))
                rest = 0.0
            rest += float(self.summed[count - 1]) - upto
            first_step += count
        return losses

    def publish(self) -> None:
        """Copy the parameters to the network, whose own ones are old until then."""
        if self.ahead:
            self.generated.packing.unpack(self.packed, self.flat)
            self.ahead = False

    def keep(self) -> None:
        """Remember the network's parameters and the optimizer's state, for `advance` and `restore`."""
        if not self.ahead:  # somebody may have changed them
            self.generated.packing.pack(self.flat, self.packed)
        np.copyto(self.kept, self.arrays["parameters"])

    def restore(self) -> None:
        """Go back to what was last kept."""
        np.copyto(self.arrays["parameters"], self.kept)
        self.ahead = True
        self.publish()

    def finite(self) -> bool:
        """Tell whether all parameters and the optimizer's state are numbers."""
        return bool(np.isfinite(self.arrays["parameters"]).all())

    def _advance_block(self, first_step: int, count: int) -> None:
        self._draw(first_step, count)
        self.arrays["seeds"][2] = first_step
        self.arrays["sync"][0] = 0

        def run(thread: int, n_threads: int) -> None:
            arguments = self.arguments.copy()
            arguments[_STEPS], arguments[_THREAD], arguments[_THREADS] = count, thread, n_threads
            self.call(*arguments)

        threads.together(run, self.threads)

    def _draw(self, first_step: int, count: int) -> None:
        """Draw the order and the schedule of a block of steps."""
        arrays, recipe = self.arrays, self.recipe
        rows = arrays["counts"][:count]
        if recipe.factor is None:
            rows[:] = rows_of_batches(first_step, count, self.n_rows, self.batch_size, self.sampling)
        if not self.scheduled:
            arrays["schedule"][:count] = schedule_values(
                self.generated.scheduled, recipe, self.loss, self.optimizer, first_step, rows
            )
        if recipe.whole:
            return
        drawn, order = self.drawn[:count], arrays["order"][:count]
        direct = self.generated.batch == self.batch_size
        self.draw_indices(
            self.seed,
            self.network.key.network,
            first_step,
            sampling=self.sampling,
            n_rows=self.n_rows,
            out=order if direct else drawn,
        )
        if not direct:
            order[:, : self.batch_size] = drawn
            order[:, self.batch_size :] = drawn[:, :1]
        if recipe.factor is None:  # a short batch: the rest of its rows repeats the first one, and counts for nothing
            np.copyto(order, order[:, :1], where=order < 0)


def written(recipe: Recipe, way: str) -> Whole:
    """Return the program for a recipe: written for it, or the one that reads its sizes when it runs."""
    from nnkernels.backends.numba.codegen import choice

    return choice.generated(recipe) if way == "generated" else choice.generic(recipe)


def _aligned(size: int, dtype: str) -> Any:
    """Return zeros that begin at a cache line."""
    itemsize = np.dtype(dtype).itemsize
    raw = np.zeros(size * itemsize + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size * itemsize].view(dtype)


def _columns(rows: Any, length: int) -> Any:
    """Return rows transposed, each column continued with its first element."""
    columns = np.empty((rows.shape[1], length), rows.dtype)
    columns[:, : len(rows)] = rows.T
    columns[:, len(rows) :] = rows[0][:, None]
    return columns


def _padded_rows(rows: Any, width: int) -> Any:
    padded = np.zeros((len(rows) + 1, width), rows.dtype)
    padded[:-1, : rows.shape[1]] = rows
    return padded
