"""Copies of a run of any network and batch: each with its own start and its own order of rows."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

import nnkernels as nnk
from benchmarks import reference
from benchmarks.problem import SEED, Host, Problem, dense


@dataclass(frozen=True)
class Copies:
    """Copies of a run.

    Parameters
    ----------
    one : Problem
        What all of them have in common; its start and its order are those of the first network.
    start : list of ndarray
        Initial weights and biases, in layer order, (n, ...) each.
    order : ndarray
        (n, steps, batch): the rows of each network's steps.
    """

    one: Problem
    start: list[Host]
    order: Host

    @property
    def networks(self) -> int:
        """How many there are."""
        return len(self.order)

    @property
    def rows(self) -> Host:
        """The order with its steps first."""
        return self.order.transpose(1, 0, 2)

    @property
    def steps(self) -> int:
        """Of each network."""
        return self.one.steps

    @property
    def dtype(self) -> str:
        """Of the data, the weights and all arithmetic."""
        return self.one.dtype

    def first(self, steps: int) -> Copies:
        """Return the first steps of the runs as runs of their own."""
        return replace(self, one=self.one.first(steps), order=self.order[:, :steps])

    def picked(self, arrays: list[Host]) -> list[Host]:
        """Return the arrays of the networks that are checked: the first, one in the middle, the last."""
        return [
            np.stack([np.asarray(array)[i] for i in (0, self.networks // 2, self.networks - 1)]) for array in arrays
        ]

    def by_reference(self) -> list[Host]:
        """Return what `picked` must be."""
        found = []
        for i in (0, self.networks // 2, self.networks - 1):
            single = replace(self.one, start=[array[i] for array in self.start], order=self.order[i])
            found.append(reference.train(single))
        return [np.stack(arrays) for arrays in zip(*found, strict=True)]


def copies(one: Problem, networks: int) -> Copies:
    """Draw the starts and the orders of the networks as nnkernels draws them."""
    many = nnk.Ensemble(dense(one.layers), n=networks, device="numpy", dtype=one.dtype, rng=SEED)
    order = np.empty((networks, one.steps, one.batch), np.int64)
    many.device.kernels.draw_indices(one.seed, 0, 0, sampling=one.sampling, n_rows=len(one.x), out=order)
    return Copies(one, list(many.parameters.to_host().values()), order.astype(np.int32))
