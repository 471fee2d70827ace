"""Whole-run programs for small batches: the units of a layer in lanes, the rows of a batch one after the other.

A layer's weights lie with their outputs in lanes; a last layer of few outputs has its inputs in lanes, so that what
comes from the layer below never leaves its lanes. One step has three phases:

- A: the first layer's outputs; each thread its own panels, for all rows;
- B: the rest forward, the loss, the deltas back down to the first layer; each thread its own rows;
- C: gradients and updates; each thread its own panels.

Every number is computed by the same operations in the same order whichever thread does it. A network that fits into
registers is unrolled altogether and runs on one thread; two layers with few outputs need less of the others
(`units_shallow.py`).
"""

from __future__ import annotations

import numpy as np

from nnkernels._recipe import Recipe
from nnkernels.backends.numba.codegen.code import Index, plus, tiles
from nnkernels.backends.numba.codegen.program import (
    Packing,
    Whole,
    write_barrier,
    write_run,
    write_steps,
    write_update,
)
from nnkernels.backends.numba.codegen.units_frame import UnitLayer, UnitsFrame
from nnkernels.backends.numba.codegen.units_loss import UnitsLoss

REGISTERS = 16  #: vectors of parameters and optimizer state that are kept in registers
ROW_TILE, OUTPUT_TILE = 10, 8  #: of the products: rows, vectors of outputs
FEW_ROWS = 16
GRADIENTS = 8, 16  #: vectors of a tile of the gradient, for few rows and for many, which are longer under way
LONG_ROW, MOST_AHEAD = 64, 2**17  #: inputs of a row that is asked for before its step; bytes of a batch, at most


def write(recipe: Recipe, lanes: int) -> Whole:
    """Return the program for a recipe."""
    from nnkernels.backends.numba.codegen.units_shallow import ShallowWriter  # which is made of what follows

    frame = UnitsFrame(recipe, lanes, fits_registers(recipe, lanes))
    return (ShallowWriter if frame.shallow else UnitsWriter)(frame).write()


def fits_registers(recipe: Recipe, lanes: int) -> bool:
    """Tell whether parameters and optimizer state fit into registers, for batches of one row."""
    if recipe.batch != 1 or len(recipe.layers) > 3 or recipe.n_in > 8:
        return False
    return UnitsFrame(recipe, lanes, unrolled=True).size * (1 + len(recipe.state)) <= REGISTERS * lanes


class UnitsWriter:
    """Writes a program, phase by phase."""

    def __init__(self, frame: UnitsFrame) -> None:
        self.frame, self.recipe, self.code = frame, frame.recipe, frame.code
        self.layers, self.last, self.lanes = frame.layers, frame.last, frame.lanes
        self.loss = UnitsLoss(frame)

    def write(self) -> Whole:
        """Return the program."""
        frame, recipe = self.frame, self.recipe
        source = write_run(recipe, self.code, self._run, "The units of a layer in lanes.")
        places = [place for layer in self.layers for place in layer.places()]
        return Whole.written_for(
            recipe,
            source,
            lanes=self.lanes,
            packing=Packing(places, frame.size),
            workspace=frame.workspace + 4 * self.lanes,
            parts=frame.parts,
            batch=recipe.batch,
            targets=self._targets(),
        )

    def _targets(self) -> int:
        """Return the width of a row of targets."""
        return 1 if self.recipe.n_out == 1 else self.last.width

    def _arrays(self) -> None:
        self.frame.write_arrays()

    def _run(self) -> None:
        code, recipe, frame = self.code, self.recipe, self.frame
        self._arrays()
        for _ in write_steps(recipe, code, frame.parts):
            code(*(["turn = step % 2"] * frame.threaded))
            self._phases()
        if frame.unrolled:
            frame.copy_arrays(back=True)

    def _phases(self) -> None:
        """Write a step."""
        code, recipe, threaded = self.code, self.recipe, self.frame.threaded
        code("", "# A: the first layer, for all rows")
        self._first_layer()
        write_barrier(code, threaded)
        code("", "# B: the other layers, the loss, the deltas")
        self._rows()
        write_barrier(code, threaded)
        code("", "# C: gradients and updates")
        if threaded:
            for r in code.range("r", recipe.batch, unroll=recipe.batch <= 16):
                code(f"losses = losses + double(row_loss[{r}])")
        self._updates()

    def _activate(self, layer: UnitLayer, place: str, r: Index, unit: Index) -> None:
        """Turn the z of some units at a place into their outputs and slopes, dropout included."""
        code, description, number = self.code, self.recipe.layers[layer.number], layer.number
        name = description.activation_name
        if name == "identity":
            code(f"a = load(a{number}, {place})", "s = splat(1.0)")
        else:
            function = "sigmoid_of_exponent" if self.frame.exponents and number == 0 else f"{name}_forward"
            code(f"a, s = {function}(load(a{number}, {place}))")
        if description.dropout:
            code(f"mask = load(m{number}, {r} * {layer.n_out} + min({unit}, {layer.n_out}))")
            code("a = a * mask", "s = s * mask")
        if layer.width > layer.n_out and (not isinstance(unit, int) or unit + self.lanes > layer.n_out):
            # a padded unit must not reach the next layer's gradient
            code(f"inside = below({layer.n_out} - {unit})")
            code("a = where(inside, a, 0.0)", "s = where(inside, s, 0.0)")
        code(f"store(a{number}, {place}, a)", f"store(s{number}, {place}, s)")

    # ---- A -----------------------------------------------------------------------------------------------------------

    def _first_layer(self) -> None:
        code, layer, frame, batch = self.code, self.layers[0], self.frame, self.recipe.batch
        for panel in frame.each("panel", layer.panels):
            start = panel * layer.step if isinstance(panel, int) else f"{panel} * {layer.step}"
            for first, stop, size in tiles(batch, ROW_TILE):
                for r0 in code.range("r0", stop, size, start=first, unroll=frame.unrolled):
                    self._product(layer, panel, start, r0, size)
            if layer is not self.last:
                for r in code.range("r", batch, unroll=frame.unrolled):
                    for within in range(layer.panel):
                        unit = plus(start, within * self.lanes)
                        self._activate(layer, frame.at(layer, r, unit), r, unit)
            self._panel_done(panel)

    def _panel_done(self, panel: Index) -> None:
        """Write what a thread does with a panel's outputs at once."""

    def _product(self, layer: UnitLayer, panel: Index, start: Index, r0: Index, rows: int) -> None:
        """Write z of some rows and one panel of the first layer."""
        code, frame, lanes = self.code, self.frame, self.lanes
        tile = [(i, v) for i in range(rows) for v in range(layer.panel)]
        code(*(f"x{i} = x + {frame.row(plus(r0, i))} * {layer.n_in}" for i in range(rows)))
        for i, v in tile:
            bias = f"load(w, {layer.bias_base + v * lanes} + {start})" if layer.bias else "splat(0.0)"
            code(f"z{i}_{v} = {bias}")
        for k in code.range("k", layer.n_in, unroll=frame.unrolled):
            code(*(f"w{v} = load(w, {layer.weights(k, panel, v)})" for v in range(layer.panel)))
            scale = " * -1.4426950408889634" * frame.exponents
            code(*(f"z{i}_{v} = fma(x{i}[{k}]{scale}, w{v}, z{i}_{v})" for i, v in tile))
        for i, v in tile:
            place = frame.at(layer, plus(r0, i), plus(start, v * lanes))
            code(f"store(a{layer.number}, {place}, z{i}_{v})")

    # ---- B -----------------------------------------------------------------------------------------------------------

    def _rows(self) -> None:
        for r in self.frame.each("r", self.recipe.batch):
            for layer in self.layers[1:]:
                if not layer.inputs:
                    self._forward(layer, r)
            self.loss.write(r)
            for layer in self.layers[:0:-1]:
                if layer.inputs:
                    self._backward_inputs(layer, r)
                else:
                    self._backward(layer, r)

    def _forward(self, layer: UnitLayer, r: Index) -> None:
        """Write a hidden layer of one row, its outputs in lanes."""
        code, frame, below = self.code, self.frame, self.layers[layer.number - 1]
        for first, stop, size in tiles(layer.vectors, OUTPUT_TILE):
            for v0 in range(first, stop, size):
                tile = range(v0, v0 + size)
                for v in tile:
                    bias = f"load(w, {layer.bias_base + v * self.lanes})" if layer.bias else "splat(0.0)"
                    code(f"z{v} = {bias}")
                for k in code.range("k", layer.n_in, unroll=frame.unrolled):
                    code(f"input = a{below.number}[{frame.at(below, r, k)}]")
                    code(*(f"z{v} = fma(input, load(w, {layer.vector(k, v)}), z{v})" for v in tile))
                code(*(f"store(a{layer.number}, {frame.at(layer, r, v * self.lanes)}, z{v})" for v in tile))
        if layer is not self.last:
            for v in range(layer.vectors):
                self._activate(layer, frame.at(layer, r, v * self.lanes), r, v * self.lanes)

    def _backward_inputs(self, layer: UnitLayer, r: Index) -> None:
        """Write the deltas below the last layer: the units below are its lanes."""
        code, frame, below, lanes = self.code, self.frame, self.layers[layer.number - 1], self.lanes
        slopes = f"s{below.number}"
        if not frame.late:
            for j in range(layer.n_out):
                code(f"d_{j} = " + ("d0" if frame.single else f"splat(lane(d{j // lanes}, {j % lanes}))"))
        for v in code.range("across", layer.vectors, unroll=frame.unrolled or layer.vectors <= 2):
            place = frame.at(below, r, f"{v} * {lanes}")
            weights = [f"load(w, {layer.base + j * layer.step} + {v} * {lanes})" for j in range(layer.n_out)]
            code(f"e = {weights[0]}" if frame.late else f"e = d_0 * {weights[0]}")
            code(*(f"e = fma(d_{j}, {weight}, e)" for j, weight in enumerate(weights) if j))
            code(f"store({slopes}, {place}, e * load({slopes}, {place}))")

    def _backward(self, layer: UnitLayer, r: Index) -> None:
        """Write the deltas below a layer: for each unit a sum over its lanes, lanes of sums at a time."""
        code, frame, below, lanes = self.code, self.frame, self.layers[layer.number - 1], self.lanes
        code(*(f"delta{v} = {frame.delta(layer, r, v * lanes)}" for v in range(layer.vectors)))
        full = layer.n_in // lanes * lanes
        for first, stop, count in ((0, full, lanes), (full, layer.n_in, layer.n_in - full)):
            for k in code.range("k", stop, count, start=first, unroll=frame.unrolled) if stop > first else ():
                for i in range(count):
                    weights = [f"load(w, {layer.vector(plus(k, i), v)})" for v in range(layer.vectors)]
                    code(f"q{i} = delta0 * {weights[0]}")
                    code(*(f"q{i} = fma(delta{v}, {weight}, q{i})" for v, weight in enumerate(weights) if v))
                sums = f"totals({', '.join(f'q{i}' for i in range(count))})"
                place = frame.at(below, r, k)
                code(f"store(s{below.number}, {place}, {sums} * load(s{below.number}, {place}))")

    # ---- C -----------------------------------------------------------------------------------------------------------

    def _updates(self) -> None:
        code, recipe, frame = self.code, self.recipe, self.frame
        for layer in reversed(self.layers):
            if layer.inputs:
                self._update_inputs(layer)
                self._update_output_bias(layer)
            else:
                self._update(layer)
        if recipe.normed:
            code(f"scale = clip_scale(g, {frame.size}, clip_norm)")
            for place in code.range("place", frame.size, self.lanes, unroll=frame.unrolled):
                code(f"gradient = load(g, {place}) * scale")
                write_update(recipe, code, f"{place}", "gradient", "weight", shape=False)

    def _take(self, place: str, gradient: str, kind: str) -> None:
        """Use the gradient of one vector of parameters: at once, or, to be clipped by norm, later."""
        if self.frame.late:
            self.code(f"store(w, {place}, fma(d0, -lr * {gradient}, load(w, {place})))")
            return
        write_update(self.recipe, self.code, place, gradient, kind, apply=not self.recipe.normed)
        if self.recipe.normed:
            self.code(f"store(g, {place}, {gradient})")

    def _update(self, layer: UnitLayer) -> None:
        """Write the update of weights with outputs in lanes: a tile of inputs and a panel at a time."""
        code, frame = self.code, self.frame
        for panel in frame.each("panel", layer.panels):
            start = panel * layer.step if isinstance(panel, int) else f"{panel} * {layer.step}"
            largest = max(1, GRADIENTS[self.recipe.batch > FEW_ROWS] // layer.panel)
            for first, stop, size in tiles(layer.n_in, largest):
                for k0 in code.range("k0", stop, size, start=first, unroll=frame.unrolled):
                    if layer.number == 0:
                        self._ask_for_inputs(k0)
                    self._outer(layer, start, k0, size)
                    for i in range(size):
                        for v in range(layer.panel):
                            self._take(layer.weights(plus(k0, i), panel, v), f"g{i}_{v}", "weight")
            if layer.bias:
                for v in range(layer.panel):
                    self._column_sum(layer, plus(start, v * self.lanes))
                    self._take(f"{layer.bias_base + v * self.lanes} + {start}", "column", "bias")

    def _ask_for_inputs(self, k0: Index) -> None:
        """Ask for the next step's inputs at these places: its rows may lie anywhere in memory, far from any cache."""
        code, recipe = self.code, self.recipe
        fits = recipe.batch * recipe.n_in * np.dtype(recipe.dtype).itemsize <= MOST_AHEAD
        if recipe.whole or recipe.n_in < LONG_ROW or not fits:
            return
        for r in code.range("r", recipe.batch, unroll=recipe.batch <= FEW_ROWS):
            code(f"prefetch(x, order[min(step + 1, steps - 1) * {recipe.batch} + {r}] * {recipe.n_in} + {k0})")

    def _outer(self, layer: UnitLayer, start: Index, k0: Index, size: int) -> None:
        """Write g{i}_{v}, the sum over rows of input k0 + i times the deltas of vector v of a panel."""
        code, frame, batch = self.code, self.frame, self.recipe.batch
        tile = [(i, v) for i in range(size) for v in range(layer.panel)]
        code(*(f"g{i}_{v} = splat(0.0)" for i, v in tile if batch > 1))
        for r in code.range("r", batch):
            deltas = [frame.delta(layer, r, plus(start, v * self.lanes)) for v in range(layer.panel)]
            code(*(f"delta{v} = {delta}" for v, delta in enumerate(deltas)))
            if layer.number == 0:
                code(f"inputs = x + {frame.row(r)} * {layer.n_in}")
                inputs = [f"inputs[{plus(k0, i)}]" for i in range(size)]
            else:
                below = self.layers[layer.number - 1]
                inputs = [f"a{below.number}[{frame.at(below, r, plus(k0, i))}]" for i in range(size)]
            for i, v in tile:
                product = f"fma({inputs[i]}, delta{v}, g{i}_{v})" if batch > 1 else f"{inputs[i]} * delta{v}"
                code(f"g{i}_{v} = {product}")

    def _column_sum(self, layer: UnitLayer, start: Index) -> None:
        """Write column, the sum over rows of a vector of deltas."""
        batch = self.recipe.batch
        self.code(*(["column = splat(0.0)"] if batch > 1 else []))
        for r in self.code.range("r", batch):
            delta = self.frame.delta(layer, r, start)
            self.code(f"column = column + {delta}" if batch > 1 else f"column = {delta}")

    def _update_inputs(self, layer: UnitLayer) -> None:
        """Write the update of weights with inputs in lanes: vector by vector, output by output."""
        code, frame, lanes, batch = self.code, self.frame, self.lanes, self.recipe.batch
        below = self.layers[layer.number - 1]
        for v in frame.each("across", layer.vectors, unroll=layer.vectors <= 2):
            code(*(f"g{j} = splat(0.0)" for j in range(layer.n_out) if batch > 1))
            for r in code.range("r", batch):
                code(f"a = {frame.outputs(below, r, f'{v} * {lanes}')}")
                for j in range(layer.n_out):
                    delta = f"d[{r} * {layer.width} + {j}]"
                    code(
                        f"g{j} = fma({delta}, a, g{j})" if batch > 1 else f"g{j} = a" + f" * {delta}" * (not frame.late)
                    )
            for j in range(layer.n_out):
                self._take(f"{layer.base + j * layer.step} + {v} * {lanes}", f"g{j}", "weight")

    def _update_output_bias(self, layer: UnitLayer) -> None:
        for _ in self.frame.each("", 1) if layer.bias else ():
            for v in range(layer.out_vectors):
                self._output_bias(layer, v)

    def _output_bias(self, layer: UnitLayer, vector: int) -> None:
        if self.frame.late:
            self.code("column = where(below(1), splat(1.0), 0.0)")
        else:
            self._column_sum(layer, vector * self.lanes)
            if self.frame.single:  # its delta stands in every lane, its bias in one
                self.code("column = where(below(1), column, 0.0)")
        self._take(f"{layer.bias_base + vector * self.lanes}", "column", "bias")
