"""Learning-rate schedules: pure functions of the step, evaluated for a whole chunk of steps at a time."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from nnkernels._names import by_name
from nnkernels._record import Record

Floats = np.ndarray[Any, np.dtype[np.float64]]


class Schedule(Record):
    """A factor on the learning rate, as a function of the step.

    Subclass it with a `factor` method to write your own; annotated names are its fields, and its arguments.
    """

    def factor(self, step: Floats) -> Floats:
        """Return the factor at each step, counted from 0."""
        raise NotImplementedError


class ConstantSchedule(Schedule):
    """The learning rate itself, at every step.

    Examples
    --------
    >>> import numpy as np, nnkernels as nnk
    >>> nnk.ConstantSchedule().factor(np.arange(3.0))
    array([1., 1., 1.])
    """

    def factor(self, step: Floats) -> Floats:
        return np.ones_like(step)


class StepSchedule(Schedule):
    """Multiply the rate by `gamma` every `every` steps.

    Examples
    --------
    >>> import numpy as np, nnkernels as nnk
    >>> nnk.StepSchedule(every=2, gamma=0.5).factor(np.arange(4.0))
    array([1. , 1. , 0.5, 0.5])
    """

    every: int
    gamma: float = 0.1

    def __post_init__(self) -> None:
        _positive(self, "every", "gamma")

    def factor(self, step: Floats) -> Floats:
        return self.gamma ** np.floor(step / self.every)


class ExponentialSchedule(Schedule):
    """Multiply the rate by `gamma` at every step.

    Examples
    --------
    >>> import numpy as np, nnkernels as nnk
    >>> nnk.ExponentialSchedule(gamma=0.5).factor(np.arange(3.0))
    array([1.  , 0.5 , 0.25])
    """

    gamma: float

    def __post_init__(self) -> None:
        _positive(self, "gamma")

    def factor(self, step: Floats) -> Floats:
        return self.gamma**step


class CosineSchedule(Schedule):
    """Anneal to `end` times the rate along half a cosine of `steps` steps, then stay (Loshchilov and Hutter, 2017).

    Examples
    --------
    >>> import numpy as np, nnkernels as nnk
    >>> nnk.CosineSchedule(steps=2).factor(np.arange(4.0)).round(6)
    array([1. , 0.5, 0. , 0. ])
    """

    steps: int
    end: float = 0.0

    def __post_init__(self) -> None:
        _positive(self, "steps")
        if not 0 <= self.end < math.inf:
            raise ValueError(f"CosineSchedule: end must be at least 0 and finite, not {self.end}")

    def factor(self, step: Floats) -> Floats:
        angle = math.pi * np.minimum(step / self.steps, 1)
        return self.end + (1 - self.end) * 0.5 * (1 + np.cos(angle))


class WarmUp(Schedule):
    """Rise linearly over `steps` steps to the rate, then follow another schedule from its own step 0.

    Examples
    --------
    >>> import numpy as np, nnkernels as nnk
    >>> nnk.WarmUp(steps=4).factor(np.arange(6.0))
    array([0.25, 0.5 , 0.75, 1.  , 1.  , 1.  ])
    """

    steps: int
    then: str | Schedule = "constant"

    def __post_init__(self) -> None:
        _positive(self, "steps")
        self._set(then=schedule(self.then))

    def factor(self, step: Floats) -> Floats:
        then = schedule(self.then).factor(np.maximum(step - self.steps, 0))
        return np.where(step < self.steps, (step + 1) / self.steps, then)


class InverseScaling(Schedule):
    """Divide the rate by ``(step + 1) ** power``, as scikit-learn's "invscaling" does.

    Examples
    --------
    >>> import numpy as np, nnkernels as nnk
    >>> nnk.InverseScaling(power=1.0).factor(np.arange(3.0)).round(3)
    array([1.   , 0.5  , 0.333])
    """

    power: float = 0.5

    def __post_init__(self) -> None:
        _positive(self, "power")

    def factor(self, step: Floats) -> Floats:
        return (step + 1) ** -self.power


NAMES: dict[str, type[Schedule]] = {"constant": ConstantSchedule, "inverse_scaling": InverseScaling}


def schedule(spec: str | Schedule) -> Schedule:
    """Return the schedule that a name stands for; the ones with required arguments have no name."""
    return by_name("schedule", spec, Schedule, NAMES)


def _positive(description: Any, *fields: str) -> None:
    for field in fields:
        if not 0 < getattr(description, field) < math.inf:
            value = getattr(description, field)
            raise ValueError(f"{type(description).__name__}: {field} must be positive and finite, not {value}")
