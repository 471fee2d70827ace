"""Optimizers: immutable descriptions. Their state lives in a run, their arithmetic in the kernels."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np

from nnkernels._formulas import OPTIMIZERS
from nnkernels._names import by_name
from nnkernels._record import Record
from nnkernels._schedules import ConstantSchedule, Schedule, schedule

if TYPE_CHECKING:
    from dataclasses import (
        KW_ONLY,  # a marker for type checkers; Record knows it by name
    )


class Optimizer(Record):
    """What every optimizer has: a learning rate, its schedule, penalties and clipping.

    A step adds the penalties to the gradient, clips it by value, then by norm, then updates. The penalties,
    ``l1 * sum|W| + l2 / 2 * sum(W**2)``, fall on weights, not on biases, and are not part of the reported loss;
    `weight_decay` falls on every parameter, as in PyTorch.

    For an `Ensemble` every number may be an array of them, one for each network; it is kept as a tuple.

    Parameters
    ----------
    lr : float
        Learning rate, at least 0.
    weight_decay : float
        Times the parameter, added to the gradient (`AdamW`: times the rate, taken from the parameter).
    schedule : str or Schedule
        Factor on the rate at each step.
    l1, l2 : float
        Penalties on the weights.
    clip_value : float or None
        Largest magnitude of an element of the gradient.
    clip_norm : float or None
        Largest Euclidean norm of the whole gradient.
    """

    lr: float
    _: KW_ONLY
    weight_decay: float = 0.0
    schedule: str | Schedule = "constant"
    l1: float = 0.0
    l2: float = 0.0
    clip_value: float | None = None
    clip_norm: float | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name == "schedule" or (value is None and name.startswith("clip_")) or isinstance(value, Real):
                continue
            self._set(**{name: self._tuple(name, value)})
        for name in ("lr", "weight_decay", "l1", "l2"):
            self._check(name, lambda value: value >= 0, "at least 0")
        for name in ("clip_value", "clip_norm"):
            self._check(name, lambda value: value is None or value > 0, "positive, or None")
        schedule(self.schedule)

    def _tuple(self, name: str, value: Any) -> tuple[float, ...]:
        """Return the numbers of several networks."""
        array = np.asarray(value) if isinstance(value, (list, tuple, np.ndarray)) else None
        if array is None or array.ndim != 1 or array.dtype.kind not in "fiu" or not array.size:
            raise TypeError(f"{type(self).__name__}: {name} must be a number, or one for each network, not {value!r}")
        return tuple(array.tolist())

    def _check(self, name: str, good: Callable[[Any], bool], what: str) -> None:
        value = getattr(self, name)
        for number in value if isinstance(value, tuple) else (value,):
            if not good(number) or (number is not None and not math.isfinite(number)):
                raise ValueError(f"{type(self).__name__}: {name} must be {what}, not {number!r}")

    @property
    def varied(self) -> tuple[str, ...]:
        """Names of the numbers that are another one for each network of an ensemble."""
        return tuple(name for name, value in vars(self).items() if isinstance(value, tuple))

    def of(self, network: int) -> Any:
        """Return the optimizer of one network of an ensemble.

        Examples
        --------
        >>> import nnkernels as nnk
        >>> nnk.SGD(lr=[0.1, 0.2]).of(1).lr
        0.2
        """
        return self.replace(**{name: getattr(self, name)[network] for name in self.varied})

    @property
    def kernel(self) -> str:
        """Name of the update in the table of formulas."""
        raise NotImplementedError

    @property
    def scalars(self) -> dict[str, float]:
        """The update's constants."""
        return {name: getattr(self, name) for name in OPTIMIZERS[self.kernel].scalars}

    @property
    def state(self) -> tuple[str, ...]:
        """Names of the arrays that live from step to step."""
        return OPTIMIZERS[self.kernel].state

    @property
    def has_constant_rate(self) -> bool:
        """Whether the learning rate is the same at every step."""
        return schedule(self.schedule) == ConstantSchedule()

    def rates(self, first_step: int, count: int, dtype: Any) -> np.ndarray[Any, Any]:
        """Return the learning rates of `count` steps."""
        steps = np.arange(first_step, first_step + count, dtype=np.float64)
        return (self.lr * schedule(self.schedule).factor(steps)).astype(dtype)


class SGD(Optimizer):
    """Stochastic gradient descent, with momentum or Nesterov's momentum.

    ``v = momentum * v + g; p = p - lr * v``, and with `nesterov` ``p = p - lr * (g + momentum * v)``; as in PyTorch.

    Parameters
    ----------
    lr : float
        Learning rate.
    momentum : float
        In [0, 1).
    nesterov : bool
        Whether to look ahead.

    Examples
    --------
    >>> import nnkernels as nnk
    >>> nnk.SGD(0.1, momentum=0.9, nesterov=True).kernel
    'sgd_nesterov'
    """

    lr: float = 0.01
    momentum: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("momentum", lambda momentum: 0 <= momentum < 1, "in [0, 1)")
        moving = bool(np.any(self.momentum))
        self._check("nesterov", lambda nesterov: not nesterov or moving, "False where momentum is 0")

    @property
    def kernel(self) -> str:
        if not self.momentum:
            return "sgd"
        return "sgd_nesterov" if self.nesterov else "sgd_momentum"


class Adam(Optimizer):
    """Adam (Kingma and Ba, 2015), as in PyTorch.

    Parameters
    ----------
    lr : float
        Learning rate.
    beta1, beta2 : float
        Decay of the averages of the gradient and of its square, in [0, 1).
    eps : float
        Added to the root of the squares' average.

    Examples
    --------
    >>> import nnkernels as nnk
    >>> nnk.Adam(1e-3).state
    ('m', 'v')
    """

    lr: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("beta1", lambda beta1: 0 <= beta1 < 1, "in [0, 1)")
        self._check("beta2", lambda beta2: 0 <= beta2 < 1, "in [0, 1)")
        self._check("eps", lambda eps: eps > 0, "positive")

    @property
    def kernel(self) -> str:
        return "adam"


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019), as in PyTorch.

    Examples
    --------
    >>> import nnkernels as nnk
    >>> nnk.AdamW(1e-3).weight_decay
    0.01
    """

    weight_decay: float = 0.01

    @property
    def kernel(self) -> str:
        return "adamw"


class RMSprop(Optimizer):
    """RMSprop (Tieleman and Hinton, 2012), not centered, as in PyTorch.

    Parameters
    ----------
    lr : float
        Learning rate.
    alpha : float
        Decay of the average of the squared gradient, in [0, 1).
    eps : float
        Added to the root of the average.

    Examples
    --------
    >>> import nnkernels as nnk
    >>> nnk.RMSprop().scalars
    {'alpha': 0.99, 'eps': 1e-08, 'weight_decay': 0.0}
    """

    lr: float = 0.01
    alpha: float = 0.99
    eps: float = 1e-8

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("alpha", lambda alpha: 0 <= alpha < 1, "in [0, 1)")
        self._check("eps", lambda eps: eps > 0, "positive")

    @property
    def kernel(self) -> str:
        return "rmsprop"


NAMES: Mapping[str, type[Optimizer]] = {"sgd": SGD, "adam": Adam, "adamw": AdamW, "rmsprop": RMSprop}


def optimizer(spec: str | Optimizer) -> Optimizer:
    """Return the optimizer that a name stands for, with its default settings."""
    return by_name("optimizer", spec, Optimizer, NAMES)
