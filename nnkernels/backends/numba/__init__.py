"""The Numba backend: the reference's kernels, compiled."""
