"""Which backends there are, and how one is loaded. Nothing is imported before it is used.

A backend is a module that satisfies the Protocol in `nnkernels.backends.protocol`. The shipped ones stand in
`BUILTIN`; a third party's is found through the entry-point group ``nnkernels.backends`` of its installed package, and
its entry-point name is its device name.
"""

from __future__ import annotations

import sys
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, cast

from nnkernels._errors import BackendUnavailable, DeviceError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from nnkernels.backends.numba import kernels as _numba
    from nnkernels.backends.numpy import kernels as _numpy
    from nnkernels.backends.protocol import Kernels

    # mypy holds the shipped modules to the Protocol here
    _conforming: Kernels = _numpy
    _conforming = _numba

BUILTIN = ("cuda", "numba", "numpy")  #: in the order in which "auto" prefers them
GROUP = "nnkernels.backends"

_FOLDERS = {"cuda": "cupy", "numba": "numba", "numpy": "numpy"}
_temporary: dict[str, Kernels] = {}  # filled by `nnkernels.testing.temporary_backend` alone


@cache
def _entry_points() -> dict[str, EntryPoint]:
    from importlib.metadata import entry_points

    return {point.name: point for point in entry_points(group=GROUP) if point.name not in BUILTIN}


def kinds() -> list[str]:
    """Names of every backend, usable here or not."""
    return [*BUILTIN, *_entry_points(), *_temporary]


def load(kind: str) -> Kernels:
    """Return a backend's module.

    Raises
    ------
    BackendUnavailable
        The backend is known, but what it needs is not installed.
    DeviceError
        There is no backend of that name.
    """
    if kind in _temporary:
        return _temporary[kind]
    if kind in BUILTIN:
        module = f"nnkernels.backends.{_FOLDERS[kind]}.kernels"
        if module not in sys.modules:
            _check_requirements(kind)
        return cast("Kernels", import_module(module))
    if kind in _entry_points():
        point = _entry_points()[kind]
        try:
            return cast("Kernels", point.load())
        except Exception as error:  # whatever a third party's import may raise: the other devices must stay usable
            raise BackendUnavailable(kind, f"({point.value}) cannot be loaded: {error!r}") from error
    raise DeviceError(f"there is no backend {kind!r}")


def probe(kind: str, index: int = 0) -> None:
    """Raise `BackendUnavailable` unless the device can be used; as cheap as the answer allows."""
    if kind in ("numba", "numpy") and index == 0:
        _check_requirements(kind)  # looks for Numba without the half second of importing it
    else:
        module = load(kind)
        if not hasattr(module, "probe"):
            raise BackendUnavailable(kind, "is no backend: its module has no probe(index)")
        module.probe(index)


def _check_requirements(kind: str) -> None:
    if kind == "numba" and find_spec("numba") is None:
        raise BackendUnavailable("numba", "needs Numba, which is not installed", "Install it: pip install numba")
    if kind == "cuda":
        from nnkernels.backends.cupy.probe import check_cuda

        check_cuda()
