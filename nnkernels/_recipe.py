"""What a training step computes: all that generated code depends on, whichever device it is written for."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING, Any

import numpy as np

from nnkernels._formulas import OPTIMIZERS, parse
from nnkernels._layers import chain
from nnkernels._record import Record

if TYPE_CHECKING:
    from nnkernels._layers import Dense
    from nnkernels._losses import Loss
    from nnkernels._optimizers import Optimizer


class Recipe(Record):
    """A training step, described.

    Numbers that only scale something (momentum, the penalties' weights, a clip's limit) are not part of it: programs
    read them from `settings`, so that a sweep over them compiles once.

    Parameters
    ----------
    layers : tuple of Dense
        The network.
    loss : str
        Name of its kernel.
    from_z : bool
        Whether the loss reads the last layer before its activation.
    loss_scalars : tuple of str
        Names of the loss's settings.
    optimizer : str
        Name of its kernel.
    decayed, penalized, clipped, normed : bool
        Whether parameters decay, weights are penalized, gradients are clipped by value and by norm.
    batch : int
        Rows of a batch.
    factor : float or None
        Of every row's loss; None where rows have weights or the last batch of an epoch is short.
    weighted : bool
        Whether rows have weights.
    whole : bool
        Whether a batch is all rows, in their own order.
    dtype : str
        "float32" or "float64".
    """

    layers: tuple[Dense, ...]
    loss: str
    from_z: bool
    loss_scalars: tuple[str, ...]
    optimizer: str
    decayed: bool
    penalized: bool
    clipped: bool
    normed: bool
    batch: int
    factor: float | None
    weighted: bool
    whole: bool
    dtype: str

    @classmethod
    def of(
        cls,
        layers: tuple[Dense, ...],
        loss: Loss,
        optimizer: Optimizer,
        *,
        n_rows: int,
        batch: int,
        sampling: str,
        weighted: bool,
        dtype: str,
    ) -> Recipe:
        """Describe the steps of a run."""
        last = layers[-1].activation_name
        short = sampling != "replacement" and n_rows % batch != 0
        share = 1 / batch if loss.reduction == "mean" else 1.0
        return cls(
            layers=tuple(layer.replace(weight_initializer=None, bias_initializer=None) for layer in layers),
            loss=loss.kernel(last),
            from_z=loss.from_z(last),
            loss_scalars=tuple(loss.scalars),
            optimizer=optimizer.kernel,
            decayed=bool(np.any(optimizer.weight_decay)),
            penalized=bool(np.any(optimizer.l1) or np.any(optimizer.l2)),
            clipped=optimizer.clip_value is not None,
            normed=optimizer.clip_norm is not None,
            batch=batch,
            factor=None if weighted or short else share,
            weighted=weighted,
            whole=batch == n_rows and sampling != "replacement",
            dtype=dtype,
        )

    @property
    def settings(self) -> tuple[str, ...]:
        """Names of the numbers that a program reads once, in order."""
        penalties = ("l1", "l2") * self.penalized + ("clip_value",) * self.clipped + ("clip_norm",) * self.normed
        return self.loss_scalars + OPTIMIZERS[self.optimizer].scalars + penalties

    @property
    def scheduled(self) -> tuple[str, ...]:
        """Names of the numbers that change from step to step, in order."""
        share = ("share",) * (self.factor is None)
        return ("lr", *(name for name, _ in parse(OPTIMIZERS[self.optimizer].once)), *share)

    @property
    def state(self) -> tuple[str, ...]:
        """Names of the optimizer's arrays."""
        return OPTIMIZERS[self.optimizer].state

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

    @property
    def last_activation(self) -> str:
        """The activation between the last layer's z and what the loss reads; "identity" where it reads z itself."""
        return "identity" if self.from_z else self.layers[-1].activation_name

    @property
    def serial(self) -> bool:
        """Whether a step cannot be cut among threads: its masks are drawn, or its gradient's norm taken, as a whole."""
        return self.normed or any(layer.dropout for layer in self.layers)

    def describe(self) -> str:
        """Return the network and the update in one line."""
        return f"{chain(self.layers)}; {self.loss}; {self.optimizer}; batch {self.batch}; {self.dtype}"


def setting_values(names: tuple[str, ...], recipe: Recipe, loss: Loss, optimizer: Optimizer) -> np.ndarray[Any, Any]:
    """Return the numbers that a program reads once; what a run does not have is 0."""
    values: dict[str, Any] = {**loss.scalars, **optimizer.scalars, "l1": optimizer.l1, "l2": optimizer.l2}
    values |= {"clip_value": optimizer.clip_value or 0, "clip_norm": optimizer.clip_norm or 0}
    values |= {f"keep{number}": 1 / (1 - layer.dropout) for number, layer in enumerate(recipe.layers)}
    values["penalized"] = recipe.penalized
    return np.array([values.get(name, 0.0) for name in names] or [0.0], recipe.dtype)


def schedule_values(
    names: tuple[str, ...],
    recipe: Recipe,
    loss: Loss,
    optimizer: Optimizer,
    first_step: int,
    rows: np.ndarray[Any, Any],
) -> np.ndarray[Any, Any]:
    """Return what changes from step to step, (steps, names), for steps of so many rows each."""
    steps = np.arange(first_step, first_step + len(rows), dtype=np.float64)
    values: dict[str, Any] = {"step": steps, **optimizer.scalars}
    for name, expression in parse(OPTIMIZERS[recipe.optimizer].once):
        values[name] = eval(compile(ast.Expression(expression), "<formula>", "eval"), {}, values)
    values["lr"] = optimizer.rates(first_step, len(rows), recipe.dtype)
    values["share"] = 1 / rows if loss.reduction == "mean" else 1.0
    table = np.empty((len(rows), len(names)), recipe.dtype)
    for column, name in enumerate(names):
        table[:, column] = values.get(name, 0.0)
    return table
