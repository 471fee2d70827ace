"""One flat buffer for all parameters, and named views of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nnkernels._data import Host, to_floats
from nnkernels._errors import ShapeError
from nnkernels._initializers import initializer
from nnkernels._names import nearest
from nnkernels._sampling import Key

if TYPE_CHECKING:
    from nnkernels._layers import Dense
    from nnkernels.backends.protocol import Array, Kernels


class Layout:
    """Where each parameter lies in the flat buffer: in layer order, row-major, unpadded.

    The buffer has the shape (P,), or (n, P) for n networks; views keep the leading axis.
    """

    def __init__(self, layers: Sequence[Dense]) -> None:
        self.shapes: dict[str, tuple[int, ...]] = {}
        for number, layer in enumerate(layers):
            self.shapes[f"{number}.weight"] = (layer.n_in, layer.n_out)
            if layer.bias:
                self.shapes[f"{number}.bias"] = (layer.n_out,)
        ends = np.cumsum([int(np.prod(shape)) for shape in self.shapes.values()])
        self.size = int(ends[-1])
        self.slices = {
            name: slice(int(end - np.prod(shape)), int(end))
            for (name, shape), end in zip(self.shapes.items(), ends, strict=True)
        }

    def view(self, flat: Array, name: str) -> Array:
        """Return one parameter as a view of a flat buffer."""
        return flat[..., self.slices[name]].reshape(*flat.shape[:-1], *self.shapes[name])

    def views(self, flat: Array) -> dict[str, Array]:
        """Return every parameter as a view of a flat buffer, in order."""
        return {name: self.view(flat, name) for name in self.shapes}


class Parameters(Mapping[str, "Array"]):
    """The parameters of a network: an ordered mapping of names to views of its flat buffer.

    Reading gives the backend's own array, a view: changing it changes the network. Assigning copies in, after checks;
    `update` checks everything before it changes anything.

    Examples
    --------
    >>> import nnkernels as nnk
    >>> net = nnk.Sequential(nnk.Dense(2, 1), device="numpy")
    >>> list(net.parameters)
    ['0.weight', '0.bias']
    >>> net.parameters.update({"0.weight": [[3.0], [4.0]], "0.bias": [0.0]})
    >>> net(([1.0, 1.0],))
    array([[7.]], dtype=float32)
    """

    def __init__(self, layout: Layout, flat: Array, kernels_of: Any) -> None:
        self.layout = layout
        self.flat = flat
        self._device = kernels_of

    @property
    def _kernels(self) -> Kernels:
        kernels: Kernels = self._device.kernels
        return kernels

    def __getitem__(self, name: str) -> Array:
        return self.layout.view(self.flat, self._known(name))

    def __iter__(self) -> Iterator[str]:
        return iter(self.layout.shapes)

    def __len__(self) -> int:
        return len(self.layout.shapes)

    def __setitem__(self, name: str, value: Any) -> None:
        self.update({name: value})

    def update(self, values: Mapping[str, Any]) -> None:
        """Copy arrays into parameters, all or none.

        Raises
        ------
        KeyError
            A name that the network does not have.
        ShapeError
            An array of another shape than the parameter's.
        DataError
            NaN, infinities, or integers that the network's dtype cannot hold.
        """
        # every value is a copy by now: they may be views of this very buffer
        new = {self._known(name): self._checked(name, value) for name, value in values.items()}
        with self._kernels.device_scope(self._device.index):
            for name, value in new.items():
                self._kernels.copy(value, out=self[name])

    def to_host(self) -> dict[str, np.ndarray[Any, Any]]:
        """Return NumPy copies of all parameters."""
        return self.layout.views(self._kernels.to_host(self.flat))

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy or a pickle is made of; the buffer goes by way of the host."""
        return self.__dict__ | {"flat": self._kernels.to_host(self.flat)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        with self._kernels.device_scope(self._device.index):
            self.flat = self._kernels.from_host(self.flat)

    def _known(self, name: str) -> str:
        if name not in self.layout.shapes:
            raise KeyError(f"no parameter {name!r}; there are {', '.join(self)}.{nearest(name, self)}")
        return name

    def _checked(self, name: str, value: Any) -> Array:
        shape = (*self.flat.shape[:-1], *self.layout.shapes[name])
        if self._device.holds(value):
            value = self._kernels.to_host(value)  # to be checked like any other
        host = to_floats(value, self.flat.dtype, f'parameters["{name}"]')
        if host.shape != shape:
            raise ShapeError(f'parameters["{name}"] has shape {shape}, not {host.shape}')
        with self._kernels.device_scope(self._device.index):
            return self._kernels.from_host(host)

    def __repr__(self) -> str:
        rows = ", ".join(f"{name} {shape}" for name, shape in self.layout.shapes.items())
        return f"Parameters({rows})"


def initial_parameters(layers: tuple[Dense, ...], seed: int, numbers: Any, dtype: str) -> Host:
    """Return the initial parameters of each network, (n, P): each by its own key."""
    layout = Layout(layers)
    flat = np.empty((len(numbers), layout.size), dtype)
    draws = []
    for name, view in layout.views(flat).items():
        number, _, kind = name.partition(".")
        draws.append((view, initializer(getattr(layers[int(number)], f"{kind}_initializer"))))
    for place, number in enumerate(np.asarray(numbers).tolist()):
        generator = Key(seed, number).generator()
        for view, initial in draws:
            view[place] = initial.draw(generator, view.shape[1:])
    return flat
