"""Counter-based random numbers, compiled from `programs/order.py`; the same bits as the NumPy reference."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from nnkernels.backends.numpy import random as numpy_random
from nnkernels.backends.protocol import Array

SOURCE = Path(__file__).parent / "programs" / "order.py"
_SORT_BLOCK = 1 << 18  # keys that are sorted at a time: networks share a call as long as it stays in the cache
_SCRATCH = 24 + 1024 + 16  # numbers that the bijection needs beside its output
_FLOAT64 = np.dtype(np.float64)  # indices come from the program of either dtype


class _Order:
    """The functions of `programs/order.py`; of its arguments only `dropout`'s are real."""

    def __init__(self, dtype: np.dtype[Any]) -> None:
        from nnkernels.backends.numba.language import Target
        from nnkernels.backends.numba.machine import Program, vector_bytes

        program = Program(SOURCE.read_text(), Target(dtype.name, vector_bytes() // 8))
        real = {"float32": ctypes.c_float, "float64": ctypes.c_double}[dtype.name]

        def function(name: str, integers: int, *others: Any) -> Any:
            return program.function(name, *[ctypes.c_uint64] * integers, *others)

        address = ctypes.c_void_p
        self.replacement = function("replacement", 7, address)
        self.sequential = function("sequential", 5, address)
        self.sort_keys = function("sort_keys", 6, address)
        self.ties = function("ties", 1, address, address)
        self.permuted = function("permuted", 6, address, address)
        self.feistel = function("feistel", 8, address, address)
        self.dropout = function("dropout", 7, real, address)


@cache
def _order(dtype: np.dtype[Any] = _FLOAT64) -> _Order:
    return _Order(dtype)


def draw_indices(seed: int, network: int, first_step: int, *, sampling: str, n_rows: int, out: Array) -> None:
    """Write the rows of each step's batch; see the Protocol."""
    if out.size == 0:
        return
    order, rows = _order(), _contiguous(out, np.int64)
    count, batch = out.shape[-2:]
    key = int(seed), int(network), out.size // (count * batch)
    shape = int(first_step), count, batch, int(n_rows)
    if sampling == "replacement":
        order.replacement(*key, *shape, _address(rows))
    elif sampling == "sequential":
        order.sequential(key[-1], *shape, _address(rows))
    elif n_rows > numpy_random.SORT_LIMIT:
        bits, scratch = (int(n_rows) - 1).bit_length(), np.empty(_SCRATCH, np.int64)
        order.feistel(*key, *shape, bits, _address(scratch), _address(rows))
    else:
        _sorted(order, key, shape, rows.reshape(-1, count * batch))
    if rows is not out:
        out[...] = rows


def _sorted(order: _Order, key: tuple[int, int, int], shape: tuple[int, int, int, int], out: Array) -> None:
    """Permutations as the order of 64-bit keys; out (networks, count * batch)."""
    seed, network, networks = key
    first_step, count, batch, n_rows = shape
    per_epoch = -(-n_rows // batch)
    first_epoch = first_step // per_epoch
    epochs = (first_step + count - 1) // per_epoch + 1 - first_epoch
    together = max(1, min(networks, _SORT_BLOCK // (epochs * n_rows)))
    for first in range(0, networks, together):
        now = min(together, networks - first)
        table = _order_of_keys(order, seed, network + first, now, first_epoch, epochs, n_rows)
        order.permuted(now, *shape, epochs, _address(table), _address(out[first : first + now]))


def _order_of_keys(
    order: _Order, seed: int, network: int, networks: int, first_epoch: int, epochs: int, n_rows: int
) -> Array:
    """Return the permutations of some networks and epochs, in the lower 12 bits of a table's numbers.

    A key's upper 52 bits are sorted together with its row, which is faster than to find an order beside the keys. Where
    two of them are equal, in one of 10**9 tables, the lower bits of the keys decide.
    """
    keys = np.empty((networks, epochs, n_rows), np.uint64)
    order.sort_keys(seed, network, networks, first_epoch, epochs, n_rows, _address(keys))
    keys.sort(axis=-1, kind="stable" if n_rows < 8 else "quicksort")  # whichever is faster: no two are equal
    tied = np.empty(1, np.int64)
    order.ties(keys.size, _address(keys), _address(tied))
    return _order_of_whole_keys(seed, network, networks, first_epoch, epochs, n_rows) if tied[0] else keys


def _order_of_whole_keys(seed: int, network: int, networks: int, first_epoch: int, epochs: int, n_rows: int) -> Array:
    """Return the same permutations by the reference."""
    rows = np.empty((networks, epochs, n_rows), np.int64)
    numpy_random.draw_indices(seed, network, first_epoch, sampling="permutation", n_rows=n_rows, out=rows)
    return rows


def dropout_mask(seed: int, network: int, layer: int, step: Array, rate: float, *, out: Array) -> None:
    """Write 0 with probability `rate`, else 1 / (1 - rate); see the Protocol."""
    if out.size == 0:
        return
    size = out.shape[-2] * out.shape[-1]
    mask = _contiguous(out, out.dtype)
    key = int(seed), int(network), out.size // size, int(layer), int(step), size
    _order(out.dtype).dropout(*key, round(rate * 2**32), 1 / (1 - rate), _address(mask))
    if mask is not out:
        out[...] = mask


def _contiguous(out: Array, dtype: Any) -> Array:
    """Return `out` if a program can write to it, else an array that it can write to."""
    return out if out.flags.c_contiguous and out.dtype == dtype else np.empty(out.shape, dtype)


def _address(array: Array) -> int:
    """Return where a contiguous array's elements are; a third of the time that ``array.ctypes`` takes."""
    return ctypes.addressof(ctypes.c_char.from_buffer(array))
