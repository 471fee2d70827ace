"""fit of an ensemble: the lines that every way to run shares. A network that stops or diverges drops out."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from nnkernels import _optimizers
from nnkernels._callbacks import Callback, EarlyStopping, Progress, check_callbacks
from nnkernels._composed import Data
from nnkernels._data import check_validation
from nnkernels._ensemble_data import Evaluation, Problem
from nnkernels._formulas import OPTIMIZERS, parse
from nnkernels._losses import Loss
from nnkernels._optimizers import Optimizer
from nnkernels._plan import Plan, choose
from nnkernels._training import describe, log_interval

if TYPE_CHECKING:
    from nnkernels._data import Host
    from nnkernels._ensemble import Ensemble


class Run(Protocol):
    """A way to run some networks of an ensemble."""

    rows: Host

    def advance(self, members: Host, first_step: int, stops: list[int]) -> tuple[Host, Host]:
        """Take steps with some networks, up to the last of `stops`.

        `members` (m,) are places in `rows`. Returns the sums of their losses from each stop to the next, (m, stops),
        and which of them are numbers throughout, (m,). Those that are not keep the parameters and the state that they
        had.
        """


class EnsembleHistory:
    """What a run of an ensemble did.

    Attributes
    ----------
    losses : ndarray
        (n, logs): at each log point, the mean of each network's losses since the last one; NaN once it has stopped.
    steps : ndarray
        Number of steps done at each log point.
    validation_losses : ndarray or None
        (n, logs): at each log point, each network's loss over the validation data.
    diverged : ndarray
        (n,): the step at which a network's numbers overflowed, or -1; its weights are those from before it.
    stopped : ndarray
        (n,): the steps after which a network stopped early, or -1.
    plan : Plan
        How it ran.
    seconds : float
        Wall time of the steps, callbacks and validation included.
    """

    def __init__(self, n: int, plan: Plan) -> None:
        self.plan, self.seconds = plan, 0.0
        self.diverged, self.stopped = np.full(n, -1, np.int64), np.full(n, -1, np.int64)
        self._logs: list[tuple[int, Host, Host | None]] = []

    @property
    def losses(self) -> Host:
        """Mean losses, (n, logs)."""
        return np.array([losses for _, losses, _ in self._logs], np.float64).reshape(-1, len(self.diverged)).T

    @property
    def steps(self) -> Host:
        """Steps done, (logs,)."""
        return np.array([step for step, _, _ in self._logs], np.int64)

    @property
    def validation_losses(self) -> Host | None:
        """Losses over the validation data, (n, logs), or None."""
        losses = [losses for _, _, losses in self._logs if losses is not None]
        return np.array(losses, np.float64).T if losses else None

    def log(self, step: int, losses: Host, validation_losses: Host | None) -> None:
        """Add a log point."""
        self._logs.append((step, losses, validation_losses))

    def __repr__(self) -> str:
        n, steps = len(self.diverged), self._logs[-1][0] if self._logs else 0
        ended = f", {(self.diverged >= 0).sum()} diverged, {(self.stopped >= 0).sum()} stopped early"
        return f"EnsembleHistory({n:,} networks, {steps:,} steps in {self.seconds:.3g} s{ended}, {self.plan.way})"


class EnsembleProgress(Progress):
    """Where a run of an ensemble is.

    Attributes
    ----------
    losses, validation_losses : ndarray
        (n,): of each network; NaN where it has stopped.
    active : ndarray
        (n,): which networks go on.
    """

    def __init__(self, ensemble: Ensemble, steps: int) -> None:
        super().__init__(ensemble, steps)  # type: ignore[arg-type]  # it has parameters, as a Sequential has
        self.losses, self.active = np.full(ensemble.n, math.nan), np.ones(ensemble.n, bool)
        self.validation_losses: Host | None = None

    def log(self, losses: Host, validation_losses: Host | None) -> None:
        """Take what is known at a log point."""
        self.losses, self.validation_losses = losses, validation_losses
        self.loss = _mean(losses)
        self.validation_loss = None if validation_losses is None else _mean(validation_losses)


class _Stopping:
    """Early stopping of each network by itself, as `EarlyStopping` stops one."""

    def __init__(self, ensemble: Ensemble, rule: EarlyStopping) -> None:
        self.ensemble, self.rule = ensemble, rule
        self.best, self.waited = np.full(ensemble.n, math.inf), np.zeros(ensemble.n, np.int64)
        self.parameters = ensemble.flat_on_host()

    def stops(self, progress: EnsembleProgress) -> Host:
        """Return which networks stop now; keep the parameters of those that have improved."""
        losses = progress.losses if progress.validation_losses is None else progress.validation_losses
        with np.errstate(invalid="ignore"):
            better = progress.active & (losses < self.best - self.rule.min_delta)
        self.best[better], self.waited[better] = losses[better], 0
        self.waited[~better] += 1
        if better.any():
            self.parameters[better] = self.ensemble.flat_on_host()[better]
        stops: Host = progress.active & (self.waited >= self.rule.patience)
        return stops

    def restore(self) -> None:
        """Give each network its best parameters back."""
        known = np.isfinite(self.best)
        flat = self.ensemble.flat_on_host()
        flat[known] = self.parameters[known]
        self.ensemble.set_flat(flat)


def fit(
    ensemble: Ensemble,
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
) -> EnsembleHistory:
    """Train an ensemble; see `Ensemble.fit`."""
    problem, resolved, chosen = prepare(
        ensemble, x, y, loss, optimizer, batch_size, steps, epochs, sampling, sample_weight, plan
    )
    work = chosen.work
    validation = check_validation(Problem, ensemble, validation_data, problem.loss)
    log_every = log_interval(log_every, work.steps)
    checked = check_callbacks(callbacks)
    rules = [callback for callback in checked if isinstance(callback, EarlyStopping)]
    if len(rules) > 1:
        raise ValueError("callbacks has several EarlyStopping; an ensemble takes one, which each network follows")

    kernels = ensemble.device.kernels
    with kernels.device_scope(ensemble.device.index), np.errstate(all="ignore"):
        data = Data(problem.x, problem.t, None if problem.weight is None else problem.weight[..., None])
        settings = {"batch_size": work.recipe.batch, "sampling": sampling, "seed": ensemble.next_fit_seed()}
        runs = [
            _start(chosen, ensemble, rows, problem.loss, part, data, **settings)
            for rows, part in parts(resolved, ensemble.n, chosen.way)
        ]
        return _Driver(ensemble, runs, chosen, log_every, checked, rules, validation).run()


def prepare(
    ensemble: Ensemble,
    x: Any,
    y: Any,
    loss: str | Loss,
    optimizer: str | Optimizer,
    batch_size: int | None,
    steps: int | None,
    epochs: int | None,
    sampling: str,
    sample_weight: Any,
    plan: str | Plan | None,
) -> tuple[Problem, Optimizer, Plan]:
    """Check the arguments that a plan depends on, and choose it."""
    problem = Problem.check(ensemble, x, y, loss, sample_weight)
    resolved = check_optimizer(_optimizers.optimizer(optimizer), ensemble.n)
    work = describe(ensemble, problem, resolved, batch_size, steps, epochs, sampling, ensemble.n)  # type: ignore[arg-type]
    return problem, resolved, choose(work, plan)


def check_optimizer(optimizer: Optimizer, n: int) -> Optimizer:
    """Return an optimizer whose arrays have a number for each network."""
    for name in optimizer.varied:
        if (length := len(getattr(optimizer, name))) != n:
            raise ValueError(
                f"{type(optimizer).__name__}: {name} has {length} numbers, and the ensemble {n} networks; "
                "give one number, or one for each network"
            )
    return optimizer


def parts(optimizer: Optimizer, n: int, way: str) -> list[tuple[Host, Optimizer]]:
    """Return the networks whose numbers can share a run, and their optimizer.

    In lanes all numbers may differ but those that the schedule is computed from; elsewhere only learning rates may.
    """
    once = {name for _, text in parse(OPTIMIZERS[optimizer.kernel].once) for name in _names(text)}
    same = [name for name in optimizer.varied if (name in once if way == "lanes" else name != "lr")]
    if not same:
        return [(np.arange(n), optimizer)]
    table = np.array([getattr(optimizer, name) for name in same])
    _, which = np.unique(table, axis=1, return_inverse=True)
    which = which.reshape(-1)
    found = []
    for number in range(int(which.max()) + 1):
        rows = np.flatnonzero(which == number)
        fields: dict[str, Any] = {name: [getattr(optimizer, name)[row] for row in rows] for name in optimizer.varied}
        fields |= {name: fields[name][0] for name in same}
        found.append((rows, _of_kernel(optimizer, fields)))
    return found


def _of_kernel(optimizer: Optimizer, fields: dict[str, Any]) -> Optimizer:
    """Return an optimizer with other numbers; without momentum Nesterov's is none."""
    if fields.get("momentum") == 0:
        fields["nesterov"] = False
    part: Optimizer = optimizer.replace(**fields)
    return part


def _names(expression: Any) -> set[str]:
    import ast

    return {node.id for node in ast.walk(expression) if isinstance(node, ast.Name)}


def _start(
    plan: Plan, ensemble: Ensemble, rows: Host, loss: Loss, optimizer: Optimizer, data: Data, **settings: Any
) -> Run:
    if plan.way == "lanes":
        from nnkernels.backends.numba.networks import NetworksRun

        return NetworksRun(plan, ensemble.parameters.flat, rows, ensemble.numbers, loss, optimizer, data, **settings)
    from nnkernels._ensemble_composed import BoundRun

    return BoundRun(plan, ensemble, rows, loss, optimizer, data, **settings)


class _Driver:
    """Advances an ensemble chunk by chunk; logs, stops, and calls back where a chunk ends."""

    def __init__(
        self,
        ensemble: Ensemble,
        runs: list[Run],
        plan: Plan,
        log_every: int,
        callbacks: list[Callback],
        rules: list[EarlyStopping],
        validation: Problem | None,
    ) -> None:
        self.ensemble, self.runs, self.plan, self.log_every = ensemble, runs, plan, log_every
        self.callbacks = [callback for callback in callbacks if callback not in rules]
        self.stopping = _Stopping(ensemble, rules[0]) if rules else None
        self.validate = None if validation is None else Evaluation(ensemble, validation)
        self.history = EnsembleHistory(ensemble.n, plan)
        self.progress = EnsembleProgress(ensemble, plan.work.steps)
        self.totals = np.zeros(ensemble.n)
        self.watched = bool(self.callbacks or self.stopping or self.validate)

    def run(self) -> EnsembleHistory:
        """Take all steps."""
        progress, start, logged = self.progress, time.perf_counter(), 0
        self._call("on_train_begin")
        try:
            while progress.step < progress.steps and not progress.stopped and progress.active.any():
                stops = self._stops(progress.step, logged)
                losses = self._advance(progress.step, stops)
                for stop, totals in zip(stops, losses.T, strict=True):
                    progress.step = stop
                    self.totals += totals
                    if stop - logged == self.log_every or stop == progress.steps:
                        self._log(stop - logged)
                        logged = stop
        finally:
            self.ensemble.record(self.history)
        if self.stopping:
            self.stopping.restore()
        self._call("on_train_end")
        self.history.seconds = time.perf_counter() - start
        return self.history

    def _call(self, event: str) -> None:
        flat = self.ensemble.parameters.flat
        for callback in self.callbacks:
            getattr(callback, event)(self.progress)
        if self.ensemble.parameters.flat is not flat:
            raise RuntimeError("the ensemble was moved to another device while it was training")

    def _stops(self, step: int, logged: int) -> list[int]:
        """Return the log points of the next chunk, and its end; a chunk ends at a log point that somebody watches."""
        end = min(step + self.plan.chunk, self.progress.steps)
        stops = list(range(logged + self.log_every, end + 1, self.log_every))
        if self.watched and stops:
            return stops[:1]
        return stops if stops and stops[-1] == end else [*stops, end]

    def _advance(self, first_step: int, stops: list[int]) -> Host:
        """Take steps with the active networks; return the sums of losses up to each stop, (n, stops)."""
        sums = np.full((self.ensemble.n, len(stops)), math.nan)
        for run in self.runs:
            members = np.flatnonzero(self.progress.active[run.rows])
            if len(members):
                losses, good = run.advance(members, first_step, stops)
                sums[run.rows[members]] = losses
                if not good.all():
                    self._find_steps(run, members[~good], first_step, stops[-1] - first_step)
        ended = self.history.diverged[:, None]
        sums[(ended >= 0) & (np.array(stops) > ended)] = math.nan
        return sums

    def _find_steps(self, run: Run, members: Host, first_step: int, count: int) -> None:
        """Find the step at which each of some networks diverges: one half of the steps has it in it."""
        if count == 1:
            self.history.diverged[run.rows[members]] = first_step
            self.progress.active[run.rows[members]] = False
            return
        half = count // 2
        _, good = run.advance(members, first_step, [first_step + half])
        if not good.all():
            self._find_steps(run, members[~good], first_step, half)
        if good.any():
            self._find_steps(run, members[good], first_step + half, count - half)

    def _log(self, count: int) -> None:
        """Log the mean losses of the last steps, and stop the networks that do not improve."""
        progress = self.progress
        losses = self.totals / count  # no numbers where a network has ended
        validation_losses = None
        if self.validate is not None:
            validation_losses = np.full(self.ensemble.n, math.nan)
            active = np.flatnonzero(progress.active)
            validation_losses[active] = self.validate(active)
        progress.log(losses, validation_losses)
        self.history.log(progress.step, losses, validation_losses)
        self.totals[:] = 0
        if self.stopping:
            stops = self.stopping.stops(progress)
            self.history.stopped[stops] = progress.step
            progress.active &= ~stops
        self._call("on_log")


def _mean(losses: Host) -> float:
    known = losses[~np.isnan(losses)]
    return float(known.mean()) if known.size else math.nan
