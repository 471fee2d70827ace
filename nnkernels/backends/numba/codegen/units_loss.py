"""Units in lanes: the loss of one row and its deltas."""

from __future__ import annotations

from nnkernels.backends.numba.codegen.code import Index
from nnkernels.backends.numba.codegen.formulas import depends_on_difference
from nnkernels.backends.numba.codegen.units_frame import UnitsFrame


class UnitsLoss:
    """Writes the predictions of a row, their loss, and their deltas d0, d1, ..."""

    def __init__(self, frame: UnitsFrame) -> None:
        self.frame, self.recipe, self.code, self.last = frame, frame.recipe, frame.code, frame.last
        self.vectors = range(frame.last.out_vectors)
        self.scalars = "".join(f", {name}" for name in frame.recipe.loss_scalars)

    def write(self, r: Index) -> None:
        """Write the loss of row r."""
        code, frame = self.code, self.frame
        code(f"row = {frame.row(r)}")
        if frame.single:
            self._single_output(r)
        else:
            self._predictions(r)
            self._many_outputs()
        if self._factor(r):
            code(*(f"d{v} = d{v} * factor" for v in self.vectors), "row_sum = row_sum * factor")
        if not frame.late:
            code(*(f"store(d, {r} * {self.last.width} + {v * frame.lanes}, d{v})" for v in self.vectors))
        code(f"row_loss[{r}] = row_sum" if frame.threaded else "losses = losses + double(row_sum)")

    def _factor(self, r: Index) -> bool:
        """Write the row's factor; return whether there is one."""
        recipe = self.recipe
        if recipe.factor == 1:
            return False
        if recipe.factor is not None:
            self.code(f"factor = real({recipe.factor!r})")
            return True
        weight = "share * weight[row]" if recipe.weighted else "share"
        self.code(f"factor = where({r} < counts[step], {weight}, 0.0)")
        return True

    def _masked(self, name: str, vector: int, otherwise: str = "0.0") -> str:
        """Return a vector whose padded lanes are something else."""
        inside = self.frame.inside(self.last, vector)
        return f"where(below({inside}), {name}, {otherwise})" if inside < self.frame.lanes else name

    def _sum(self, terms: str) -> str:
        """Return the sum of ``terms`` with v for each vector, over lanes and vectors, in every lane."""
        return f"total({' + '.join(terms.format(v=v) for v in self.vectors)})"

    # ---- one output --------------------------------------------------------------------------------------------------

    def _single_output(self, r: Index) -> None:
        """One output, in every lane. A loss of the difference alone takes its target within the sum."""
        code, recipe, last, frame = self.code, self.recipe, self.last, self.frame
        difference = depends_on_difference(recipe.loss) and recipe.last_activation == "identity"
        code("target = t[row]")
        parts = [f"w[{last.bias_base}]"] * last.bias + ["-target"] * difference
        code(f"q = where(below(1), splat({' + '.join(parts)}), 0.0)" if parts else "q = splat(0.0)")
        for v in range(last.vectors):
            inputs = frame.outputs(frame.layers[-2], r, v * frame.lanes)
            code(f"q = fma({inputs}, load(w, {last.vector(0, v)}), q)")
        if difference:
            code(f"e, d0 = {recipe.loss}_of_difference(total(q), real(1.0){self.scalars})")
        elif recipe.last_activation == "identity":
            code(f"e, d0 = {recipe.loss}(total(q), splat(target), real(1.0){self.scalars})")
        else:
            code(f"prediction, slope = {recipe.last_activation}_forward(total(q))")
            code(f"e, d0 = {recipe.loss}(prediction, splat(target), real(1.0){self.scalars})", "d0 = d0 * slope")
        code("row_sum = lane(e, 0)")

    # ---- outputs in lanes --------------------------------------------------------------------------------------------

    def _predictions(self, r: Index) -> None:
        """Write the last layer's z, p0, p1, ..."""
        code, last, frame, lanes = self.code, self.last, self.frame, self.frame.lanes
        if not last.inputs:
            code(*(f"p{v} = {frame.outputs(last, r, v * lanes)}" for v in self.vectors))
            return
        for group in self.vectors:
            outputs = range(group * lanes, min((group + 1) * lanes, last.n_out))
            code(*(f"q{j} = splat(0.0)" for j in outputs))
            for v in code.range("across", last.vectors, unroll=frame.unrolled or last.vectors <= 2):
                code(f"a = {frame.outputs(frame.layers[-2], r, f'{v} * {lanes}')}")
                for j in outputs:
                    weights = f"{last.base + j * last.step} + {v} * {lanes}"
                    code(f"q{j} = fma(a, load(w, {weights}), q{j})")
            code(f"p{group} = totals({', '.join(f'q{j}' for j in outputs)})")
            if last.bias:
                code(f"p{group} = p{group} + load(w, {last.bias_base + group * lanes})")

    def _many_outputs(self) -> None:
        """Write the loss and the deltas of p0, p1, ...; padded lanes count for nothing."""
        code, recipe, last = self.code, self.recipe, self.last
        for v in self.vectors:
            target = "splat(t[row])" if recipe.n_out == 1 else f"load(t, row * {last.width} + {v * self.frame.lanes})"
            code(f"t{v} = {target}")
        squashing = recipe.last_activation
        if squashing == "softmax":
            self._exponentials()
            code(f"scale = 1 / {self._sum('e{v}')}", *(f"p{v} = e{v} * scale" for v in self.vectors))
        elif squashing != "identity":
            code(*(f"p{v}, slope{v} = {squashing}_forward(p{v})" for v in self.vectors))
        if recipe.loss == "categorical_cross_entropy":
            self._cross_entropy()
        else:
            self._elementwise()
        if squashing == "softmax":
            code(f"dot = {self._sum('d{v} * p{v}')}", *(f"d{v} = p{v} * (d{v} - dot)" for v in self.vectors))
        elif squashing != "identity":
            code(*(f"d{v} = d{v} * slope{v}" for v in self.vectors))

    def _elementwise(self) -> None:
        code, recipe = self.code, self.recipe
        for v in self.vectors:
            code(f"e{v}, d{v} = {recipe.loss}(p{v}, t{v}, real({recipe.n_out}.0){self.scalars})")
            if self.frame.inside(self.last, v) < self.frame.lanes:
                code(f"e{v} = {self._masked(f'e{v}', v)}", f"d{v} = {self._masked(f'd{v}', v)}")
        code(f"row_sum = lane({self._sum('e{v}')}, 0)")

    def _exponentials(self) -> None:
        """Write shifted0, ... = p - the largest p, and e0, ... = their exponentials, 0 in padded lanes."""
        code = self.code
        top = self._masked("p0", 0, "-1e400")
        for v in self.vectors[1:]:
            shown = self._masked(f"p{v}", v, "-1e400")
            top = f"max({top}, {shown})"
        code(f"top = largest({top})")
        for v in self.vectors:
            code(f"shifted{v} = p{v} - top", f"e{v} = {self._masked(f'exp(shifted{v})', v)}")

    def _cross_entropy(self) -> None:
        """As `categorical_cross_entropy_forward` and `_backward` of the reference: nothing cancels."""
        code = self.code
        self._exponentials()
        code(*(f"other{v} = e{v} * (1 - t{v})" for v in self.vectors))
        code(f"others = {self._sum('other{v}')}", f"label = {self._sum('e{v} * t{v}')}")
        code(f"shift = {self._sum('where(t{v} > 0, t{v} * shifted{v}, 0.0)')}", "scale = 1 / (others + label)")
        code(*(f"d{v} = scale * (other{v} - t{v} * others)" for v in self.vectors))
        code("row_sum = log1p(lane(others, 0) + (lane(label, 0) - 1)) - lane(shift, 0)")
