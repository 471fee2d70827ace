"""Single kernels: matrix products, sigmoid, losses, of several sizes, against what other libraries have for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache

import numpy as np

import nnkernels as nnk
from benchmarks import floors
from benchmarks.case import WRONG, Case, Row, Settings
from benchmarks.operations import LOSSES, Operation
from benchmarks.training import MODULES, OURS, Entry
from benchmarks.workers import Absent, Failed, Workers

TOLERANCE = {"float32": 1e-4, "tf32": 3e-3}  #: of the largest element
PARALLEL = 100_000  #: elements from which a second thread may pay


def cases(settings: Settings, workers: Workers) -> Iterator[Case]:
    """Yield a case an operation and size."""
    for op in gpu_operations(settings.quick) if settings.gpu else operations(settings.quick):
        yield _case(settings, workers, op)


def operations(quick: bool) -> Iterator[Operation]:
    """Yield what is measured."""
    products = [(1024, 784, 128)] if quick else [(32, 784, 128), (1024, 784, 128), (1024, 1024, 1024)]
    for way in ("forward", "backward"):
        for shape in products:
            yield Operation(f"matmul_{way}", shape)
    for name in ("sigmoid_forward", "sigmoid_pair"):
        for count in (10_000, 1_000_000) if quick else (1_000, 100_000, 1_000_000, 10_000_000):
            yield Operation(name, (count // 10, 10))
    for name in LOSSES:
        for count in (100_000,) if quick else (1_000, 1_000_000):
            yield Operation(name, (count // 10, 10))


def gpu_operations(quick: bool) -> Iterator[Operation]:
    """Yield what is measured on a GPU, each call with a cold cache."""
    for precision in ("float32", "tf32"):
        for way in ("forward", "backward"):
            for shape in [(8192, 784, 128)] if quick else [(8192, 784, 128), (8192, 4096, 4096)]:
                yield Operation(f"matmul_{way}", shape, precision, cold=True)
    for name in ("sigmoid_forward", "sigmoid_pair"):
        for count in (10**6,) if quick else (10**6, 10**8):
            yield Operation(name, (count // 10, 10), cold=True)
    for name in LOSSES[:2] if quick else LOSSES:
        yield Operation(name, (10**5, 10), cold=True)


def _case(settings: Settings, workers: Workers, op: Operation) -> Case:
    workers.forget()
    product = op.name.startswith("matmul")
    expected = cache(op.expected)  # not computed where no row can be built
    size = " x ".join(map(str, op.shape)) if product else f"{op.shape[0] * op.shape[1]:,} elements"
    work = op.loops * (op.gflop if product else op.gigabytes)
    rows = {}
    for entry in _entries(settings, op):
        if entry.kind == "peer" and settings.peers is not None and entry.library not in settings.peers:
            continue
        rows[entry.name] = _row(settings, workers, op, entry, expected, work)
    if settings.gpu:
        rows |= floors.rows(floors.of_operation(op), op.gflop if product else op.gigabytes)
    what = {"sigmoid_pair": "sigmoid_forward with slope, then backward"}.get(op.name, op.name)
    return Case(
        name=f"kernels, {op.name}, {'x'.join(map(str, op.shape))}{'' if op.precision == 'float32' else ', tf32'}",
        title=f"{what}{' and backward' if op.name in LOSSES else ''}, {size}, {op.precision}",
        unit="GFLOP/s" if product else "GB/s",
        scale=1.0,
        rows=rows,
        rounds=settings.rounds or (3 if settings.quick else 7),
        more_is_better=True,
    )


def _entries(settings: Settings, op: Operation) -> Iterator[Entry]:
    usable = [status.device for status in nnk.devices() if status.available]
    for device in settings.devices or sorted(usable, key=lambda name: name != "numpy"):
        yield Entry(f"nnkernels {device}", OURS, "operation", {"device": device})
    product = op.name.startswith("matmul")
    if settings.gpu:
        yield from _gpu_entries(op)
        return
    counts = [1, 2] if settings.threads > 1 and not product and op.shape[0] * op.shape[1] >= PARALLEL else [1]
    if product:
        yield Entry("2048 x 2048 products, NumPy's BLAS", "limits", "peak", unchecked="another size")
    for threads in counts:
        many = f", {threads} threads" if threads > 1 else ""
        if op.name.startswith("sigmoid"):
            yield Entry(f"C{many}", "limits", "operation", {"threads": threads})
        elif not product:
            yield Entry(f"copying memory{many}", "limits", "copy", {"threads": threads}, unchecked="it only copies")
    if op.name.startswith("sigmoid"):
        for threads in counts:
            many = f", {threads} threads" if threads > 1 else ""
            yield Entry(f"copying memory{many}", "limits", "copy", {"threads": threads}, unchecked="it only copies")
        yield Entry("NumPy by hand", "numpy", "operation")
    yield Entry("JAX jit", "jax", "operation")
    yield Entry("PyTorch", "torch", "operation")


def _gpu_entries(op: Operation) -> Iterator[Entry]:
    if op.name == "matmul_forward":
        yield Entry("the product alone, cuBLAS", "cuda limits", "product", unchecked="it does only that")
    elif not op.name.startswith("matmul"):
        yield Entry("copying memory", "cuda limits", "copy", unchecked="it only copies")
    yield Entry("JAX jit", "jax", "operation")
    yield Entry("PyTorch", "torch", "operation", {"device": "cuda"})


def _row(
    settings: Settings,
    workers: Workers,
    op: Operation,
    entry: Entry,
    expected: Callable[[], list[np.ndarray]],
    work: float,
) -> Row:
    module = MODULES.get(entry.library, entry.library)
    try:
        run, result = workers.row(module, entry.function, op, processors=settings.threads, **entry.options)
        if not entry.unchecked:
            for got, right in zip(result(), expected(), strict=True):
                allowed = TOLERANCE[op.precision] * max(1e-30, np.abs(right).max())
                if not np.abs(got.reshape(right.shape) - right).max() <= allowed:
                    raise Absent(WRONG)
    except (Absent, Failed) as reason:
        return Row(entry.kind, None, note=str(reason))
    # copying counts two arrays, whatever the operation counts
    own_work = op.loops * 8e-9 * op.shape[0] * op.shape[1] if entry.function == "copy" else work
    if entry.function == "peak":
        product = 2e-9 * 2048**3
        own_work = product * max(1, round(work / product))
    # where there is C for it, that is the limit, and copying is shown beside it
    kind = "bound" if entry.function == "copy" and op.name.startswith("sigmoid") else entry.kind
    return Row(kind, run, own_work, entry.unchecked)
