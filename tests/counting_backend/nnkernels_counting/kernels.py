"""NumPy's kernels in float64, whatever the arrays hold, and a count of the calls.

What an author of a numerical method may want: how many kernel calls a run takes, and what it would give without
float32's rounding inside a kernel.
"""

import functools
import os
from collections import Counter

import numpy as np

from nnkernels import BackendUnavailable
from nnkernels.backends.numpy import kernels as reference
from nnkernels.backends.protocol import Kernels

calls = Counter()  #: kernel name -> number of calls


def probe(index):
    """Raise unless the device can be used; COUNTING_BROKEN lets it seem broken."""
    if index:
        raise BackendUnavailable(f"counting:{index}", "does not exist: there is one abacus", 'Use "counting".')
    if os.environ.get("COUNTING_BROKEN"):
        raise BackendUnavailable("counting", "has lost its beads", "Buy new beads")


def _place(array):
    """What tells an array from another one: a kernel may get the same buffer twice."""
    return array.__array_interface__["data"][0], array.shape, array.strides


def _wide(values, copies):
    """Replace the float32 arrays among some values by float64 copies, the same copy for the same buffer."""
    for value in values:
        if isinstance(value, np.ndarray) and value.dtype == np.float32:
            yield copies.setdefault(_place(value), (value, value.astype(np.float64)))[1]
        else:
            yield value


def _counted(name):
    kernel = getattr(reference, name)

    @functools.wraps(kernel)
    def call(*args, **kwargs):
        calls[name] += 1
        copies = {}
        args = list(_wide(args, copies))
        kernel(*args, **dict(zip(kwargs, _wide(kwargs.values(), copies), strict=True)))
        for narrow, wide in copies.values():
            narrow[...] = wide

    return call


DEVICE = ("device_scope", "empty", "from_host", "to_host", "owns", "copy", "fill")
globals().update({name: getattr(reference, name) for name in DEVICE})
KERNELS = {*vars(Kernels)} - {"probe", *DEVICE}
globals().update({name: _counted(name) for name in KERNELS if not name.startswith("_")})
