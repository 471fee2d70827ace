"""My hand-written backprop does not learn a sine: please review my error_wrt_... derivatives. Two of them are wrong."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nnkernels._demos.text import paragraph
from nnkernels._device import Device
from nnkernels._diagnosis import diagnose
from nnkernels._layers import Dense
from nnkernels._losses import HalfSquaredError
from nnkernels._network import Sequential

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from nnkernels._diagnosis.report import Report

HIDDEN, STEPS, RATE, ROWS = 10, 60_000, 0.2, 200

Weights = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]


class Result(NamedTuple):
    """What happened; the predictions are (200,), at x from 0 to 1."""

    device: str
    codes: tuple[str, ...]
    report: str
    clean: bool
    broken_error: float
    fixed_error: float
    variance: float
    x: np.ndarray[Any, Any]
    broken: np.ndarray[Any, Any]
    fixed: np.ndarray[Any, Any]


# ---- the program as posted: one row a step, no biases ----------------------------------------------------------------


def sigmoid(v: Any) -> Any:
    """1 / (1 + exp(-v))."""
    return 1 / (1 + np.exp(-np.clip(v, -700, 700)))


def sigmoid_derivative(v: Any) -> Any:
    """The derivative at v, where v is the sum before the sigmoid."""
    return sigmoid(v) * (1 - sigmoid(v))


def broken_derivatives(w1: Any, w2: Any, x: float, target: float) -> Weights:
    """Return error_wrt_w1 and error_wrt_w2 as posted."""
    activation = sigmoid(w1 * x)
    output = float(activation @ w2)
    error = target - output
    error_wrt_w2 = error * activation
    error_wrt_w1 = error * w2 * sigmoid_derivative(activation) * x
    return error_wrt_w1, error_wrt_w2


def fixed_derivatives(w1: Any, w2: Any, x: float, target: float) -> Weights:
    """Return them with what the report says applied: (p - t), and a * (1 - a)."""
    activation = sigmoid(w1 * x)
    output = float(activation @ w2)
    error = output - target
    error_wrt_w2 = error * activation
    error_wrt_w1 = error * w2 * activation * (1 - activation) * x
    return error_wrt_w1, error_wrt_w2


Derivatives = Callable[[Any, Any, float, float], Weights]


def train(derivatives: Derivatives, weights: Weights, steps: int) -> Weights:
    """Descend, one random row of sin(6 x) a step."""
    w1, w2 = (weight.copy() for weight in weights)
    for x in np.random.default_rng(1).uniform(0, 1, steps):
        g1, g2 = derivatives(w1, w2, x, math.sin(6 * x))
        w1, w2 = w1 - RATE * g1, w2 - RATE * g2
        if not math.isfinite(w2.sum()) or np.abs(w2).max() > 1e6:  # uphill, there is no end to it
            break
    return w1, w2


# ---- the story -------------------------------------------------------------------------------------------------------


def run(*, device: str | Device | None = None, steps: int = STEPS) -> Result:
    """Diagnose the posted derivatives, fix them, and train with both."""
    rng = np.random.default_rng(0)
    weights = rng.normal(0, 6, HIDDEN), rng.normal(0, 1, HIDDEN)
    x = np.linspace(0, 1, ROWS)
    y = np.sin(6 * x)
    network = Sequential(
        Dense(1, HIDDEN, "sigmoid", bias=False), Dense(HIDDEN, 1, bias=False), device=device, dtype="float64"
    )
    network.parameters.update({"0.weight": weights[0][None], "1.weight": weights[1][:, None]})
    reports = [
        _diagnose(network, derivatives, weights, x, y) for derivatives in (broken_derivatives, fixed_derivatives)
    ]
    outputs = []
    for derivatives in (broken_derivatives, fixed_derivatives):
        w1, w2 = train(derivatives, weights, steps)
        outputs.append(sigmoid(np.outer(x, w1)) @ w2)
    errors = [float(((output - y) ** 2).mean()) for output in outputs]
    codes = tuple(finding.code for finding in reports[0].findings)
    name = str(network.device)
    return Result(name, codes, str(reports[0]), reports[1].ok, errors[0], errors[1], float(y.var()), x, *outputs)


def _diagnose(network: Sequential, derivatives: Derivatives, weights: Weights, x: Any, y: Any) -> Report:
    """Sum the derivatives over ten rows, and ask what is wrong with them."""
    rows = x[::20], y[::20]
    sums = [sum(parts) for parts in zip(*(derivatives(*weights, *row) for row in zip(*rows, strict=True)), strict=True)]
    gradients = {"0.weight": sums[0], "1.weight": sums[1]}
    return diagnose(network, *rows, loss=HalfSquaredError(reduction="sum"), gradients=gradients)


def story(result: Result) -> str:
    """Return what happened, in words and numbers."""
    return "\n".join(
        [
            paragraph(
                "A 1-10-1 network without biases, written by hand, is to learn sin(6 x) for x from 0 to 1, one row a",
                "step. It does not. The question was: please review my error_wrt_... derivatives. Here they are:",
            ),
            "",
            "    activation = sigmoid(w1 * x)",
            "    output = activation @ w2",
            "    error = target - output",
            "    error_wrt_w2 = error * activation",
            "    error_wrt_w1 = error * w2 * sigmoid_derivative(activation) * x",
            "    w1 -= rate * error_wrt_w1;  w2 -= rate * error_wrt_w2",
            "",
            "nnk.diagnose(network, x, y, loss=..., gradients={...}), of ten rows:",
            "",
            result.report,
            "",
            paragraph(
                "Both applied, the report has", f"{'nothing' if result.clean else 'something'} left to say. Trained:"
            ),
            "",
            f"mean squared error as posted  {result.broken_error:.3g}",
            f"mean squared error, fixed     {result.fixed_error:.3g}",
            f"variance of the sine          {result.variance:.3g}",
            "",
            paragraph(
                "The sign alone would have sent the weights uphill, the derivative alone would have hidden behind a",
                'slower, crooked descent. A check that says "not close" would not have told one from the other.',
            ),
        ]
    )


def picture(result: Result) -> Figure:
    """Return the sine, and what each set of derivatives makes of it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="x", ylim=(-2, 2), title="1-10-1, trained by hand-written derivatives")
    axes.plot(result.x, np.sin(6 * result.x), label="sin(6 x)", color="0.6", linewidth=4)
    axes.plot(result.x, np.clip(result.broken, -10, 10), label="as posted", color="tab:red")
    axes.plot(result.x, result.fixed, label="fixed", color="tab:green")
    axes.legend()
    return figure
