"""Counter-based random numbers: the order of rows, dropout masks; the same bits as on every device."""

from __future__ import annotations

import numpy as np

from nnkernels.backends.cupy.launch import constant, elementwise, kernel, networks
from nnkernels.backends.numpy.random import SORT_LIMIT
from nnkernels.backends.protocol import Array


def draw_indices(seed: int, network: int, first_step: int, *, sampling: str, n_rows: int, out: Array) -> None:
    """Write the rows of each step's batch; see the Protocol."""
    count, batch = out.shape[-2:]
    steps = (first_step, count, batch, n_rows)
    if sampling == "replacement":
        elementwise("draw_replacement", np.float32, out.size, out, seed, network, *steps)
    elif sampling == "sequential":
        elementwise("draw_sequential", np.float32, out.size, out, *steps)
    elif n_rows > SORT_LIMIT:
        elementwise("draw_feistel", np.float32, out.size, out, seed, network, *steps)
    elif out.size:
        per_epoch, tile = -(-n_rows // batch), constant("random", "TILE")
        epochs = (first_step + count - 1) // per_epoch - first_step // per_epoch + 1
        grid = (-(-n_rows // tile), epochs, networks(out, 2))
        elementwise("draw_nothing", np.float32, out.size, out, *steps)
        kernel("draw_sorted", np.float32)(grid, tile, out, seed, network, *steps)


def dropout_mask(seed: int, network: int, layer: int, step: Array, rate: float, *, out: Array) -> None:
    """Write 0 with probability `rate`, else 1 / (1 - rate); see the Protocol."""
    batch, n = out.shape[-2:]
    size, kept = batch * n, 1 / (1 - rate)
    grid = (-(-size // 1024), networks(out, 2))
    threshold = round(rate * 2**32)
    kernel("dropout_mask", out.dtype)(grid, 256, out, step, seed, network, layer, threshold, kept, size)
