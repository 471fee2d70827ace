"""The checks of all kernels and programs in a process of its own, compiled with a sanitizer; or a planted fault.

``python tests/sanitized.py OPTIONS [KIND]``: prints "no fault" at the end, if the sanitizer has let it live.
"""

import sys

import numpy as np
from cuda_programs import PROGRAMS, check_program
from emulator.host import emulated
from kernel_checks import check_file

from nnkernels.backends.cupy import kernels as cuda
from nnkernels.backends.cupy import launch
from nnkernels.backends.cupy.files import read

#: what is done to arrays of 32 numbers, and to one of 10 in shared memory
FAULTS = {
    "none": "shared[threadIdx.x % 10] = in[0];",
    "write behind an array": "out[32] = 1;",
    "write before an array": "out[-1] = 1;",
    "read behind an array": "out[0] = in[32];",
    "read before an array": "out[0] = in[-1];",
    "index out of shared memory": "shared[threadIdx.x] = 1;",
    "pointer out of shared memory": "put(shared, threadIdx.x);",
    "overflow": "int large = 2147483600;\nout[0] = large + int(threadIdx.x) * 10;",
    "shift": "out[0] = 1 << (threadIdx.x + 5);",
}
PLANTED = """
#line 1 "planted.cu"
__device__ __attribute__((noinline)) void put(real *array, int i) { array[i] = 1; }
extern "C" __global__ void planted(real *out, const real *in) {
    __shared__ real shared[10];
    put(shared, 0);
%s
    out[1] = shared[0] + in[1];
}
"""


def main(options, fault=None):
    """Check everything, or run a planted fault."""
    # without guards: the sanitizer has its own, and must see the first byte
    settings = {"options": tuple(options.split()), "order": ("random", 1), "guard": 0}
    if fault is None:
        for file in launch.SOURCES:
            check_file(file, "float32", **settings)
        for name in PROGRAMS:
            check_program(name, "float32", **settings)
    else:
        with emulated(options=settings["options"], guard=0):
            arrays = [cuda.from_host(np.zeros(32, np.float32)) for _ in range(2)]
            launch.library(read("prelude") + PLANTED % FAULTS[fault], "float32", 0).kernel("planted")(1, 32, *arrays)


if __name__ == "__main__":
    main(*sys.argv[1:])
    print("no fault")  # noqa: T201
