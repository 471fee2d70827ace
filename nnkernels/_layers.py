"""Layers: immutable descriptions. Their parameters live in the network's flat buffer."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence

from nnkernels._errors import ShapeError
from nnkernels._formulas import ACTIVATIONS
from nnkernels._initializers import Initializer, Uniform, initializer
from nnkernels._names import by_name
from nnkernels._record import Record

RECTIFIERS = ("relu", "leaky_relu", "elu", "softplus", "silu", "gelu")  #: half of their outputs are near 0


def chain(layers: Sequence[Dense]) -> str:
    """Return layers in one line: "1 -> 10 sigmoid -> 1 identity"."""
    return " -> ".join([str(layers[0].n_in), *(f"{layer.n_out} {layer.activation_name}" for layer in layers)])


class Activation(Record):
    """An activation function, by its name in the table of formulas.

    Parameters
    ----------
    name : str
        identity, sigmoid, tanh, relu, leaky_relu, elu, softplus, silu, gelu, or softmax (last layer only).

    Examples
    --------
    >>> import nnkernels as nnk
    >>> nnk.Dense(2, 3, activation=nnk.Activation("tanh")).activation
    'tanh'
    """

    name: str

    def __post_init__(self) -> None:
        by_name("activation", self.name, type(None), dict.fromkeys((*ACTIVATIONS, "softmax"), lambda: None))


class Dense(Record):
    """A fully connected layer, ``activation(x @ weight + bias)``.

    Parameters
    ----------
    n_in, n_out : int
        Number of inputs and outputs, at least 1. The weight has shape (n_in, n_out), the bias (n_out,).
    activation : str, Activation or None
        Applied elementwise; None is the identity. "softmax" goes on the last layer only.
    bias : bool
        Whether there is a bias.
    dropout : float
        Share of this layer's outputs that is dropped at each training step, in [0, 1); the rest is scaled up by
        1 / (1 - dropout). Not for the last layer.
    weight_initializer : str, Initializer or None
        How the weights start; None is "he_normal" for relu and its relatives, else "glorot_uniform".
    bias_initializer : str, Initializer or None
        How the biases start; None is uniform within 1 / sqrt(n_in), as in PyTorch: it spreads the kinks of a layer with
        few inputs, which zeros would put all in one place.

    Raises
    ------
    ShapeError
        `n_in` or `n_out` is below 1.
    ValueError
        An unknown activation or initializer, or a dropout outside [0, 1).

    Examples
    --------
    >>> import nnkernels as nnk
    >>> nnk.Dense(2, 3, activation="relu").n_parameters
    9
    """

    n_in: int
    n_out: int
    activation: str | Activation | None = None
    bias: bool = True
    dropout: float = 0.0
    weight_initializer: str | Initializer | None = None
    bias_initializer: str | Initializer | None = None

    def __post_init__(self) -> None:
        for name in ("n_in", "n_out"):
            size = operator.index(getattr(self, name))
            if size < 1:
                raise ShapeError(f"Dense: {name} must be at least 1, not {size}")
            self._set(**{name: size})
        if not 0 <= self.dropout < 1:
            raise ValueError(f"Dense: dropout must be in [0, 1), not {self.dropout!r}")
        activation = "identity" if self.activation is None else self.activation
        name = activation.name if isinstance(activation, Activation) else Activation(activation).name
        weight = "he_normal" if name in RECTIFIERS else "glorot_uniform"
        bias = Uniform(-1 / math.sqrt(self.n_in), 1 / math.sqrt(self.n_in))
        self._set(
            activation=name,
            bias=bool(self.bias),
            dropout=float(self.dropout),
            weight_initializer=initializer(weight if self.weight_initializer is None else self.weight_initializer),
            bias_initializer=initializer(bias if self.bias_initializer is None else self.bias_initializer),
        )

    @property
    def activation_name(self) -> str:
        """The activation's name, "identity" where there is none."""
        return str(self.activation)

    @property
    def n_parameters(self) -> int:
        """Number of weights and biases."""
        return (self.n_in + self.bias) * self.n_out

    def __str__(self) -> str:
        """The call that makes this layer, as short as it can be."""
        parts = [f"{self.n_in}, {self.n_out}"]
        if self.activation != "identity":
            parts.append(f"activation={self.activation!r}")
        if not self.bias:
            parts.append("bias=False")
        if self.dropout:
            parts.append(f"dropout={self.dropout}")
        return f"Dense({', '.join(parts)})"
