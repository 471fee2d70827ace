"""Programs written by hand in the language of `nnkernels.backends.numba.language`; they are compiled, never run."""
