"""CUDA without a GPU: the package's own kernels, run on the CPU. See `cuda_on_cpu.h` and `host.py`."""
