"""What each way to run costs: the numbers that plans are made from, measured, and shipped with the package.

`python -m benchmarks --case sweep` shows how well they choose; a wrong one costs time, never a wrong result.
"""

from __future__ import annotations

from nnkernels._record import Record


class Cost(Record):
    """Seconds of a way to run.

    Parameters
    ----------
    start, layer : float
        Before the first step: writing and compiling a program, and more for each layer that is not in registers.
    call : float
        Of a kernel call, or of a step of a whole run beside its operations.
    flop, element : float
        Of a floating-point operation of a matrix product, of an element of a pass over an array: composed kernels.
    operation : float
        Of a vector operation: whole runs.
    """

    start: float = 0.0
    layer: float = 0.0
    call: float = 0.0
    flop: float = 0.0
    element: float = 0.0
    operation: float = 0.0


TWO_THREADS = 1.7  #: times as fast as one

#: Measured on a 2-core x86-64 server with AVX-512; a step that is long enough for threads runs on both.
COSTS = {
    "numpy": Cost(call=1.4e-6, flop=1.2e-11, element=2.5e-9),
    "numba": Cost(call=1.0e-6, flop=0.5e-11, element=0.3e-9),
    "generic": Cost(call=50e-9, operation=0.17e-9),
    "generated": Cost(start=0.06, layer=0.12, call=5e-9, operation=0.3e-9),
    "lanes": Cost(start=0.3, call=10e-9, operation=0.3e-9),
}
