"""What we are compared with: one module a library.

Each has `available()`, which returns None or the reason why the library cannot be used, and functions that build a row
from a problem (see `benchmarks.workers`). A row's weights are compared with the reference before it is timed.
"""

from __future__ import annotations

import importlib.util

PEERS = ("numpy", "jax", "torch", "tensorflow", "sklearn")  #: what `--peers` takes


def missing(package: str, install: str | None = None) -> str | None:
    """Return None if a package is installed, else how to install it."""
    if importlib.util.find_spec(package) is not None:
        return None
    return f"not installed: pip install {install or package}"
