"""A training run as every row gets it: the same data, the same start, the same order of rows."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

import nnkernels as nnk

Host = np.ndarray[Any, Any]
SEED = 0


class Layer(NamedTuple):
    """A dense layer."""

    n_in: int
    n_out: int
    activation: str = "identity"
    bias: bool = True


@dataclass(frozen=True)
class Problem:
    """What is trained, on what, and for how long.

    Parameters
    ----------
    layers : tuple of Layer
        The network.
    loss, reduction : str, {"mean", "sum"}
        What is minimized.
    optimizer, lr : {"sgd", "adam"}, float
        How.
    x, t : ndarray
        (rows, n_in) and (rows, n_out), one-hot for cross-entropy.
    batch, steps, sampling : int, int, str
        Rows of a step, number of steps, how rows are drawn.
    start : list of ndarray
        Initial weights and biases, in layer order.
    order : ndarray or None
        (steps, batch): the rows of each step, or of as many as are ever given to others; None where every step takes
        all rows.
    seed : int
        From which `order` is drawn.
    precision : {"float32", "tf32"}
        Of products of float32 matrices on a GPU.
    """

    layers: tuple[Layer, ...]
    loss: str
    reduction: str
    optimizer: str
    lr: float
    x: Host
    t: Host
    batch: int
    steps: int
    sampling: str
    start: list[Host]
    order: Host | None
    seed: int
    precision: str = "float32"

    @property
    def dtype(self) -> str:
        """Of the data, the weights and all arithmetic."""
        return self.x.dtype.name

    def first(self, steps: int) -> Problem:
        """Return the first steps of the run as a run of its own."""
        return replace(self, steps=steps, order=None if self.order is None else self.order[:steps])

    def wide(self) -> Problem:
        """Return the same run in float64."""
        return replace(
            self, x=self.x.astype(float), t=self.t.astype(float), start=[a.astype(float) for a in self.start]
        )

    def by_layer(self, arrays: list[Any]) -> list[tuple[Layer, Any, Any]]:
        """Return each layer with its weight and its bias, or None, from arrays in the order of `start`."""
        left = iter(arrays)
        return [(layer, next(left), next(left) if layer.bias else None) for layer in self.layers]

    def own_loss(self) -> Any:
        """Return the loss as nnkernels names it."""
        names = {
            "half_squared_error": nnk.HalfSquaredError,
            "mean_squared_error": nnk.MeanSquaredError,
            "categorical_cross_entropy": nnk.CategoricalCrossEntropy,
        }
        return names[self.loss](reduction=self.reduction)

    def own_optimizer(self) -> Any:
        """Return the optimizer as nnkernels names it."""
        return {"sgd": nnk.SGD, "adam": nnk.Adam}[self.optimizer](self.lr)

    def own_network(self, device: str) -> nnk.Sequential:
        """Return the network at its start."""
        net = nnk.Sequential(*dense(self.layers), device=device, dtype=self.dtype, rng=SEED, precision=self.precision)
        net.parameters = dict(zip(net.parameters, self.start, strict=True))
        return net


def dense(layers: tuple[Layer, ...], initializer: Any = "glorot_uniform") -> list[nnk.Dense]:
    """Return the layers as nnkernels has them."""
    return [
        nnk.Dense(n_in, n_out, activation, bias, weight_initializer=initializer)
        for n_in, n_out, activation, bias in layers
    ]


def make(
    layers: tuple[Layer, ...],
    x: Host,
    t: Host,
    *,
    loss: str,
    reduction: str = "mean",
    optimizer: str = "sgd",
    lr: float,
    batch: int | None = None,
    steps: int,
    sampling: str = "permutation",
    dtype: str = "float32",
    initializer: Any = "glorot_uniform",
    drawn: int | None = None,
    precision: str = "float32",
) -> Problem:
    """Draw the start and the order of rows, of all steps or of the first `drawn`, as nnkernels draws them."""
    net = nnk.Sequential(*dense(layers, initializer), device="numpy", dtype=dtype, rng=SEED)
    seed = net.key.for_fit(0)
    order = None
    if batch is not None:
        order = np.empty((min(steps, drawn or steps), batch), np.int64)
        net.device.kernels.draw_indices(seed, 0, 0, sampling=sampling, n_rows=len(x), out=order)
    return Problem(
        layers=layers,
        loss=loss,
        reduction=reduction,
        optimizer=optimizer,
        lr=lr,
        x=np.ascontiguousarray(x, dtype),
        t=np.ascontiguousarray(t, dtype),
        batch=len(x) if batch is None else batch,
        steps=steps,
        sampling=sampling,
        start=list(net.parameters.to_host().values()),
        order=order,
        seed=seed,
        precision=precision,
    )


@dataclass(frozen=True)
class Many(Problem):
    """The same run for many networks: `start` and `order` have an axis for them.

    Parameters
    ----------
    start : list of ndarray
        (networks, ...): initial weights of each network.
    order : ndarray
        (steps, networks): the row of each step of each network.
    rates : ndarray
        (networks,): the learning rate of each.
    """

    rates: Host = field(default_factory=lambda: np.ones(1, np.float32))

    def first(self, steps: int) -> Many:
        """Return the first steps of the run as a run of its own."""
        return replace(self, steps=steps, order=self.rows[:steps])

    @property
    def rows(self) -> Host:
        """`order`, which such a run always has."""
        assert self.order is not None
        return self.order

    @property
    def networks(self) -> int:
        """How many there are."""
        return len(self.rates)


def many(one: Problem, networks: int, drawn: int) -> Many:
    """Return a run of batch 1 for many networks, each with its own start, order of rows and learning rate."""
    rng = np.random.default_rng(SEED)
    start = [rng.uniform(-1, 1, (networks, *array.shape)).astype(one.dtype) for array in one.start]
    order = np.empty((networks, drawn, 1), np.int64)
    _drawing().draw_indices(one.seed, 0, 0, sampling=one.sampling, n_rows=len(one.x), out=order)
    fields = {name: getattr(one, name) for name in one.__dataclass_fields__}
    rates = rng.uniform(0.5 * one.lr, one.lr, networks).astype(one.dtype)
    rows = np.ascontiguousarray(order[:, :, 0].T.astype(np.int32))
    return Many(**fields | {"start": start, "order": rows, "rates": rates})


def _drawing() -> Any:
    """Return the kernels that draw fastest on the host; the bits are the same."""
    try:
        return nnk.device("numba").kernels
    except (ImportError, nnk.BackendUnavailable):
        return nnk.device("numpy").kernels
