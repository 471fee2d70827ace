"""Why is my gradient exactly zero? Because a(1 - a) is, where the true slope of the sigmoid is only tiny."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from nnkernels._callbacks import Progress
from nnkernels._demos.text import paragraph
from nnkernels._device import Device, device
from nnkernels._layers import Dense
from nnkernels._losses import Loss, loss
from nnkernels._network import Sequential
from nnkernels._optimizers import SGD

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WEIGHT, PREVIOUS, TARGET = 0.8, 62.5, 0.0  #: z = 0.8 * 62.5 = 50
GOOD = 0.1  #: an activation below it counts as learned, as the target is 0
MOST_STEPS = 1_000
LOSSES = ("mean_squared_error", "binary_cross_entropy")


class Slope(NamedTuple):
    """The sigmoid at z = 50 in one floating-point type; the gradient is dC/dw = 2 (a - y) a' 62.5."""

    dtype: str
    activation: float
    naive: float
    slope: float
    gradient: float


class Remedy(NamedTuple):
    """One input and loss: the first gradient, and the steps until the activation is below 0.1, None if never."""

    previous: float
    loss: str
    gradient: float
    steps: int | None
    weight: float


class Result(NamedTuple):
    """What happened; `useless_steps` is how many steps exact arithmetic would take to leave z = 50 behind."""

    device: str
    slopes: tuple[Slope, ...]
    remedies: tuple[Remedy, ...]
    useless_steps: float


def run(*, device: str | Device | None = None) -> Result:
    """Look at one saturated sigmoid, w = 0.8, previous activation 62.5, y = 0, cost (a - y)^2; then at what helps."""
    chosen = _resolve(device)
    slopes = tuple(_slope(dtype, chosen) for dtype in ("float32", "float64"))
    remedies = tuple(_train(previous, name, chosen) for name in LOSSES for previous in (PREVIOUS, 1.0))
    # Gradient flow, dz/dt = -2 a a' 62.5^2 with a = 1 and a' = exp(-z), takes exp(50) / (2 62.5^2) at rate 1.
    return Result(str(chosen), slopes, remedies, float(np.exp(WEIGHT * PREVIOUS) / (2 * PREVIOUS**2)))


def story(result: Result) -> str:
    """Return what happened, in words and numbers."""
    return "\n".join(
        [
            paragraph(
                "A sigmoid a = sigma(w p), weight w = 0.8, previous activation p = 62.5, so z = 50; target y = 0,",
                "quadratic cost C = (a - y)^2.",
            ),
            "",
            f"{'':9}{'a':>3}{'a (1 - a)':>12}{'true slope':>13}{'dC/dw = 2 (a - y) slope p':>29}",
            *(f"{s.dtype:9}{s.activation:3g}{s.naive:12g}{s.slope:13.3g}{s.gradient:29.3g}" for s in result.slopes),
            "",
            _explanation(result),
            "",
            f"{'p':10} {'cost':22}{'first dC/dw':>12}{'steps to a < 0.1':>19}{'w then':>9}",
            *(_remedy_line(remedy) for remedy in result.remedies),
            "",
            _moral(),
        ]
    )


def picture(result: Result) -> Figure:
    """Return the sigmoid's slope and a(1 - a) over z, in both types."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="z", ylabel="slope of the sigmoid", yscale="log", ylim=(1e-27, 1))
    z = np.linspace(0, 60, 601)
    for dtype, width in (("float64", 9), ("float32", 4)):
        a = 1 / (1 + np.exp(-z.astype(dtype)))
        naive = a * (1 - a)
        axes.plot(z[naive > 0], naive[naive > 0], label=f"a (1 - a) in {dtype}, then 0", linewidth=width, alpha=0.6)
    e = np.exp(-z)
    axes.plot(z, e / (1 + e) ** 2, label="true", color="black", linewidth=1)
    axes.plot(50, result.slopes[-1].slope, "ko", label="here: z = 50")
    axes.legend()
    return figure


# `run`'s own argument is called `device`, too
_resolve = device


def _slope(dtype: str, where: Device) -> Slope:
    kernels, z = where.kernels, np.full((1, 1), WEIGHT * PREVIOUS, dtype)
    with kernels.device_scope(where.index):
        out, slope = kernels.empty(z.shape, dtype), kernels.empty(z.shape, dtype)
        kernels.sigmoid_forward(kernels.from_host(z), out=out, slope=slope)
        a, true = kernels.to_host(out)[0, 0], kernels.to_host(slope)[0, 0]
    network = _neuron(where, dtype)
    gradient = _gradient(network, PREVIOUS, loss("mean_squared_error"))
    return Slope(dtype, float(a), float(a * (1 - a)), float(true), gradient)


def _train(previous: float, name: str, where: Device) -> Remedy:
    network = _neuron(where, "float64")
    gradient = _gradient(network, previous, loss(name))
    reached: list[int] = []
    network.fit(
        [previous],
        [TARGET],
        loss=name,
        optimizer=SGD(1.0),
        steps=MOST_STEPS,
        log_every=1,
        callbacks=_stop_when_good(previous, reached),
    )
    weight = float(network.parameters["0.weight"].reshape(-1)[0])
    return Remedy(previous, name, gradient, reached[0] if reached else None, weight)


def _stop_when_good(previous: float, reached: list[int]) -> Callable[[Progress], None]:
    def stop(progress: Progress) -> None:
        if float(np.ravel(progress.network.predict([previous]))[0]) < GOOD:
            reached.append(progress.step)
            progress.stop()

    return stop


def _neuron(where: Device, dtype: str) -> Sequential:
    network = Sequential(Dense(1, 1, "sigmoid", bias=False), device=where, dtype=dtype, rng=0)
    network.parameters["0.weight"] = [[WEIGHT]]
    return network


def _gradient(network: Sequential, previous: float, cost: Loss) -> float:
    _, gradients = network.loss_and_gradients([previous], [TARGET], loss=cost)
    return float(gradients["0.weight"].reshape(-1)[0])


def _explanation(result: Result) -> str:
    return paragraph(
        "a rounds to 1, so a (1 - a) is exactly 0. The true slope, e^-50 / (1 + e^-50)^2, fits both types, and the",
        f"kernels on {result.device} compute it. The step is still useless: it would change w by",
        f"{result.slopes[-1].gradient:.1e}, the next float64 after 0.8 is 1.1e-16 away, and so w stays what it was,",
        f"bit for bit. Even exact arithmetic would take some {result.useless_steps:.0e} steps at a learning rate of",
        "1. The derivative is right and the setup is wrong. What changes it, at that rate:",
    )


def _remedy_line(remedy: Remedy) -> str:
    steps = f"not in {MOST_STEPS:,}" if remedy.steps is None else f"{remedy.steps:,}"
    scaled = f"{remedy.previous:g}" + (" (scaled)" if remedy.previous != PREVIOUS else "")
    return f"{scaled:10} {remedy.loss.replace('_', ' '):22}{remedy.gradient:12.3g}{steps:>19}{remedy.weight:9.3g}"


def _moral() -> str:
    return paragraph(
        "A scaled input keeps z where the sigmoid has a slope. The cross-entropy's gradient, (a - y) p, has no",
        "slope in it and cannot vanish this way; but on the raw input one step throws w far past where it had to",
        "go, into the opposite saturation. Both together make steps of a sensible size.",
    )
