"""Rows in lanes: the loss of a block and its deltas, which go where the last layer's slopes would."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from nnkernels._recipe import Recipe
from nnkernels.backends.numba.codegen.code import Code, Index


class Lanes(Protocol):
    """What is to be known about rows that are lanes."""

    recipe: Recipe
    code: Code
    vectors: int  #: of rows, in a block
    batch: int  #: rows, padded to whole blocks

    def at(self, unit: Index, vector: Index) -> str:
        """Return the place of an output's vector in `a` and `s` of the last layer."""

    def first_row(self, block: Index, vector: Index) -> str:
        """Return the first row, in the batch, of a block's vector."""

    def write_rows(self, vector: Index, block: Index) -> None:
        """Write `row`, the numbers in the data of a vector of rows, if `of_rows` needs them."""

    def of_rows(self, array: str, j: Index, vector: Index, block: Index, width: int) -> str:
        """Return the j-th column of an array of the data, for a vector of rows."""

    def loop(self, name: str, stop: Index) -> Iterator[Index]:
        """Loop."""


class RowsLoss:
    """Writes the loss of a block, a vector of rows at a time."""

    def __init__(self, frame: Lanes) -> None:
        self.frame, self.recipe, self.code = frame, frame.recipe, frame.code
        last = len(frame.recipe.layers) - 1
        self.z, self.d = f"a{last}", f"s{last}"
        #: the factor that all rows of all blocks share, or None
        self.factor = frame.recipe.factor if frame.batch == frame.recipe.batch else None

    def write(self, block: Index) -> None:
        """Write the loss of a block."""
        code, recipe, frame = self.code, self.recipe, self.frame
        for v in frame.loop("vector", frame.vectors):
            frame.write_rows(v, block)
            self._factor(v, block)
            code("row_sum = splat(0.0)")
            if recipe.last_activation == "softmax":
                self._exponentials(v)
                for j in self._outputs():
                    code(f"store({self.z}, {frame.at(j, v)}, {self._delta(j, v)} * scale)")
            if recipe.loss == "categorical_cross_entropy":
                self._cross_entropy(v, block)
            else:
                self._elementwise(v, block)
            if recipe.last_activation == "softmax":
                self._softmax_backward(v)
            weighted = "row_sum" if self.factor == 1 else "row_sum * row_factor"
            code(f"part_loss = part_loss + double(lane(total({weighted}), 0))")

    def _outputs(self) -> Iterator[Index]:
        yield from self.frame.loop("j", self.recipe.n_out)

    def _prediction(self, j: Index, v: Index) -> str:
        return f"load({self.z}, {self.frame.at(j, v)})"

    def _delta(self, j: Index, v: Index) -> str:
        return f"load({self.d}, {self.frame.at(j, v)})"

    def _target(self, j: Index, v: Index, block: Index) -> str:
        return self.frame.of_rows("t", j, v, block, self.recipe.n_out)

    def _factor(self, v: Index, block: Index) -> None:
        """Write the factor of each row, in lanes; rows past the end of the batch have 0."""
        code, recipe = self.code, self.recipe
        if self.factor is not None:
            code(*([f"row_factor = splat(real({self.factor!r}))"] if self.factor != 1 else []))
            return
        first = self.frame.first_row(block, v)
        count = "counts[step]" if recipe.factor is None else f"{recipe.batch}"
        factor = "share" if recipe.factor is None else f"real({recipe.factor!r})"
        if recipe.weighted:
            factor = f"share * {self.frame.of_rows('weight', 0, v, block, 1)}"
        code(f"row_factor = where(below({count} - ({first})), splat({factor}), 0.0)")

    def _elementwise(self, v: Index, block: Index) -> None:
        """Write a loss that is a sum over outputs."""
        code, recipe = self.code, self.recipe
        scalars = "".join(f", {name}" for name in recipe.loss_scalars)
        squashed = recipe.last_activation not in ("identity", "softmax")
        for j in self._outputs():
            if squashed:
                code(f"p, slope = {recipe.last_activation}_forward({self._prediction(j, v)})")
            else:
                code(f"p = {self._prediction(j, v)}")
            code(f"e, error = {recipe.loss}(p, {self._target(j, v, block)}, real({recipe.n_out}.0){scalars})")
            code("row_sum = row_sum + e", *(["error = error * slope"] * squashed))
            factor = "" if self.factor == 1 else " * row_factor"
            code(f"store({self.d}, {self.frame.at(j, v)}, error{factor})")

    def _exponentials(self, v: Index) -> None:
        """Write the deltas' place = exp(p - largest p) and scale = 1 / its sum, over the outputs of each row."""
        code = self.code
        code(f"top = {self._prediction(0, v)}")
        for j in self._outputs():
            code(f"top = max({self._prediction(j, v)}, top)")
        code("whole = splat(0.0)")
        for j in self._outputs():
            code(f"p = exp({self._prediction(j, v)} - top)", "whole = whole + p")
            code(f"store({self.d}, {self.frame.at(j, v)}, p)")
        code("scale = 1 / whole")

    def _cross_entropy(self, v: Index, block: Index) -> None:
        """As `categorical_cross_entropy_forward` and `_backward` of the reference: nothing cancels."""
        code = self.code
        self._exponentials(v)
        code("others = splat(0.0)", "label = splat(-1.0)", "shift = splat(0.0)")
        for j in self._outputs():
            code(f"e = {self._delta(j, v)}", f"target = {self._target(j, v, block)}")
            code("others = others + e * (1 - target)", "label = label + e * target")
            code(f"shift = shift + where(target > 0, target * ({self._prediction(j, v)} - top), 0.0)")
        code("row_sum = log1p(others + label) - shift")
        code(*([] if self.factor == 1 else ["scale = scale * row_factor"]))
        for j in self._outputs():
            code(f"target = {self._target(j, v, block)}", f"e = {self._delta(j, v)}")
            code(f"store({self.d}, {self.frame.at(j, v)}, scale * (e * (1 - target) - target * others))")

    def _softmax_backward(self, v: Index) -> None:
        code = self.code
        code("dot = splat(0.0)")
        for j in self._outputs():
            code(f"dot = fma({self._delta(j, v)}, {self._prediction(j, v)}, dot)")
        for j in self._outputs():
            product = f"{self._prediction(j, v)} * ({self._delta(j, v)} - dot)"
            code(f"store({self.d}, {self.frame.at(j, v)}, {product})")
