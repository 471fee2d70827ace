"""A backend for nnkernels that somebody else could have written."""
