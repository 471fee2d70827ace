"""Why does my 1-1-1 autoencoder not move? Because on balanced data, all zeros is a critical point."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nnkernels._callbacks import Progress
from nnkernels._demos.text import paragraph
from nnkernels._device import Device
from nnkernels._layers import Dense
from nnkernels._losses import BinaryCrossEntropy
from nnkernels._network import Sequential
from nnkernels._optimizers import SGD

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DATA = (1, 0, 1, 0, 1, 0, 0, 1, 1, 0, 0, 0)  #: five ones and seven zeros
BALANCED = (1, 0, 1, 0, 1, 0, 0, 1, 1, 0, 1, 0)  #: six and six
NAMES = ("b1", "w1", "b2", "w2")
_KEYS = ("0.bias", "0.weight", "1.bias", "1.weight")
LOSS = BinaryCrossEntropy(reduction="sum")


class Result(NamedTuple):
    """What happened.

    `parameters` is (steps + 1, 4), in the order of `NAMES`, from the start on; `gradients` (4,) are at the start;
    `one_by_one` (4,) are the parameters after as many steps from the same start, of one row each.
    """

    device: str
    data: tuple[int, ...]
    gradients: np.ndarray[Any, Any]
    parameters: np.ndarray[Any, Any]
    one_by_one: np.ndarray[Any, Any]
    loss: float
    prediction_of_1: float
    prediction_of_0: float


def run(*, balanced: bool = False, device: str | Device | None = None, steps: int = 20) -> Result:
    """Train a 1-1-1 sigmoid network from zeros to give back its input; summed loss, full batch, rate 0.5."""
    data = BALANCED if balanced else DATA
    x = np.array(data, np.float32)
    network = _zeros(device)
    trajectory = [_values(network.parameters)]
    _, gradients = network.loss_and_gradients(x, x, loss=LOSS)

    def record(progress: Progress) -> None:
        trajectory.append(_values(progress.network.parameters))

    network.fit(x, x, loss=LOSS, optimizer=SGD(0.5), steps=steps, sampling="sequential", callbacks=record, log_every=1)
    single = _zeros(device)
    single.fit(x, x, loss=LOSS, optimizer=SGD(0.5), batch_size=1, steps=steps, sampling="sequential")
    one, zero = (float(p) for p in np.ravel(network.predict([1.0, 0.0])))
    return Result(
        str(network.device),
        data,
        _values(dict(zip(network.parameters, _to_host(network, gradients), strict=True))),
        np.array(trajectory),
        _values(single.parameters),
        network.evaluate(x, x, loss=LOSS),
        one,
        zero,
    )


def story(result: Result) -> str:
    """Return what happened, in words and numbers."""
    ones, steps = sum(result.data), len(result.parameters) - 1
    rows = {f"{step:d}": result.parameters[step] for step in (0, 1, 2, 5, 10, steps) if step <= steps}
    rows[f"{steps}, of one row each"] = result.one_by_one
    return "\n".join(
        [
            paragraph(
                f"A 1-1-1 network, sigmoids and biases, all zeros, learns to give back {ones} ones and",
                f"{len(result.data) - ones} zeros: summed binary cross-entropy, full batch, learning rate 0.5,",
                f"float32, on {result.device}.",
            ),
            "",
            f"{'steps':>19}" + "".join(f"{name:>13}" for name in NAMES),
            *(f"{name:>19}" + "".join(f"{value:13.7f}" for value in values) for name, values in rows.items()),
            "",
            _end_moving(result) if result.gradients.any() else _end_balanced(result),
        ]
    )


def picture(result: Result) -> Figure:
    """Return the parameters over the steps."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="step", ylabel="value", title=f"1-1-1 autoencoder, {sum(result.data)} ones of 12")
    for name, values in zip(NAMES, result.parameters.T, strict=True):
        axes.plot(values, label=name)
    axes.locator_params("x", integer=True)
    axes.legend()
    return figure


def _end_balanced(result: Result) -> str:
    return paragraph(
        "All four gradients are exactly 0, so nothing moves: with w1 = w2 = 0 the output is 0.5 for every input,",
        "which is right on average, and a change of w1 changes nothing as long as w2 = 0. That is a critical point,",
        f"not convergence: the loss is {result.loss:.4f} = 12 log 2, that of guessing, where a perfect autoencoder",
        "has 0. Batches of one row are not balanced, and leave it at the first step; so do random initial weights.",
    )


def _end_moving(result: Result) -> str:
    b1, w1, b2, w2 = result.gradients
    return paragraph(
        f"At the start only the output layer has gradients: b1 {b1:g}, w1 {w1:g}, b2 {b2:g}, w2 {w2:g}, since the",
        "hidden layer's come through w2 = 0. The first step makes w2 non-zero; the second moves all four. In the",
        f"end 1 comes back as {result.prediction_of_1:.7f} and 0 as {result.prediction_of_0:.8f}; the loss is",
        f"{result.loss:.4f}, and guessing 0.5 has {len(result.data) * np.log(2):.4f}. Two more zeros than ones are",
        "all that broke the tie: see --balanced.",
    )


def _zeros(device: str | Device | None) -> Sequential:
    layers = [Dense(1, 1, "sigmoid", weight_initializer="zeros", bias_initializer="zeros") for _ in range(2)]
    return Sequential(*layers, device=device, rng=0)


def _to_host(network: Sequential, arrays: dict[str, Any]) -> list[np.ndarray[Any, Any]]:
    return [network.device.kernels.to_host(array) for array in arrays.values()]


def _values(parameters: Any) -> np.ndarray[Any, Any]:
    return np.array([float(parameters[key].reshape(-1)[0]) for key in _KEYS])
