"""Initializers: how parameters start. Drawn on the host in float64, so that every device starts from the same bits."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from nnkernels._names import by_name
from nnkernels._record import Record

Floats = np.ndarray[Any, np.dtype[np.float64]]


class Initializer(Record):
    """Draws the start of one parameter array.

    Subclass it with a `draw` method to write your own; annotated names are its fields, and its arguments.
    """

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
        """Return an array of `shape`: (n_in, n_out) for weights, (n_out,) for biases."""
        raise NotImplementedError


class Constant(Initializer):
    """Every element is `value`.

    Examples
    --------
    >>> import numpy as np, nnkernels as nnk
    >>> nnk.Constant(0.5).draw(np.random.default_rng(0), (2,))
    array([0.5, 0.5])
    """

    value: float = 0.0

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
        return np.full(shape, float(self.value))


class Uniform(Initializer):
    """Uniform in [low, high).

    Examples
    --------
    >>> import numpy as np, nnkernels as nnk
    >>> nnk.Uniform(-1, 1).draw(np.random.default_rng(0), (2,)).round(3)
    array([ 0.274, -0.46 ])
    """

    low: float = -0.05
    high: float = 0.05

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
        return rng.uniform(self.low, self.high, shape)


class Normal(Initializer):
    """Normal with the given mean and standard deviation.

    Examples
    --------
    >>> import numpy as np, nnkernels as nnk
    >>> nnk.Normal(std=1).draw(np.random.default_rng(0), (2,)).round(3)
    array([ 0.126, -0.132])
    """

    mean: float = 0.0
    std: float = 0.05

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
        return rng.normal(self.mean, self.std, shape)


class _VarianceScaling(Initializer):
    """Zero mean, and a variance that depends on the layer's fan-in and fan-out."""

    distribution: Literal["uniform", "normal"]

    def __post_init__(self) -> None:
        if self.distribution not in ("uniform", "normal"):
            raise ValueError(f'distribution must be "uniform" or "normal", not {self.distribution!r}')

    def variance(self, n_in: int, n_out: int) -> float:
        raise NotImplementedError

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
        std = math.sqrt(self.variance(shape[0], shape[-1]))
        if self.distribution == "normal":
            return rng.normal(0, std, shape)
        return rng.uniform(-math.sqrt(3) * std, math.sqrt(3) * std, shape)


class Glorot(_VarianceScaling):
    """Variance 2 / (n_in + n_out): for sigmoid, tanh and linear layers (Glorot and Bengio, 2010).

    Examples
    --------
    >>> import numpy as np, nnkernels as nnk
    >>> bool(abs(nnk.Glorot().draw(np.random.default_rng(0), (3, 3))).max() < 1)
    True
    """

    distribution: Literal["uniform", "normal"] = "uniform"

    def variance(self, n_in: int, n_out: int) -> float:
        return 2 / (n_in + n_out)


class He(_VarianceScaling):
    """Variance 2 / n_in: for relu and its relatives (He et al., 2015).

    Examples
    --------
    >>> import nnkernels as nnk
    >>> nnk.He().variance(8, 4)
    0.25
    """

    distribution: Literal["uniform", "normal"] = "normal"

    def variance(self, n_in: int, n_out: int) -> float:
        return 2 / n_in


class LeCun(_VarianceScaling):
    """Variance 1 / n_in (LeCun et al., 1998).

    Examples
    --------
    >>> import nnkernels as nnk
    >>> nnk.LeCun().variance(4, 8)
    0.25
    """

    distribution: Literal["uniform", "normal"] = "normal"

    def variance(self, n_in: int, n_out: int) -> float:
        return 1 / n_in


class Orthogonal(Initializer):
    """Orthonormal rows or columns, whichever are fewer, times `gain` (Saxe et al., 2014).

    Examples
    --------
    >>> import numpy as np, nnkernels as nnk
    >>> w = nnk.Orthogonal().draw(np.random.default_rng(0), (3, 2))
    >>> bool(np.allclose(w.T @ w, np.eye(2)))
    True
    """

    gain: float = 1.0

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
        if len(shape) != 2:
            raise ValueError("Orthogonal is for weights; a bias has no orthogonal start")
        tall = rng.normal(size=(max(shape), min(shape)))
        q, r = np.linalg.qr(tall)
        q *= np.sign(np.diag(r))  # makes the distribution uniform over orthonormal matrices
        return self.gain * (q if shape[0] >= shape[1] else q.T)


NAMES: dict[str, Callable[[], Initializer]] = {
    "zeros": Constant,
    "ones": lambda: Constant(1.0),
    "uniform": Uniform,
    "normal": Normal,
    "glorot_uniform": Glorot,
    "glorot_normal": lambda: Glorot("normal"),
    "he_uniform": lambda: He("uniform"),
    "he_normal": He,
    "lecun_uniform": lambda: LeCun("uniform"),
    "lecun_normal": LeCun,
    "orthogonal": Orthogonal,
}


def initializer(spec: str | Initializer) -> Initializer:
    """Return the initializer that a name stands for."""
    return by_name("initializer", spec, Initializer, NAMES)
