"""Activations and deltas of one batch size, allocated once, and the kernel calls that fill them, bound once.

A step is a list of calls without arguments; running it is ``for call in calls: call()``. Nothing is allocated in it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from nnkernels._losses import Loss
    from nnkernels._network import Sequential
    from nnkernels.backends.protocol import Array

Call = Callable[[], None]


class Dropout(NamedTuple):
    """What a run's dropout masks are a function of, beside the layer."""

    seed: int
    network: int
    step: Array  # device scalar


class Forward:
    """The forward pass over a batch that lies in ``x``.

    Parameters
    ----------
    network : Sequential
        The network; its parameters are bound, not copied.
    x : Array
        (batch, n_in).
    slopes : bool
        Whether to keep each layer's slope, for a backward pass.
    last_activation : bool
        Whether to apply the last layer's activation.
    dropout : Dropout or None
        Whether, and how, to drop hidden outputs.
    """

    def __init__(
        self,
        network: Sequential,
        x: Array,
        *,
        slopes: bool = False,
        last_activation: bool = True,
        dropout: Dropout | None = None,
    ) -> None:
        kernels = network.device.kernels
        self.calls: list[Call] = []
        self.inputs = [x]  # of each layer, and the output
        self.slopes: list[Array | None] = []
        for number, layer in enumerate(network.layers):
            shape = (x.shape[0], layer.n_out)
            z = kernels.empty(shape, network.dtype)
            weight, bias = network.parameters[f"{number}.weight"], network.parameters.get(f"{number}.bias")
            a, slope, name = z, None, layer.activation_name
            applied = last_activation or number < len(network.layers) - 1
            activation = getattr(kernels, f"{name}_forward") if applied and name != "identity" else None
            fused = getattr(kernels, f"bias_{name}_forward", None) if activation and bias is not None else None
            product = partial(kernels.matmul_forward, self.inputs[-1], weight, **network.product_options)
            self.calls.append(partial(product, None if fused else bias, out=z))
            if fused:  # one pass less over z, where a backend has it
                activation = partial(fused, b=bias)
            if activation and name != "softmax" and slopes:
                a, slope = kernels.empty(shape, network.dtype), z  # the slope takes z's place
                self.calls.append(partial(activation, z, out=a, slope=slope))
            elif activation:
                self.calls.append(partial(activation, z, out=z))
            if dropout and layer.dropout:
                mask = kernels.empty(shape, network.dtype)
                key = (dropout.seed, dropout.network, number, dropout.step, layer.dropout)
                self.calls.append(partial(kernels.dropout_mask, *key, out=mask))
                self.calls.append(partial(kernels.activation_backward, a, mask, out=a))
                if slope is None:
                    slope = mask
                else:
                    self.calls.append(partial(kernels.activation_backward, slope, mask, out=slope))
            self.inputs.append(a)
            self.slopes.append(slope)

    @property
    def output(self) -> Array:
        """The last layer's output, (batch, n_out)."""
        return self.inputs[-1]


class Step:
    """A loss and its gradients over a batch that lies in ``x``, ``t`` and ``weight``.

    Parameters
    ----------
    network : Sequential
        The network.
    loss : Loss
        Its loss.
    x, t, weight : Array
        (batch, n_in), (batch, n_out), (batch,): each row's factor, the reduction's 1 / batch included.
    gradient : Array
        The flat gradient, written.
    total : Array
        Device scalar, float64, to which the batch's loss is added.
    dropout : Dropout or None
        Whether, and how, to drop hidden outputs.
    """

    def __init__(
        self,
        network: Sequential,
        loss: Loss,
        x: Array,
        t: Array,
        weight: Array,
        *,
        gradient: Array,
        total: Array,
        dropout: Dropout | None = None,
    ) -> None:
        kernels, layers = network.device.kernels, network.layers
        last = layers[-1].activation_name
        name, from_z = loss.kernel(last), loss.from_z(last)
        forward = Forward(network, x, slopes=True, last_activation=not from_z, dropout=dropout)
        p = forward.output
        delta = kernels.empty(p.shape, network.dtype)
        self.calls: list[Call] = [
            *forward.calls,
            partial(getattr(kernels, f"{name}_forward"), p, t, weight, out=total, **loss.scalars),
            partial(getattr(kernels, f"{name}_backward"), p, t, weight, out=delta, **loss.scalars),
        ]
        if last == "softmax" and not from_z:
            self.calls.append(partial(kernels.softmax_backward, delta, p, out=delta))
        gradients = network.parameters.layout.views(gradient)
        for number in reversed(range(len(layers))):
            a, slope = forward.inputs[number], forward.slopes[number]
            if slope is not None:
                self.calls.append(partial(kernels.activation_backward, delta, slope, out=delta))
            da = kernels.empty(a.shape, network.dtype) if number else None
            self.calls.append(
                partial(
                    kernels.matmul_backward,
                    delta,
                    a,
                    network.parameters[f"{number}.weight"],
                    **network.product_options,
                    dx=da,
                    dw=gradients[f"{number}.weight"],
                    db=gradients.get(f"{number}.bias"),
                )
            )
            delta = da
