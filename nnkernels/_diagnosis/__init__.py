"""Gradient check, naming the wrong derivative, training health.

What is here is light; the modules beside it are imported when one of these functions is called.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from nnkernels._callbacks import Callback, Progress

if TYPE_CHECKING:
    import numpy as np

    from nnkernels._diagnosis.report import Report
    from nnkernels._losses import Loss
    from nnkernels._network import Sequential
    from nnkernels._training import History


def check_gradients(
    function: Callable[[Any], Any],
    gradient: Callable[[Any], Any],
    parameters: Any,
    *,
    rng: int | np.random.Generator | None = 0,
) -> Report:
    """Tell whether a gradient is that of its function, parameter by parameter.

    Derivatives are measured along random directions first, then element by element: by the complex step where the
    function takes complex numbers, else by central differences, extrapolated, with an estimate of their error. What
    the measurement cannot decide (a kink within the step, the noise of float32 inside the function) is never called
    wrong.

    Parameters
    ----------
    function : callable
        Takes parameters, returns the loss: one real number.
    gradient : callable
        Takes parameters, returns the gradient in the same structure, each array in its parameter's shape.
    parameters : array_like, or mapping, list or tuple of them
        Where to check. The functions get copies, as float64.
    rng : int, numpy.random.Generator or None
        Seed of the directions.

    Returns
    -------
    Report
        ``report.ok``; ``report.status`` says "agrees", "differs" or "cannot be told" of each parameter;
        ``report.findings`` has what differs, or why nothing can be checked: a function that is not scalar, not
        deterministic, that changes its parameters or ignores them, integer parameters.

    Raises
    ------
    DataError
        A function raised, or parameters are not finite.
    TypeError, ValueError, KeyError, ShapeError
        An argument or a returned structure is wrong.

    Examples
    --------
    >>> import numpy as np, nnkernels as nnk
    >>> report = nnk.check_gradients(lambda w: (w**2).sum(), lambda w: w, np.array([1.0, 2.0]))
    >>> report.findings[0].code, report.status
    ('gradient_differs', {'parameters': 'differs'})
    >>> nnk.check_gradients(lambda w: (w**2).sum(), lambda w: 2 * w, np.array([1.0, 2.0])).ok
    True
    """
    from nnkernels._diagnosis.differences import check

    return check(function, gradient, parameters, rng)


def diagnose(
    network: Sequential,
    x: Any,
    y: Any,
    *,
    loss: str | Loss,
    gradients: Mapping[str, Any] | None = None,
    gradient: Callable[[dict[str, Any], Any, Any], Mapping[str, Any]] | None = None,
    update: tuple[Mapping[str, Any], Mapping[str, Any], float] | None = None,
    sample_weight: Any = None,
    l1: float = 0.0,
    l2: float = 0.0,
    rng: int | np.random.Generator | None = 0,
) -> Report:
    """Name what is wrong in a hand-written backward pass, with the wrong formula, the right one, and the fix.

    The right backward pass is a product of factors: error, slopes, weights, activations, sums. Each has its plausible
    mistakes, alone and in pairs; the numbers say which were made. A mistake is named only if it gives the numbers to
    rounding and nothing else comes within a thousand times of that; else the report says what is known.

    Parameters
    ----------
    network : Sequential
        Your network, described with dense layers that hold *your* weights; dtype="float64" if yours are.
    x, y : array_like
        (rows, n_in) and (rows, n_out): the rows that your gradients are of.
    loss : str or Loss
        The loss that your gradients should be of, its reduction over rows included.
    gradients : mapping of str to array_like
        Yours, by parameter name, as many as you have: in the parameter's shape, transposed, flat, or one a row.
    gradient : callable
        In place of `gradients`: takes (parameters, x, y), returns such a mapping. It is evaluated at several random
        points, which tells apart what one point cannot.
    update : (before, after, learning_rate)
        In place of `gradients`, or beside them: parameters before and after one step of gradient descent.
    sample_weight : array_like or None
        (rows,), as for `Sequential.fit`.
    l1, l2 : float
        Penalties of the weights whose slopes your gradients should have beside the loss's.
    rng : int, numpy.random.Generator or None
        Seed of the random points.

    Returns
    -------
    Report
        ``print(report)``; ``report.ok``, ``report.findings[i].code``, ``report.status``, ``report.save("page.html")``.

    Raises
    ------
    ShapeError, DataError, KeyError, TypeError, ValueError
        An argument is wrong: a shape that fits no orientation, NaN, an unknown name, a function that raises.

    Examples
    --------
    >>> import numpy as np, nnkernels as nnk
    >>> net = nnk.Sequential(nnk.Dense(1, 3, activation="tanh"), nnk.Dense(3, 1), device="cpu", dtype="float64", rng=0)
    >>> W0, b0, W1, b1 = net.parameters.to_host().values()
    >>> x, t = np.array([[0.5], [1.0], [2.0]]), np.array([[0.0], [1.0], [0.5]])
    >>> a = np.tanh(x @ W0 + b0)
    >>> delta1 = (a @ W1 + b1 - t) / 3
    >>> delta0 = delta1 @ W1.T * (1 - a)  # 1 - a**2 was meant
    >>> mine = {"0.weight": x.T @ delta0, "0.bias": delta0.sum(0), "1.weight": a.T @ delta1, "1.bias": delta1.sum(0)}
    >>> report = nnk.diagnose(net, x, t, loss="half_squared_error", gradients=mine)
    >>> report.findings[0].code, report.findings[0].right
    ('slope_incomplete', 'delta0 = (delta1 @ W1.T) * (1 - a0**2)')
    """
    from nnkernels._diagnosis.diagnosing import diagnose as run

    return run(
        network, x, y, loss=loss, gradients=gradients, gradient=gradient, update=update, sample_weight=sample_weight,
        penalty=(l1, l2), rng=rng,
    )  # fmt: skip


def health(
    network: Sequential,
    x: Any,
    y: Any,
    *,
    loss: str | Loss,
    learning_rate: float | None = None,
    history: History | None = None,
    sample_weight: Any = None,
) -> Report:
    """Tell why a network whose derivatives are right does not learn.

    Looks for saturated, dead and copied units, deltas that vanish or explode, a gradient of zero that is no minimum,
    targets out of reach, unscaled data, a constant output, layers without an activation, and, where they are given,
    for a learning rate beyond the curvature and a run that ended too early.

    Parameters
    ----------
    network : Sequential
        The network, with its current weights.
    x, y, loss, sample_weight
        As for `Sequential.fit`.
    learning_rate : float or None
        Of plain gradient descent, to be held against the curvature of the loss over these rows.
    history : History or None
        What `fit` returned.

    Returns
    -------
    Report
        Each of ``report.findings`` has numbers as evidence and a remedy as code.

    Raises
    ------
    ShapeError, DataError, TypeError, ValueError
        An argument is wrong.

    Examples
    --------
    >>> import numpy as np, nnkernels as nnk
    >>> x = np.linspace(0, 1000, 50)
    >>> net = nnk.Sequential(nnk.Dense(1, 5, activation="sigmoid"), nnk.Dense(5, 1), device="cpu", rng=0)
    >>> [finding.code for finding in nnk.health(net, x, np.sin(x), loss="mean_squared_error").findings]
    ['unscaled_inputs', 'saturated', 'underflow']
    """
    from nnkernels._diagnosis.conditions import health as run

    return run(network, x, y, loss, learning_rate, history, sample_weight)


class HealthCheck(Callback):
    """Look at the network's `health` at the log points of a run.

    Parameters
    ----------
    x, y, loss
        As for `health`; some hundred rows are enough.
    every : int
        Log points from one look to the next.

    Attributes
    ----------
    reports : dict of int to Report
        By step; the last is that of the run's end, which knows whether the loss was still falling.

    Examples
    --------
    >>> import numpy as np, nnkernels as nnk
    >>> x = np.linspace(-1, 1, 50)
    >>> check = nnk.HealthCheck(x, x**2, loss="mean_squared_error", every=50)
    >>> net = nnk.Sequential(nnk.Dense(1, 5, activation="tanh"), nnk.Dense(5, 1), device="cpu", rng=0)
    >>> history = net.fit(x, x**2, loss="mean_squared_error", steps=1_000, callbacks=check)
    >>> list(check.reports)
    [500, 1000]
    """

    def __init__(self, x: Any, y: Any, *, loss: str | Loss, every: int = 10) -> None:
        if every < 1:
            raise ValueError(f"every must be at least 1, not {every}")
        self.x, self.y, self.loss, self.every = x, y, loss, every
        self.reports: dict[int, Report] = {}
        self._losses: list[float] = []

    def on_train_begin(self, progress: Progress) -> None:
        self.reports, self._losses = {}, []

    def on_log(self, progress: Progress) -> None:
        self._losses.append(progress.loss)
        if len(self._losses) % self.every == 0:
            self.reports[progress.step] = health(progress.network, self.x, self.y, loss=self.loss)

    def on_train_end(self, progress: Progress) -> None:
        import numpy as np

        from nnkernels._diagnosis.conditions import too_few_steps

        report = health(progress.network, self.x, self.y, loss=self.loss)
        report.findings += too_few_steps(np.array(self._losses))
        self.reports[progress.step] = report
