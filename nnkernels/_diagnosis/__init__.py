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
