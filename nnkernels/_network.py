"""Sequential: a chain of dense layers on one device."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np

from nnkernels import _training
from nnkernels._callbacks import Callback, Progress
from nnkernels._data import to_rows
from nnkernels._device import Device, device
from nnkernels._errors import ShapeError
from nnkernels._layers import Dense
from nnkernels._losses import Loss
from nnkernels._optimizers import Optimizer, optimizer
from nnkernels._parameters import Layout, Parameters, initial_parameters
from nnkernels._plan import Plan, choose
from nnkernels._sampling import Key

if TYPE_CHECKING:
    from nnkernels._training import History
    from nnkernels._workspace import Numbers
    from nnkernels.backends.protocol import Array

DTYPES = ("float32", "float64")


class Sequential:
    """A feed-forward network: dense layers, one after the other.

    Parameters
    ----------
    *layers : Dense
        Each takes as many inputs as the one before has outputs.
    device : str, Device or None
        Where the network lives and trains: "auto", "cpu", "numpy", "numba", "cuda", "cuda:1", or a third party's.
        None is the environment variable ``NNKERNELS_DEVICE``, or "auto".
    dtype : {"float32", "float64"}
        Of the parameters and of all arithmetic.
    rng : int, numpy.random.Generator or None
        Seed of the initial parameters, of the row order and of dropout.
    precision : {"float32", "tf32"}
        Of a GPU's products of float32 matrices in composed kernels: true float32, or tensor cores that round what they
        multiply to 11 bits. Nothing else is rounded, and nothing is unless asked for.

    Raises
    ------
    ShapeError
        The layers do not chain.
    ValueError
        No layers, softmax before the last layer, dropout on the last one, another dtype, or a precision that the
        device does not have.
    BackendUnavailable, DeviceError
        The device cannot be used, or does not exist.

    Examples
    --------
    >>> import numpy as np, nnkernels as nnk
    >>> x = np.linspace(0, 1, 100)
    >>> net = nnk.Sequential(nnk.Dense(1, 8, activation="tanh"), nnk.Dense(8, 1), device="cpu", rng=0)
    >>> history = net.fit(x, np.sin(3 * x), loss="mean_squared_error", optimizer=nnk.Adam(0.01), steps=500)
    >>> bool(history.loss[-1] < history.loss[0] / 10)
    True
    >>> net.predict(x).shape
    (100, 1)
    """

    def __init__(
        self,
        *layers: Dense,
        device: str | Device | None = None,
        dtype: str = "float32",
        rng: Key | int | np.random.Generator | None = None,
        precision: str = "float32",
    ) -> None:
        _check_chain(layers)
        self.layers = layers
        self._dtype = _check_dtype(dtype)
        self._device = _resolve(device)
        self._precision = _check_precision(precision, self._dtype, self._device)
        self.key = Key.of(rng)
        self.fits = 0
        self.preprocessing: dict[str, Any] | None = None  # of a table's columns; from file to file
        flat = initial_parameters(layers, self.key.seed, [self.key.network], self.dtype)[0]
        self._parameters = self._on_device(flat, self.device)

    # ---- what it is --------------------------------------------------------------------------------------------------

    @property
    def parameters(self) -> Parameters:
        """The parameters by name, views of one buffer; assigning a mapping copies it in, as `Parameters.update` does.

        Examples
        --------
        >>> import nnkernels as nnk
        >>> net = nnk.Sequential(nnk.Dense(1, 1), device="numpy")
        >>> net.parameters = {"0.weight": [[2.0]], "0.bias": [1.0]}
        >>> net.parameters["0.bias"]
        array([1.], dtype=float32)
        """
        return self._parameters

    @parameters.setter
    def parameters(self, values: Mapping[str, Any]) -> None:
        self._parameters.update(values)

    @property
    def device(self) -> Device:
        """Where the network lives; `to` moves it."""
        return self._device

    @property
    def dtype(self) -> str:
        """Of parameters and arithmetic: "float32" or "float64"."""
        return self._dtype

    @property
    def precision(self) -> str:
        """Of products of float32 matrices: "float32" or "tf32"."""
        return self._precision

    @property
    def product_options(self) -> dict[str, str]:
        """What the kernels of matrix products are given beside their arrays."""
        return {} if self.precision == "float32" else {"precision": self.precision}

    @property
    def numbers(self) -> Numbers:
        """Where its number in the streams of random numbers belongs in its arrays: everywhere."""
        return [(..., self.key.network)]

    @property
    def n_in(self) -> int:
        """Number of inputs."""
        return self.layers[0].n_in

    @property
    def n_out(self) -> int:
        """Number of outputs."""
        return self.layers[-1].n_out

    @property
    def n_parameters(self) -> int:
        """Number of weights and biases."""
        return sum(layer.n_parameters for layer in self.layers)

    def __repr__(self) -> str:
        layers = "".join(f"    {layer},\n" for layer in self.layers)
        return f"Sequential(\n{layers}    device='{self.device}', dtype='{self.dtype}',\n)"

    # ---- what it does ------------------------------------------------------------------------------------------------

    def predict(self, x: Any) -> Array:
        """Return the outputs for rows of inputs.

        Parameters
        ----------
        x : array_like
            (rows, n_in); one axis is one column.

        Returns
        -------
        array
            (rows, n_out), of the kind of x: a NumPy array for host data, the device's array for its own.

        Raises
        ------
        ShapeError, DataError
            x does not fit the network, or is not a finite number everywhere.

        Examples
        --------
        >>> import nnkernels as nnk
        >>> net = nnk.Sequential(nnk.Dense(2, 1, bias=False, weight_initializer="ones"), device="numpy")
        >>> net.predict([[1.0, 2.0]])
        array([[3.]], dtype=float32)
        """
        kernels = self.device.kernels
        with kernels.device_scope(self.device.index):
            if self.device.holds(x):
                return _training.predict(self, self._check_device_array(x))
            rows = kernels.from_host(to_rows(x, self.dtype, "x", self.n_in))
            return kernels.to_host(_training.predict(self, rows))

    __call__ = predict

    def fit(
        self,
        x: Any,
        y: Any,
        *,
        loss: str | Loss,
        optimizer: str | Optimizer = "adam",
        batch_size: int | None = None,
        steps: int | None = None,
        epochs: int | None = None,
        sampling: str = "permutation",
        validation_data: tuple[Any, ...] | None = None,
        sample_weight: Any = None,
        callbacks: Callback | Callable[[Progress], Any] | Iterable[Any] | None = None,
        plan: str | Plan | None = None,
        log_every: int | None = None,
    ) -> History:
        """Train on rows of inputs and targets, from the current parameters, with fresh optimizer state.

        Parameters
        ----------
        x, y : array_like
            (rows, n_in) and (rows, n_out); one axis is one column. For `CategoricalCrossEntropy` y is class indices
            (rows,) or one-hot rows. Both are checked on the host and copied to the network's device once, unless that
            is the host; arrays of that device are taken, too.
        loss : str or Loss
            half_squared_error, mean_squared_error, absolute_error, huber, poisson, binary_cross_entropy,
            categorical_cross_entropy.
        optimizer : str or Optimizer
            sgd, adam, adamw, rmsprop.
        batch_size : int or None
            Rows of a step; None is all of them.
        steps, epochs : int or None
            Number of updates, or of passes over the data, of ceil(rows / batch_size) updates each; one epoch if
            neither is given.
        sampling : {"permutation", "replacement", "sequential"}
            A fresh permutation every epoch, whose last batch may be short; independent draws; or the rows' own order.
        validation_data : (x, y) or (x, y, sample_weight)
            Its loss is computed at every log point.
        sample_weight : array_like or None
            (rows,), at least 0.
        callbacks : Callback, callable, iterable of them, or None
            Called at every log point.
        plan : str, Plan or None
            Forces the way to run; None chooses.
        log_every : int or None
            Steps between two log points; None makes 100 of them.

        Returns
        -------
        History
            Losses, steps, device, plan and time.

        Raises
        ------
        ShapeError, DataError, ValueError, TypeError, PlanError
            An argument is wrong; nothing has been changed.
        DivergenceError
            The loss stopped being a number; the weights from before that step are kept.

        Examples
        --------
        >>> import nnkernels as nnk
        >>> net = nnk.Sequential(nnk.Dense(1, 1), device="numpy", rng=0)
        >>> history = net.fit([0, 1, 2], [1, 3, 5], loss="half_squared_error", optimizer=nnk.SGD(0.1), steps=500)
        >>> net([10.0]).round(2)
        array([[21.]], dtype=float32)
        """
        return _training.fit(
            self,
            x,
            y,
            loss=loss,
            optimizer=optimizer,
            batch_size=batch_size,
            steps=steps,
            epochs=epochs,
            sampling=sampling,
            validation_data=validation_data,
            sample_weight=sample_weight,
            callbacks=callbacks,
            plan=plan,
            log_every=log_every,
        )

    def plan(
        self,
        x: Any,
        y: Any,
        *,
        loss: str | Loss,
        optimizer: str | Optimizer = "adam",
        batch_size: int | None = None,
        steps: int | None = None,
        epochs: int | None = None,
        sampling: str = "permutation",
        sample_weight: Any = None,
        plan: str | Plan | None = None,
    ) -> Plan:
        """Return how `fit` would run, without running it; the arguments, on which it depends, are `fit`'s.

        Examples
        --------
        >>> import nnkernels as nnk
        >>> net = nnk.Sequential(nnk.Dense(1, 1), device="numpy")
        >>> net.plan([0.0, 1.0], [0.0, 1.0], loss="half_squared_error", steps=10).way
        'composed'
        """
        problem = _training.Problem.check(self, x, y, loss, sample_weight)
        resolved = _resolve_optimizer(optimizer)
        return choose(_training.describe(self, problem, resolved, batch_size, steps, epochs, sampling), plan)

    def loss_and_gradients(
        self, x: Any, y: Any, *, loss: str | Loss, sample_weight: Any = None
    ) -> tuple[float, dict[str, Array]]:
        """Return the loss over rows of data and its gradients, without dropout.

        Parameters
        ----------
        x, y, loss, sample_weight
            As for `fit`.

        Returns
        -------
        value : float
            The reduced loss.
        gradients : dict of str to array
            By parameter name, in order; the device's own arrays.

        Examples
        --------
        >>> import nnkernels as nnk
        >>> net = nnk.Sequential(nnk.Dense(1, 1, bias=False, weight_initializer="ones"), device="numpy")
        >>> value, gradients = net.loss_and_gradients([2.0], [0.0], loss="half_squared_error")
        >>> value, gradients["0.weight"]
        (2.0, array([[4.]], dtype=float32))
        """
        problem = _training.Problem.check(self, x, y, loss, sample_weight)
        with self.device.kernels.device_scope(self.device.index):
            return _training.loss_and_gradients(self, problem)

    def evaluate(self, x: Any, y: Any, *, loss: str | Loss, sample_weight: Any = None) -> float:
        """Return the loss over rows of data, without dropout; the arguments are `fit`'s.

        Examples
        --------
        >>> import nnkernels as nnk
        >>> net = nnk.Sequential(nnk.Dense(1, 1, bias=False, weight_initializer="ones"), device="numpy")
        >>> net.evaluate([2.0], [0.0], loss="half_squared_error")
        2.0
        """
        problem = _training.Problem.check(self, x, y, loss, sample_weight)
        with self.device.kernels.device_scope(self.device.index):
            return _training.Evaluation(self, problem)()

    # ---- where it is -------------------------------------------------------------------------------------------------

    def to(self, device: str | Device) -> Sequential:
        """Move the network to another device, in place, and return it.

        Examples
        --------
        >>> import nnkernels as nnk
        >>> nnk.Sequential(nnk.Dense(1, 1), device="numba").to("numpy").device.kind
        'numpy'
        """
        target = _resolve(device)
        _check_precision(self.precision, self.dtype, target)
        if target != self.device:
            self._parameters = self._on_device(self.device.kernels.to_host(self.parameters.flat), target)
            self._device = target
        return self

    def save(self, path: str | PathLike[str]) -> None:
        """Write the network to a safetensors file: beside it first, then renamed.

        Examples
        --------
        >>> import nnkernels as nnk, tempfile, pathlib
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "net.safetensors"
        >>> nnk.Sequential(nnk.Dense(1, 1), device="numpy").save(path)
        >>> nnk.load(path, device="numpy")
        Sequential(
            Dense(1, 1),
            device='numpy', dtype='float32',
        )
        """
        from nnkernels._io.model_file import save

        save(self, path)

    def next_fit_seed(self) -> int:
        """Return the seed of the fit that begins now; the next one gets another."""
        seed = self.key.for_fit(self.fits)
        self.fits += 1
        return seed

    def _on_device(self, flat: np.ndarray[Any, Any], target: Device) -> Parameters:
        kernels = target.kernels
        with kernels.device_scope(target.index):
            return Parameters(Layout(self.layers), kernels.from_host(flat), target)

    def _check_device_array(self, x: Array) -> Array:
        """Check rows that are on the device already; their values are not read back."""
        rows = x.reshape(-1, 1) if x.ndim == 1 else x
        if rows.ndim != 2 or rows.shape[1] != self.n_in or rows.dtype != np.dtype(self.dtype):
            raise ShapeError(f"x must be (rows, {self.n_in}) of {self.dtype}, not {x.shape} of {x.dtype}")
        return rows


# `Sequential`'s own arguments are called `device` and `optimizer`, too
_resolve, _resolve_optimizer = device, optimizer


def _check_chain(layers: tuple[Dense, ...]) -> None:
    if not layers:
        raise ValueError("a network needs at least one layer: Sequential(Dense(n_in, n_out), ...)")
    for number, layer in enumerate(layers):
        if not isinstance(layer, Dense):
            raise TypeError(f"layer {number} must be a Dense, not {layer!r}")
        if number and layer.n_in != layers[number - 1].n_out:
            before = layers[number - 1].n_out
            raise ShapeError(f"layer {number} takes {layer.n_in} inputs, but layer {number - 1} has {before} outputs")
        if number < len(layers) - 1 and layer.activation == "softmax":
            raise ValueError(f'layer {number} has activation="softmax", which only the last layer can have')
    if layers[-1].dropout:
        raise ValueError("the last layer has dropout, which would drop predictions; put it on a hidden layer")


def _check_dtype(dtype: Any) -> str:
    try:
        name = str(np.dtype(dtype).name)
    except TypeError:
        name = str(dtype)
    if name not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, not {dtype!r}")
    return name


def _check_precision(precision: str, dtype: str, device: Device) -> str:
    if precision != "float32":
        offered = getattr(device.kernels, "PRECISIONS", ("float32",))
        if precision not in offered or dtype != "float32":
            there = ", ".join(map(repr, offered if dtype == "float32" else offered[:1]))
            raise ValueError(f"precision for {dtype} on {device} must be {there}, not {precision!r}")
    return precision
