"""Losses: immutable descriptions. What they compute stands in the table of formulas; here is what they apply to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from nnkernels._data import Host, require_range, to_classes, to_rows
from nnkernels._errors import DataError, ShapeError
from nnkernels._names import by_name
from nnkernels._record import Record

if TYPE_CHECKING:
    from dataclasses import (
        KW_ONLY,  # a marker for type checkers; Record knows it by name
    )

ClassWeight = Mapping[int, float] | Sequence[float] | Literal["balanced"] | None


class Loss(Record):
    """What every loss has: how the losses of the rows become one number.

    Parameters
    ----------
    reduction : {"mean", "sum"}
        Over rows. With row weights, "mean" is ``sum(w * loss) / sum(w)`` over the whole data set; a batch's is
        ``sum(w * loss) / (rows * mean of w over the data set)``, so that a weight counts in the smallest batch, too.
    """

    _: KW_ONLY
    reduction: Literal["mean", "sum"] = "mean"

    def __post_init__(self) -> None:
        if self.reduction not in ("mean", "sum"):
            raise ValueError(f'{type(self).__name__}: reduction must be "mean" or "sum", not {self.reduction!r}')

    def kernel(self, activation: str) -> str:
        """Return the name of the kernel over a last layer with this activation.

        Raises
        ------
        ValueError
            The loss does not fit the activation.
        """
        raise NotImplementedError

    def from_z(self, activation: str) -> bool:
        """Tell whether the kernel reads the last layer before its activation, where that is the stable form."""
        return False

    @property
    def scalars(self) -> dict[str, float]:
        """The kernel's constants."""
        return {}

    def targets(self, y: Any, n_out: int, dtype: Any, name: str = "y") -> Host:
        """Return the user's targets, checked, as (rows, n_out)."""
        return to_rows(y, dtype, name, n_out, "outputs")

    def row_weights(self, targets: Host) -> Host | None:
        """Return the factor of each row that its class brings, or None."""
        return None


class HalfSquaredError(Loss):
    """``(p - t)**2 / 2``, summed over a row's outputs: its slope is ``p - t``.

    Examples
    --------
    >>> import nnkernels as nnk
    >>> net = nnk.Sequential(nnk.Dense(1, 1, bias=False, weight_initializer="ones"), device="numpy")
    >>> net.loss_and_gradients([3.0], [1.0], loss=nnk.HalfSquaredError())[0]
    2.0
    """

    def kernel(self, activation: str) -> str:
        return "half_squared_error"


class MeanSquaredError(Loss):
    """``(p - t)**2``, averaged over a row's outputs.

    Examples
    --------
    >>> import nnkernels as nnk
    >>> net = nnk.Sequential(nnk.Dense(1, 1, bias=False, weight_initializer="ones"), device="numpy")
    >>> net.loss_and_gradients([3.0], [1.0], loss=nnk.MeanSquaredError())[0]
    4.0
    """

    def kernel(self, activation: str) -> str:
        return "mean_squared_error"


class AbsoluteError(Loss):
    """``|p - t|``, averaged over a row's outputs.

    Examples
    --------
    >>> import nnkernels as nnk
    >>> net = nnk.Sequential(nnk.Dense(1, 1, bias=False, weight_initializer="ones"), device="numpy")
    >>> net.loss_and_gradients([3.0], [1.0], loss=nnk.AbsoluteError())[0]
    2.0
    """

    def kernel(self, activation: str) -> str:
        return "absolute_error"


class Huber(Loss):
    """``(p - t)**2 / 2`` up to ``|p - t| = delta``, linear beyond (Huber, 1964), averaged over a row's outputs.

    Parameters
    ----------
    delta : float
        Where the quadratic becomes linear, above 0.

    Examples
    --------
    >>> import nnkernels as nnk
    >>> net = nnk.Sequential(nnk.Dense(1, 1, bias=False, weight_initializer="ones"), device="numpy")
    >>> net.loss_and_gradients([3.0], [1.0], loss=nnk.Huber(delta=1.0))[0]
    1.5
    """

    delta: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.delta > 0:
            raise ValueError(f"Huber: delta must be positive, not {self.delta}")

    @property
    def scalars(self) -> dict[str, float]:
        return {"delta": float(self.delta)}

    def kernel(self, activation: str) -> str:
        return "huber"


class Poisson(Loss):
    """``rate - t log(rate)``, averaged over a row's outputs: for counts t >= 0.

    Over a linear last layer the output is the logarithm of the rate, which cannot leave its domain; over softplus,
    sigmoid or softmax, whose outputs are positive, it is the rate itself.

    Examples
    --------
    >>> import nnkernels as nnk
    >>> net = nnk.Sequential(nnk.Dense(1, 1, bias=False, weight_initializer="zeros"), device="numpy")
    >>> net.loss_and_gradients([3.0], [2], loss=nnk.Poisson())[0]  # log(rate) = 0
    1.0
    """

    def kernel(self, activation: str) -> str:
        if activation == "identity":
            return "poisson"
        if activation in ("softplus", "sigmoid", "softmax"):
            return "poisson_rate"
        raise ValueError(
            f"Poisson needs a positive rate, which activation={activation!r} of the last layer does not promise. "
            'Use activation=None (the output is then log(rate)) or "softplus".'
        )

    def targets(self, y: Any, n_out: int, dtype: Any, name: str = "y") -> Host:
        counts = super().targets(y, n_out, dtype, name)
        return require_range(counts, 0, np.inf, name, "a Poisson count is at least 0")


class _Classifier(Loss):
    """What the cross-entropies share: class weights."""

    class_weight: ClassWeight = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.class_weight is not None and not isinstance(self.class_weight, (str, Mapping)):
            self._set(class_weight=tuple(float(weight) for weight in self.class_weight))

    def _weights_of(self, labels: Host, n_classes: int) -> Host | None:
        """Return each row's class weight."""
        if self.class_weight is None:
            return None
        name = f"{type(self).__name__}: class_weight"
        if isinstance(self.class_weight, str):
            if self.class_weight != "balanced":
                raise ValueError(f'{name} must be "balanced", a mapping or a sequence, not {self.class_weight!r}')
            counts = np.bincount(labels, minlength=n_classes)
            table = len(labels) / (n_classes * np.maximum(counts, 1))  # as scikit-learn weighs them
        elif isinstance(self.class_weight, Mapping):
            if unknown := set(self.class_weight) - set(range(n_classes)):
                raise ValueError(f"{name} names the classes {sorted(unknown)}; there are 0 to {n_classes - 1}")
            table = np.array([self.class_weight.get(label, 1.0) for label in range(n_classes)], float)
        else:
            table = np.asarray(self.class_weight, float)
            if table.shape != (n_classes,):
                raise ShapeError(f"{name} must have one weight for each of {n_classes} classes, not {table.shape}")
        if not (np.isfinite(table).all() and (table >= 0).all()):
            raise ValueError(f"{name} must be finite and at least 0")
        return table[labels]

    def _from_logits_or(self, squashing: str, activation: str) -> None:
        if activation not in ("identity", squashing):
            raise ValueError(
                f"{type(self).__name__} does not fit activation={activation!r} of the last layer. "
                f"Use activation={squashing!r}, or None to let the output be logits."
            )

    def from_z(self, activation: str) -> bool:
        return True


class BinaryCrossEntropy(_Classifier):
    """``-t log(p) - (1 - t) log(1 - p)``, averaged over a row's outputs; t is a label 0 or 1, or a probability.

    Computed from z, over a sigmoid last layer or, with the output as logits, over a linear one.

    Parameters
    ----------
    class_weight : mapping, sequence, "balanced" or None
        Weight of the rows of class 0 and of class 1; for one output.

    Examples
    --------
    >>> import nnkernels as nnk
    >>> net = nnk.Sequential(nnk.Dense(1, 1, activation="sigmoid", bias=False), device="numpy")
    >>> net.parameters["0.weight"] = [[0.0]]
    >>> round(net.loss_and_gradients([3.0], [1], loss=nnk.BinaryCrossEntropy())[0], 4)
    0.6931
    """

    def kernel(self, activation: str) -> str:
        self._from_logits_or("sigmoid", activation)
        return "binary_cross_entropy"

    def targets(self, y: Any, n_out: int, dtype: Any, name: str = "y") -> Host:
        labels = super().targets(y, n_out, dtype, name)
        return require_range(labels, 0, 1, name, "labels must be 0 or 1, or a probability between them")

    def row_weights(self, targets: Host) -> Host | None:
        if self.class_weight is None:
            return None
        if targets.shape[1] != 1:
            raise ShapeError("BinaryCrossEntropy: class_weight is for one output; use sample_weight")
        if not np.isin(targets, (0, 1)).all():
            raise DataError("BinaryCrossEntropy: class_weight needs labels that are 0 or 1, and y has probabilities")
        return self._weights_of(targets[:, 0].astype(np.int64), 2)


class CategoricalCrossEntropy(_Classifier):
    """``-log(p[label])``; targets are class indices (rows,) or one-hot rows (rows, classes).

    Computed from z, over a softmax last layer or, with the outputs as logits, over a linear one.

    Parameters
    ----------
    class_weight : mapping, sequence, "balanced" or None
        Weight of the rows of each class.

    Examples
    --------
    >>> import nnkernels as nnk
    >>> net = nnk.Sequential(nnk.Dense(1, 4, activation="softmax", bias=False), device="numpy")
    >>> net.parameters["0.weight"] = [[0.0] * 4]
    >>> round(net.loss_and_gradients([3.0], [2], loss=nnk.CategoricalCrossEntropy())[0], 4)
    1.3863
    """

    def kernel(self, activation: str) -> str:
        self._from_logits_or("softmax", activation)
        return "categorical_cross_entropy"

    def targets(self, y: Any, n_out: int, dtype: Any, name: str = "y") -> Host:
        if n_out < 2:
            raise ShapeError(
                "CategoricalCrossEntropy needs an output for each class, and the network has 1. "
                "Use Dense(..., n_classes), or BinaryCrossEntropy for two classes."
            )
        return to_classes(y, n_out, dtype, name)

    def row_weights(self, targets: Host) -> Host | None:
        return self._weights_of(targets.argmax(axis=1), targets.shape[1])


NAMES: dict[str, Callable[[], Loss]] = {
    "half_squared_error": HalfSquaredError,
    "mean_squared_error": MeanSquaredError,
    "absolute_error": AbsoluteError,
    "huber": Huber,
    "poisson": Poisson,
    "binary_cross_entropy": BinaryCrossEntropy,
    "categorical_cross_entropy": CategoricalCrossEntropy,
}


def loss(spec: str | Loss) -> Loss:
    """Return the loss that a name stands for."""
    return by_name("loss", spec, Loss, NAMES)
