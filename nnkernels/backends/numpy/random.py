"""Counter-based random numbers: Philox, the order of rows, dropout masks. The reference for every other backend.

Everything is a pure function of its arguments, in integer arithmetic, so that a run can resume at any step and every
device draws the same bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nnkernels.backends.protocol import Array

UInts = np.ndarray[Any, np.dtype[np.uint64]]

STREAM_ROWS, STREAM_DROPOUT, STREAM_SORT, STREAM_FEISTEL = range(4)  #: what a counter is for
SORT_LIMIT = 4096  #: up to here a permutation is a sort of random keys, beyond it a keyed bijection
FEISTEL_ROUNDS = 24  #: 12 leave the permutations of 5 rows uneven, even with ideal round functions

_LOW = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)


def philox(seed: int, stream: int, network: Any, layer: int, step: Any, item: Any) -> tuple[UInts, UInts, UInts, UInts]:
    """Philox4x32-10 (Salmon et al., SC 2011): four 32-bit words, as uint64, of one counter.

    The key is the seed (64 bits), the counter (item, step's low half, network, stream | layer | step's high half).
    The array arguments broadcast against each other.
    """
    network, step, item = (np.asarray(part).astype(np.uint64) for part in (network, step, item))
    high = (step >> _32) | np.uint64(stream << 24 | layer << 16)
    c0, c1, c2, c3 = np.broadcast_arrays(item, step & _LOW, network, high)
    k0, k1 = np.uint64(seed & 0xFFFFFFFF), np.uint64(seed >> 32)
    for _ in range(10):
        p0, p1 = c0 * np.uint64(0xD2511F53), c2 * np.uint64(0xCD9E8D57)
        c0, c1, c2, c3 = (p1 >> _32) ^ c1 ^ k0, p1 & _LOW, (p0 >> _32) ^ c3 ^ k1, p0 & _LOW
        k0, k1 = (k0 + np.uint64(0x9E3779B9)) & _LOW, (k1 + np.uint64(0xBB67AE85)) & _LOW
    return c0, c1, c2, c3


def draw_indices(seed: int, network: int, first_step: int, *, sampling: str, n_rows: int, out: Array) -> None:
    """Write the rows of each step's batch; see the Protocol."""
    if out.size == 0:
        return
    *leading, count, batch = out.shape
    networks = network + np.arange(int(np.prod(leading))).reshape(*leading, 1, 1)
    steps = first_step + np.arange(count)[:, None]
    if sampling == "replacement":
        high, low = _pairs(seed, STREAM_ROWS, networks, steps, np.arange(batch))
        scale = np.uint64(n_rows)
        out[...] = (high * scale + (low * scale >> _32)) >> _32  # the high half of (64 random bits) * n_rows
        return
    per_epoch = -(-n_rows // batch)
    position = steps % per_epoch * batch + np.arange(batch)
    inside = position < n_rows
    rows = np.where(inside, position, 0)
    if sampling == "permutation":
        permute = _sorted_keys if n_rows <= SORT_LIMIT else _feistel
        rows = permute(seed, networks, steps // per_epoch, rows, n_rows)
    out[...] = np.where(inside, rows, -1)


def _pairs(seed: int, stream: int, network: Any, step: Any, item: Any) -> tuple[UInts, UInts]:
    """Two 32-bit words per item: items 2 i and 2 i + 1 share a counter."""
    first, second, third, fourth = philox(seed, stream, network, 0, step, item // 2)
    odd = item % 2 == 1
    return np.where(odd, third, first), np.where(odd, fourth, second)


def _sorted_keys(seed: int, network: Any, epoch: Any, position: Any, n_rows: int) -> Any:
    """Permutations as the order of 64-bit keys, one table a network and epoch."""
    epochs = np.arange(epoch.min(), epoch.max() + 1)[:, None]
    high, low = _pairs(seed, STREAM_SORT, network, epochs, np.arange(n_rows))
    table = np.argsort(high << _32 | low, axis=-1, kind="stable")
    table = table.reshape(*table.shape[:-2], -1)
    index = np.broadcast_to((epoch - epochs[0]) * n_rows + position, (*network.shape[:-2], *position.shape))
    return np.take_along_axis(table, index.reshape(*table.shape[:-1], -1), axis=-1).reshape(index.shape)


def _feistel(seed: int, network: Any, epoch: Any, position: Any, n_rows: int) -> Any:
    """Permutations as a keyed bijection of 2**bits >= n_rows numbers, walked until the result is a row."""
    bits = (n_rows - 1).bit_length()
    left_bits, right_bits = np.uint64(bits // 2), np.uint64(bits - bits // 2)
    left_mask, right_mask = ((np.uint64(1) << half) - np.uint64(1) for half in (left_bits, right_bits))
    words = [philox(seed, STREAM_FEISTEL, network, 0, epoch, block) for block in range(FEISTEL_ROUNDS // 4)]
    keys = [key for block in words for key in block]
    value = np.broadcast_to(position, np.broadcast_shapes(keys[0].shape, position.shape)).astype(np.uint64)
    walking = np.ones(value.shape, bool)
    while walking.any():
        left, right = value >> right_bits, value & right_mask
        for even, odd in zip(keys[::2], keys[1::2], strict=True):
            left = left ^ (_mix(right, even) & left_mask)
            right = right ^ (_mix(left, odd) & right_mask)
        value = np.where(walking, left << right_bits | right, value)
        walking = value >= n_rows
    return value.astype(np.int64)


def _mix(value: UInts, key: UInts) -> UInts:
    """Round function: 32 well mixed bits of a half and a round key."""
    mixed = (value ^ key) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> _32)) * np.uint64(0xD6E8FEB86659FD93)
    return mixed >> _32


def dropout_mask(seed: int, network: int, layer: int, step: Array, rate: float, *, out: Array) -> None:
    """Write 0 with probability `rate`, else 1 / (1 - rate); see the Protocol."""
    *leading, batch, n_out = out.shape
    networks = network + np.arange(int(np.prod(leading))).reshape(*leading, 1)
    blocks = np.arange(-(-batch * n_out // 4))
    words = np.stack(philox(seed, STREAM_DROPOUT, networks, layer, int(step), blocks), axis=-1)
    words = words.reshape(*leading, -1)[..., : batch * n_out].reshape(out.shape)
    out[...] = (words >= np.uint64(round(rate * 2**32))) * (1 / (1 - rate))
