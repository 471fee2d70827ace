"""Counter-based random numbers, compiled; the same bits as the NumPy reference, which explains them."""

from __future__ import annotations

from typing import Any

import numpy as np

from nnkernels.backends.numba.compile import kernel
from nnkernels.backends.numpy.random import (
    FEISTEL_ROUNDS,
    SORT_LIMIT,
    STREAM_DROPOUT,
    STREAM_FEISTEL,
    STREAM_ROWS,
    STREAM_SORT,
)
from nnkernels.backends.protocol import Array

# Every integer is a uint64: Numba computes int64 with uint64 in float64.
U = np.uint64
_LOW, _32 = U(0xFFFFFFFF), U(32)
_M0, _M1, _W0, _W1 = U(0xD2511F53), U(0xCD9E8D57), U(0x9E3779B9), U(0xBB67AE85)
_MIX0, _MIX1 = U(0x9E3779B97F4A7C15), U(0xD6E8FEB86659FD93)
_BLOCKS = FEISTEL_ROUNDS // 4


@kernel
def philox(seed: Any, stream: Any, network: Any, layer: Any, step: Any, item: Any) -> tuple[Any, Any, Any, Any]:
    """Four 32-bit words, as uint64, of one counter."""
    step = U(step)
    c0, c1, c2, c3 = U(item), step & _LOW, U(network), (step >> _32) | (U(stream) << U(24)) | (U(layer) << U(16))
    k0, k1 = U(seed) & _LOW, U(seed) >> _32
    for _ in range(10):
        p0, p1 = c0 * _M0, c2 * _M1
        c0, c1, c2, c3 = (p1 >> _32) ^ c1 ^ k0, p1 & _LOW, (p0 >> _32) ^ c3 ^ k1, p0 & _LOW
        k0, k1 = (k0 + _W0) & _LOW, (k1 + _W1) & _LOW
    return c0, c1, c2, c3


@kernel
def _pair(seed: Any, stream: Any, network: Any, step: Any, item: Any) -> tuple[Any, Any]:
    """Two 32-bit words per item: items 2 i and 2 i + 1 share a counter."""
    first, second, third, fourth = philox(seed, stream, network, 0, step, item // 2)
    return (third, fourth) if item % 2 else (first, second)


@kernel
def _replacement(seed: Any, network: Any, first_step: Any, n_rows: Any, out: Array) -> None:
    """Independent uniform rows for one network; out (count, batch)."""
    for i in range(out.shape[0]):
        for row in range(out.shape[1]):
            high, low = _pair(seed, STREAM_ROWS, network, first_step + i, row)
            out[i, row] = (high * U(n_rows) + (low * U(n_rows) >> _32)) >> _32


@kernel
def _sequential(seed: Any, network: Any, first_step: Any, n_rows: Any, out: Array) -> None:
    """0, 1, ... cut into batches, for one network; out (count, batch)."""
    count, batch = out.shape
    per_epoch = -(-n_rows // batch)
    for i in range(count):
        start = (first_step + i) % per_epoch * batch
        for row in range(batch):
            out[i, row] = start + row if start + row < n_rows else -1


@kernel
def _permutation_sorted(seed: Any, network: Any, first_step: Any, n_rows: Any, out: Array) -> None:
    """Permutations as the order of 64-bit keys, for one network; out (count, batch)."""
    _sequential(seed, network, first_step, n_rows, out)
    per_epoch = -(-n_rows // out.shape[1])
    keys = np.empty(n_rows, np.uint64)
    epoch, table = -1, np.empty(0, np.int64)
    for i in range(out.shape[0]):
        if (first_step + i) // per_epoch != epoch:
            epoch = (first_step + i) // per_epoch
            for row in range(n_rows):
                high, low = _pair(seed, STREAM_SORT, network, epoch, row)
                keys[row] = high << _32 | low
            table = np.argsort(keys, kind="mergesort")
        for row in range(out.shape[1]):
            if out[i, row] >= 0:
                out[i, row] = table[out[i, row]]


@kernel
def _mix(value: Any, key: Any) -> Any:
    """Round function: 32 well mixed bits of a half and a round key."""
    mixed = (value ^ key) * _MIX0
    return ((mixed ^ (mixed >> _32)) * _MIX1) >> _32


@kernel
def _permutation_feistel(seed: Any, network: Any, first_step: Any, n_rows: Any, out: Array) -> None:
    """Permutations as a keyed bijection, for one network; out (count, batch)."""
    _sequential(seed, network, first_step, n_rows, out)
    per_epoch = -(-n_rows // out.shape[1])
    bits = 0
    while U(1) << U(bits) < U(n_rows):
        bits += 1
    right_bits = U(bits - bits // 2)
    left_mask, right_mask = (U(1) << U(bits // 2)) - U(1), (U(1) << right_bits) - U(1)
    epoch, keys = -1, np.empty(FEISTEL_ROUNDS, np.uint64)
    for i in range(out.shape[0]):
        if (first_step + i) // per_epoch != epoch:
            epoch = (first_step + i) // per_epoch
            for block in range(_BLOCKS):
                words = philox(seed, STREAM_FEISTEL, network, 0, epoch, block)
                keys[4 * block], keys[4 * block + 1], keys[4 * block + 2], keys[4 * block + 3] = words
        for row in range(out.shape[1]):
            if out[i, row] < 0:
                continue
            value = U(out[i, row])
            while True:
                left, right = value >> right_bits, value & right_mask
                for pair in range(0, FEISTEL_ROUNDS, 2):
                    left ^= _mix(right, keys[pair]) & left_mask
                    right ^= _mix(left, keys[pair + 1]) & right_mask
                value = left << right_bits | right
                if value < U(n_rows):
                    break
            out[i, row] = value


def draw_indices(seed: int, network: int, first_step: int, *, sampling: str, n_rows: int, out: Array) -> None:
    """Write the rows of each step's batch; see the Protocol."""
    draw = {
        "replacement": _replacement,
        "sequential": _sequential,
        "permutation": _permutation_sorted if n_rows <= SORT_LIMIT else _permutation_feistel,
    }[sampling]
    for i, index in enumerate(np.ndindex(out.shape[:-2])):
        draw(np.uint64(seed), network + i, first_step, n_rows, out[index])


@kernel
def _dropout_mask(seed: Any, network: Any, layer: Any, step: Array, threshold: Any, keep: Any, out: Array) -> None:
    size = out.shape[-2] * out.shape[-1]
    for i in range(0 if size == 0 else out.size // size):
        for block in range((size + 3) // 4):
            words = philox(seed, STREAM_DROPOUT, network + i, layer, step[()], block)
            for k in range(min(4, size - 4 * block)):
                out.flat[i * size + 4 * block + k] = keep if words[k] >= threshold else 0.0


def dropout_mask(seed: int, network: int, layer: int, step: Array, rate: float, *, out: Array) -> None:
    """Write 0 with probability `rate`, else 1 / (1 - rate); see the Protocol."""
    _dropout_mask(np.uint64(seed), network, layer, step, np.uint64(round(rate * 2**32)), 1 / (1 - rate), out)
