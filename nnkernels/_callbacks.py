"""Callbacks: what a run does at its log points."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from nnkernels._network import Sequential


class Progress:
    """Where a run is. `Callback` methods get it; the network's parameters are up to date in them.

    Attributes
    ----------
    network : Sequential
        The network being trained.
    steps : int
        Number of steps of the whole run.
    step : int
        Number of steps done.
    loss : float
        Mean loss of the steps since the last log.
    validation_loss : float or None
        Loss over the validation data, if there is any.
    """

    def __init__(self, network: Sequential, steps: int) -> None:
        self.network, self.steps = network, steps
        self.step, self.loss = 0, math.nan
        self.validation_loss: float | None = None
        self.stopped = False

    def stop(self) -> None:
        """End the run at this log point."""
        self.stopped = True


class Callback:
    """What happens at the start, at each log point and at the end of a run. Override what you need.

    A plain function of a `Progress` passes as a callback too: it is called at each log point.

    Examples
    --------
    >>> import nnkernels as nnk
    >>> class StopWhenGood(nnk.Callback):
    ...     def on_log(self, progress):
    ...         if progress.loss < 0.1:
    ...             progress.stop()
    """

    def on_train_begin(self, progress: Progress) -> None:
        """Called before the first step."""

    def on_log(self, progress: Progress) -> None:
        """Called at each log point."""

    def on_train_end(self, progress: Progress) -> None:
        """Called after the last step, also where the run was stopped."""


class EarlyStopping(Callback):
    """Stop when the validation loss (without validation data, the loss) no longer falls, and keep the best weights.

    Parameters
    ----------
    patience : int
        Log points without improvement before the run stops.
    min_delta : float
        A fall of the loss that is smaller is no improvement.

    Examples
    --------
    >>> import nnkernels as nnk
    >>> net = nnk.Sequential(nnk.Dense(1, 1), device="numpy", rng=0)
    >>> history = net.fit([0.0, 1.0], [0.0, 1.0], loss="half_squared_error", optimizer=nnk.SGD(0.1), steps=10_000,
    ...                   callbacks=[nnk.EarlyStopping(patience=3, min_delta=1e-6)])
    >>> bool(history.steps[-1] < 10_000)
    True
    """

    def __init__(self, patience: int = 10, min_delta: float = 0.0) -> None:
        if patience < 1:
            raise ValueError(f"patience must be at least 1, not {patience}")
        self.patience, self.min_delta = patience, min_delta

    def on_train_begin(self, progress: Progress) -> None:
        self.best, self.best_step, self.waited = math.inf, 0, 0
        self.parameters: dict[str, np.ndarray[Any, Any]] = {}

    def on_log(self, progress: Progress) -> None:
        loss = progress.loss if progress.validation_loss is None else progress.validation_loss
        if loss < self.best - self.min_delta:
            self.best, self.best_step, self.waited = loss, progress.step, 0
            self.parameters = progress.network.parameters.to_host()
            return
        self.waited += 1
        if self.waited >= self.patience:
            progress.stop()

    def on_train_end(self, progress: Progress) -> None:
        if self.parameters:
            progress.network.parameters.update(self.parameters)


class _Function(Callback):
    def __init__(self, function: Callable[[Progress], Any]) -> None:
        self.function = function

    def on_log(self, progress: Progress) -> None:
        self.function(progress)


def check_callbacks(callbacks: Callback | Callable[[Progress], Any] | Iterable[Any] | None) -> list[Callback]:
    """Return callbacks as a list, functions wrapped."""
    if callbacks is None:
        return []
    if isinstance(callbacks, Callback) or callable(callbacks):
        callbacks = [callbacks]
    checked = []
    for callback in callbacks:
        if not (isinstance(callback, Callback) or callable(callback)) or isinstance(callback, type):
            raise TypeError(f"a callback must be a Callback or a function of a Progress, not {callback!r}")
        checked.append(callback if isinstance(callback, Callback) else _Function(callback))
    return checked
