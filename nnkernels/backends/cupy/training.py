"""Training on a GPU: a step of composed kernels as a captured graph, or the whole run in one launch a chunk."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import cupy
import numpy as np
from cupy.cuda import runtime

from nnkernels._composed import ComposedRun, InPlaceRun
from nnkernels._errors import KernelFault
from nnkernels._recipe import schedule_values, setting_values
from nnkernels._sampling import batch_rows, rows_of_batches
from nnkernels.backends.cupy import cublas, launch, memory
from nnkernels.backends.cupy.codegen import choice
from nnkernels.backends.cupy.faults import faults

if TYPE_CHECKING:
    from nnkernels._composed import Data
    from nnkernels._losses import Loss
    from nnkernels._network import Sequential
    from nnkernels._optimizers import Optimizer
    from nnkernels._plan import Plan
    from nnkernels.backends.cupy.codegen.program import Whole
    from nnkernels.backends.protocol import Array

BLOCK_ROWS = 2**20  #: row numbers drawn for a launch, at most
LAUNCH_SECONDS = 0.2  #: of a launch, as predicted: displays and Ctrl-C wait for it

_threads = threading.local()


def start(plan: Plan, *args: Any, **kwargs: Any) -> CapturedRun | WholeRun:
    """Return the run of a plan."""
    return CapturedRun(*args, **kwargs) if plan.way == "composed" else WholeRun(*args, **kwargs, plan=plan)


class CapturedRun(ComposedRun):
    """A composed run whose step is one CUDA graph: a launch a step, instead of one a kernel.

    What changes from step to step is read from the device: the step's number, its rate, its rows. If CUDA refuses to
    capture a step, its kernels are launched one by one, and `note` says so.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.note = ""
        self.counters = self.kernels.empty((2,), np.int64)
        self.block_rates = self.kernels.empty((self.block,), self.network.dtype)
        self.rows = None if self.order is None else self.kernels.empty((self.batch_size,), np.int64)
        self.graphs: dict[int, Any] = {}
        self.handle: cublas.Handle | None = None

    def _draw(self, start: int) -> None:
        if start != self.drawn:
            super()._draw(start)
            memory.upload(np.array(self.rates, self.network.dtype), out=self.block_rates)

    def _advance_block(self, start: int, steps: range) -> None:
        self.kernels.fill(steps.start - start, out=self.counters[:1])
        self.kernels.fill(start, out=self.counters[1:])
        for step in steps:
            size = batch_rows(step, self.n_rows, self.batch_size, self.sampling)
            if size not in self.graphs:
                self.graphs[size] = self._capture(size)
            if self.graphs[size] is None:
                self._call(size)
            else:
                with faults("a captured step"):
                    self.graphs[size].launch()

    def _call(self, size: int) -> None:
        """Launch the kernels of a step on a batch of so many rows."""
        batch, calls = self.batches[size]
        rate = (self.counters, self.step, self.rate, self.block_rates)
        begin = launch.kernel("begin_step", self.network.dtype)
        begin(1, launch.THREADS, *rate, self.rows, self.order, self.batch_size, size)
        if self.rows is not None:
            self._gather(self.rows[:size], batch)
        for call in calls:
            call()

    def _capture(self, size: int) -> Any:
        """Return the graph of a step, or None if CUDA refuses; the step is taken once before, and taken back."""
        kept = {name: self._copy(array) for name, array in (*self._changing().items(), ("counters", self.counters))}
        stream = _capture_stream()
        current = cupy.cuda.get_current_stream()
        current.synchronize()
        try:
            with stream:
                self._call(size)  # compiles and loads what the step needs: that cannot be captured
                stream.synchronize()
                self.handle = cublas.handle()  # its workspace is part of the graph
                graph = self._record(stream, size)
        finally:
            for name, array in (*self._changing().items(), ("counters", self.counters)):
                self.kernels.copy(kept[name], out=array)
        return graph

    def _record(self, stream: Any, size: int) -> Any:
        try:
            stream.begin_capture()
            self._call(size)
            return stream.end_capture()
        except (KernelFault, runtime.CUDARuntimeError) as error:
            self.note = f"CUDA refused to capture a step ({error}), whose kernels are launched one by one"
            _abandon(stream)
            return None

    def _copy(self, array: Array) -> Array:
        out = self.kernels.empty(array.shape, array.dtype)
        self.kernels.copy(array, out=out)
        return out


def _capture_stream() -> Any:
    """Return this thread's stream for captures on the current device: the default stream cannot be captured."""
    streams: dict[int, Any] = _threads.__dict__.setdefault("streams", {})
    device = runtime.getDevice()
    if device not in streams:
        streams[device] = cupy.cuda.Stream(non_blocking=True)
    return streams[device]


def _abandon(stream: Any) -> None:
    """End a capture that has failed; ending it fails, too."""
    try:
        stream.end_capture()
    except runtime.CUDARuntimeError:
        _threads.streams.clear()


def whole_run(program: Whole, dtype: str) -> launch.Kernel:
    """Return a whole-run program's kernel on the current device."""
    return launch.library(program.complete, dtype, runtime.getDevice(), contracted=False).kernel("run")


def launch_steps(plan: Plan, rows: int) -> int:
    """Return the most steps of a launch, by its predicted time and the row numbers drawn for it, `rows` a step."""
    return min(BLOCK_ROWS // rows, int(LAUNCH_SECONDS / (plan.seconds[plan.way] / plan.work.steps)))


class WholeRun(InPlaceRun):
    """A training run in one launch a block of steps, on the network's own parameters.

    Parameters
    ----------
    network, loss, optimizer, data, batch_size, steps, sampling, seed
        As for `ComposedRun`.
    plan : Plan
        The way to run: "generated".
    """

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
        self.network, self.loss, self.optimizer, self.data = network, loss, optimizer, data
        self.batch_size, self.sampling, self.seed = batch_size, sampling, seed
        self.recipe, self.n_rows, self.flat = plan.work.recipe, plan.work.n_rows, network.parameters.flat
        self.program = choice.generated(self.recipe)
        self.run = whole_run(self.program, self.recipe.dtype)
        self.block = max(1, min(launch_steps(plan, batch_size), plan.chunk, steps))
        self._allocate()

    def _allocate(self) -> None:
        kernels, recipe = self.network.device.kernels, self.recipe
        empty, dtype, size = kernels.empty, recipe.dtype, self.flat.size
        self.kernels = kernels
        self.state = {"all": empty((len(recipe.state), size), dtype)} if recipe.state else {}
        self.total = empty((), np.float64)
        self._begin()
        self.order = None if recipe.whole else empty((self.block, self.batch_size), np.int64)
        self.counts = empty((self.block,), np.int64) if recipe.factor is None else None
        self.schedule = empty((self.block, len(recipe.scheduled)), dtype)
        self.settings = kernels.from_host(setting_values(recipe.settings, recipe, self.loss, self.optimizer))
        self.weight = None if self.data.weight is None else self.data.weight.reshape(-1)
        self.constant_schedule = recipe.scheduled == ("lr",) and self.optimizer.has_constant_rate
        if self.constant_schedule:
            kernels.fill(float(self.optimizer.rates(0, 1, dtype)[0]), out=self.schedule)

    def advance(self, first_step: int, stops: Sequence[int]) -> list[float]:
        """Run up to the last of the steps `stops`, a launch for each block; return the losses up to each of them."""
        losses = []
        for end in stops:
            while first_step < end:
                stop = min(first_step + self.block, end)
                self._draw(first_step, stop - first_step)
                self._launch(first_step, stop - first_step)
                first_step = stop
            losses.append(self._take_loss())
        return losses

    def _draw(self, first_step: int, count: int) -> None:
        """Draw the order and the schedule of a block of steps."""
        rows = np.full(count, self.batch_size, np.int64)
        if self.counts is not None:
            rows[:] = rows_of_batches(first_step, count, self.n_rows, self.batch_size, self.sampling)
            memory.upload(rows, out=self.counts[:count])
        if not self.constant_schedule:
            names = self.recipe.scheduled
            values = schedule_values(names, self.recipe, self.loss, self.optimizer, first_step, rows)
            memory.upload(np.ascontiguousarray(values), out=self.schedule[:count])
        if self.order is not None:
            key, order = self.network.key.network, self.order[:count]
            draw = self.kernels.draw_indices
            draw(self.seed, key, first_step, sampling=self.sampling, n_rows=self.n_rows, out=order)

    def _launch(self, first_step: int, count: int) -> None:
        program, key = self.program, self.network.key.network
        trained = (self.flat, self.state.get("all"), self.total)
        arrays = (*trained, self.data.x, self.data.t, self.weight, self.order, self.counts)
        numbers = (self.seed, key, first_step, count, 1, 0, 0, 0, 0)
        self.run(program.blocks(1), program.threads, *arrays, self.schedule, self.settings, *numbers)
