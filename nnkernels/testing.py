"""For authors of backends: a conformance test, and arrays that refuse to be read by the host.

`check_backend` is what the shipped backends pass. A backend in the making trains through `temporary_backend`; an
installed one is found by its entry point.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from nnkernels import backends
from nnkernels._formulas import ACTIVATIONS, LOSSES, OPTIMIZERS
from nnkernels._layers import Dense
from nnkernels._network import Sequential
from nnkernels._optimizers import SGD, Adam
from nnkernels.backends import protocol

Host = np.ndarray[Any, Any]

TOLERANCES = {"float32": 3e-6, "float64": 1e-13}  #: of a kernel, relative to the largest element of its result
TRAINING_TOLERANCES = {"float32": 1e-4, "float64": 1e-9}  #: of parameters after some hundred steps


@contextmanager
def temporary_backend(name: str, module: Any) -> Iterator[None]:
    """Make a backend module known under a device name, without installing it.

    Parameters
    ----------
    name : str
        The device string; not one of the shipped ones.
    module : module
        The backend.

    Examples
    --------
    >>> import nnkernels as nnk
    >>> from nnkernels.testing import StrictBackend, temporary_backend
    >>> with temporary_backend("strict", StrictBackend()):
    ...     nnk.Sequential(nnk.Dense(1, 1), device="strict").device.kind
    'strict'
    """
    if name in backends.kinds():
        raise ValueError(f"there is a backend {name!r} already")
    backends._temporary[name] = module
    try:
        yield
    finally:
        del backends._temporary[name]


class StrictArray:
    """An array on a pretended device: the host can see its shape, not its values.

    Whatever would copy values to the host unasked (``float``, ``bool``, iteration, NumPy functions) raises TypeError.
    """

    __slots__ = ("_array",)
    __array_ufunc__ = None

    def __init__(self, array: Host) -> None:
        self._array = array

    @property
    def shape(self) -> Any:
        """Shape."""
        return self._array.shape

    @property
    def dtype(self) -> Any:
        """Dtype."""
        return self._array.dtype

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return self._array.ndim

    @property
    def size(self) -> int:
        """Number of elements."""
        return self._array.size

    @property
    def nbytes(self) -> int:
        """Number of bytes."""
        return self._array.nbytes

    def __getitem__(self, key: Any) -> StrictArray:
        return StrictArray(self._array[key])

    def reshape(self, *shape: int) -> StrictArray:
        """Return a view of another shape; raise where it would have to be a copy."""
        return StrictArray(self._array.reshape(shape, copy=False))

    def _refuse(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("a device array was about to be copied to the host unasked")

    __array__ = __float__ = __int__ = __bool__ = __index__ = __iter__ = __len__ = __setitem__ = tolist = item = _refuse


class StrictBackend:
    """The NumPy kernels over `StrictArray`: training on it proves that a loop makes no hidden round trip.

    Attributes
    ----------
    to_host_calls, from_host_calls : int
        Number of copies that were asked for.
    """

    def __init__(self) -> None:
        self.to_host_calls = self.from_host_calls = 0

    def __getattr__(self, name: str) -> Any:
        kernel = getattr(backends.load("numpy"), name)

        @functools.wraps(kernel)
        def call(*args: Any, **kwargs: Any) -> Any:
            for value in (*args, *kwargs.values()):
                assert not isinstance(value, np.ndarray), f"{name} got a host array"
            return kernel(*map(_unwrap, args), **{key: _unwrap(value) for key, value in kwargs.items()})

        return call

    def empty(self, shape: tuple[int, ...], dtype: Any) -> StrictArray:
        """Return a new array, filled with NaN, so that reading it before writing shows."""
        poison = np.nan if np.dtype(dtype).kind == "f" else -1
        return StrictArray(np.full(shape, poison, dtype))

    def from_host(self, array: Host) -> StrictArray:
        """Copy to the pretended device."""
        self.from_host_calls += 1
        return StrictArray(np.array(array, order="C"))

    def to_host(self, array: StrictArray) -> Host:
        """Copy from the pretended device."""
        self.to_host_calls += 1
        return array._array.copy()

    def owns(self, array: object) -> bool:
        """Tell whether `array` is a `StrictArray`."""
        return isinstance(array, StrictArray)


def _unwrap(value: Any) -> Any:
    return value._array if isinstance(value, StrictArray) else value


def check_backend(module: Any) -> None:
    """Check a backend against the Protocol: names, arguments, values, row order, and a training run.

    Every kernel is compared with the NumPy reference in float64, on arrays of both dtypes, with and without leading
    network axes, with rows and without.

    Parameters
    ----------
    module : module
        The backend.

    Raises
    ------
    AssertionError
        The first thing that does not conform, by name.

    Examples
    --------
    >>> from nnkernels.backends.numpy import kernels
    >>> from nnkernels.testing import check_backend
    >>> check_backend(kernels)
    """
    module.probe(0)
    check_signatures(module)
    with module.device_scope(0):
        _check_arrays(module)
        for dtype in ("float32", "float64"):
            for shape in ((3, 2), (0, 2), (2, 3, 2), (1, 1, 1)):
                _Comparison(module, dtype, shape).check_all()
        _check_random(module)
    _check_training(module)


def check_signatures(module: Any) -> None:
    """Check that a backend has every function of the Protocol, and that each takes the Protocol's arguments."""
    for name, function in inspect.getmembers(protocol.Kernels, inspect.isfunction):
        if name.startswith("_"):
            continue
        assert callable(getattr(module, name, None)), f"the backend lacks {name}{inspect.signature(function)}"
        wanted = [p for p in inspect.signature(function).parameters.values() if p.name != "self"]
        positional = [p.name for p in wanted if p.kind is not p.KEYWORD_ONLY]
        keywords = {p.name: p.name for p in wanted if p.kind is p.KEYWORD_ONLY}
        optional = {p.name for p in wanted if p.default is not p.empty}
        signature = inspect.signature(getattr(module, name))
        for given in (keywords, {key: value for key, value in keywords.items() if key not in optional}):
            try:
                bound = signature.bind(*positional, **given)
            except TypeError as error:
                raise AssertionError(f"{name}{signature} does not take the Protocol's arguments: {error}") from None
            assert all(key == value for key, value in bound.arguments.items()), f"{name}{signature}: names differ"


def _check_arrays(module: Any) -> None:
    host = np.arange(6.0).reshape(2, 3)
    array = module.from_host(host)
    assert module.owns(array), "owns(from_host(...)) must be true"
    assert (array.shape, array.ndim, array.size, array.nbytes) == ((2, 3), 2, 6, 48), "array attributes"
    assert np.dtype(array.dtype) == host.dtype, "from_host keeps the dtype"
    assert np.array_equal(module.to_host(array[..., 1:]), host[..., 1:]), "slices, and to_host of a strided view"
    module.fill(7, out=array[..., 1:2])
    assert np.array_equal(module.to_host(array)[:, 1], [7, 7]), "a slice must be a view"
    scalar = module.empty((), np.int64)
    module.fill(2**40, out=scalar)
    assert int(module.to_host(scalar)) == 2**40, "device scalars of dtype int64"
    module.copy(array[:, :1], out=array[:, 1:2])
    assert np.array_equal(module.to_host(array)[:, 1], [0, 3]), "copy"
    flat = module.from_host(np.arange(6.0))
    module.fill(9, out=flat[2:4].reshape(1, 2))
    assert np.array_equal(module.to_host(flat), [0, 1, 9, 9, 4, 5]), "reshape of a contiguous slice must be a view"


class _Comparison:
    """One backend beside the reference, at one dtype and shape (..., batch, n)."""

    def __init__(self, module: Any, dtype: str, shape: tuple[int, ...]) -> None:
        self.module, self.reference = module, backends.load("numpy")
        self.dtype, self.shape = dtype, shape
        self.rng = np.random.default_rng(0)

    def normal(self, *shape: int) -> Host:
        """Draw a normal array."""
        return self.rng.normal(size=shape).astype(self.dtype)

    def positive(self, *shape: int) -> Host:
        """Draw an array of positive numbers."""
        return self.rng.uniform(0.5, 2, shape).astype(self.dtype)

    def same(self, name: str, *args: Any, writes: tuple[str, ...] = ("out",), **kwargs: Any) -> None:
        """Call a kernel here and in float64 NumPy; `writes` names the results, by keyword or by position."""
        ours = {str(key): self._to_device(value) for key, value in [*enumerate(args), *kwargs.items()]}
        theirs = {str(key): _to_float64(value) for key, value in [*enumerate(args), *kwargs.items()]}
        for kernels, call in ((self.module, ours), (self.reference, theirs)):
            positional = [call[str(i)] for i in range(len(args))]
            result = getattr(kernels, name)(*positional, **{key: call[key] for key in kwargs})
            assert result is None, f"{name} must return None, not {result!r}"
        for key in writes:
            got, expected = np.asarray(self.module.to_host(ours[key]), np.float64), theirs[key]
            error = float(np.abs(got - expected).max(initial=0) / max(1.0, float(np.abs(expected).max(initial=0))))
            where = f"{self.dtype}, shape {self.shape}"
            assert error <= TOLERANCES[self.dtype], f"{name} is off by {error:.2g} in {key} ({where})"

    def _to_device(self, value: Any) -> Any:
        return self.module.from_host(value) if isinstance(value, np.ndarray) else value

    def check_all(self) -> None:
        """Compare every kernel."""
        with np.errstate(all="ignore"):
            self.check_layers()
            self.check_losses()
            self.check_optimizers()

    def check_layers(self) -> None:
        """Compare what layers are made of."""
        *leading, batch, n = self.shape
        z, x, w, b = (
            self.normal(*leading, batch, 4),
            self.normal(*self.shape),
            self.normal(*leading, n, 4),
            self.normal(*leading, 4),
        )
        self.same("matmul_forward", x, w, b, out=z)
        self.same("matmul_forward", x, w, None, out=z)
        self.same("matmul_backward", z, x, w, dx=x, dw=w, db=b, writes=("dx", "dw", "db"))
        self.same("matmul_backward", z, x, w, dx=None, dw=w, db=None, writes=("dw",))
        for name in ACTIVATIONS:
            self.same(f"{name}_forward", 3 * z, out=z)
            self.same(f"{name}_forward", 3 * z, out=z, slope=z, writes=("out", "slope"))
        self.same("activation_backward", z, z + 1, out=z)
        self.same("softmax_forward", 3 * z, out=z)
        self.same("softmax_backward", z, z + 1, out=z)
        if batch:
            rows = self.rng.integers(0, batch, (*leading, 5))
            self.same("gather", x, rows, out=self.normal(*leading, 5, n))

    def check_losses(self) -> None:
        """Compare the losses."""
        *leading, batch, n = self.shape
        p, t, weight = self.normal(*self.shape), self.positive(*self.shape), self.positive(*leading, batch)
        one_hot = np.eye(n, dtype=self.dtype)[self.rng.integers(0, n, (*leading, batch))]
        for name in (*LOSSES, "categorical_cross_entropy"):
            prediction = np.abs(p) + 0.1 if name == "poisson_rate" else p
            target = one_hot if "cross_entropy" in name else t
            scalars: dict[str, Any] = dict.fromkeys(LOSSES[name].scalars, 0.7) if name in LOSSES else {}
            self.same(f"{name}_forward", prediction, target, weight, out=np.full(leading, 0.5), **scalars)
            self.same(f"{name}_backward", prediction, target, weight, out=p, **scalars)

    def check_optimizers(self) -> None:
        """Compare the updates, the penalties and clipping."""
        *leading, _, n = self.shape
        p, g, state = self.normal(*leading, n), self.normal(*leading, n), self.positive(*leading, n)
        rates = [np.array(0.1, self.dtype)] + [np.full((*leading, 1), 0.1, self.dtype)] * bool(leading)
        for name, formula in OPTIMIZERS.items():
            scalars = {scalar: 0.01 if scalar == "weight_decay" else 0.9 for scalar in formula.scalars}
            written = ("0", *(str(2 + i) for i in range(len(formula.state))))
            for lr in rates:
                arrays = (p, g, *[state] * len(formula.state))
                self.same(f"{name}_update", *arrays, lr=lr, step=np.array(3), writes=written, **scalars)
        self.same("penalty_backward", p, l1=0.1, l2=0.2, out=g)
        self.same("clip_by_value", g, 0.3, writes=("0",))
        self.same("clip_by_norm", g, 0.3, writes=("0",))
        self.same("copy", p, out=g)


def _to_float64(value: Any) -> Any:
    """Copy float arrays to float64; leave the rest."""
    if not isinstance(value, np.ndarray):
        return value
    return value.astype(np.float64) if value.dtype.kind == "f" else value.copy()


def _check_random(module: Any) -> None:
    """Compare row order and dropout masks with the reference, bit for bit."""
    reference = backends.load("numpy")
    for sampling in ("replacement", "permutation", "sequential"):
        for n_rows, shape in ((10, (2, 7, 3)), (5000, (7, 3))):
            expected, got = np.empty(shape, np.int64), module.empty(shape, np.int64)
            for kernels, out in ((reference, expected), (module, got)):
                kernels.draw_indices(2**63 + 1, 3, 2**33, sampling=sampling, n_rows=n_rows, out=out)
            assert np.array_equal(module.to_host(got), expected), f"draw_indices: {sampling} of {n_rows} rows differs"
    mask, got = np.empty((2, 3, 5)), module.empty((2, 3, 5), np.float64)
    for kernels, out, step in ((reference, mask, np.array(7)), (module, got, module.from_host(np.array(7)))):
        kernels.dropout_mask(2**63 + 1, 1, 2, step, 0.5, out=out)
    assert np.array_equal(module.to_host(got), mask), "dropout_mask differs from the reference's bits"


def _check_training(module: Any) -> None:
    """Train on the backend and on the reference, and compare the parameters."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 3))
    y = (x.sum(axis=1) > 0).astype(int)
    layers = (
        Dense(3, 5, activation="tanh", dropout=0.2),
        Dense(5, 4, activation="relu"),
        Dense(4, 2, activation="softmax"),
    )
    with temporary_backend("check-backend", module):
        for dtype, optimizer in (("float64", Adam(0.01, l2=0.01)), ("float32", SGD(0.05, momentum=0.9, clip_norm=1.0))):
            trained = []
            for device in ("numpy", "check-backend"):
                network = Sequential(*layers, device=device, dtype=dtype, rng=1)
                network.fit(x, y, loss="categorical_cross_entropy", optimizer=optimizer, batch_size=8, steps=200)
                trained.append(network.parameters.to_host())
            for name, expected in trained[0].items():
                error = float(np.abs(trained[1][name] - expected).max())
                assert error <= TRAINING_TOLERANCES[dtype], f"training differs by {error:.2g} in {name} ({dtype})"
