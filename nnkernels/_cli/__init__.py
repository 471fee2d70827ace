"""The command line: click reads it, rich prints tables; the work is done in `nnkernels._tables` and `nnkernels._demos`.

Imported by `nnkernels.__main__` alone, so that `import nnkernels` needs neither click nor rich.
"""
