"""Units in lanes, two layers, the second one of few outputs: threads meet once a step.

A thread keeps to its own panels, from the first layer's inputs to its update. All that threads tell each other is what
their panels add to the outputs. The loss has the rows of the batch in lanes, which makes it so little work that every
thread does all of it:

- A: the first layer's outputs, and what each panel adds to the second layer's z; each thread its own panels;
- B: the loss and its deltas; every thread for itself;
- C: the deltas below, gradients and updates; each thread its own panels.
"""

from __future__ import annotations

from collections.abc import Iterator

from nnkernels.backends.numba.codegen.code import Index, plus
from nnkernels.backends.numba.codegen.program import write_barrier
from nnkernels.backends.numba.codegen.rows_loss import RowsLoss
from nnkernels.backends.numba.codegen.units import UnitsWriter
from nnkernels.backends.numba.codegen.units_frame import UnitLayer, UnitsFrame

UNROLLED_PANELS = 8


class OutputLanes:
    """The last layer's z and deltas: the rows of the batch in lanes.

    Parameters
    ----------
    frame : UnitsFrame
        What is known about the program.
    """

    def __init__(self, frame: UnitsFrame) -> None:
        self.frame, self.recipe, self.code, self.lanes = frame, frame.recipe, frame.code, frame.lanes
        self.vectors = -(-self.recipe.batch // self.lanes)
        self.batch = self.vectors * self.lanes
        self.panels = frame.layers[0].panels
        self.size = self.recipe.n_out * self.batch
        self.shares = self.panels * self.size + frame.last.width

    def write_arrays(self) -> None:
        """Name the arrays; every thread has all of z and the deltas."""
        shape = f"({self.recipe.n_out}, {self.batch})"
        self.frame.array("a1", self.size, f"layer 1's z, {shape}", own=True)
        self.frame.array("s1", self.size, f"its deltas, {shape}", own=True)
        what = f"what each panel adds to z, ({self.panels}, {shape[1:]}, and then the bias"
        copies = 1 + self.frame.threaded  # in turns: the next step's A begins before this one's B ends
        self.frame.array("shares", copies * self.shares, what + ", twice" * self.frame.threaded)

    def share(self, panel: Index, j: Index, first: Index) -> str:
        """Return the place of what a panel adds to an output's z, for a vector of rows."""
        return self._in_turn(f"{panel} * {self.size} + {j} * {self.batch} + {first}")

    def shared_bias(self, j: Index) -> str:
        """Return the place of a bias for B: in its own place may stand the next step's already."""
        if self.frame.threaded:
            return f"shares[{self._in_turn(f'{self.panels * self.size} + {j}')}]"
        return f"w[{self.frame.last.bias_base} + {j}]"

    def _in_turn(self, place: str) -> str:
        return f"turn * {self.shares} + {place}" if self.frame.threaded else place

    # ---- what `RowsLoss` asks for ------------------------------------------------------------------------------------

    def at(self, unit: Index, vector: Index) -> str:
        """Return the place of an output's vector."""
        return f"{unit} * {self.batch} + {vector} * {self.lanes}"

    def first_row(self, block: Index, vector: Index) -> str:
        """Return the first row of a vector; there is one block."""
        return f"{vector} * {self.lanes}"

    def write_rows(self, vector: Index, block: Index) -> None:
        """Write `row`; rows past the batch's end repeat the vector's first one."""
        code, batch, first = self.code, self.recipe.batch, f"{vector} * {self.lanes}"
        if self.recipe.whole:
            code(f"row = where(below({batch} - {first}), lanes() + {first}, {first})")
        elif batch == self.batch:
            code(f"row = load(order, step * {batch} + {first})")
        else:
            code(f"row = load_first(order, step * {batch} + {first}, {batch} - {first})")
            code(f"row = where(below({batch} - {first}), row, order[step * {batch} + {first}])")

    def of_rows(self, array: str, j: Index, vector: Index, block: Index, width: int) -> str:
        """Return the j-th column of an array of the data, for a vector of rows."""
        return f"gather({array}, row * {width} + {j})"

    def loop(self, name: str, stop: Index) -> Iterator[Index]:
        """Loop."""
        yield from self.code.range(name, stop)


class ShallowWriter(UnitsWriter):
    """Writes a program, phase by phase."""

    def __init__(self, frame: UnitsFrame) -> None:
        super().__init__(frame)
        self.outputs = OutputLanes(frame)
        self.row_loss = RowsLoss(self.outputs)

    def _targets(self) -> int:
        return self.recipe.n_out

    def _arrays(self) -> None:
        super()._arrays()
        self.outputs.write_arrays()

    def _phases(self) -> None:
        code, frame = self.code, self.frame
        code("", "# A: the first layer, and what each panel adds to the outputs")
        self._first_layer()
        for _ in frame.each("", 1) if frame.threaded and self.last.bias else ():
            for j in code.range("j", self.recipe.n_out):
                code(f"{self.outputs.shared_bias(j)} = w[{self.last.bias_base} + {j}]")
        write_barrier(code, frame.threaded)
        code("", "# B: the loss and its deltas, rows in lanes")
        self._add_shares()
        code("part_loss = double(0.0)")
        self.row_loss.write(0)
        code("losses = losses + part_loss")
        code("", "# C: the deltas below, gradients and updates")
        self._updates()

    def _vectors(self, panel: Index) -> list[Index]:
        """Return where the vectors of a panel of the first layer begin, in a row of its outputs."""
        first = self.layers[0]
        start = panel * first.step if isinstance(panel, int) else f"{panel} * {first.step}"
        return [plus(start, v * self.lanes) for v in range(first.panel)]

    def _panel_done(self, panel: Index) -> None:
        """Write what a panel adds to the last layer's z: for each output, the sums of a vector of rows."""
        code, batch, lanes = self.code, self.recipe.batch, self.lanes
        full = batch // lanes * lanes
        for first, stop, count in ((0, full, lanes), (full, batch, batch - full)):
            for r0 in code.range("r0", stop, count, start=first) if stop > first else ():
                for j in code.range("j", self.recipe.n_out):
                    self._share(panel, j, r0, count)

    def _share(self, panel: Index, j: Index, r0: Index, count: int) -> None:
        code, frame, last = self.code, self.frame, self.last
        for v, within in enumerate(self._vectors(panel)):
            code(f"w{v} = load(w, {last.base} + {j} * {last.step} + {within})")
            for i in range(count):
                a = frame.outputs(self.layers[0], plus(r0, i), within)
                code(f"q{i} = fma({a}, w{v}, q{i})" if v else f"q{i} = {a} * w{v}")
        rows = [f"q{i if i < count else 0}" for i in range(self.lanes)]
        code(f"store(shares, {self.outputs.share(panel, j, r0)}, totals({', '.join(rows)}))")

    def _add_shares(self) -> None:
        """Write the last layer's z: the bias, and then panel after panel."""
        code, outputs = self.code, self.outputs
        for j in code.range("j", self.recipe.n_out):
            for v in code.range("vector", outputs.vectors):
                code(f"z = splat({outputs.shared_bias(j) if self.last.bias else '0.0'})")
                for panel in code.range("panel", outputs.panels, unroll=outputs.panels <= UNROLLED_PANELS):
                    code(f"z = z + load(shares, {outputs.share(panel, j, outputs.first_row(0, v))})")
                code(f"store(a1, {outputs.at(j, v)}, z)")

    def _update_inputs(self, layer: UnitLayer) -> None:
        """Write the deltas below the last layer and the update of its weights: each vector of them is read once."""
        for panel in self.frame.each("panel", self.layers[0].panels):
            for within in self._vectors(panel):
                self._vector_back(layer, within)

    def _vector_back(self, layer: UnitLayer, within: Index) -> None:
        code, frame, below, batch = self.code, self.frame, self.layers[0], self.recipe.batch
        places = [f"{layer.base + j * layer.step} + {within}" for j in range(layer.n_out)]
        code(*(f"w{j} = load(w, {place})" for j, place in enumerate(places)))
        code(*(f"g{j} = splat(0.0)" for j in range(layer.n_out) if batch > 1))
        for r in code.range("r", batch):
            code(f"a = {frame.outputs(below, r, within)}")
            for j in range(layer.n_out):
                code(f"d = s1[{j * self.outputs.batch} + {r}]", f"e = fma(d, w{j}, e)" if j else "e = d * w0")
                code(f"g{j} = fma(d, a, g{j})" if batch > 1 else f"g{j} = d * a")
            code(f"store(s0, {frame.at(below, r, within)}, e * {frame.delta(below, r, within)})")
        for j, place in enumerate(places):
            self._take(place, f"g{j}", "weight")

    def _output_bias(self, layer: UnitLayer, vector: int) -> None:
        """Write the update of a vector of biases: lane j is the sum of the j-th output's deltas over their lanes."""
        code, outputs = self.code, self.outputs
        some = range(vector * self.lanes, min((vector + 1) * self.lanes, layer.n_out))
        for j in some:
            terms = [f"load(s1, {outputs.at(j, v)})" for v in range(outputs.vectors)]
            code(f"q{j} = {' + '.join(terms)}")
        code(f"column = totals({', '.join(f'q{j}' for j in some)})")
        self._take(f"{layer.bias_base + vector * self.lanes}", "column", "bias")
