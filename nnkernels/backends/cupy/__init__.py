"""The CUDA backend, through CuPy."""
