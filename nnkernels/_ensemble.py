"""Ensemble: many networks of the same layers, trained in one call."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from nnkernels import _ensemble_training
from nnkernels._callbacks import Callback, Progress
from nnkernels._device import Device
from nnkernels._ensemble_data import (
    Evaluation,
    Problem,
    device_inputs,
    inputs,
    over_networks,
    predict,
)
from nnkernels._ensemble_training import EnsembleHistory
from nnkernels._layers import Dense, chain
from nnkernels._losses import Loss
from nnkernels._network import Sequential
from nnkernels._optimizers import Optimizer
from nnkernels._parameters import Layout, Parameters, initial_parameters
from nnkernels._plan import Plan
from nnkernels._sampling import Key

if TYPE_CHECKING:
    from nnkernels._data import Host
    from nnkernels.backends.protocol import Array


class Ensemble:
    """Many networks of the same layers: each with its own weights, row order, dropout and learning rate.

    Network i is ``Sequential(*layers, rng=ensemble.rng(i))``; the number of the others changes nothing about it.

    Parameters
    ----------
    layers : sequence of Dense
        As for `Sequential`.
    n : int
        Number of networks.
    device, dtype, precision
        As for `Sequential`.
    rng : int, numpy.random.Generator or None
        Seed, which all networks share; each draws from a stream of its own.

    Raises
    ------
    ValueError
        `n` is below 1; what `Sequential` refuses.

    Examples
    --------
    >>> import numpy as np, nnkernels as nnk
    >>> x = np.linspace(0, 1, 50)
    >>> layers = [nnk.Dense(1, 8, activation="tanh"), nnk.Dense(8, 1)]
    >>> ensemble = nnk.Ensemble(layers, n=3, device="cpu", rng=0)
    >>> rates = [0.003, 0.01, 0.03]
    >>> history = ensemble.fit(x, np.sin(3 * x), loss="mean_squared_error", optimizer=nnk.Adam(rates), steps=300)
    >>> ensemble.predict(x).shape
    (3, 50, 1)
    >>> ensemble.losses.shape
    (3, 100)
    """

    def __init__(
        self,
        layers: Sequence[Dense],
        *,
        n: int,
        device: str | Device | None = None,
        dtype: str = "float32",
        rng: Key | int | np.random.Generator | None = None,
        precision: str = "float32",
    ) -> None:
        if isinstance(layers, Dense):
            raise TypeError("layers must be a sequence of Dense: Ensemble([Dense(...), Dense(...)], n=...)")
        size = operator.index(n)
        if size < 1:
            raise ValueError(f"n must be at least 1, not {size}")
        key = Key.of(rng)
        self._first = Sequential(*layers, device=device, dtype=dtype, rng=key, precision=precision)
        self.seed, self.fits = key.seed, 0
        self.numbers = key.network + np.arange(size)  # of the networks, in the streams of random numbers
        self._parameters = self._on_device(initial_parameters(self.layers, self.seed, self.numbers, self.dtype))
        self.losses: Host = np.empty((size, 0))
        self.diverged: Host = np.full(size, -1, np.int64)

    @classmethod
    def restored(cls, layers: Sequence[Dense], key: Key, numbers: Host, **settings: Any) -> Ensemble:
        """Return the networks with these numbers, whose parameters are still to be set.

        Examples
        --------
        >>> import numpy as np, nnkernels as nnk
        >>> key = nnk.Ensemble([nnk.Dense(1, 1)], n=1, device="numpy", rng=3).rng(0)
        >>> nnk.Ensemble.restored([nnk.Dense(1, 1)], key, np.array([5, 7]), device="numpy").rng(1)
        Key(seed=3, network=7)
        """
        ensemble = cls(layers, n=1, rng=key, **settings)
        ensemble.numbers = np.array(numbers, np.int64)
        ensemble._parameters = ensemble._on_device(np.zeros((len(numbers), ensemble.n_parameters), ensemble.dtype))
        ensemble.losses, ensemble.diverged = np.empty((len(numbers), 0)), np.full(len(numbers), -1, np.int64)
        return ensemble

    # ---- what it is --------------------------------------------------------------------------------------------------

    @property
    def n(self) -> int:
        """Number of networks."""
        return len(self.numbers)

    @property
    def layers(self) -> tuple[Dense, ...]:
        """Of each network."""
        return self._first.layers

    @property
    def parameters(self) -> Parameters:
        """The parameters by name, views of one buffer (n, P) with a leading axis of networks; assigning copies in."""
        return self._parameters

    @property
    def device(self) -> Device:
        """Where the networks live."""
        return self._first.device

    @property
    def dtype(self) -> str:
        """Of parameters and arithmetic."""
        return self._first.dtype

    @property
    def product_options(self) -> dict[str, str]:
        """What the kernels of matrix products are given beside their arrays."""
        return self._first.product_options

    @property
    def n_in(self) -> int:
        """Number of inputs."""
        return self._first.n_in

    @property
    def n_out(self) -> int:
        """Number of outputs."""
        return self._first.n_out

    @property
    def n_parameters(self) -> int:
        """Number of weights and biases of each network."""
        return self._first.n_parameters

    def rng(self, number: int) -> Key:
        """Return the key of a network: ``Sequential(*layers, rng=ensemble.rng(i))`` begins as network i did.

        Its ``fit(..., plan="lanes")`` on ``device="numba"`` repeats the network's training to the last bit.

        Examples
        --------
        >>> import nnkernels as nnk
        >>> nnk.Ensemble([nnk.Dense(1, 1)], n=3, device="numpy", rng=7).rng(2)
        Key(seed=7, network=2)
        """
        return Key(self.seed, int(self.numbers[number]))

    def __len__(self) -> int:
        return self.n

    def __iter__(self) -> Iterator[Sequential]:
        return (self[number] for number in range(self.n))

    def __repr__(self) -> str:
        return f"Ensemble({self.n:,} x {chain(self.layers)}, device='{self.device}', dtype='{self.dtype}')"

    @overload
    def __getitem__(self, index: int) -> Sequential: ...
    @overload
    def __getitem__(self, index: slice | Sequence[int] | Host) -> Ensemble: ...
    def __getitem__(self, index: Any) -> Sequential | Ensemble:
        """Return a copy: one network as a Sequential, or those of a slice, a mask or an array of numbers."""
        kernels = self.device.kernels
        if isinstance(index, (int, np.integer)):
            number = range(self.n)[index]
            network = self._sequential(self.rng(number))
            with kernels.device_scope(self.device.index):
                kernels.copy(self.parameters.flat[number], out=network.parameters.flat)
            network.fits = self.fits
            return network
        chosen = index if isinstance(index, slice) else np.asarray(index)
        known = isinstance(chosen, slice) or (chosen.ndim == 1 and chosen.dtype.kind in "iub")
        numbers = self.numbers[chosen] if known else np.empty(0, np.int64)
        if not len(numbers):
            raise IndexError(f"an index picks one network, or some of them; {index!r} does not")
        settings = {"device": self.device, "dtype": self.dtype, "precision": self._first.precision}
        picked = Ensemble.restored(self.layers, Key(self.seed), numbers, **settings)
        picked.fits = self.fits
        picked.losses, picked.diverged = self.losses[chosen].copy(), self.diverged[chosen].copy()
        picked.set_flat(self.flat_on_host()[chosen])
        return picked

    # ---- what it does ------------------------------------------------------------------------------------------------

    def predict(self, x: Any) -> Array:
        """Return the outputs of every network.

        Parameters
        ----------
        x : array_like
            (rows, n_in) for all networks, or (n, rows, n_in).

        Returns
        -------
        array
            (n, rows, n_out), of the kind of x.

        Examples
        --------
        >>> import nnkernels as nnk
        >>> nnk.Ensemble([nnk.Dense(2, 1)], n=4, device="numpy").predict([[1.0, 2.0], [0.0, 0.0]]).shape
        (4, 2, 1)
        """
        kernels = self.device.kernels
        with kernels.device_scope(self.device.index):
            if self.device.holds(x):
                return predict(self, device_inputs(self, x))
            return kernels.to_host(predict(self, kernels.from_host(inputs(self, x))))

    __call__ = predict

    def mean(self, x: Any) -> Host:
        """Return the mean of the networks' outputs, (rows, n_out), of float64.

        Examples
        --------
        >>> import nnkernels as nnk
        >>> nnk.Ensemble([nnk.Dense(1, 1)], n=4, device="numpy").mean([1.0, 2.0]).shape
        (2, 1)
        """
        return over_networks(self, x, lambda out: out.mean(axis=0))

    def std(self, x: Any) -> Host:
        """Return the standard deviation of the networks' outputs, (rows, n_out), of float64.

        Examples
        --------
        >>> import nnkernels as nnk
        >>> nnk.Ensemble([nnk.Dense(1, 1)], n=1, device="numpy").std([1.0])
        array([[0.]])
        """
        return over_networks(self, x, lambda out: out.std(axis=0))

    def quantile(self, x: Any, q: Any) -> Host:
        """Return quantiles of the networks' outputs, (rows, n_out), or (quantiles, rows, n_out) for several.

        Examples
        --------
        >>> import nnkernels as nnk
        >>> nnk.Ensemble([nnk.Dense(1, 1)], n=9, device="numpy").quantile([1.0, 2.0], [0.1, 0.9]).shape
        (2, 2, 1)
        """
        return over_networks(self, x, lambda out: np.quantile(out, q, axis=0))

    def evaluate(self, x: Any, y: Any, *, loss: str | Loss, sample_weight: Any = None) -> Host:
        """Return each network's loss over rows of data, without dropout, (n,); the arguments are `fit`'s.

        Examples
        --------
        >>> import nnkernels as nnk
        >>> layer = nnk.Dense(1, 1, bias=False, weight_initializer="ones")
        >>> nnk.Ensemble([layer], n=2, device="numpy").evaluate([2.0], [0.0], loss="half_squared_error")
        array([2., 2.])
        """
        problem = Problem.check(self, x, y, loss, sample_weight)
        with self.device.kernels.device_scope(self.device.index):
            return Evaluation(self, problem)(np.arange(self.n))

    def best(self, x: Any, y: Any, *, loss: str | Loss, sample_weight: Any = None) -> Sequential:
        """Return the network whose loss over these rows is least, as a Sequential; ties go to the first.

        Examples
        --------
        >>> import nnkernels as nnk
        >>> ensemble = nnk.Ensemble([nnk.Dense(1, 1, bias=False)], n=3, device="numpy")
        >>> ensemble.parameters["0.weight"] = [[[1.0]], [[2.0]], [[3.0]]]
        >>> ensemble.best([1.0], [2.2], loss="half_squared_error").parameters["0.weight"]
        array([[2.]], dtype=float32)
        """
        losses = self.evaluate(x, y, loss=loss, sample_weight=sample_weight)
        if np.isnan(losses).all():
            raise ValueError("the loss of every network is no number; there is no best one")
        return self[int(np.nanargmin(losses))]

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
    ) -> EnsembleHistory:
        """Train every network, from its current parameters, with fresh optimizer state.

        A network that diverges keeps the weights from before, is named in `diverged`, and costs nothing from then on;
        the others do not notice. So does one that stops early: an `EarlyStopping` among the callbacks is followed by
        each network for itself.

        Parameters
        ----------
        x, y : array_like
            (rows, n_in) and (rows, n_out) for all networks; or (n, rows, n_in) and (n, rows, n_out), class indices
            (n, rows), each network's own.
        optimizer : str or Optimizer
            Whose numbers may be arrays, one for each network.
        sample_weight : array_like or None
            (rows,), or (n, rows).
        validation_data : (x, y) or (x, y, sample_weight)
            As x and y.
        callbacks : Callback, callable, iterable of them, or None
            Called at every log point with the ensemble's progress: `losses`, `validation_losses` and `active`, (n,).
        plan : str, Plan or None
            "lanes" (numba), "generated" (cuda), "composed", or None, which chooses.
        loss, batch_size, steps, epochs, sampling, log_every
            As for `Sequential.fit`.

        Returns
        -------
        EnsembleHistory
            Losses, validation losses, diverged and stopped networks, plan and time.

        Raises
        ------
        ShapeError, DataError, ValueError, TypeError, PlanError
            An argument is wrong; nothing has been changed.

        Examples
        --------
        >>> import nnkernels as nnk
        >>> ensemble = nnk.Ensemble([nnk.Dense(1, 1)], n=3, device="cpu", rng=0)
        >>> optimizer = nnk.SGD([0.05, 0.1, 1e6])
        >>> history = ensemble.fit([0, 1, 2], [1, 3, 5], loss="half_squared_error", optimizer=optimizer, steps=500)
        >>> history.diverged >= 0
        array([False, False,  True])
        >>> ensemble[:2].mean([10.0]).round(1)
        array([[21.]])
        """
        return _ensemble_training.fit(
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
        >>> ensemble = nnk.Ensemble([nnk.Dense(1, 1)], n=100, device="numba")
        >>> ensemble.plan([0.0, 1.0], [0.0, 1.0], loss="half_squared_error", steps=10_000).way
        'lanes'
        """
        arguments = (loss, optimizer, batch_size, steps, epochs, sampling, sample_weight, plan)
        return _ensemble_training.prepare(self, x, y, *arguments)[2]

    def save(self, path: str | PathLike[str]) -> None:
        """Write all networks to one safetensors file, which `load` reads.

        Examples
        --------
        >>> import nnkernels as nnk, tempfile, pathlib
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "ensemble.safetensors"
        >>> nnk.Ensemble([nnk.Dense(1, 1)], n=5, device="numpy").save(path)
        >>> nnk.load(path, device="numpy").n
        5
        """
        from nnkernels._io.model_file import save

        save(self, path)

    # ---- what training does with it ----------------------------------------------------------------------------------

    def next_fit_seed(self) -> int:
        """Return the seed of the fit that begins now; the next one gets another."""
        seed = Key(self.seed).for_fit(self.fits)
        self.fits += 1
        return seed

    def record(self, history: EnsembleHistory) -> None:
        """Take over what a run has found."""
        self.losses, self.diverged = history.losses, history.diverged

    def flat_on_host(self) -> Host:
        """Return a copy of all parameters, (n, P)."""
        flat: Host = self.device.kernels.to_host(self.parameters.flat)
        return flat

    def set_flat(self, flat: Host) -> None:
        """Take over all parameters, (n, P)."""
        kernels = self.device.kernels
        kernels.copy(kernels.from_host(flat), out=self.parameters.flat)

    def _on_device(self, flat: Host) -> Parameters:
        kernels = self.device.kernels
        with kernels.device_scope(self.device.index):
            return Parameters(Layout(self.layers), kernels.from_host(flat), self.device)

    def _sequential(self, key: Key) -> Sequential:
        return Sequential(*self.layers, device=self.device, dtype=self.dtype, rng=key, precision=self._first.precision)
