"""Whole-run programs for small batches: the units of a layer in lanes, the rows of a batch one after the other.

A hidden layer's weights lie with their outputs in lanes, in panels of a few vectors; a last layer of few outputs has its
inputs in lanes, so that what comes from the layer below never leaves its lanes. One step has three phases:

- A: the first layer's outputs; each thread its own panels, for all rows;
- B: the rest forward, the loss, the deltas back down to the first layer; each thread its own rows;
- C: gradients and updates; each thread its own panels.

Every number is computed by the same operations in the same order whichever thread does it. A network that fits into
registers is unrolled altogether and runs on one thread.
"""

from __future__ import annotations

import numpy as np

from nnkernels._recipe import Recipe
from nnkernels.backends.numba.codegen import (
    Code,
    Generated,
    Ints,
    Packing,
    depends_on_difference,
    tiles,
    write_barrier,
    write_mask,
    write_run,
    write_schedule,
    write_update,
)

INPUT_LANES_OUTPUTS = 16  #: a last layer of at most so many outputs has its inputs in lanes
REGISTERS = 16  #: vectors of parameters and optimizer state that are kept in registers
ROW_TILE, PANEL = 10, 2  #: rows and vectors of a tile of the forward product


class UnitLayer:
    """A layer and where its parameters lie.

    Parameters
    ----------
    number, n_in, n_out : int
        Its place in the network and its size.
    lanes : int
        Of a vector.
    base : int
        Where its weights begin.
    inputs : bool
        Whether its inputs are in lanes.
    unrolled : bool
        Whether the program is.
    """

    def __init__(
        self, number: int, n_in: int, n_out: int, bias: bool, *, lanes: int, base: int, inputs: bool, unrolled: bool
    ) -> None:
        self.number, self.n_in, self.n_out, self.bias = number, n_in, n_out, bias
        self.lanes, self.base, self.inputs = lanes, base, inputs
        across = n_in if inputs else n_out
        vectors = -(-across // lanes)
        self.panel = vectors if unrolled or inputs else min(PANEL, vectors)
        self.vectors = -(-vectors // self.panel) * self.panel  # of lanes
        self.panels = self.vectors // self.panel
        self.width = self.vectors * lanes if not inputs else -(-n_out // lanes) * lanes  # of a row of its outputs
        self.out_vectors = self.width // lanes
        along = n_out if inputs else n_in
        self.bias_base = base + along * self.vectors * lanes
        self.end = self.bias_base + (self.width if bias else 0)

    def weight_place(self, along: int | str, vector: int) -> str:
        """Where a vector of weights lies: of input `along` (or output, where inputs are in lanes)."""
        panel, within = divmod(vector, self.panel)
        rows = self.n_out if self.inputs else self.n_in
        start = self.base + (panel * rows * self.panel + within) * self.lanes
        return f"{start} + {along} * {self.panel * self.lanes}"

    def panel_place(self, along: int | str, panel: int | str, within: int) -> str:
        """Where a vector of weights lies, by its panel and its place within it."""
        rows = self.n_out if self.inputs else self.n_in
        step = self.panel * self.lanes
        return f"{self.base + within * self.lanes} + {panel} * {rows * step} + {along} * {step}"

    def places(self) -> list[Ints]:
        """Where the canonical weights (n_in, n_out) and biases (n_out,) lie."""
        k, j = np.meshgrid(np.arange(self.n_in), np.arange(self.n_out), indexing="ij")
        along, across = (j, k) if self.inputs else (k, j)
        step = self.panel * self.lanes
        rows = self.n_out if self.inputs else self.n_in
        weights = self.base + across // step * rows * step + along * step + across % step
        return [weights, self.bias_base + np.arange(self.n_out)] if self.bias else [weights]


class UnitsWriter:
    """Writes the program for a recipe.

    Parameters
    ----------
    recipe : Recipe
        What a step computes.
    lanes : int
        Of a vector.
    unrolled : bool
        Whether parameters are kept in registers: for batches of one row.
    """

    def __init__(self, recipe: Recipe, lanes: int, unrolled: bool) -> None:
        self.recipe, self.lanes, self.unrolled = recipe, lanes, unrolled
        self.code = Code()
        self.layers: list[UnitLayer] = []
        base, last = 0, len(recipe.layers) - 1
        for number, layer in enumerate(recipe.layers):
            inputs = number == last and number > 0 and layer.n_out <= INPUT_LANES_OUTPUTS
            placed = UnitLayer(
                number, layer.n_in, layer.n_out, layer.bias, lanes=lanes, base=base, inputs=inputs, unrolled=unrolled
            )
            if inputs:  # its lanes are those of the layer below, padded alike
                placed = _padded_like(placed, self.layers[-1])
            self.layers.append(placed)
            base = placed.end
        self.size = base
        self.last = self.layers[-1]
        self.dropout = any(layer.dropout for layer in recipe.layers)
        self.threaded = not (unrolled or self.dropout or recipe.normed)
        #: one output, which stands in every lane
        self.single = recipe.n_out == 1 and self.last.inputs and recipe.last_activation != "softmax"
        #: the deltas' last factor, known late, is left out of them and multiplied in at the update
        self.late = unrolled and self.single and recipe.optimizer == "sgd"
        self.late = self.late and not (recipe.decayed or recipe.penalized or recipe.clipped or recipe.normed)
        self.workspace = 0

    def write(self) -> Generated:
        """Return the program."""
        source = write_run(self.recipe, self.code, lambda _: self._run(), "The units of a layer in lanes.")
        places = [place for layer in self.layers for place in layer.places()]
        return Generated(
            source,
            lanes=self.lanes,
            packing=Packing(places, self.size),
            workspace=self.workspace + 4 * self.lanes,
            parts=max(1, min(self.recipe.batch, self.layers[0].panels)) if self.threaded else 1,
            batch=self.recipe.batch,
            padded_targets=1 if self.recipe.n_out == 1 else self.last.width,
            n_state=len(self.recipe.state),
            settings=self.recipe.settings,
            scheduled=self.recipe.scheduled,
        )

    # ---- the frame ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        code, recipe = self.code, self.recipe
        self._arrays()
        code("losses = loss[0]", "meetings = 0")
        for _ in code.range("step", "steps"):
            write_schedule(recipe, code)
            if self.threaded and not self.unrolled:
                code("turn = step % 2")
            self._masks()
            self._phase("A: the first layer, for all rows")
            self._first_layer()
            if self.threaded:
                write_barrier(code)
            self._phase("B: the other layers, the loss, the deltas")
            self._middle()
            if self.threaded:
                write_barrier(code)
            self._phase("C: gradients and updates")
            self._sum_losses()
            self._updates()
        code("loss[0] = losses") if not self.threaded else self._last_loss()
        if self.unrolled:
            self._copy_arrays(back=True)

    def _phase(self, title: str) -> None:
        self.code("", f"# {title}")

    def _last_loss(self) -> None:
        for _ in self.code.block("if thread == 0:"):
            self.code("loss[0] = losses")

    def _arrays(self) -> None:
        """Name the arrays: parameters and state, activations, slopes (which become deltas), the last layer's deltas."""
        code, batch = self.code, self.recipe.batch
        if self.unrolled:
            code(*(f"w{suffix} = buffer({self.size})" for suffix in self._suffixes()))
            self._copy_arrays(back=False)
        else:
            code(*(f"w{suffix} = parameters + {i * self.size}" for i, suffix in enumerate(self._suffixes())))
        for layer in self.layers:
            shape = f"({batch}, {layer.width})"
            copies = 2 if layer.number == 0 and self.threaded else 1  # the next step's A begins before this one's C ends
            if layer is self.last:
                self._array("d", batch * layer.width, f"the last layer's deltas, {shape}")
                if not layer.inputs:
                    self._array(f"a{layer.number}", copies * batch * layer.width, f"its z, {shape}")
                continue
            self._array(f"a{layer.number}", copies * batch * layer.width, f"layer {layer.number}'s outputs, {shape}")
            self._array(f"s{layer.number}", copies * batch * layer.width, f"its slopes, then its deltas, {shape}")
            if self.recipe.layers[layer.number].dropout:
                self._array(f"m{layer.number}", batch * layer.n_out + self.lanes, f"its mask, ({batch}, {layer.n_out})")
        if self.recipe.normed:
            self._array("g", self.size, "the gradient, packed like the parameters")
        if self.threaded:
            self._array("row_loss", batch, f"each row's loss, ({batch},)")

    def _array(self, name: str, size: int, what: str) -> None:
        size = -(-size // self.lanes) * self.lanes
        if self.unrolled:
            self.code(f"{name} = buffer({size})  # {what}")
        else:
            self.code(f"{name} = workspace + {self.workspace}  # {what}")
            self.workspace += size

    def _suffixes(self) -> list[str]:
        return ["", *(f"_{name}" for name in self.recipe.state)]

    def _copy_arrays(self, *, back: bool) -> None:
        for number, suffix in enumerate(self._suffixes()):
            for place in range(0, self.size, self.lanes):
                outside = number * self.size + place
                if back:
                    self.code(f"store(parameters, {outside}, load(w{suffix}, {place}))")
                else:
                    self.code(f"store(w{suffix}, {place}, load(parameters, {outside}))")

    def _masks(self) -> None:
        for number, layer in enumerate(self.recipe.layers):
            if layer.dropout:
                size = self.recipe.batch * layer.n_out
                write_mask(self.code, number, layer.dropout, size)

    # ---- pieces ------------------------------------------------------------------------------------------------------

    def _row(self, r: int | str) -> str:
        """Number of the batch's r-th row in the data."""
        return f"{r}" if self.recipe.whole else f"order[step * {self.recipe.batch} + {r}]"

    def _at(self, layer: UnitLayer, r: int | str, within: int | str) -> str:
        """Place of a row's outputs in a layer's array."""
        turn = f"turn * {self.recipe.batch * layer.width} + " if layer.number == 0 and self.threaded else ""
        return f"{turn}{r} * {layer.width} + {within}"

    def _panels(self, layer: UnitLayer) -> object:
        """Loop over this thread's panels."""
        if not self.threaded or layer.panels == 1:
            yield from self._only_first(layer)
            return
        n = layer.panels
        yield from self.code.range("panel", f"{n} * (thread + 1) // threads", start=f"{n} * thread // threads")

    def _only_first(self, layer: UnitLayer) -> object:
        if not self.threaded:
            yield from self.code.range("panel", layer.panels, unroll=self.unrolled)
            return
        for _ in self.code.block("if thread == 0:"):
            yield 0

    def _rows(self) -> object:
        """Loop over this thread's rows."""
        batch = self.recipe.batch
        if not self.threaded:
            yield from self.code.range("r", batch, unroll=self.unrolled)
            return
        yield from self.code.range("r", f"{batch} * (thread + 1) // threads", start=f"{batch} * thread // threads")

    def _activate(self, layer: UnitLayer, place: str, vector: int, r: int | str) -> None:
        """Turn z at a place into the output and its slope, dropout included."""
        code, description = self.code, self.recipe.layers[layer.number]
        name, number = description.activation_name, layer.number
        if name == "identity":
            code(f"a = load(a{number}, {place})", "s = splat(1.0)")
        else:
            code(f"a, s = {name}_forward(load(a{number}, {place}))")
        if description.dropout:
            code(f"mask = load(m{number}, {r} * {layer.n_out} + {vector * self.lanes})")
            code("a = a * mask", "s = s * mask")
        inside = layer.n_out - vector * self.lanes
        if inside < self.lanes:  # a padded unit must not reach the next layer's gradient
            code(f"a = where(below({max(inside, 0)}), a, 0.0)", f"s = where(below({max(inside, 0)}), s, 0.0)")
        code(f"store(a{number}, {place}, a)", f"store(s{number}, {place}, s)")

    # ---- A -----------------------------------------------------------------------------------------------------------

    def _first_layer(self) -> None:
        code, layer, batch = self.code, self.layers[0], self.recipe.batch
        for panel in self._panels(layer):
            for start, stop, size in tiles(batch, ROW_TILE):
                for r0 in code.range("r0", stop, size, start=start, unroll=self.unrolled):
                    self._product(layer, panel, r0, size)
            if layer is self.last:
                continue
            for r in code.range("r", batch, unroll=self.unrolled):
                for within in range(layer.panel):
                    place = self._at(layer, r, f"{panel} * {layer.panel * self.lanes} + {within * self.lanes}")
                    self._activate_panel(layer, place, panel, within, r)

    def _activate_panel(self, layer: UnitLayer, place: str, panel: int | str, within: int, r: int | str) -> None:
        """Activate a vector of a panel; where the panel is a loop's, only its last one may be padded."""
        if isinstance(panel, int) or not (layer.n_out % self.lanes or layer.width - layer.n_out or self._dropped(layer)):
            vector = panel * layer.panel + within if isinstance(panel, int) else 0
            self._activate(layer, place, vector, r)
            return
        code, number = self.code, layer.number
        name = self.recipe.layers[number].activation_name
        code(f"unit = ({panel} * {layer.panel} + {within}) * {self.lanes}")
        if name == "identity":
            code(f"a = load(a{number}, {place})", "s = splat(1.0)")
        else:
            code(f"a, s = {name}_forward(load(a{number}, {place}))")
        if self._dropped(layer):
            code(f"mask = load(m{number}, {r} * {layer.n_out} + min(unit, {layer.n_out}))", "a = a * mask", "s = s * mask")
        code(f"inside = below({layer.n_out} - unit)", "a = where(inside, a, 0.0)", "s = where(inside, s, 0.0)")
        code(f"store(a{number}, {place}, a)", f"store(s{number}, {place}, s)")

    def _dropped(self, layer: UnitLayer) -> bool:
        return bool(self.recipe.layers[layer.number].dropout)

    def _product(self, layer: UnitLayer, panel: int | str, r0: int | str, rows: int) -> None:
        """z of `rows` rows and one panel of the first layer."""
        code, lanes = self.code, self.lanes
        tile = [(i, v) for i in range(rows) for v in range(layer.panel)]
        for i in range(rows):
            code(f"x{i} = x + {self._row(_plus(r0, i))} * {layer.n_in}")
        start = panel * layer.panel * lanes if isinstance(panel, int) else f"{panel} * {layer.panel * lanes}"
        for i, v in tile:
            bias = f"load(w, {layer.bias_base + v * lanes} + {start})" if layer.bias else "splat(0.0)"
            code(f"z{i}_{v} = {bias}")
        for k in code.range("k", layer.n_in, unroll=self.unrolled):
            for v in range(layer.panel):
                code(f"w{v} = load(w, {layer.panel_place(k, panel, v)})")
            for i, v in tile:
                code(f"z{i}_{v} = fma(x{i}[{k}], w{v}, z{i}_{v})")
        for i, v in tile:
            code(f"store(a{layer.number}, {self._at(layer, _plus(r0, i), f'{start} + {v * lanes}')}, z{i}_{v})")

    # ---- B -----------------------------------------------------------------------------------------------------------

    def _middle(self) -> None:
        for r in self._rows():
            for layer in self.layers[1:]:
                if not layer.inputs:
                    self._forward_outputs(layer, r)
            self._loss(r)
            for layer in self.layers[:0:-1]:
                if layer.inputs:
                    self._backward_inputs(layer, r)
                else:
                    self._backward_outputs(layer, r)

    def _forward_outputs(self, layer: UnitLayer, r: int | str) -> None:
        """A hidden layer of one row, its outputs in lanes."""
        code, below = self.code, self.layers[layer.number - 1]
        for start, stop, size in tiles(layer.vectors, 8 if layer.panel == layer.vectors else layer.panel):
            assert size <= 8 or self.unrolled
            for v0 in code.range("v0", stop, size, start=start, unroll=True):
                for v in range(v0, v0 + size):
                    bias = f"load(w, {layer.bias_base + v * self.lanes})" if layer.bias else "splat(0.0)"
                    code(f"z{v} = {bias}")
                for k in code.range("k", layer.n_in, unroll=self.unrolled):
                    code(f"input = a{below.number}[{self._at(below, r, k)}]")
                    for v in range(v0, v0 + size):
                        code(f"z{v} = fma(input, load(w, {layer.weight_place(k, v)}), z{v})")
                for v in range(v0, v0 + size):
                    code(f"store(a{layer.number}, {self._at(layer, r, v * self.lanes)}, z{v})")
        if layer is not self.last:
            for v in range(layer.vectors):
                self._activate(layer, self._at(layer, r, v * self.lanes), v, r)

    def _loss(self, r: int | str) -> None:
        """The predictions of one row, their loss, and their deltas."""
        code, recipe, last, lanes = self.code, self.recipe, self.last, self.lanes
        code(f"row = {self._row(r)}")
        if self.single:
            self._single_output(r)
        else:
            self._predictions(r)
            self._many_outputs(r)
        factor = self._factor(r)
        if factor is not None:
            code(*(f"d{v} = d{v} * factor" for v in range(last.out_vectors)) if not self.late else ())
            if self.late:
                code("d0 = d0 * factor")
            code("row_sum = row_sum * factor")
        if not self.late:
            code(*(f"store(d, {r} * {last.width} + {v * lanes}, d{v})" for v in range(last.out_vectors)))
        if self.threaded:
            code(f"row_loss[{r}] = row_sum")
        else:
            code("losses = losses + double(row_sum)")

    def _factor(self, r: int | str) -> str | None:
        """Write the row's factor, unless it is 1."""
        recipe, code = self.recipe, self.code
        if recipe.factor == 1:
            return None
        if recipe.factor is not None:
            code(f"factor = real({recipe.factor!r})")
            return "factor"
        weight = "share * weight[row]" if recipe.weighted else "share"
        code(f"factor = where({r} < counts[step], {weight}, 0.0)")
        return "factor"

    def _single_output(self, r: int | str) -> None:
        """One output: in every lane. A loss of the difference takes its target within the sum."""
        code, recipe, last = self.code, self.recipe, self.last
        below = self.layers[-2]
        difference = depends_on_difference(recipe.loss) and recipe.last_activation == "identity"
        code("target = t[row]")
        first = f"w[{last.bias_base}]" if last.bias else "0.0"
        first = f"{first} - target" if difference else first
        code(f"q = where(below(1), splat({first}), 0.0)" if first != "0.0" else "q = splat(0.0)")
        for v in range(last.vectors):
            code(f"q = fma(load(a{below.number}, {self._at(below, r, v * self.lanes)}), load(w, {last.weight_place(0, v)}), q)")
        scalars = "".join(f", {name}" for name in recipe.loss_scalars)
        if difference:
            code(f"e, d0 = {recipe.loss}_of_difference(total(q), real(1.0){scalars})")
        else:
            self._squash_single(scalars)
        code("row_sum = lane(e, 0)")

    def _squash_single(self, scalars: str) -> None:
        name = self.recipe.last_activation
        if name == "identity":
            self.code(f"e, d0 = {self.recipe.loss}(total(q), splat(target), real(1.0){scalars})")
        else:
            self.code(f"prediction, slope = {name}_forward(total(q))")
            self.code(f"e, d0 = {self.recipe.loss}(prediction, splat(target), real(1.0){scalars})", "d0 = d0 * slope")

    def _predictions(self, r: int | str) -> None:
        """z of the last layer, p0, p1, ...: outputs in lanes."""
        code, last, lanes = self.code, self.last, self.lanes
        if not last.inputs:
            code(*(f"p{v} = load(a{last.number}, {self._at(last, r, v * lanes)})" for v in range(last.out_vectors)))
            return
        below = self.layers[-2]
        for group in range(last.out_vectors):
            outputs = range(group * lanes, min((group + 1) * lanes, last.n_out))
            code(*(f"q{j} = splat(0.0)" for j in outputs))
            for v in code.range("across", last.vectors, unroll=self.unrolled or last.vectors <= 2):
                place = f"{v} * {lanes}"
                code(f"a = load(a{below.number}, {self._at(below, r, place)})")
                for j in outputs:
                    code(f"q{j} = fma(a, load(w, {last.base + j * last.vectors * lanes} + {place}), q{j})")
            code(f"p{group} = totals({', '.join(f'q{j}' for j in outputs)})")
            if last.bias:
                code(f"p{group} = p{group} + load(w, {last.bias_base + group * lanes})")

    def _many_outputs(self, r: int | str) -> None:
        """Loss and deltas of the predictions p0, p1, ..., whose padded lanes count for nothing."""
        code, recipe, last, lanes = self.code, self.recipe, self.last, self.lanes
        vectors = range(last.out_vectors)
        for v in vectors:
            code(f"t{v} = splat(t[row])" if recipe.n_out == 1 else f"t{v} = load(t, row * {last.width} + {v * lanes})")
        squashing = recipe.last_activation
        if squashing == "softmax":
            self._softmax()
        elif squashing != "identity":
            code(*(f"p{v}, slope{v} = {squashing}_forward(p{v})" for v in vectors))
        scalars = "".join(f", {name}" for name in recipe.loss_scalars)
        if recipe.loss == "categorical_cross_entropy":
            self._cross_entropy()
        else:
            code(*(f"e{v}, d{v} = {recipe.loss}(p{v}, t{v}, real({recipe.n_out}.0){scalars})" for v in vectors))
            for v in vectors:
                if (inside := last.n_out - v * lanes) < lanes:
                    code(f"e{v} = where(below({max(inside, 0)}), e{v}, 0.0)", f"d{v} = where(below({max(inside, 0)}), d{v}, 0.0)")
            code(f"row_sum = lane(total({' + '.join(f'e{v}' for v in vectors)}), 0)")
        if squashing == "softmax":
            code("dot = total(" + " + ".join(f"d{v} * p{v}" for v in vectors) + ")")
            code(*(f"d{v} = p{v} * (d{v} - dot)" for v in vectors))
        elif squashing != "identity":
            code(*(f"d{v} = d{v} * slope{v}" for v in vectors))

    def _exponentials(self) -> None:
        """e0, e1, ... = exp(p - largest p), 0 in padded lanes; shifted0, ... = p - largest p."""
        code, last, lanes = self.code, self.last, self.lanes
        vectors = range(last.out_vectors)
        for v in vectors:
            inside = last.n_out - v * lanes
            code(f"shown{v} = " + (f"where(below({max(inside, 0)}), p{v}, -1e400)" if inside < lanes else f"p{v}"))
        tops = "shown0"
        for v in vectors[1:]:
            tops = f"where(shown{v} > {tops}, shown{v}, {tops})"
        code(f"top = largest({tops})")
        for v in vectors:
            inside = last.n_out - v * lanes
            code(f"shifted{v} = p{v} - top")
            exponential = f"exp(shifted{v})"
            code(f"e{v} = " + (f"where(below({max(inside, 0)}), {exponential}, 0.0)" if inside < lanes else exponential))

    def _softmax(self) -> None:
        vectors = range(self.last.out_vectors)
        self._exponentials()
        self.code(f"scale = 1 / total({' + '.join(f'e{v}' for v in vectors)})")
        self.code(*(f"p{v} = e{v} * scale" for v in vectors))

    def _cross_entropy(self) -> None:
        """As `categorical_cross_entropy_forward` and `_backward` of the reference: nothing cancels."""
        code, vectors = self.code, range(self.last.out_vectors)
        self._exponentials()
        for v in vectors:
            code(f"other{v} = e{v} * (1 - t{v})")
        code(f"others = total({' + '.join(f'other{v}' for v in vectors)})")
        code(f"label = total({' + '.join(f'e{v} * t{v}' for v in vectors)})")
        code(f"shift = total({' + '.join(f'where(t{v} > 0, t{v} * shifted{v}, 0.0)' for v in vectors)})")
        code("scale = 1 / (others + label)")
        code(*(f"d{v} = scale * (other{v} - t{v} * others)" for v in vectors))
        code("row_sum = log1p(lane(others, 0) + (lane(label, 0) - 1)) - lane(shift, 0)")

    def _backward_inputs(self, layer: UnitLayer, r: int | str) -> None:
        """Deltas of the layer below the last: its units are this layer's lanes."""
        code, below, lanes = self.code, self.layers[layer.number - 1], self.lanes
        name = f"s{below.number}"
        if self.late:
            for v in range(layer.vectors):
                place = self._at(below, r, v * lanes)
                code(f"store({name}, {place}, load(w, {layer.weight_place(0, v)}) * load({name}, {place}))")
            return
        for j in range(layer.n_out):
            code(f"d_{j} = " + ("d0" if self.single else f"splat(lane(d{j // lanes}, {j % lanes}))"))
        for v in code.range("across", layer.vectors, unroll=self.unrolled or layer.vectors <= 2):
            place = self._at(below, r, f"{v} * {lanes}")
            code("e = splat(0.0)")
            for j in range(layer.n_out):
                weight = f"load(w, {layer.base + j * layer.vectors * lanes} + {v} * {lanes})"
                code(f"e = d_{j} * {weight}" if j == 0 else f"e = fma(d_{j}, {weight}, e)")
            code(f"store({name}, {place}, e * load({name}, {place}))")

    def _backward_outputs(self, layer: UnitLayer, r: int | str) -> None:
        """Deltas of the layer below: for each of its units a sum over this layer's lanes, lanes of sums at a time."""
        code, below, lanes = self.code, self.layers[layer.number - 1], self.lanes
        own = "d" if layer is self.last else f"s{layer.number}"
        for v in range(layer.vectors):
            place = f"{r} * {layer.width} + {v * lanes}"
            code(f"d{v} = load({own}, {place})")
        full = layer.n_in // lanes * lanes
        for k in code.range("k", full, lanes, unroll=self.unrolled):
            self._unit_sums(layer, below, r, k, lanes)
        if full < layer.n_in:
            self._unit_sums(layer, below, r, full, layer.n_in - full)

    def _unit_sums(self, layer: UnitLayer, below: UnitLayer, r: int | str, k: int | str, count: int) -> None:
        code = self.code
        for i in range(count):
            for v in range(layer.vectors):
                weight = f"load(w, {layer.weight_place(f'({_plus(k, i)})', v)})"
                code(f"q{i} = d{v} * {weight}" if v == 0 else f"q{i} = fma(d{v}, {weight}, q{i})")
        place = self._at(below, r, k)
        sums = f"totals({', '.join(f'q{i}' for i in range(count))})"
        code(f"store(s{below.number}, {place}, {sums} * load(s{below.number}, {place}))")

    # ---- C -----------------------------------------------------------------------------------------------------------

    def _sum_losses(self) -> None:
        if self.threaded:
            for r in self.code.range("r", self.recipe.batch, unroll=self.recipe.batch <= 16):
                self.code(f"losses = losses + double(row_loss[{r}])")

    def _updates(self) -> None:
        if self.recipe.normed:
            self._gradients(shape=True, apply=False)
            self.code(f"scale = clip_scale(g, {self.size}, clip_norm)")
            for place in self.code.range("place", self.size, self.lanes, unroll=self.unrolled):
                self.code(f"gradient = load(g, {place}) * scale")
                write_update(self.recipe, self.code, "w", f"{place}", "gradient", "weight", shape=False, apply=True)
        else:
            self._gradients(shape=True, apply=True)

    def _gradients(self, *, shape: bool, apply: bool) -> None:
        for layer in self.layers:
            if layer.inputs:
                self._update_inputs(layer, shape, apply)
            else:
                self._update_outputs(layer, shape, apply)

    def _take(self, place: str, gradient: str, kind: str, shape: bool, apply: bool) -> None:
        """Use the gradient of one vector of parameters."""
        if self.late:
            self.code(f"store(w, {place}, fma(d0, -lr * {gradient}, load(w, {place})))")
            return
        write_update(self.recipe, self.code, "w", place, gradient, kind, shape=shape, apply=apply)
        if not apply:
            self.code(f"store(g, {place}, {gradient})")

    def _update_outputs(self, layer: UnitLayer, shape: bool, apply: bool) -> None:
        """Weights with outputs in lanes, a tile of inputs and a panel at a time, summed over the rows."""
        code, lanes = self.code, self.lanes
        deltas = "d" if layer is self.last else f"s{layer.number}"
        for panel in self._panels(layer):
            start = panel * layer.panel * lanes if isinstance(panel, int) else f"{panel} * {layer.panel * lanes}"
            for first, stop, size in tiles(layer.n_in, 8):
                for k0 in code.range("k0", stop, size, start=first, unroll=self.unrolled):
                    self._outer(layer, deltas, start, k0, size)
                    for i in range(size):
                        for v in range(layer.panel):
                            place = layer.panel_place(f"({_plus(k0, i)})", panel, v)
                            self._take(place, f"g{i}_{v}", "weight", shape, apply)
            if layer.bias:
                for v in range(layer.panel):
                    self._column_sum(layer, deltas, f"{start} + {v * lanes}")
                    self._take(f"{layer.bias_base + v * lanes} + {start}", "column", "bias", shape, apply)

    def _outer(self, layer: UnitLayer, deltas: str, start: int | str, k0: int | str, size: int) -> None:
        """g{i}_{v} = the sum over rows of input k0 + i times the deltas of vector v of a panel."""
        code = self.code
        tile = [(i, v) for i in range(size) for v in range(layer.panel)]
        if self.recipe.batch > 1:
            code(*(f"g{i}_{v} = splat(0.0)" for i, v in tile))
        for r in code.range("r", self.recipe.batch, unroll=self.recipe.batch <= 1):
            place = f"{r} * {layer.width} + {start}" if deltas == "d" else self._at(layer, r, start)
            code(*(f"delta{v} = load({deltas}, {place} + {v * self.lanes})" for v in range(layer.panel)))
            if layer.number == 0:
                code(f"inputs = x + {self._row(r)} * {layer.n_in}")
                inputs = [f"inputs[{_plus(k0, i)}]" for i in range(size)]
            else:
                below = self.layers[layer.number - 1]
                inputs = [f"a{below.number}[{self._at(below, r, _plus(k0, i))}]" for i in range(size)]
            for i, v in tile:
                if self.recipe.batch > 1:
                    code(f"g{i}_{v} = fma({inputs[i]}, delta{v}, g{i}_{v})")
                else:
                    code(f"g{i}_{v} = {inputs[i]} * delta{v}")

    def _column_sum(self, layer: UnitLayer, deltas: str, start: str) -> None:
        """column = the sum over rows of a vector of deltas."""
        code = self.code
        code("column = splat(0.0)") if self.recipe.batch > 1 else None
        for r in code.range("r", self.recipe.batch, unroll=self.recipe.batch <= 1):
            place = f"{r} * {layer.width} + {start}" if deltas == "d" else self._at(layer, r, start)
            delta = f"load({deltas}, {place})"
            code(f"column = column + {delta}" if self.recipe.batch > 1 else f"column = {delta}")

    def _update_inputs(self, layer: UnitLayer, shape: bool, apply: bool) -> None:
        """Weights with inputs in lanes: output by output, vector by vector, summed over the rows."""
        code, lanes, batch = self.code, self.lanes, self.recipe.batch
        below = self.layers[layer.number - 1]
        for v in self._vectors(layer):
            for first, stop, size in tiles(layer.n_out, 16):
                for j0 in range(first, stop, size):
                    outputs = range(j0, j0 + size)
                    code(*(f"g{j} = splat(0.0)" for j in outputs)) if batch > 1 else None
                    for r in code.range("r", batch, unroll=batch <= 1):
                        code(f"a = load(a{below.number}, {self._at(below, r, f'{v} * {lanes}')})")
                        for j in outputs:
                            delta = "1.0" if self.late else f"d[{r} * {layer.width} + {j}]"
                            product = f"fma({delta}, a, g{j})" if batch > 1 else "a" if self.late else f"{delta} * a"
                            code(f"g{j} = {product}")
                    for j in outputs:
                        place = f"{layer.base + j * layer.vectors * lanes} + {v} * {lanes}"
                        self._take(place, f"g{j}", "weight", shape, apply)
        if layer.bias:
            for _ in code.block("if thread == 0:") if self.threaded else [None]:
                for v in range(layer.out_vectors):
                    if self.late:
                        code("column = where(below(1), splat(1.0), 0.0)")
                    else:
                        self._column_sum(layer, "d", f"{v * lanes}")
                        if self.single:
                            code("column = where(below(1), column, 0.0)")
                    self._take(f"{layer.bias_base + v * lanes}", "column", "bias", shape, apply)

    def _vectors(self, layer: UnitLayer) -> object:
        """Loop over this thread's vectors of inputs."""
        n = layer.vectors
        if not self.threaded:
            yield from self.code.range("across", n, unroll=self.unrolled or n <= 2)
            return
        yield from self.code.range("across", f"{n} * (thread + 1) // threads", start=f"{n} * thread // threads")


def _padded_like(layer: UnitLayer, below: UnitLayer) -> UnitLayer:
    """Return a layer with inputs in lanes whose vectors are those of the layer below."""
    layer.vectors = layer.panel = below.out_vectors
    layer.panels = 1
    layer.bias_base = layer.base + layer.n_out * layer.vectors * layer.lanes
    layer.end = layer.bias_base + (layer.width if layer.bias else 0)
    return layer


def _plus(index: int | str, more: int) -> int | str:
    """An index further on, folded where it is known."""
    if isinstance(index, int):
        return index + more
    return f"({index} + {more})" if more else index


def write(recipe: Recipe, lanes: int) -> Generated:
    """Return the program for a recipe."""
    return UnitsWriter(recipe, lanes, fits_registers(recipe, lanes)).write()


def fits_registers(recipe: Recipe, lanes: int) -> bool:
    """Tell whether parameters and optimizer state fit into registers, for batches of one row."""
    if recipe.batch != 1 or len(recipe.layers) > 3 or recipe.n_in > 8:
        return False
    layers = UnitsWriter(recipe, lanes, unrolled=True)
    return layers.size * (1 + len(recipe.state)) <= REGISTERS * lanes
