"""Whole-run programs for large batches and small layers: the rows of a batch in lanes.

Every number of the forward and backward pass is a vector over rows, a weight meets it as a scalar, and only gradients are
summed over lanes, once a step. The batch is cut into blocks of a few vectors, whose activations stay in the first cache,
and the blocks into parts, each with a gradient of its own; threads take parts, and the gradients of the parts are added
in order, so that the bits do not depend on the number of threads. A network of few parameters and rows is unrolled
altogether, its parameters kept in registers.
"""

from __future__ import annotations

import numpy as np

from nnkernels._recipe import Recipe
from nnkernels.backends.numba.codegen import (
    Code,
    Generated,
    Packing,
    tiles,
    write_barrier,
    write_mask,
    write_run,
    write_schedule,
    write_update,
)

BLOCK = 4  #: vectors of rows in a block
ACCUMULATORS = 24  #: vectors of a tile of the products
PARTS = 8  #: gradients that may be computed at the same time
UNROLLED_PARAMETERS, UNROLLED_VECTORS = 8, 4  #: of what is unrolled altogether


class RowsWriter:
    """Writes the program for a recipe.

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
        self.unrolled = (
            recipe.n_parameters * (1 + len(recipe.state)) <= UNROLLED_PARAMETERS and vectors <= UNROLLED_VECTORS
        )
        self.vectors = vectors if self.unrolled else min(BLOCK, vectors)
        self.rows = self.vectors * lanes  # of a block
        self.blocks = -(-recipe.batch // self.rows)
        self.batch = self.blocks * self.rows
        self.dropout = any(layer.dropout for layer in recipe.layers)
        self.threaded = self.blocks >= 2 and not (self.dropout or recipe.normed)
        self.parts = min(PARTS, self.blocks) if self.threaded else 1
        self.bases: list[tuple[int, int]] = []  # of each layer's weights and biases
        place = 0
        for layer in recipe.layers:
            bias = place + self._padded(layer.n_in * layer.n_out)
            self.bases.append((place, bias))
            place = bias + self._padded(layer.n_out if layer.bias else 0)
        self.size = place
        self.private = 0  # reals of workspace that each thread has for itself
        self.shared = 0

    def _padded(self, n: int) -> int:
        return -(-n // self.lanes) * self.lanes

    def write(self) -> Generated:
        """Return the program."""
        source = write_run(self.recipe, self.code, lambda _: self._run(), "The rows of a batch in lanes.")
        places = []
        for layer, (weight, bias) in zip(self.recipe.layers, self.bases, strict=True):
            places.append(weight + np.arange(layer.n_in * layer.n_out))
            places += [bias + np.arange(layer.n_out)] * layer.bias
        return Generated(
            source,
            lanes=self.lanes,
            packing=Packing(places, self.size),
            workspace=self.shared + self.parts * self.private + 2 * self.rows,
            parts=self.parts,
            columns=self.recipe.whole,
            padded_targets=self.recipe.n_out,
            batch=self.batch,
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
            for number, layer in enumerate(recipe.layers):
                if layer.dropout:
                    size = recipe.batch * layer.n_out
                    write_mask(code, number, layer.dropout, size)
            for part in self._parts():
                self._part(part)
            if self.threaded:
                write_barrier(code)
                code(*(f"losses = losses + loss[{1 + part}]" for part in range(self.parts)))
            code("", "# updates")
            self._updates()
            if self.threaded:
                write_barrier(code)
        for _ in code.block("if thread == 0:"):
            code("loss[0] = losses")
        if self.unrolled:
            self._copy_arrays(back=True)

    def _arrays(self) -> None:
        code, recipe = self.code, self.recipe
        suffixes = ["", *(f"_{name}" for name in recipe.state)]
        if self.unrolled:
            code(*(f"w{suffix} = buffer({self.size * self.lanes})" for suffix in suffixes))
            self._copy_arrays(back=False)
        else:
            code(*(f"w{suffix} = parameters + {i * self.size}" for i, suffix in enumerate(suffixes)))
            code(f"gradients = workspace  # of the parts, ({self.parts}, {self.size})")
            self.shared = self.parts * self.size
            places: list[tuple[str, int, str]] = []
            shape = f"{self.vectors} x {self.lanes}"
            if not recipe.whole:
                places.append(("inputs", recipe.n_in * self.rows, f"the block's inputs, ({recipe.n_in}, {shape})"))
            for number, layer in enumerate(recipe.layers):
                size = layer.n_out * self.rows
                places.append((f"a{number}", size, f"layer {number}'s outputs, ({layer.n_out}, {shape})"))
                places.append((f"s{number}", size, f"its slopes, then its deltas, ({layer.n_out}, {shape})"))
                if layer.dropout:
                    places.append((f"m{number}", self.batch * layer.n_out, f"its mask, ({self.batch}, {layer.n_out})"))
            places.append(("sums", self.size * self.lanes, f"the gradient before it is summed over lanes, ({self.size}, {self.lanes})"))
            self.private = sum(self._padded(size) for _, size, _ in places)
            code(f"own = workspace + ({self.shared} + thread * {self.private})")
            place = 0
            for name, size, what in places:
                code(f"{name} = own + {place}  # {what}")
                place += self._padded(size)
            return
        for number, layer in enumerate(recipe.layers):
            size = layer.n_out * self.rows
            code(f"a{number} = buffer({size})", f"s{number} = buffer({size})")
            if layer.dropout:
                code(f"m{number} = workspace + {self.shared}")
                self.shared += self._padded(self.batch * layer.n_out)
        if not recipe.whole:
            code(f"inputs = buffer({recipe.n_in * self.rows})")
        code(f"sums = buffer({self.size * self.lanes})")

    def _copy_arrays(self, *, back: bool) -> None:
        for number, suffix in enumerate(["", *(f"_{name}" for name in self.recipe.state)]):
            for place in self._used_places():
                outside = number * self.size + place
                if back:
                    self.code(f"parameters[{outside}] = lane(load(w{suffix}, {place * self.lanes}), 0)")
                else:
                    self.code(f"store(w{suffix}, {place * self.lanes}, parameters[{outside}])")

    def _used_places(self) -> list[int]:
        return [
            base + i
            for layer, bases in zip(self.recipe.layers, self.bases, strict=True)
            for base, n in zip(bases, (layer.n_in * layer.n_out, layer.n_out * layer.bias), strict=True)
            for i in range(n)
        ]

    def _parts(self) -> object:
        """Loop over this thread's parts."""
        if not self.threaded:
            yield 0
            return
        n = self.parts
        yield from self.code.range("part", f"{n} * (thread + 1) // threads", start=f"{n} * thread // threads")

    # ---- a part: forward, backward, the sums of its gradient ---------------------------------------------------------

    def _part(self, part: int | str) -> None:
        code = self.code
        code("part_loss = double(0.0)")
        for _ in [None] if self.unrolled else code.range("i", self.size * self.lanes, self.lanes):
            if not self.unrolled:
                code("store(sums, i, splat(0.0))")
        first, last = f"{self.blocks} * {part} // {self.parts}", f"{self.blocks} * ({part} + 1) // {self.parts}"
        bounds = (first, last) if self.threaded else (0, self.blocks)
        for block in code.range("block", bounds[1], start=bounds[0]):
            self._block(block)
        if self.threaded:
            code(f"loss[1 + {part}] = part_loss")
        else:
            code("losses = losses + part_loss")
        if self.unrolled:
            return
        for i in code.range("i", self.size, self.lanes):
            lanes_of_sums = ", ".join(f"load(sums, ({i} + {n}) * {self.lanes})" for n in range(self.lanes))
            code(f"store(gradients, {part} * {self.size} + {i}, totals({lanes_of_sums}))")

    def _block(self, block: int | str) -> None:
        self._inputs(block)
        layers = self.recipe.layers
        for number in range(len(layers)):
            self.code("", f"# layer {number} forward")
            self._forward(number)
            if number < len(layers) - 1:
                self._activate(number, block)
        self.code("", "# loss")
        self._loss(block)
        for number in reversed(range(len(layers))):
            self.code("", f"# layer {number} backward")
            self._gradient(number)
            if number:
                self._backward(number)

    def _inputs(self, block: int | str) -> None:
        code, recipe = self.code, self.recipe
        if recipe.whole:
            return
        for v in range(self.vectors):
            place = f"step * {self.batch} + {block} * {self.rows} + {v * self.lanes}"
            code(f"row{v} = load(order, {place})")
            code(f"start{v} = row{v} * {recipe.n_in}")
        for k in code.range("k", recipe.n_in, unroll=self.unrolled):
            for v in range(self.vectors):
                code(f"store(inputs, {k} * {self.rows} + {v * self.lanes}, gather(x, start{v} + {k}))")

    def _input(self, number: int, k: int | str, v: int, block: int | str = "block") -> str:
        """A vector of a layer's inputs."""
        if number:
            return f"load(a{number - 1}, {k} * {self.rows} + {v * self.lanes})"
        if not self.recipe.whole:
            return f"load(inputs, {k} * {self.rows} + {v * self.lanes})"
        block = 0 if self.blocks == 1 else block
        return f"load(x, {k} * {self.batch} + {block} * {self.rows} + {v * self.lanes})"

    def _weight(self, place: str) -> str:
        """A parameter: a scalar in memory, or a vector of equal lanes in registers."""
        return f"load(w, ({place}) * {self.lanes})" if self.unrolled else f"w[{place}]"

    def _forward(self, number: int) -> None:
        """z of a layer: a tile of outputs for all rows of the block at a time."""
        code, layer, (weight, bias) = self.code, self.recipe.layers[number], self.bases[number]
        for first, stop, size in tiles(layer.n_out, max(1, ACCUMULATORS // self.vectors)):
            for j0 in code.range("j0", stop, size, start=first, unroll=self.unrolled):
                tile = [(j, v) for j in range(size) for v in range(self.vectors)]
                for j, v in tile:
                    start = self._weight(f"{bias} + {j0} + {j}") if layer.bias else "0.0"
                    code(f"z{j}_{v} = splat({start})")
                for k in code.range("k", layer.n_in, unroll=self.unrolled):
                    code(*(f"input{v} = {self._input(number, k, v)}" for v in range(self.vectors)))
                    for j in range(size):
                        code(f"factor = {self._weight(f'{weight + j} + {k} * {layer.n_out} + {j0}')}")
                        code(*(f"z{j}_{v} = fma(factor, input{v}, z{j}_{v})" for v in range(self.vectors)))
                for j, v in tile:
                    code(f"store(a{number}, ({j0} + {j}) * {self.rows} + {v * self.lanes}, z{j}_{v})")

    def _activate(self, number: int, block: int | str) -> None:
        code, layer = self.code, self.recipe.layers[number]
        name = layer.activation_name
        if name == "identity" and not layer.dropout:
            return
        if layer.dropout:
            first = f"{0 if self.blocks == 1 else block} * {self.rows}"
            for v in range(self.vectors):  # rows past the batch's end have masks of other rows: they count for nothing
                code(f"unit{v} = (lanes() + ({first} + {v * self.lanes})) * {layer.n_out}")
        for j in code.range("j", layer.n_out, unroll=self.unrolled):
            for v in range(self.vectors):
                place = f"{j} * {self.rows} + {v * self.lanes}"
                if name == "identity":
                    code(f"a = load(a{number}, {place})", "s = splat(1.0)")
                else:
                    code(f"a, s = {name}_forward(load(a{number}, {place}))")
                if layer.dropout:
                    code(f"mask = gather(m{number}, unit{v} + {j})", "a = a * mask", "s = s * mask")
                code(f"store(a{number}, {place}, a)", f"store(s{number}, {place}, s)")

    # ---- the loss ----------------------------------------------------------------------------------------------------

    def _loss(self, block: int | str) -> None:
        code, recipe, last = self.code, self.recipe, len(self.recipe.layers) - 1
        block = 0 if self.blocks == 1 else block
        for v in range(self.vectors):
            self._factor(v, block)
            code("row_sum = splat(0.0)")
            if recipe.last_activation == "softmax":
                self._exponentials(last, v)
                for j in self._outputs():
                    place = self._output_place(j, v)
                    code(f"store(a{last}, {place}, load(s{last}, {place}) * scale)")
            if recipe.loss == "categorical_cross_entropy":
                self._cross_entropy(last, v, block)
            else:
                self._elementwise(last, v, block)
            if recipe.last_activation == "softmax":
                self._softmax_backward(last, v)
            weighted = "row_sum" if self.plain_factor == 1 else f"row_sum * factor{v}"
            code(f"part_loss = part_loss + double(lane(total({weighted}), 0))")

    def _outputs(self) -> object:
        yield from self.code.range("j", self.recipe.n_out, unroll=self.unrolled)

    def _output_place(self, j: int | str, v: int) -> str:
        return f"{j} * {self.rows} + {v * self.lanes}"

    @property
    def plain_factor(self) -> float | None:
        """The factor that all rows of all blocks share, or None."""
        return self.recipe.factor if self.batch == self.recipe.batch else None

    def _factor(self, v: int, block: int | str) -> None:
        """Write factor{v}, of each row in lanes; rows past the end of the batch have 0."""
        code, recipe = self.code, self.recipe
        if self.plain_factor is not None:
            code(*([f"factor{v} = splat(real({recipe.factor!r}))"] if recipe.factor != 1 else []))
            return
        first = f"{block} * {self.rows} + {v * self.lanes}"
        count = "counts[step]" if recipe.factor is None else f"{recipe.batch}"
        factor = "share" if recipe.factor is None else f"real({recipe.factor!r})"
        if recipe.weighted:
            factor = f"share * load(weight, {first})" if recipe.whole else f"share * gather(weight, row{v})"
        code(f"factor{v} = where(below({count} - ({first})), splat({factor}), 0.0)")

    def _target(self, j: int | str, v: int, block: int | str) -> str:
        if self.recipe.whole:
            return f"load(t, {j} * {self.batch} + {block} * {self.rows} + {v * self.lanes})"
        return f"gather(t, row{v} * {self.recipe.n_out} + {j})"

    def _elementwise(self, last: int, v: int, block: int | str) -> None:
        """A loss that is a sum over outputs; the deltas go where the last layer's slopes would."""
        code, recipe = self.code, self.recipe
        scalars = "".join(f", {name}" for name in recipe.loss_scalars)
        squashing = recipe.last_activation
        for j in self._outputs():
            place = self._output_place(j, v)
            code(f"p = load(a{last}, {place})")
            if squashing not in ("identity", "softmax"):
                code(f"p, slope = {squashing}_forward(p)")
            code(f"e, error = {recipe.loss}(p, {self._target(j, v, block)}, real({recipe.n_out}.0){scalars})")
            code("row_sum = row_sum + e")
            if squashing not in ("identity", "softmax"):
                code("error = error * slope")
            code(f"store(s{last}, {place}, error{'' if self.plain_factor == 1 else f' * factor{v}'})")

    def _exponentials(self, last: int, v: int) -> None:
        """s = exp(p - largest p) and scale = 1 / its sum, over the outputs of each row."""
        code = self.code
        code(f"top = load(a{last}, {self._output_place(0, v)})")
        for j in self._outputs():
            code(f"p = load(a{last}, {self._output_place(j, v)})", "top = where(p > top, p, where(p == p, top, p))")
        code("whole = splat(0.0)")
        for j in self._outputs():
            place = self._output_place(j, v)
            code(f"p = exp(load(a{last}, {place}) - top)", "whole = whole + p", f"store(s{last}, {place}, p)")
        code("scale = 1 / whole")

    def _cross_entropy(self, last: int, v: int, block: int | str) -> None:
        """As `categorical_cross_entropy_forward` and `_backward` of the reference: nothing cancels."""
        code = self.code
        self._exponentials(last, v)
        code("others = splat(0.0)", "label = splat(-1.0)", "shift = splat(0.0)")
        for j in self._outputs():
            place = self._output_place(j, v)
            code(f"e = load(s{last}, {place})", f"target = {self._target(j, v, block)}")
            code("others = others + e * (1 - target)", "label = label + e * target")
            code(f"shift = shift + where(target > 0, target * (load(a{last}, {place}) - top), 0.0)")
        code("row_sum = log1p(others + label) - shift")
        if self.plain_factor != 1:
            code(f"scale = scale * factor{v}")
        for j in self._outputs():
            place = self._output_place(j, v)
            code(f"target = {self._target(j, v, block)}", f"e = load(s{last}, {place})")
            code(f"store(s{last}, {place}, scale * (e * (1 - target) - target * others))")

    def _softmax_backward(self, last: int, v: int) -> None:
        code = self.code
        code("dot = splat(0.0)")
        for j in self._outputs():
            place = self._output_place(j, v)
            code(f"dot = fma(load(s{last}, {place}), load(a{last}, {place}), dot)")
        for j in self._outputs():
            place = self._output_place(j, v)
            code(f"store(s{last}, {place}, load(a{last}, {place}) * (load(s{last}, {place}) - dot))")

    # ---- backward ----------------------------------------------------------------------------------------------------

    def _gradient(self, number: int) -> None:
        """Add inputs times deltas to the sums, a tile of weights at a time."""
        code, layer, (weight, bias) = self.code, self.recipe.layers[number], self.bases[number]
        side = 4 if ACCUMULATORS >= 16 else 2
        for k_first, k_stop, k_size in tiles(layer.n_in, side):
            for k0 in code.range("k0", k_stop, k_size, start=k_first, unroll=self.unrolled):
                for j_first, j_stop, j_size in tiles(layer.n_out, side):
                    for j0 in code.range("j0", j_stop, j_size, start=j_first, unroll=self.unrolled):
                        self._gradient_tile(number, weight, k0, k_size, j0, j_size)
        if layer.bias:
            for j in code.range("j", layer.n_out, unroll=self.unrolled):
                deltas = [f"load(s{number}, {self._output_place(j, v)})" for v in range(self.vectors)]
                place = f"({bias} + {j}) * {self.lanes}"
                start = [] if self.unrolled else [f"load(sums, {place})"]
                code(f"store(sums, {place}, {' + '.join([*start, *deltas])})")

    def _gradient_tile(self, number: int, weight: int, k0: int | str, k_size: int, j0: int | str, j_size: int) -> None:
        code, layer = self.code, self.recipe.layers[number]
        tile = [(k, j) for k in range(k_size) for j in range(j_size)]
        places = {(k, j): f"({weight + k * layer.n_out + j} + {k0} * {layer.n_out} + {j0}) * {self.lanes}" for k, j in tile}
        if not self.unrolled:
            code(*(f"g{k}_{j} = load(sums, {places[k, j]})" for k, j in tile))
        for v in range(self.vectors):
            code(*(f"input{k} = {self._input(number, f'({k0} + {k})', v)}" for k in range(k_size)))
            code(*(f"delta{j} = load(s{number}, ({j0} + {j}) * {self.rows} + {v * self.lanes})" for j in range(j_size)))
            for k, j in tile:
                first = v == 0 and self.unrolled
                code(f"g{k}_{j} = " + (f"input{k} * delta{j}" if first else f"fma(input{k}, delta{j}, g{k}_{j})"))
        code(*(f"store(sums, {places[k, j]}, g{k}_{j})" for k, j in tile))

    def _backward(self, number: int) -> None:
        """Deltas of the layer below, a tile of its units at a time."""
        code, layer, (weight, _) = self.code, self.recipe.layers[number], self.bases[number]
        plain = self.recipe.layers[number - 1].activation_name == "identity" and not self.recipe.layers[number - 1].dropout
        for first, stop, size in tiles(layer.n_in, max(1, ACCUMULATORS // self.vectors)):
            for k0 in code.range("k0", stop, size, start=first, unroll=self.unrolled):
                tile = [(k, v) for k in range(size) for v in range(self.vectors)]
                code(*(f"z{k}_{v} = splat(0.0)" for k, v in tile))
                for j in code.range("j", layer.n_out, unroll=self.unrolled):
                    code(*(f"delta{v} = load(s{number}, {self._output_place(j, v)})" for v in range(self.vectors)))
                    for k in range(size):
                        code(f"factor = {self._weight(f'{weight + k * layer.n_out} + {k0} * {layer.n_out} + {j}')}")
                        code(*(f"z{k}_{v} = fma(factor, delta{v}, z{k}_{v})" for v in range(self.vectors)))
                for k, v in tile:
                    place = f"({k0} + {k}) * {self.rows} + {v * self.lanes}"
                    slope = "" if plain else f" * load(s{number - 1}, {place})"
                    code(f"store(s{number - 1}, {place}, z{k}_{v}{slope})")

    # ---- updates -----------------------------------------------------------------------------------------------------

    def _updates(self) -> None:
        code, recipe = self.code, self.recipe
        if recipe.normed:
            self._each_vector(shape=True, apply=False)
            if self.unrolled:
                self._norm_of_registers()
            else:
                code(f"scale = clip_scale(gradients, {self.size}, clip_norm)")
            self._each_vector(shape=False, apply=True)
        else:
            self._each_vector(shape=True, apply=True)

    def _norm_of_registers(self) -> None:
        """The clip's scale, from sums that hold each gradient in all lanes."""
        code, places = self.code, [place * self.lanes for place in self._used_places()]
        code("most = splat(0.0)")
        for place in places:
            code(f"size_of = abs(load(sums, {place}))", "most = where(size_of > most, size_of, where(size_of == size_of, most, size_of))")
        code("unit = where(most > 0, most, 1.0)", "squares = splat(0.0)")
        for place in places:
            code(f"ratio = load(sums, {place}) / unit", "squares = fma(ratio, ratio, squares)")
        code("norm = sqrt(squares)", "scale = min(where(norm > 0, clip_norm / unit / norm, 1.0), 1.0)")

    def _each_vector(self, *, shape: bool, apply: bool) -> None:
        for layer, bases in zip(self.recipe.layers, self.bases, strict=True):
            for kind, base, n in (("weight", bases[0], layer.n_in * layer.n_out), ("bias", bases[1], layer.n_out)):
                if kind == "weight" or layer.bias:
                    self._tensor(kind, base, n, shape=shape, apply=apply)

    def _tensor(self, kind: str, base: int, n: int, *, shape: bool, apply: bool) -> None:
        code = self.code
        if self.unrolled:
            for i in range(base, base + n):
                place = f"{i * self.lanes}"
                code(f"gradient = load(sums, {place})" + (" * scale" if not shape else ""))
                if shape:
                    code("gradient = total(gradient)")
                write_update(self.recipe, code, "w", place, "gradient", kind, shape=shape, apply=apply)
                if not apply:
                    code(f"store(sums, {place}, gradient)")
            return
        vectors = self._padded(n) // self.lanes
        bounds = (f"{vectors} * thread // threads", f"{vectors} * (thread + 1) // threads")
        for i in code.range("i", bounds[1] if self.threaded else vectors, start=bounds[0] if self.threaded else 0):
            code(f"place = {base} + {i} * {self.lanes}")
            code("gradient = load(gradients, place)" + (" * scale" if not shape else ""))
            for part in range(1, self.parts):
                code(f"gradient = gradient + load(gradients, {part * self.size} + place)")
            write_update(self.recipe, code, "w", "place", "gradient", kind, shape=shape, apply=apply)
            if not apply:
                code("store(gradients, place, gradient)")


def write(recipe: Recipe, lanes: int) -> Generated:
    """Return the program for a recipe."""
    return RowsWriter(recipe, lanes).write()
