"""One forward pass in float64, and every array that a backward pass, right or wrong, is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from nnkernels._data import Host
from nnkernels._layers import Dense
from nnkernels._losses import BinaryCrossEntropy, CategoricalCrossEntropy, Loss
from nnkernels.backends.numpy import kernels

ROUNDING = 1e-9  #: by which operations are disturbed, to see what rounding may do
DISTURBANCES = 8
UNDERFLOW = 1e-30  #: p may be 0 in float32 where it is 1e-40


def activate(name: str, z: Host) -> tuple[Host, Host]:
    """Return a = f(z) and its elementwise slope; for softmax the slope is the diagonal of its Jacobian, a (1 - a)."""
    a, slope = np.empty_like(z), np.empty_like(z)
    with np.errstate(all="ignore"):
        if name == "softmax":
            kernels.softmax_forward(z, out=a)
            return a, a * (1 - a)
        getattr(kernels, f"{name}_forward")(z, out=a, slope=slope)
    return a, slope


class Point:
    """A network at one set of parameters and data.

    Parameters
    ----------
    layers : sequence of Dense
        The network.
    parameters : mapping of str to ndarray
        By name, float64.
    x, t : ndarray
        (batch, n_in) and (batch, n_out).
    loss : Loss
        The loss.
    factors : ndarray
        (batch,): each row's factor in the reduced loss.

    Attributes
    ----------
    inputs : list of ndarray
        Of each layer, and the output: layer l maps ``inputs[l]`` to ``inputs[l + 1]``.
    z, slopes : list of ndarray
        Of each layer, before its activation, and the activation's slope there.
    p : ndarray
        (batch, n_out): what the loss compares with the targets. Where the output are logits, their sigmoid or softmax.
    squash : str
        The function that makes p from the last z.
    fused : bool
        Whether loss and squash are differentiated together, as cross-entropies are: their common slope is p - t.
    """

    def __init__(
        self, layers: Sequence[Dense], parameters: Mapping[str, Host], x: Host, t: Host, loss: Loss, factors: Host
    ) -> None:
        self.layers, self.parameters, self.x, self.t, self.loss, self.factors = layers, parameters, x, t, loss, factors
        self.penalty = (0.0, 0.0)  # of the weights, L1 and L2, that the right gradients have beside the loss's
        self.inputs, self.z, self.slopes = [x], list[Host](), list[Host]()
        last = layers[-1].activation_name
        self.fused = loss.from_z(last)
        entropy: dict[type[Loss], str] = {BinaryCrossEntropy: "sigmoid", CategoricalCrossEntropy: "softmax"}
        self.squash = entropy.get(type(loss), last) if self.fused else last
        for number, layer in enumerate(layers):
            z = self.inputs[-1] @ self.weight(number) + parameters.get(f"{number}.bias", 0.0)
            a, slope = activate(layer.activation_name, z)
            self.z.append(z)
            self.inputs.append(a)
            self.slopes.append(slope)
        self.p, slope = activate(self.squash, self.z[-1])
        self.slopes[-1] = slope
        self.kernel = loss.kernel(last)

    @property
    def depth(self) -> int:
        """Number of layers."""
        return len(self.layers)

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.x)

    @property
    def n_out(self) -> int:
        """Number of outputs."""
        return int(self.t.shape[1])

    def weight(self, number: int) -> Host:
        """Weight of a layer, (n_in, n_out)."""
        return self.parameters[f"{number}.weight"]

    def function(self, number: int) -> str:
        """Name of the function that a layer's slope is of."""
        return self.squash if number == self.depth - 1 else self.layers[number].activation_name

    def loss_slope(self, argument: Host | None = None) -> Host:
        """Slope of each row's loss: with respect to z where the two are fused, else to the output."""
        if argument is None:
            argument = self.z[-1] if self.fused else self.inputs[-1]
        out, ones = np.empty_like(argument), np.ones(self.rows)
        with np.errstate(all="ignore"):
            getattr(kernels, f"{self.kernel}_backward")(argument, self.t, ones, out=out, **self.loss.scalars)
        return out

    def value(self) -> float:
        """The reduced loss."""
        total = np.zeros(())
        with np.errstate(all="ignore"):
            argument = self.z[-1] if self.fused else self.inputs[-1]
            getattr(kernels, f"{self.kernel}_forward")(argument, self.t, self.factors, out=total, **self.loss.scalars)
        return float(total)

    def at(self, parameters: Mapping[str, Host]) -> Point:
        """Return the point with other parameters."""
        other = Point(self.layers, {**self.parameters, **parameters}, self.x, self.t, self.loss, self.factors)
        other.penalty = self.penalty
        return other

    def penalty_slope(self, number: int) -> Host:
        """Slope of the penalty of a weight."""
        l1, l2 = self.penalty
        slope: Host = l1 * np.sign(self.weight(number)) + l2 * self.weight(number)
        return slope

    def noise(self) -> dict[str, Host]:
        """How far one rounding in each operation carries each gradient, elementwise, in units of that rounding.

        Measured, by disturbing every operation at random: a bound would grow with each layer until it excuses anything.
        A slope is disturbed by the terms of ``a (1 - a)``, not by its own size: who computes it that way loses that
        much where the unit is saturated, and is not wrong.
        """
        rng, exact = np.random.default_rng(0), self._disturbed(None)
        largest: dict[str, Host] = {name: np.zeros_like(gradient) for name, gradient in exact.items()}
        for _ in range(DISTURBANCES):
            for name, gradient in self._disturbed(rng).items():
                largest[name] = np.maximum(largest[name], np.abs(gradient - exact[name]) / ROUNDING)
        return largest

    def _disturbed(self, rng: np.random.Generator | None) -> dict[str, Host]:
        """Return the right gradients with every operation off by `ROUNDING` times the magnitude of its terms."""

        def off(value: Host, terms: Host) -> Host:
            return value if rng is None else value + ROUNDING * (terms + UNDERFLOW) * rng.standard_normal(value.shape)

        inputs, slopes = [self.x], list[Host]()
        z = self.x
        for number in range(self.depth):
            weight, bias = self.weight(number), self.parameters.get(f"{number}.bias", 0.0)
            z = off(inputs[-1] @ weight + bias, np.abs(inputs[-1]) @ np.abs(weight) + np.abs(bias))
            last = number == self.depth - 1
            a, slope = activate(self.squash if last else self.layers[number].activation_name, z)
            name = self.function(number)
            inputs.append(off(a, np.abs(a) + (name in ("softplus", "elu"))))  # log(1 + exp(z)), exp(z) - 1
            slopes.append(off(slope, np.abs(slope) + (name not in ("identity", "relu", "leaky_relu"))))
        delta = self._disturbed_delta(z, inputs[-1], slopes[-1], off) * self.factors[:, None]
        gradients: dict[str, Host] = {}
        for number in reversed(range(self.depth)):
            a, weight = inputs[number], self.weight(number)
            gradients[f"{number}.weight"] = off(a.T @ delta, np.abs(a).T @ np.abs(delta))
            gradients[f"{number}.bias"] = off(delta.sum(axis=0), np.abs(delta).sum(axis=0))
            if number:
                back = off(delta @ weight.T, np.abs(delta) @ np.abs(weight).T)
                delta = back * slopes[number - 1]
        return gradients

    def _disturbed_delta(self, z: Host, p: Host, slope: Host, off: Callable[[Host, Host], Host]) -> Host:
        """Return delta of the last layer, of each row alone."""
        error = self.loss_slope(z if self.fused else p)
        steep = 2 / self.n_out if self.kernel == "mean_squared_error" else 1.0
        error = off(error, np.abs(error) + steep * (np.abs(p) + np.abs(self.t)))
        if self.fused:
            return error
        if self.squash == "softmax":
            terms = p * (np.abs(error) + (np.abs(error) * p).sum(axis=1, keepdims=True))
            return off(p * (error - (error * p).sum(axis=1, keepdims=True)), terms)
        product: Host = error * slope
        return product


def random_point(point: Point, rng: np.random.Generator, rows: int) -> Point:
    """Return a point of the same layers and loss with other parameters, data and number of rows."""
    parameters: dict[str, Any] = {}
    for name, value in point.parameters.items():
        spread = 1 / np.sqrt(value.shape[0]) if value.ndim == 2 else 0.5
        parameters[name] = rng.normal(0, spread, value.shape)
    x, t = rng.normal(size=(rows, point.x.shape[1])), random_targets(point, rng, rows)
    share = 1 / rows if point.loss.reduction == "mean" else 1.0
    return Point(point.layers, parameters, x, t, point.loss, np.full(rows, share))


def random_targets(point: Point, rng: np.random.Generator, rows: int) -> Host:
    """Return targets of the kind that the point has, (rows, n_out)."""
    labels = np.isin(point.t, (0, 1)).all()
    if labels and point.n_out > 1 and (point.t.sum(axis=1) == 1).all():
        return np.eye(point.n_out)[rng.integers(0, point.n_out, rows)]
    if labels or point.kernel == "binary_cross_entropy":
        return rng.integers(0, 2, (rows, point.n_out)).astype(float)
    if point.kernel in ("poisson", "poisson_rate"):
        return rng.poisson(2.0, (rows, point.n_out)).astype(float)
    return rng.normal(size=(rows, point.n_out))
