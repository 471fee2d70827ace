"""Rows in lanes: the blocks of a batch, where arrays lie, and what the parts of a step know in common."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from nnkernels._recipe import Recipe
from nnkernels.backends.numba.codegen.code import Code, Index, share
from nnkernels.backends.numba.codegen.program import Ints, array_names

BLOCK = 4  #: vectors of rows in a block
PARTS = 8  #: gradients that may be computed at the same time
UNROLLED_PARAMETERS, UNROLLED_VECTORS = 8, 4  #: of what is unrolled altogether


class RowsFrame:
    """What the parts of a step know: blocks, layouts, arrays.

    Parameters
    ----------
    recipe : Recipe
        What a step computes.
    lanes : int
        Of a vector.
    """

    def __init__(self, recipe: Recipe, lanes: int) -> None:
        self.recipe, self.lanes, self.code = recipe, lanes, Code()
        vectors = -(-recipe.batch // lanes)
        few = recipe.n_parameters * (1 + len(recipe.state)) <= UNROLLED_PARAMETERS
        self.unrolled = few and vectors <= UNROLLED_VECTORS
        self.vectors = vectors if self.unrolled else min(BLOCK, vectors)
        self.rows = self.vectors * lanes  # of a block
        self.blocks = -(-recipe.batch // self.rows)
        self.batch = self.blocks * self.rows
        self.threaded = self.blocks >= 2 and not recipe.serial
        self.parts = min(PARTS, self.blocks) if self.threaded else 1
        self.bases: list[tuple[int, int]] = []  # of each layer's weights and biases
        self.size = 0
        for layer in recipe.layers:
            bias = self.size + self.padded(layer.n_in * layer.n_out)
            self.bases.append((self.size, bias))
            self.size = bias + self.padded(layer.n_out if layer.bias else 0)
        self.shared = 0 if self.unrolled else self.parts * self.size  # reals of workspace: the parts' gradients
        self.private = 0  # reals of workspace that each thread has for itself

    def padded(self, n: int) -> int:
        """Return n, rounded up to whole vectors."""
        return -(-n // self.lanes) * self.lanes

    def tensors(self) -> Iterator[tuple[str, int, int]]:
        """Return kind, place and size of each tensor of parameters."""
        for layer, (weight, bias) in zip(self.recipe.layers, self.bases, strict=True):
            yield "weight", weight, layer.n_in * layer.n_out
            if layer.bias:
                yield "bias", bias, layer.n_out

    def places(self) -> list[Ints]:
        """Return where the canonical parameters lie."""
        return [base + np.arange(n) for _, base, n in self.tensors()]

    # ---- arrays ------------------------------------------------------------------------------------------------------

    def write_arrays(self) -> None:
        """Name the arrays."""
        code, recipe = self.code, self.recipe
        for number, name in enumerate(array_names(recipe)):
            size = self.size * self.lanes
            code(f"{name} = buffer({size})" if self.unrolled else f"{name} = parameters + {number * self.size}")
        if self.unrolled:
            self.copy_arrays(back=False)
        else:
            code(f"gradients = workspace  # of the parts, ({self.parts}, {self.size})")
            arrays = self._arrays()
            self.private = sum(self.padded(size) for _, size, _ in arrays)
            code(f"own = workspace + ({self.shared} + thread * {self.private})")
        place = 0
        for name, size, what in self._arrays():
            code((f"{name} = buffer({size})" if self.unrolled else f"{name} = own + {place}") + f"  # {what}")
            place += self.padded(size)

    def _arrays(self) -> list[tuple[str, int, str]]:
        """Return name, size and meaning of a thread's own arrays."""
        recipe, block = self.recipe, f"{self.vectors} x {self.lanes}"
        arrays = []
        if not recipe.whole:
            arrays.append(("inputs", recipe.n_in * self.rows, f"the block's inputs, ({recipe.n_in}, {block})"))
        for number, layer in enumerate(recipe.layers):
            size = layer.n_out * self.rows
            arrays.append((f"a{number}", size, f"layer {number}'s outputs, ({layer.n_out}, {block})"))
            arrays.append((f"s{number}", size, f"its slopes, then its deltas, ({layer.n_out}, {block})"))
            if layer.dropout:
                arrays.append((f"m{number}", self.batch * layer.n_out, f"its mask, ({self.batch}, {layer.n_out})"))
        summed = f"the gradient before it is summed over lanes, ({self.size}, {self.lanes})"
        return [*arrays, ("sums", self.size * self.lanes, summed)]

    def copy_arrays(self, *, back: bool) -> None:
        """Copy parameters and state between memory and registers, where each stands in every lane."""
        for number, name in enumerate(array_names(self.recipe)):
            for _, base, n in self.tensors():
                for place in range(base, base + n):
                    outside = number * self.size + place
                    if back:
                        self.code(f"parameters[{outside}] = lane(load({name}, {place * self.lanes}), 0)")
                    else:
                        self.code(f"store({name}, {place * self.lanes}, parameters[{outside}])")

    # ---- places and loops --------------------------------------------------------------------------------------------

    def at(self, unit: Index, vector: Index) -> str:
        """Return the place of a unit's vector in a layer's arrays."""
        return f"{unit} * {self.rows} + {vector} * {self.lanes}"

    def first_row(self, block: Index, vector: Index) -> str:
        """Return the first row, in the batch, of a block's vector."""
        return f"{block} * {self.rows} + {vector} * {self.lanes}"

    def write_rows(self, vector: Index, block: Index) -> None:
        """Write `row`, the numbers in the data of a vector of rows, unless they lie in order."""
        if not self.recipe.whole:
            self.code(f"row = load(order, step * {self.batch} + {self.first_row(block, vector)})")

    def of_rows(self, array: str, j: Index, vector: Index, block: Index, width: int) -> str:
        """Return the j-th column of an array of the data, for a vector of rows."""
        if self.recipe.whole:
            return f"load({array}, {j} * {self.batch} + {self.first_row(block, vector)})"
        return f"gather({array}, row * {width} + {j})"

    def weight(self, place: str) -> str:
        """Return a parameter: a scalar in memory, or a vector of equal lanes in registers."""
        return f"load(w, ({place}) * {self.lanes})" if self.unrolled else f"w[{place}]"

    def loop(self, name: str, stop: Index, step: int = 1, start: Index = 0) -> Iterator[Index]:
        """Loop, unrolled if everything is."""
        return self.code.range(name, stop, step, start=start, unroll=self.unrolled)

    def each(self, name: str, n: int) -> Iterator[Index]:
        """Loop over this thread's share of n things."""
        if not self.threaded:
            yield from self.code.range(name, n)
            return
        start, stop = share(n)
        yield from self.code.range(name, stop, start=start)
