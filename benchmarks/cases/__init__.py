"""The cases. Each module has `cases(settings, workers)`, which yields one or more `Case` objects."""

from __future__ import annotations

import importlib
from collections.abc import Iterator

from benchmarks.case import Case, Settings
from benchmarks.workers import Workers

#: in the order in which they are run
NAMES = (
    "sine",
    "autoencoder",
    "regression",
    "mnist-quadratic",
    "mnist-softmax",
    "wide",
    "many",
    "many-regression",
    "kernels",
    "sweep",
    "first-call",
    "memory",
    "import",
    "csv",
)
#: on a GPU, where a run has to end within minutes: the ones that say most come first
GPU_NAMES = (
    "sine",
    "mnist-softmax",
    "many",
    "wide",
    "regression",
    "autoencoder",
    "mnist-quadratic",
    "kernels",
    "sweep",
)


def cases(name: str, settings: Settings, workers: Workers) -> Iterator[Case]:
    """Yield the cases of that name."""
    module = name.replace("-", "_") + ("_" if name == "import" else "")
    yield from importlib.import_module(f"benchmarks.cases.{module}").cases(settings, workers)
