"""Is my backpropagation right, and why does it say yes to every number? The derivatives are; the data is not enough."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nnkernels._callbacks import Progress
from nnkernels._demos.text import paragraph
from nnkernels._device import Device
from nnkernels._layers import Dense
from nnkernels._losses import MeanSquaredError
from nnkernels._network import Sequential
from nnkernels._optimizers import SGD

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Values = np.ndarray[Any, Any]

NAMES = ("w3", "b3", "w2", "b2")
_KEYS = ("1.weight", "1.bias", "0.weight", "0.bias")
POINT = (-0.75, 0.5, 0.6, -0.25)  #: w3, b3, w2, b2 at which the derivatives are compared
X, Y = 2.0, 1.0
EVEN, ODD = np.arange(0.0, 20.0, 2.0), np.arange(1.0, 20.0, 2.0)
GOOD = 0.99
MOST_STEPS = 100_000
BOTH_STEPS = 20_000


class Result(NamedTuple):
    """What happened.

    The first four are derivatives of C by (w3, b3, w2, b2), each (4,). `f_zero`, `f_against` and `f_along` are outputs
    for the input 2 at zero weights, after a step against the gradient and after one along it. `f_even` and `f_odd`,
    (10,), are outputs after training on even numbers alone; `f_both`, (20,), after training on 0 to 19 with labels.
    """

    device: str
    closed_form: Values
    backpropagation: Values
    complex_step: Values
    central_difference: Values
    f_zero: float
    f_against: float
    f_along: float
    steps: int
    f_even: Values
    f_odd: Values
    f_both: Values
    loss_both: float


def run(*, device: str | Device | None = None) -> Result:
    """Differentiate a 1-1-1 sigmoid network in four ways, then train it on even numbers only, and on all."""
    network = _network(device, POINT)
    f_zero = _outputs(_network(device), [X])[0]
    (f_against,), (f_along,) = (_outputs(_moved(device, sign), [X]) for sign in (-1.0, 1.0))
    even = _network(device)
    history = even.fit(
        EVEN, np.ones(10), loss=MeanSquaredError(), optimizer=SGD(1.0), steps=MOST_STEPS, log_every=10, callbacks=_stop
    )
    both, numbers = _network(device), np.arange(20.0)
    both.fit(numbers, 1 - numbers % 2, loss=MeanSquaredError(), optimizer=SGD(1.0), steps=BOTH_STEPS)
    return Result(
        str(network.device),
        closed_form(np.array(POINT)),
        _gradient(network, [X], [Y]),
        complex_step(np.array(POINT)),
        central_difference(np.array(POINT)),
        f_zero,
        f_against,
        f_along,
        int(history.steps[-1]),
        _outputs(even, EVEN),
        _outputs(even, ODD),
        _outputs(both, numbers),
        both.evaluate(numbers, 1 - numbers % 2, loss=MeanSquaredError()),
    )


def cost(point: Values) -> Any:
    """Return C = (y - f)^2 at (w3, b3, w2, b2), real or complex."""
    w3, b3, w2, b2 = point
    return (Y - _sigma(w3 * _sigma(w2 * X + b2) + b3)) ** 2


def closed_form(point: Values) -> Values:
    """Return C's derivatives by the chain rule, written out."""
    w3, b3, w2, b2 = point
    a2 = _sigma(w2 * X + b2)
    f = _sigma(w3 * a2 + b3)
    d3 = -2 * (Y - f) * f * (1 - f)
    d2 = d3 * w3 * a2 * (1 - a2)
    return np.array([d3 * a2, d3, d2 * X, d2])


def complex_step(point: Values, h: float = 1e-30) -> Values:
    """Return C's derivatives as Im C(p + ih) / h, which no cancellation spoils (Squire and Trapp, 1998)."""
    return np.array([cost(point + 1j * h * unit).imag / h for unit in np.eye(4)])


def central_difference(point: Values, h: float = 1e-5) -> Values:
    """Return C's derivatives as (C(p + h) - C(p - h)) / 2h, good to about h^2."""
    return np.array([(cost(point + h * unit) - cost(point - h * unit)) / (2 * h) for unit in np.eye(4)])


def story(result: Result) -> str:
    """Return what happened, in words and numbers."""
    others = (result.backpropagation, result.complex_step, result.central_difference)
    apart = [np.abs(values / result.closed_form - 1) for values in others]
    return "\n".join(
        [
            "f = sigma(w3 sigma(w2 x + b2) + b3), C = (y - f)^2, float64, at x = 2 and y = 1.",
            "",
            f"{'':8}{'closed form':>16}   and relative to it, how far off are",
            f"{'':8}{'':16}{'backpropagation':>18}{'complex step':>15}{'central difference':>20}",
            *(
                f"{'dC/d' + name:8}{exact:16.12f}{backward:18.1e}{complex_:15.1e}{central:20.1e}"
                for name, exact, backward, complex_, central in zip(NAMES, result.closed_form, *apart, strict=True)
            ),
            "",
            _direction(result),
            "",
            _lesson(result),
        ]
    )


def picture(result: Result) -> Figure:
    """Return the outputs for even and odd numbers, after training on the even ones and on all."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="x", ylabel="f(x)", ylim=(-0.05, 1.05), xticks=range(0, 20, 2))
    axes.plot(EVEN, result.f_even, "o", label="even, trained on even numbers only")
    axes.plot(ODD, result.f_odd, "s", label="odd, trained on even numbers only", fillstyle="none")
    axes.plot(np.arange(20), result.f_both, ".-", color="0.6", label="trained on all, even = 1, odd = 0")
    axes.legend(loc="lower right")
    return figure


def _direction(result: Result) -> str:
    return paragraph(
        f"Backpropagation ran on {result.device}. At zero weights f = sigma(0) = {result.f_zero:g}, and the target",
        f"is 1. A step of 1 *against* the gradient makes f {result.f_against:.4f}; one along it, the sign forgotten,",
        f"{result.f_along:.4f}: the wrong way.",
    )


def _lesson(result: Result) -> str:
    return paragraph(
        f"Trained on even numbers only, target 1, f passes {GOOD} on all of them after {result.steps:,} steps:",
        f"{result.f_even.min():.4f} to {result.f_even.max():.4f}. On odd numbers, never seen, it is",
        f"{result.f_odd.min():.4f} to {result.f_odd.max():.4f}. Nothing told it to say anything but 1, and that is",
        f"all it learned. With the odd numbers as well, target 0, the loss ends at {result.loss_both:.4f}; always",
        "guessing 0.5 has 0.25. f only ever rises or only ever falls with x, so parity is beyond this network.",
    )


def _sigma(z: Any) -> Any:
    return 1 / (1 + np.exp(-z))


def _network(device: str | Device | None, point: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0)) -> Sequential:
    layers = [Dense(1, 1, "sigmoid") for _ in range(2)]
    network = Sequential(*layers, device=device, dtype="float64", rng=0)
    network.parameters.update({key: np.full(_shape(key), value) for key, value in zip(_KEYS, point, strict=True)})
    return network


def _shape(key: str) -> tuple[int, ...]:
    return (1, 1) if key.endswith("weight") else (1,)


def _moved(device: str | Device | None, sign: float) -> Sequential:
    """Return the network a step of 1 from zero weights."""
    return _network(device, tuple(sign * _gradient(_network(device), [X], [Y])))


def _gradient(network: Sequential, x: Any, y: Any) -> Values:
    _, gradients = network.loss_and_gradients(x, y, loss=MeanSquaredError())
    return np.array([float(gradients[key].reshape(-1)[0]) for key in _KEYS])


def _outputs(network: Sequential, x: Any) -> Values:
    return np.ravel(network.predict(x))


def _stop(progress: Progress) -> None:
    if _outputs(progress.network, EVEN).min() > GOOD:
        progress.stop()
