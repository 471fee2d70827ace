"""fit: the few lines that every way to run shares. Checks first, then chunks, then logs."""

from __future__ import annotations

import math
import operator
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from nnkernels import _losses, _optimizers
from nnkernels._callbacks import Callback, Progress, check_callbacks
from nnkernels._composed import ComposedRun, Data
from nnkernels._data import Host, check_validation, to_rows, to_weights
from nnkernels._device import Device
from nnkernels._errors import DataError, DeviceMemoryError, DivergenceError, ShapeError
from nnkernels._losses import Loss
from nnkernels._optimizers import Optimizer
from nnkernels._plan import Plan, Work, choose
from nnkernels._recipe import Recipe
from nnkernels._record import Record
from nnkernels._sampling import check_sampling, steps_per_epoch
from nnkernels._workspace import Call, Forward, Step

if TYPE_CHECKING:
    from nnkernels._network import Sequential
    from nnkernels.backends import cupy, numba
    from nnkernels.backends.protocol import Array

    Run = ComposedRun | numba.training.WholeRun | numba.networks.LaneRun | cupy.training.WholeRun

T = TypeVar("T")

LOGS = 100  #: log points of a run, unless told otherwise
ROWS_AT_ONCE, FEWER_ROWS_AT_ONCE = 8192, 512  #: rows of a forward pass over a whole data set


class History:
    """What a run did.

    Attributes
    ----------
    loss : ndarray
        At each log point, the mean of the steps' losses since the last one, each taken before its update.
    steps : ndarray
        Number of steps done at each log point.
    validation_loss : ndarray or None
        At each log point, the loss over the validation data.
    device : Device
        Where it ran.
    plan : Plan
        How it ran.
    seconds : float
        Wall time of the steps, callbacks and validation included.
    """

    def __init__(self, device: Device, plan: Plan) -> None:
        self.device, self.plan = device, plan
        self.seconds = 0.0
        self._logs: list[tuple[int, float, float | None]] = []

    @property
    def loss(self) -> Host:
        """Mean losses, (logs,)."""
        return np.array([loss for _, loss, _ in self._logs], np.float64)

    @property
    def steps(self) -> Host:
        """Steps done, (logs,)."""
        return np.array([step for step, _, _ in self._logs], np.int64)

    @property
    def validation_loss(self) -> Host | None:
        """Losses over the validation data, (logs,), or None."""
        losses = [loss for _, _, loss in self._logs if loss is not None]
        return np.array(losses, np.float64) if losses else None

    @property
    def steps_per_second(self) -> float:
        """Steps per second of wall time."""
        return self._logs[-1][0] / self.seconds if self._logs and self.seconds else 0.0

    def log(self, step: int, loss: float, validation_loss: float | None) -> None:
        """Add a log point."""
        self._logs.append((step, loss, validation_loss))

    def __repr__(self) -> str:
        final = f"loss {self._logs[-1][1]:.6g} after {self._logs[-1][0]:,} steps" if self._logs else "no steps"
        return f"History({final}, {self.steps_per_second:,.0f} steps/s, {self.plan.way} on {self.device})"


class Problem(Record):
    """A checked data set with its loss, on the host.

    Parameters
    ----------
    loss : Loss
        What is minimized.
    x, t : ndarray
        (rows, n_in) and (rows, n_out), in the network's dtype.
    weight : ndarray or None
        (rows,): sample weights times class weights; divided by their mean where the reduction is one.
    """

    loss: Loss
    x: Host
    t: Host
    weight: Host | None

    @classmethod
    def check(
        cls, network: Sequential, x: Any, y: Any, loss: str | Loss, sample_weight: Any = None, *, whose: str = ""
    ) -> Problem:
        """Check everything about the data, before anything is changed; `whose` goes before the names in errors."""
        resolved = _losses.loss(loss)
        resolved.kernel(network.layers[-1].activation_name)
        x, y = (_from_own_device(network, value) for value in (x, y))
        host_x = to_rows(x, network.dtype, f"{whose}x", network.n_in)
        t = resolved.targets(y, network.n_out, network.dtype, f"{whose}y")
        if len(host_x) != len(t):
            raise ShapeError(f"{whose}x has {len(host_x)} rows and {whose}y has {len(t)}; they must be as long")
        if not len(t):
            raise DataError(f"{whose}x and {whose}y have no rows")
        weight = resolved.row_weights(t)
        if sample_weight is not None:
            samples = to_weights(sample_weight, len(t), f"{whose}sample_weight")
            weight = samples if weight is None else samples * weight
        return cls(resolved, host_x, t, None if weight is None else _scaled(weight, resolved, network.dtype))

    def factors(self) -> Host:
        """Return each row's factor in the reduced loss of the whole data set."""
        share = 1 / len(self.t) if self.loss.reduction == "mean" else 1.0
        return np.full(len(self.t), share, self.t.dtype) * (1 if self.weight is None else self.weight)

    def to_device(self, network: Sequential) -> Data:
        """Copy the data to the network's device, once; what is there already stays where it is."""
        kernels = network.device.kernels

        def move(array: Host) -> Any:
            return array if kernels.owns(array) else kernels.from_host(array)

        return Data(move(self.x), move(self.t), None if self.weight is None else move(self.weight[:, None]))


def fit(
    network: Sequential,
    x: Any,
    y: Any,
    *,
    loss: str | Loss,
    optimizer: str | Optimizer,
    batch_size: int | None,
    steps: int | None,
    epochs: int | None,
    sampling: str,
    validation_data: tuple[Any, ...] | None,
    sample_weight: Any,
    callbacks: Callback | Callable[[Progress], Any] | Iterable[Any] | None,
    plan: str | Plan | None,
    log_every: int | None,
) -> History:
    """Train a network; see `Sequential.fit`."""
    problem = Problem.check(network, x, y, loss, sample_weight)
    resolved = _optimizers.optimizer(optimizer)
    work = describe(network, problem, resolved, batch_size, steps, epochs, sampling)
    chosen = choose(work, plan)
    validation = check_validation(Problem, network, validation_data, problem.loss)
    log_every = log_interval(log_every, work.steps)
    checked = check_callbacks(callbacks)

    kernels = network.device.kernels
    with kernels.device_scope(network.device.index), np.errstate(all="ignore"):  # a NaN is reported at its step
        run = _start(
            chosen,
            network,
            problem.loss,
            resolved,
            problem.to_device(network),
            batch_size=work.recipe.batch,
            steps=work.steps,
            sampling=sampling,
            seed=network.next_fit_seed(),
        )
        validate = None if validation is None else Evaluation(network, validation)
        return _run(run, chosen, log_every, checked, validate)


def log_interval(log_every: int | None, steps: int) -> int:
    """Return the steps from one log point to the next."""
    return -(-steps // LOGS) if log_every is None else _positive("log_every", log_every)


def _start(plan: Plan, *args: Any, **kwargs: Any) -> Run:
    """Return the run of a plan."""
    if plan.work.device.kind == "cuda":
        from nnkernels.backends.cupy.training import start

        return start(plan, *args, **kwargs)
    if plan.way == "composed":
        return ComposedRun(*args, **kwargs)
    if plan.way == "lanes":
        from nnkernels.backends.numba.networks import LaneRun

        return LaneRun(*args, **kwargs, plan=plan)
    from nnkernels.backends.numba.training import WholeRun

    return WholeRun(*args, **kwargs, plan=plan)


def describe(
    network: Sequential,
    problem: Problem,
    optimizer: Optimizer,
    batch_size: int | None,
    steps: int | None,
    epochs: int | None,
    sampling: str,
    networks: int | None = None,
) -> Work:
    """Check the size of a run and return what its plan depends on."""
    n_rows = problem.t.shape[-2]
    if optimizer.varied and networks is None:
        names = ", ".join(optimizer.varied)
        raise ValueError(
            f"{type(optimizer).__name__}: {names} has a number for each of several networks. "
            "Use an Ensemble, or give a single network's with optimizer.of(i)."
        )
    check_sampling(sampling)
    batch_size = n_rows if batch_size is None else _positive("batch_size", batch_size)
    if batch_size > n_rows:
        raise ValueError(
            f"batch_size is {batch_size}, but the data has {n_rows} rows. Use batch_size=None for all rows."
        )
    if steps is not None and epochs is not None:
        raise TypeError("give steps or epochs, not both")
    if steps is None:
        steps = _positive("epochs", 1 if epochs is None else epochs) * steps_per_epoch(n_rows, batch_size)
    recipe = Recipe.of(
        network.layers,
        problem.loss,
        optimizer,
        n_rows=n_rows,
        batch=batch_size,
        sampling=sampling,
        weighted=problem.weight is not None,
        dtype=network.dtype,
    )
    steps = _positive("steps", steps)
    return Work(device=network.device, recipe=recipe, n_rows=n_rows, steps=steps, networks=networks)


def _run(
    run: Run, plan: Plan, log_every: int, callbacks: list[Callback], validate: Callable[[], float] | None
) -> History:
    """Train, and whatever happens leave the network its parameters."""
    history = History(run.network.device, plan)
    progress = Progress(run.network, plan.work.steps)
    start = time.perf_counter()
    for callback in callbacks:
        callback.on_train_begin(progress)
    try:
        _advance_and_log(run, plan.chunk, log_every, history, progress, callbacks, validate)
    finally:
        run.publish()
    for callback in callbacks:
        callback.on_train_end(progress)
    history.seconds = time.perf_counter() - start
    if run.note:
        history.plan = plan.replace(reason=f"{plan.reason}; {run.note}")
    return history


def _advance_and_log(
    run: Run,
    chunk: int,
    log_every: int,
    history: History,
    progress: Progress,
    callbacks: list[Callback],
    validate: Callable[[], float] | None,
) -> None:
    """Advance chunk by chunk, with a look at every log point if somebody looks, else at the end of every chunk."""
    logged, total = 0, 0.0
    while progress.step < progress.steps and not progress.stopped:
        end = min(progress.step + chunk, progress.steps)
        points = [*range(logged + log_every, end, log_every), end]
        if callbacks or validate:
            del points[1:]
        for step, loss in zip(points, _advance(run, progress.step, points), strict=True):
            progress.step, total = step, total + loss
            if step - logged == log_every or step == progress.steps:
                progress.loss = total / (step - logged)
                _look(run, history, progress, callbacks, validate)
                logged, total = step, 0.0


def _look(
    run: Run,
    history: History,
    progress: Progress,
    callbacks: list[Callback],
    validate: Callable[[], float] | None,
) -> None:
    """Log, validate and call back."""
    if callbacks or validate:  # nobody else looks at the network before the end
        run.publish()
    progress.validation_loss = None if validate is None else validate()
    history.log(progress.step, progress.loss, progress.validation_loss)
    for callback in callbacks:
        callback.on_log(progress)
    _check_still_there(run)


def _check_still_there(run: Run) -> None:
    """Raise if a callback has moved the network away from under its run."""
    if run.network.parameters.flat is not run.flat:
        raise RuntimeError("the network was moved to another device while it was training; move it before or after")


def _advance(run: Run, first: int, points: list[int]) -> list[float]:
    """Advance to the last of some steps, return the losses up to each; if that fails, leave the last good weights."""
    run.keep()
    try:
        losses = run.advance(first, points)
        if math.isfinite(sum(losses)) and run.finite():
            return losses
    except BaseException:  # Ctrl-C too: half a step must not be left behind
        run.restore()
        raise
    run.restore()
    end = points[-1]
    if end - first == 1:
        raise DivergenceError(first)
    middle = first + (end - first) // 2
    _advance(run, first, [middle])  # the same bits again: one half of the chunk has the step in it
    _advance(run, middle, [end])
    raise AssertionError("a replayed chunk must repeat its bits")  # pragma: no cover


class Evaluation:
    """The loss over a whole data set, without dropout: the data go to the device once, to be evaluated many times."""

    def __init__(self, network: Sequential, problem: Problem) -> None:
        self.kernels = network.device.kernels
        self.total = self.kernels.empty((), np.float64)
        self.calls = _where_memory_is_short(partial(self._bind, network, problem))

    def _bind(self, network: Sequential, problem: Problem, rows_at_once: int) -> list[Call]:
        """Return the calls that add up the loss; blocks of one size take turns in the same workspace."""
        kernels, last = self.kernels, network.layers[-1].activation_name
        loss = getattr(kernels, f"{problem.loss.kernel(last)}_forward")
        calls, factors, forwards = list[Call](), problem.factors(), dict[tuple[int, ...], Forward]()
        blocks = _blocks(len(problem.t), rows_at_once)
        for rows in blocks:
            x, t, weight = (kernels.from_host(part[rows]) for part in (problem.x, problem.t, factors))
            if x.shape not in forwards:
                given = x if len(blocks) == 1 else kernels.empty(x.shape, network.dtype)
                forwards[x.shape] = Forward(network, given, last_activation=not problem.loss.from_z(last))
            forward = forwards[x.shape]
            if forward.inputs[0] is not x:
                calls.append(partial(kernels.copy, x, out=forward.inputs[0]))
            calls += forward.calls
            calls.append(partial(loss, forward.output, t, weight, out=self.total, **problem.loss.scalars))
        return calls

    def __call__(self) -> float:
        """Return the loss with the network's current parameters."""
        self.kernels.fill(0, out=self.total)
        _call_all(self.calls)
        return float(self.kernels.to_host(self.total))


def loss_and_gradients(network: Sequential, problem: Problem) -> tuple[float, dict[str, Array]]:
    """Return the loss over a whole data set and its gradients, without dropout."""
    kernels = network.device.kernels
    total, gradient = kernels.empty((), np.float64), kernels.empty(network.parameters.flat.shape, network.dtype)
    kernels.fill(0, out=total)
    x, t, weight = (kernels.from_host(part) for part in (problem.x, problem.t, problem.factors()))
    _call_all(Step(network, problem.loss, x, t, weight, gradient=gradient, total=total).calls)
    return float(kernels.to_host(total)), network.parameters.layout.views(gradient)


def predict(network: Sequential, x: Array) -> Array:
    """Return the output for rows on the network's device, (rows, n_out)."""
    return _where_memory_is_short(partial(_predict, network, x))


def _predict(network: Sequential, x: Array, rows_at_once: int) -> Array:
    kernels = network.device.kernels
    out = kernels.empty((x.shape[0], network.n_out), network.dtype)
    for rows in _blocks(x.shape[0], rows_at_once):
        forward = Forward(network, x[rows])
        _call_all([*forward.calls, partial(kernels.copy, forward.output, out=out[rows])])
    return out


def _where_memory_is_short(work: Callable[[int], T]) -> T:
    """Do work on `ROWS_AT_ONCE` rows at once, and if a GPU has no memory for them, on fewer."""
    try:
        return work(ROWS_AT_ONCE)
    except DeviceMemoryError:
        pass  # out of here first: the error holds on to all that was allocated
    return work(FEWER_ROWS_AT_ONCE)


def _from_own_device(network: Sequential, value: Any) -> Any:
    """Bring an array from the network's own device to the host, where data are checked; leave others as they are."""
    return network.device.kernels.to_host(value) if network.device.holds(value) else value


def _scaled(weight: Host, loss: Loss, dtype: str) -> Host:
    """Return row weights, divided by their mean where the reduction is one, in the network's dtype."""
    with np.errstate(over="ignore"):
        mean = weight.mean(dtype=np.float64)
    if not 0 < mean < np.inf:
        problem = "zero in every row" if mean == 0 else "too large"
        raise DataError(f"sample_weight times class_weight is {problem}; there is nothing to train on")
    return (weight / mean if loss.reduction == "mean" else weight).astype(dtype)


def _blocks(n_rows: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, n_rows)) for start in range(0, n_rows, size)]


def _call_all(calls: Iterable[Call]) -> None:
    with np.errstate(all="ignore"):
        for call in calls:
            call()


def _positive(name: str, value: Any) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an int, not {value!r}") from None
    if number < 1:
        raise ValueError(f"{name} must be at least 1, not {number}")
    return number
