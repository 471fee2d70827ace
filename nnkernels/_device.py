"""Devices: the one place where a device string is parsed."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np

from nnkernels import backends
from nnkernels._errors import BackendUnavailable, DeviceError
from nnkernels._names import nearest
from nnkernels._record import Record

if TYPE_CHECKING:
    from nnkernels.backends.protocol import Kernels


class Device(Record):
    """A place where networks live: a backend and the number of the device it drives.

    Parameters
    ----------
    kind : str
        The backend: "numpy", "numba", "cuda", or a third party's.
    index : int
        Number of the device; only "cuda" has more than one.

    Examples
    --------
    >>> import nnkernels as nnk
    >>> nnk.device("numpy")
    Device(kind='numpy', index=0)
    """

    kind: str
    index: int = 0

    @property
    def kernels(self) -> Kernels:
        """The backend's module."""
        return backends.load(self.kind)

    def holds(self, value: object) -> bool:
        """Tell whether `value` is one of the device's own arrays that the host cannot read as it is."""
        return self.kernels.owns(value) and not isinstance(value, np.ndarray)

    def __str__(self) -> str:
        return f"{self.kind}:{self.index}" if self.kind == "cuda" or self.index else self.kind


def device(spec: str | Device | None = None) -> Device:
    """Return the device that a string names, after checking that it can be used.

    Parameters
    ----------
    spec : str, Device or None
        ``"numpy"``, ``"numba"``, ``"cuda"``, ``"cuda:1"``, or the name of an installed third-party backend;
        ``"cpu"`` is Numba if it is installed, else NumPy; ``"auto"`` is a GPU if there is one, else ``"cpu"``, and
        logs its choice. None is the environment variable ``NNKERNELS_DEVICE``, or ``"auto"`` without it.

    Returns
    -------
    Device
        It can be used. An explicit device never falls back to another one.

    Raises
    ------
    DeviceError
        The string names no device.
    BackendUnavailable
        It names a device that cannot be used here; the message says why, and what to do.

    Examples
    --------
    >>> import nnkernels as nnk
    >>> nnk.device("cpu").kind
    'numba'
    >>> nnk.device("gpu")
    Traceback (most recent call last):
        ...
    nnkernels._errors.DeviceError: unknown device 'gpu'. There are: auto, cpu, cuda, numba, numpy.
    """
    if isinstance(spec, Device):
        backends.probe(spec.kind, spec.index)
        return spec
    source = ""
    if spec is None:
        spec = os.environ.get("NNKERNELS_DEVICE") or "auto"
        source = " (from NNKERNELS_DEVICE)" if spec != "auto" else ""
    if not isinstance(spec, str):
        raise TypeError(f"device must be a string or a Device, not {type(spec).__name__}")
    if spec in ("auto", "cpu"):
        return _choose(spec)
    kind, colon, number = spec.partition(":")
    if kind not in backends.kinds() or (colon and not number.isdecimal()):
        known = ["auto", "cpu", *backends.kinds()]
        raise DeviceError(f"unknown device {spec!r}{source}. There are: {', '.join(known)}.{nearest(kind, known)}")
    index = int(number or 0)
    backends.probe(kind, index)
    return Device(kind, index)


def _choose(spec: str) -> Device:
    """Return the first device that can be used, in order of preference, and log why."""
    import logging

    reasons = []
    for kind in backends.BUILTIN if spec == "auto" else ("numba", "numpy"):
        try:
            backends.probe(kind)
        except BackendUnavailable as unavailable:
            reasons.append(f'"{kind}" {unavailable.reason}')
        else:
            because = f": {'; '.join(reasons)}" if reasons else ""
            logging.getLogger("nnkernels").info('device "%s" is "%s"%s', spec, kind, because)
            return Device(kind)
    raise AssertionError("NumPy is always there")  # pragma: no cover


class DeviceStatus(Record):
    """Whether a device can be used, and if not, why not and what to do.

    Parameters
    ----------
    device : str
        The string to pass as ``device=``.
    available : bool
        Whether it can be used here.
    reason, remedy : str
        Why not, and the way out; empty if it is available.
    """

    device: str
    available: bool
    reason: str = ""
    remedy: str = ""


def devices() -> list[DeviceStatus]:
    """Return every device there is, installed third-party backends included, usable or not.

    Examples
    --------
    >>> import nnkernels as nnk
    >>> [status.device for status in nnk.devices() if status.available][-2:]
    ['numba', 'numpy']
    """
    statuses = []
    for kind in backends.kinds():
        try:
            backends.probe(kind)
        except BackendUnavailable as unavailable:
            statuses.append(DeviceStatus(kind, False, unavailable.reason, unavailable.remedy))
        else:
            statuses.append(DeviceStatus(kind, True))
    return statuses
