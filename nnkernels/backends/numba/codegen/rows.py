"""Whole-run programs for large batches and small layers: the rows of a batch in lanes.

Every number of the forward and backward pass is a vector over rows, a weight meets it as a scalar, and only gradients
are summed over lanes, once a step. The batch is cut into blocks of a few vectors, whose activations stay in the first
cache, and the blocks into parts, each with a gradient of its own; threads take parts, and the gradients of the parts
are added in order, so that the bits do not depend on the number of threads. A network of few parameters and rows is
unrolled altogether, its parameters kept in registers.
"""

from __future__ import annotations

from nnkernels._recipe import Recipe
from nnkernels.backends.numba.codegen.code import Index, tiles
from nnkernels.backends.numba.codegen.program import (
    Packing,
    Whole,
    write_barrier,
    write_run,
    write_steps,
    write_update,
)
from nnkernels.backends.numba.codegen.rows_frame import RowsFrame
from nnkernels.backends.numba.codegen.rows_loss import RowsLoss

ACCUMULATORS = 20  #: vectors of a tile of the products
SIDE = 4  #: inputs and outputs of a tile of the gradient


def write(recipe: Recipe, lanes: int) -> Whole:
    """Return the program for a recipe."""
    return RowsWriter(RowsFrame(recipe, lanes)).write()


class RowsWriter:
    """Writes a program, layer by layer."""

    def __init__(self, frame: RowsFrame) -> None:
        self.frame, self.recipe, self.code = frame, frame.recipe, frame.code
        self.vectors, self.lanes = range(frame.vectors), frame.lanes
        self.largest = max(1, ACCUMULATORS // frame.vectors)
        self.loss = RowsLoss(frame)

    def write(self) -> Whole:
        """Return the program."""
        frame, recipe = self.frame, self.recipe
        source = write_run(recipe, self.code, self._run, "The rows of a batch in lanes.")
        return Whole.written_for(
            recipe,
            source,
            lanes=self.lanes,
            packing=Packing(frame.places(), frame.size),
            workspace=frame.shared + frame.parts * frame.private + 2 * frame.rows,
            parts=frame.parts,
            columns=recipe.whole,
            targets=recipe.n_out,
            batch=frame.batch,
        )

    def _run(self) -> None:
        code, recipe, frame = self.code, self.recipe, self.frame
        frame.write_arrays()
        for _ in write_steps(recipe, code, frame.parts):
            for part in frame.each("part", frame.parts):
                self._part(part)
            write_barrier(code, frame.threaded)
            code(*(f"losses = losses + loss[{part}]" for part in range(frame.parts)))
            code("", "# updates")
            self._updates()
            write_barrier(code, frame.threaded)
        if frame.unrolled:
            frame.copy_arrays(back=True)

    # ---- a part: forward, backward, the sums of its gradient ---------------------------------------------------------

    def _part(self, part: Index) -> None:
        code, frame, lanes = self.code, self.frame, self.lanes
        code("part_loss = double(0.0)")
        for i in code.range("i", frame.size * lanes, lanes) if not frame.unrolled else ():
            code(f"store(sums, {i}, splat(0.0))")
        start, stop = f"{frame.blocks} * {part} // {frame.parts}", f"{frame.blocks} * ({part} + 1) // {frame.parts}"
        whole = frame.parts == 1
        for block in code.range("block", frame.blocks if whole else stop, start=0 if whole else start):
            self._block(block)
        code(f"loss[{part}] = part_loss")
        for i in code.range("i", frame.size, lanes) if not frame.unrolled else ():
            sums = ", ".join(f"load(sums, ({i} + {n}) * {lanes})" for n in range(lanes))
            code(f"store(gradients, {part} * {frame.size} + {i}, totals({sums}))")

    def _block(self, block: Index) -> None:
        layers = self.recipe.layers
        self._inputs(block)
        for number in range(len(layers)):
            self.code("", f"# layer {number} forward")
            self._forward(number, block)
            if number < len(layers) - 1:
                self._activate(number, block)
        self.code("", "# loss")
        self.loss.write(block)
        for number in reversed(range(len(layers))):
            self.code("", f"# layer {number} backward")
            self._gradient(number, block)
            if number:
                self._backward(number)

    def _inputs(self, block: Index) -> None:
        """Bring the block's rows together, unless the batch is all rows in order."""
        code, recipe, frame = self.code, self.recipe, self.frame
        if recipe.whole:
            return
        for v in self.vectors:
            code(f"row{v} = load(order, step * {frame.batch} + {frame.first_row(block, v)})")
            code(f"start{v} = row{v} * {recipe.n_in}")
        for k in frame.loop("k", recipe.n_in):
            code(*(f"store(inputs, {frame.at(k, v)}, gather(x, start{v} + {k}))" for v in self.vectors))

    def _input(self, number: int, k: Index, v: int, block: Index) -> str:
        """Return a vector of a layer's inputs."""
        if number:
            return f"load(a{number - 1}, {self.frame.at(k, v)})"
        if self.recipe.whole:
            return f"load(x, {k} * {self.frame.batch} + {self.frame.first_row(block, v)})"
        return f"load(inputs, {self.frame.at(k, v)})"

    def _forward(self, number: int, block: Index) -> None:
        """Write z of a layer: a tile of outputs for all rows of the block at a time."""
        code, frame, layer = self.code, self.frame, self.recipe.layers[number]
        weight, bias = frame.bases[number]
        for first, stop, size in tiles(layer.n_out, self.largest):
            for j0 in frame.loop("j0", stop, size, first):
                tile = [(j, v) for j in range(size) for v in self.vectors]
                for j, v in tile:
                    code(f"z{j}_{v} = splat({frame.weight(f'{bias} + {j0} + {j}') if layer.bias else '0.0'})")
                for k in frame.loop("k", layer.n_in):
                    code(*(f"input{v} = {self._input(number, k, v, block)}" for v in self.vectors))
                    for j in range(size):
                        code(f"factor = {frame.weight(f'{weight + j} + {k} * {layer.n_out} + {j0}')}")
                        code(*(f"z{j}_{v} = fma(factor, input{v}, z{j}_{v})" for v in self.vectors))
                code(*(f"store(a{number}, {frame.at(f'({j0} + {j})', v)}, z{j}_{v})" for j, v in tile))

    def _activate(self, number: int, block: Index) -> None:
        code, frame, layer = self.code, self.frame, self.recipe.layers[number]
        name = layer.activation_name
        if name == "identity" and not layer.dropout:
            return  # `_backward` knows
        for j in frame.loop("j", layer.n_out):
            for v in frame.loop("vector", frame.vectors):
                z = f"load(a{number}, {frame.at(j, v)})"
                code(*([f"a = {z}", "s = splat(1.0)"] if name == "identity" else [f"a, s = {name}_forward({z})"]))
                if layer.dropout:
                    # rows past the batch's end have masks of other rows: they count for nothing
                    unit = f"(lanes() + ({frame.first_row(block, v)})) * {layer.n_out} + {j}"
                    code(f"mask = gather(m{number}, {unit})", "a = a * mask", "s = s * mask")
                code(*(f"store({value}{number}, {frame.at(j, v)}, {value})" for value in "as"))

    # ---- backward ----------------------------------------------------------------------------------------------------

    def _gradient(self, number: int, block: Index) -> None:
        """Add inputs times deltas to the sums, a tile of weights at a time."""
        code, frame, layer = self.code, self.frame, self.recipe.layers[number]
        for k_first, k_stop, k_size in tiles(layer.n_in, SIDE):
            for k0 in frame.loop("k0", k_stop, k_size, k_first):
                for j_first, j_stop, j_size in tiles(layer.n_out, SIDE):
                    for j0 in frame.loop("j0", j_stop, j_size, j_first):
                        self._gradient_tile(number, block, (k0, k_size), (j0, j_size))
        for j in frame.loop("j", layer.n_out) if layer.bias else ():
            place = f"({frame.bases[number][1]} + {j}) * {self.lanes}"
            terms = [f"load(s{number}, {frame.at(j, v)})" for v in self.vectors]
            before = [] if frame.unrolled else [f"load(sums, {place})"]
            code(f"store(sums, {place}, {' + '.join([*before, *terms])})")

    def _gradient_tile(self, number: int, block: Index, inputs: tuple[Index, int], outputs: tuple[Index, int]) -> None:
        code, frame, layer = self.code, self.frame, self.recipe.layers[number]
        (k0, k_size), (j0, j_size), weight = inputs, outputs, frame.bases[number][0]
        places = {
            (k, j): f"({weight + k * layer.n_out + j} + {k0} * {layer.n_out} + {j0}) * {self.lanes}"
            for k in range(k_size)
            for j in range(j_size)
        }
        if not frame.unrolled:
            code(*(f"g{k}_{j} = load(sums, {place})" for (k, j), place in places.items()))
        for v in self.vectors:
            code(*(f"input{k} = {self._input(number, f'({k0} + {k})', v, block)}" for k in range(k_size)))
            code(*(f"delta{j} = load(s{number}, {frame.at(f'({j0} + {j})', v)})" for j in range(j_size)))
            for k, j in places:
                first = v == 0 and frame.unrolled
                code(f"g{k}_{j} = " + (f"input{k} * delta{j}" if first else f"fma(input{k}, delta{j}, g{k}_{j})"))
        code(*(f"store(sums, {place}, g{k}_{j})" for (k, j), place in places.items()))

    def _backward(self, number: int) -> None:
        """Write the deltas of the layer below, a tile of its units at a time."""
        code, frame, layer, below = self.code, self.frame, self.recipe.layers[number], self.recipe.layers[number - 1]
        weight, plain = frame.bases[number][0], below.activation_name == "identity" and not below.dropout
        for first, stop, size in tiles(layer.n_in, self.largest):
            for k0 in frame.loop("k0", stop, size, first):
                tile = [(k, v) for k in range(size) for v in self.vectors]
                code(*(f"z{k}_{v} = splat(0.0)" for k, v in tile))
                for j in frame.loop("j", layer.n_out):
                    code(*(f"delta{v} = load(s{number}, {frame.at(j, v)})" for v in self.vectors))
                    for k in range(size):
                        code(f"factor = {frame.weight(f'{weight + k * layer.n_out} + {k0} * {layer.n_out} + {j}')}")
                        code(*(f"z{k}_{v} = fma(factor, delta{v}, z{k}_{v})" for v in self.vectors))
                for k, v in tile:
                    place = frame.at(f"({k0} + {k})", v)
                    slope = "" if plain else f" * load(s{number - 1}, {place})"
                    code(f"store(s{number - 1}, {place}, z{k}_{v}{slope})")

    # ---- updates -----------------------------------------------------------------------------------------------------

    def _updates(self) -> None:
        code, normed = self.code, self.recipe.normed
        tensor = self._registers if self.frame.unrolled else self._tensor
        for kind, base, n in self.frame.tensors():
            tensor(kind, base, n, shape=True, apply=not normed)
        if normed:
            if self.frame.unrolled:
                self._norm_of_registers()
            else:
                code(f"scale = clip_scale(gradients, {self.frame.size}, clip_norm)")
            for kind, base, n in self.frame.tensors():
                tensor(kind, base, n, shape=False, apply=True)

    def _tensor(self, kind: str, base: int, n: int, *, shape: bool, apply: bool) -> None:
        """Write the update of a tensor: the gradients of the parts, added in order, a vector at a time."""
        code, frame = self.code, self.frame
        for i in frame.each("i", frame.padded(n) // self.lanes):
            code(f"place = {base} + {i} * {self.lanes}", "gradient = load(gradients, place)")
            for part in range(1, frame.parts):
                code(f"gradient = gradient + load(gradients, {part * frame.size} + place)")
            code(*(["gradient = gradient * scale"] * (not shape)))
            write_update(self.recipe, code, "place", "gradient", kind, shape=shape, apply=apply)
            code(*(["store(gradients, place, gradient)"] * (not apply)))

    def _registers(self, kind: str, base: int, n: int, *, shape: bool, apply: bool) -> None:
        """Write the update of a tensor in registers, whose gradients are still to be summed over lanes."""
        code = self.code
        for i in range(base, base + n):
            place = f"{i * self.lanes}"
            code(f"gradient = total(load(sums, {place}))" if shape else f"gradient = load(sums, {place}) * scale")
            write_update(self.recipe, code, place, "gradient", kind, shape=shape, apply=apply)
            code(*([f"store(sums, {place}, gradient)"] * (not apply)))

    def _norm_of_registers(self) -> None:
        """Write the clip's scale, from sums that hold each gradient in all lanes."""
        code = self.code
        places = [i * self.lanes for _, base, n in self.frame.tensors() for i in range(base, base + n)]
        code("most = splat(0.0)", *(f"most = max(abs(load(sums, {place})), most)" for place in places))
        code("unit = where(most > 0, most, 1.0)", "squares = splat(0.0)")
        for place in places:
            code(f"ratio = load(sums, {place}) / unit", "squares = fma(ratio, ratio, squares)")
        code("scale = norm_scale(squares, unit, clip_norm)")
