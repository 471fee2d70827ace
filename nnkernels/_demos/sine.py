"""Why does my network not learn a sine? Because of the range of its input, and without biases, its place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nnkernels._callbacks import Callback
from nnkernels._demos.text import paragraph
from nnkernels._device import Device
from nnkernels._initializers import Uniform
from nnkernels._layers import Dense
from nnkernels._network import Sequential
from nnkernels._optimizers import SGD

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROWS = 500
STEPS = 500_000
WARM_UP_STEPS = 100
LEARNED = 0.1  #: of the variance; a smaller error counts as learned


class Result(NamedTuple):
    """What happened; `x`, `y` and `prediction` are (500,)."""

    device: str
    way: str
    upper: float
    scaled: bool
    biases: bool
    steps: int
    steps_per_second: float
    mean_squared_error: float
    variance: float
    x: np.ndarray[Any, Any]
    y: np.ndarray[Any, Any]
    prediction: np.ndarray[Any, Any]


def run(
    upper: float = 1.0,
    *,
    scale: bool = False,
    bias: bool = False,
    steps: int = STEPS,
    device: str | Device | None = None,
    seed: int = 0,
    callbacks: tuple[Callback, ...] = (),
) -> Result:
    """Train 1-10-1 on 500 points of sin(x), 0 <= x <= upper: one row a step, half squared error, rate 0.01.

    The speed is that of the steps: kernels are compiled, or loaded, before.
    """
    x = np.linspace(0, upper, ROWS)
    y, inputs = np.sin(x), (x - x.mean()) / x.std() if scale else x
    network = _network(bias, device, seed)
    arguments: dict[str, Any] = {
        "loss": "half_squared_error",
        "optimizer": SGD(0.01),
        "batch_size": 1,
        "sampling": "replacement",
    }
    plan = network.plan(inputs, y, steps=steps, **arguments)
    _network(bias, device, seed).fit(inputs, y, steps=min(steps, WARM_UP_STEPS), plan=plan.way, **arguments)
    history = network.fit(inputs, y, steps=steps, plan=plan, callbacks=callbacks, **arguments)
    prediction = network.predict(inputs)[:, 0].astype(np.float64)
    error = float(((prediction - y) ** 2).mean())
    device_name, speed = str(history.device), history.steps_per_second
    return Result(device_name, plan.way, upper, scale, bias, steps, speed, error, float(y.var()), x, y, prediction)


def story(result: Result) -> str:
    """Return what happened, in words and numbers."""
    share = result.mean_squared_error / result.variance
    return "\n".join(
        [
            paragraph(
                f"A 1-10-1 network, {'with' if result.biases else 'without'} biases, on sin(x) for x from 0 to",
                f"{result.upper:g}, {'standardized' if result.scaled else 'unscaled'}: {result.steps:,} steps of one",
                f"row, learning rate 0.01, on {result.device} ({result.way}), {result.steps_per_second:,.0f} steps a",
                "second.",
            ),
            "",
            f"mean squared error  {result.mean_squared_error:.3g}",
            f"variance of sin(x)  {result.variance:.3g}  (the error of always predicting the mean)",
            f"their ratio         {share:.3g}",
            "",
            _end_learned(result) if share <= LEARNED else _end_not_learned(result),
        ]
    )


def picture(result: Result) -> Figure:
    """Return the sine and what the network makes of it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="x", title=f"1-10-1 after {result.steps:,} steps")
    axes.plot(result.x, result.y, label="sin(x)", color="0.6", linewidth=4)
    axes.plot(result.x, result.prediction, label="network")
    axes.legend()
    return figure


def _network(bias: bool, device: str | Device | None, seed: int) -> Sequential:
    uniform = Uniform(-1, 1)
    hidden = Dense(1, 10, "sigmoid", bias, weight_initializer=uniform, bias_initializer=uniform)
    output = Dense(10, 1, None, bias, weight_initializer=uniform, bias_initializer=uniform)
    return Sequential(hidden, output, device=device, rng=seed)


def _end_learned(result: Result) -> str:
    if result.upper < np.pi / 2:
        return paragraph(
            "It has learned it: on this range the sine is not far from a line, and sigmoids around the input 0 are",
            "not, either.",
        )
    if result.scaled and result.biases:
        return paragraph(
            "It has learned it: standardized inputs keep the sigmoids where they have a slope, and biases let each",
            "bend at its own place. Leave out --scale and --bias, and the same network gets nowhere.",
        )
    return "It has learned it."


def _end_not_learned(result: Result) -> str:
    if result.scaled and result.biases:
        return "It has not learned the sine yet; more steps may help (--steps)."
    reasons = []
    if not result.scaled:
        reasons.append(
            "Far from the input 0 the sigmoids are flat, and hardly any gradient comes back through them: --scale."
        )
    if not result.biases:
        reasons.append("Without biases all sigmoids have their middle at the input 0 and bend nowhere else: --bias.")
    return paragraph("It has not learned the sine.", *reasons, "Both together are what it takes.")
