"""Whole-run programs for many networks: a network in each lane.

Every number of every network is a lane of a vector, and nothing ever crosses lanes: the program is the plain algorithm
for one network, and what a lane computes does not depend on its neighbors. Networks of one group of lanes share the
number of a step and nothing else; their parameters, rates, rows and masks are their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from nnkernels._recipe import Recipe
from nnkernels.backends.numba.codegen.code import Code, Index, plus, tiles
from nnkernels.backends.numba.codegen.formulas import function_sources
from nnkernels.backends.numba.codegen.program import array_names, dropout_constants, write_update

#: The arguments of `run`. Arrays of networks have their groups first and their lanes last.
ARGUMENTS = {
    "parameters": "reals",  # (groups, parameters and optimizer state, lanes)
    "workspace": "reals",  # of this call
    "x": "reals",  # of all rows of all data sets
    "t": "reals",
    "weight": "reals",  # of all rows, if rows have weights
    "origins": "ints",  # (groups, 2, lanes): the row at which a network's data begin, and its weights
    "order": "ints",  # (groups, steps, batch, lanes): the rows of each batch, unless they are drawn here
    "counts": "ints",  # (steps,): how many rows of a batch count
    "schedule": "reals",  # (steps, columns): what changes from step to step; the rate as a factor
    "settings": "reals",  # (groups, 1 + settings, lanes): the rates, then the numbers that a run reads once
    "loss": "doubles",  # (groups, lanes): the sums of the losses so far
    "seed": "int",
    "numbers": "ints",  # (groups, lanes): of the networks, in the streams of random numbers
    "n_rows": "int",
    "first_step": "int",
    "steps": "int",
    "first": "int",  # of the groups of this call
    "stop": "int",
}
UNROLLED = 150  #: parameters of a network whose program is unrolled altogether
TILE = 8  #: outputs that share a load of an input
ROWS = 4  #: rows that share a load of a weight


class Networks:
    """A program for the networks of one recipe.

    Parameters
    ----------
    recipe : Recipe
        What a step of each network computes.
    lanes : int
        Of the program's vectors.
    draws : bool
        Whether the program draws its rows, independently; else it reads their order, if it needs one.
    own_data, own_weight : bool
        Whether each network has data, or row weights, of its own.

    Attributes
    ----------
    source : str
        Its text.
    workspace : int
        Reals that a call needs beside its arrays.
    ordered : bool
        Whether it reads an order.
    """

    def __init__(
        self, recipe: Recipe, lanes: int, *, draws: bool = False, own_data: bool = False, own_weight: bool = False
    ) -> None:
        writer = _Writer(recipe, lanes, draws=draws, own_data=own_data, own_weight=own_weight)
        self.source, self.lanes, self.workspace = writer.write(), lanes, writer.workspace
        self.ordered = not (recipe.whole or draws)


class _Writer:
    """Writes a program, layer by layer."""

    def __init__(self, recipe: Recipe, lanes: int, *, draws: bool, own_data: bool, own_weight: bool) -> None:
        self.recipe, self.lanes, self.code = recipe, lanes, Code()
        self.draws, self.own_data, self.own_weight = draws, own_data, own_weight
        self.unrolled = recipe.n_parameters <= UNROLLED
        self.rows, self.tile = (1, TILE) if self.unrolled or recipe.batch == 1 else (ROWS, TILE // ROWS * 2)
        self.at_once = recipe.batch == 1 and not recipe.normed  # a gradient is used where it is computed
        self.places: list[tuple[int, int]] = []  # of each layer's weights and biases
        place = 0
        for layer in recipe.layers:
            self.places.append((place, place + layer.n_in * layer.n_out))
            place += layer.n_parameters
        arrays = self._arrays()
        self.workspace = 0 if self.unrolled else sum(size for _, size, _ in arrays) * lanes

    def write(self) -> str:
        """Return the program."""
        code, recipe = self.code, self.recipe
        arguments = ", ".join(f"{name}: {type_}" for name, type_ in ARGUMENTS.items())
        for _ in code.block(f"def run({arguments}):"):
            self._write_arrays()
            for _ in code.range("group", "stop", start="first"):
                self._begin_group()
                for _ in code.range("step", "steps"):
                    self._step()
                code("store(loss, group * LANES, losses)")
        summary = f'"""A network in each lane.\n\n{recipe.describe()}\n"""\n\n\n'
        return summary + function_sources(recipe) + code.text.replace("LANES", str(self.lanes))

    # ---- arrays ------------------------------------------------------------------------------------------------------

    def _arrays(self) -> list[tuple[str, int, str]]:
        """Return name, number of vectors and meaning of a call's own arrays."""
        arrays = [("inputs", self.rows * self.recipe.n_in, "some rows of each network")]
        for number, layer in enumerate(self.recipe.layers):
            arrays.append((f"a{number}", self.rows * layer.n_out, f"layer {number}'s outputs"))
            arrays.append((f"s{number}", self.rows * layer.n_out, "its slopes, then its deltas"))
        if not self.at_once:
            arrays.append(("gradients", self.recipe.n_parameters, "of a batch"))
        return arrays

    def _write_arrays(self) -> None:
        place = 0
        for name, size, what in self._arrays():
            self.code(f"{name} = buffer({size * self.lanes})" if self.unrolled else f"{name} = workspace + {place}")
            self.code(f"# {name}: {what}, ({size}, {self.lanes})")
            place += size * self.lanes

    def _begin_group(self) -> None:
        code, recipe = self.code, self.recipe
        size, names = recipe.n_parameters, array_names(recipe)
        for k, name in enumerate(names):
            code(f"{name} = parameters + (group * {len(names) * size} + {k * size}) * LANES")
        code(f"own = settings + group * {1 + len(recipe.settings)} * LANES", "rate = load(own, 0)")
        code(*(f"{name} = load(own, {1 + k} * LANES)" for k, name in enumerate(recipe.settings)))
        if not (recipe.whole or self.draws):
            code(f"places = order + group * steps * {recipe.batch} * LANES")
        code(*["origin = load(origins, group * 2 * LANES)"] * self.own_data)
        code(*["weight_origin = load(origins, (group * 2 + 1) * LANES)"] * self.own_weight)
        if self.draws or any(layer.dropout for layer in recipe.layers):
            code("network = load(numbers, group * LANES)")
        code("losses = load(loss, group * LANES)")

    # ---- a step ------------------------------------------------------------------------------------------------------

    def _step(self) -> None:
        code, recipe = self.code, self.recipe
        for k, name in enumerate(recipe.scheduled):
            value = f"schedule[step * {len(recipe.scheduled)} + {k}]"
            code(f"{name} = rate * {value}" if name == "lr" else f"{name} = {value}")
        if self.at_once:
            self._rows(0, 1)
            return
        for i in self._loop("i", recipe.n_parameters):
            code(f"store(gradients, {i} * LANES, splat(0.0))")
        for first, stop, n in tiles(recipe.batch, self.rows):
            for row in code.range("row", stop, n, start=first):
                self._rows(row, n)
        self._updates()

    def _rows(self, row: Index, n: int) -> None:
        """Write the way of n rows through the networks and back: what is loaded of the networks serves all of them."""
        recipe = self.recipe
        for r in range(n):
            self._inputs(plus(row, r), r)
        for number in range(len(recipe.layers)):
            self.code("", f"# layer {number} forward")
            self._forward(number, n)
            if number < len(recipe.layers) - 1:
                self._activate(number, row, n)
        for r in range(n):
            self.code("", "# loss")
            _Loss(self, r).write(plus(row, r))
        for number in reversed(range(len(recipe.layers))):
            self.code("", f"# layer {number} backward")
            if number:
                self._backward(number, n)
            self._gradient(number, n)

    def _inputs(self, row: Index, r: int) -> None:
        code, n_in = self.code, self.recipe.n_in
        self._place(row, r)
        for k in self._loop("k", n_in):
            if self._same_rows:
                code(f"store(inputs, ({r * n_in} + {k}) * LANES, splat(x[{row} * {n_in} + {k}]))")
            else:
                code(f"store(inputs, ({r * n_in} + {k}) * LANES, gather(x, place{r} * {n_in} + {k}))")

    @property
    def _same_rows(self) -> bool:
        """Whether all networks read the same rows: all of them, in their order."""
        return self.recipe.whole and not self.own_data

    def _place(self, row: Index, r: int) -> None:
        """Write where a row of each network is, and its weight."""
        code, recipe = self.code, self.recipe
        if recipe.whole:
            code(f"place{r} = splat({row})")
        elif self.draws:
            code(f"high, low = pair(seed, 0, network, splat(first_step + step), splat({row}))")
            code(f"place{r} = (high * n_rows + (low * n_rows >> 32)) >> 32")
        else:
            code(f"place{r} = load(places, (step * {recipe.batch} + {row}) * LANES)")
        if recipe.weighted:
            code(f"weighed{r} = {f'place{r} + weight_origin' if self.own_weight else f'place{r}'}")
        code(*[f"place{r} = place{r} + origin"] * self.own_data)

    def target(self, row: Index, r: int, j: Index) -> str:
        """Return a vector of targets."""
        n = self.recipe.n_out
        return f"splat(t[{row} * {n} + {j}])" if self._same_rows else f"gather(t, place{r} * {n} + {j})"

    def factor(self, row: Index, r: int) -> str:
        """Return what a row's loss is multiplied by."""
        recipe = self.recipe
        if recipe.factor is not None:
            return f"splat(real({recipe.factor!r}))"
        factor = f"share * gather(weight, weighed{r})" if recipe.weighted else "splat(share)"
        return f"where(splat({row}) < splat(counts[step]), {factor}, 0.0)"

    def _input(self, number: int, r: int, k: Index) -> str:
        array = f"a{number - 1}" if number else "inputs"
        return f"load({array}, ({r * self.recipe.layers[number].n_in} + {k}) * LANES)"

    def _forward(self, number: int, n: int) -> None:
        """Write z of a layer, a tile of outputs at a time."""
        code, layer, (weight, bias) = self.code, self.recipe.layers[number], self.places[number]
        for first, stop, size in tiles(layer.n_out, self.tile):
            for j0 in self._loop("j0", stop, size, first):
                for j in range(size):
                    code(f"start = load(w, ({bias} + {j0} + {j}) * LANES)" if layer.bias else "start = splat(0.0)")
                    code(*(f"z{j}_{r} = start" for r in range(n)))
                for k in self._loop("k", layer.n_in):
                    code(*(f"input{r} = {self._input(number, r, k)}" for r in range(n)))
                    for j in range(size):
                        code(f"weight_kj = load(w, ({weight} + {k} * {layer.n_out} + {j0} + {j}) * LANES)")
                        code(*(f"z{j}_{r} = fma(weight_kj, input{r}, z{j}_{r})" for r in range(n)))
                for j, r in product(range(size), range(n)):
                    code(f"store(a{number}, ({r * layer.n_out} + {j0} + {j}) * LANES, z{j}_{r})")

    def _activate(self, number: int, row: Index, n: int) -> None:
        code, layer = self.code, self.recipe.layers[number]
        name, words = layer.activation_name, dropout_constants(layer.dropout)
        if name == "identity" and not layer.dropout:
            return  # `_backward` knows
        for j in self._loop("j", n * layer.n_out):
            z = f"load(a{number}, {j} * LANES)"
            code(*([f"a = {z}", "s = splat(1.0)"] if name == "identity" else [f"a, s = {name}_forward({z})"]))
            if layer.dropout:
                code(f"element = splat({row} * {layer.n_out} + {j})")
                code(f"mask = dropped(seed, network, {number}, first_step + step, element, {words[0]}, {words[1]!r})")
                code("a = a * mask", "s = s * mask")
            code(f"store(a{number}, {j} * LANES, a)", f"store(s{number}, {j} * LANES, s)")

    def _backward(self, number: int, n: int) -> None:
        """Write the deltas of the layer below, a tile of its units at a time."""
        code, layer, below = self.code, self.recipe.layers[number], self.recipe.layers[number - 1]
        weight, plain = self.places[number][0], below.activation_name == "identity" and not below.dropout
        for first, stop, size in tiles(layer.n_in, self.tile):
            for k0 in self._loop("k0", stop, size, first):
                code(*(f"z{k}_{r} = splat(0.0)" for k in range(size) for r in range(n)))
                for j in self._loop("j", layer.n_out):
                    code(*(f"d{r} = load(s{number}, ({r * layer.n_out} + {j}) * LANES)" for r in range(n)))
                    for k in range(size):
                        code(f"weight_kj = load(w, ({weight} + ({k0} + {k}) * {layer.n_out} + {j}) * LANES)")
                        code(*(f"z{k}_{r} = fma(weight_kj, d{r}, z{k}_{r})" for r in range(n)))
                for k, r in product(range(size), range(n)):
                    place = f"({r * layer.n_in} + {k0} + {k}) * LANES"
                    slope = "" if plain else f" * load(s{number - 1}, {place})"
                    code(f"store(s{number - 1}, {place}, z{k}_{r}{slope})")

    def _gradient(self, number: int, n: int) -> None:
        """Write a layer's gradients: added to those of the batch, or used at once."""
        code, layer, (weight, bias) = self.code, self.recipe.layers[number], self.places[number]
        for first, stop, size in tiles(layer.n_out, 1 if self.at_once else self.tile):
            for j0 in self._loop("j0", stop, size, first):
                for j, r in product(range(size), range(n)):
                    code(f"d{j}_{r} = load(s{number}, ({r * layer.n_out} + {j0} + {j}) * LANES)")
                for k in self._loop("k", layer.n_in):
                    code(*(f"input{r} = {self._input(number, r, k)}" for r in range(n)))
                    for j in range(size):
                        place = f"({weight} + {k} * {layer.n_out} + {j0} + {j}) * LANES"
                        self._use(place, [f"input{r} * d{j}_{r}" for r in range(n)], "weight")
                if layer.bias:
                    for j in range(size):
                        self._use(f"({bias} + {j0} + {j}) * LANES", [f"d{j}_{r}" for r in range(n)], "bias")

    def _use(self, place: str, gradients: list[str], kind: str) -> None:
        """Write what becomes of the gradients that the rows give."""
        if self.at_once:
            self.code(f"gradient = {gradients[0]}")
            write_update(self.recipe, self.code, place, "gradient", kind)
            return
        self.code(f"gradient = load(gradients, {place})", *(f"gradient = gradient + {one}" for one in gradients))
        self.code(f"store(gradients, {place}, gradient)")

    # ---- updates -----------------------------------------------------------------------------------------------------

    def _updates(self) -> None:
        recipe = self.recipe
        for kind, base, size in self._tensors():
            self._update(kind, base, size, shape=True, apply=not recipe.normed)
        if recipe.normed:
            self._norm()
            for kind, base, size in self._tensors():
                self._update(kind, base, size, shape=False, apply=True)

    def _tensors(self) -> list[tuple[str, int, int]]:
        """Return kind, place and size of each tensor of parameters."""
        tensors = []
        for layer, (weight, bias) in zip(self.recipe.layers, self.places, strict=True):
            tensors.append(("weight", weight, layer.n_in * layer.n_out))
            if layer.bias:
                tensors.append(("bias", bias, layer.n_out))
        return tensors

    def _update(self, kind: str, base: int, size: int, *, shape: bool, apply: bool) -> None:
        code = self.code
        for i in self._loop("i", base + size, start=base):
            place = f"{i} * LANES"
            code(f"gradient = load(gradients, {place})", *(["gradient = gradient * shrink"] * (not shape)))
            write_update(self.recipe, code, place, "gradient", kind, shape=shape, apply=apply)
            code(*([f"store(gradients, {place}, gradient)"] * (not apply)))

    def _norm(self) -> None:
        """Write the clip's factor of each network, relative to its largest element: squares may overflow."""
        code, size = self.code, self.recipe.n_parameters
        code("most = splat(0.0)")
        for i in self._loop("i", size):
            code(f"most = max(abs(load(gradients, {i} * LANES)), most)")
        code("unit = where(most > 0, most, 1.0)", "squares = splat(0.0)")
        for i in self._loop("i", size):
            code(f"ratio = load(gradients, {i} * LANES) / unit", "squares = fma(ratio, ratio, squares)")
        code("shrink = norm_scale(squares, unit, clip_norm)")

    def _loop(self, name: str, stop: Index, step: int = 1, start: Index = 0) -> Iterator[Index]:
        """Loop, unrolled if everything is."""
        return self.code.range(name, stop, step, start=start, unroll=self.unrolled)


class _Loss:
    """Writes the loss of a row, and its slopes into the place of the last layer's."""

    def __init__(self, writer: _Writer, r: int) -> None:
        self.writer, self.recipe, self.code, self.r = writer, writer.recipe, writer.code, r
        last = len(writer.recipe.layers) - 1
        start = f" + {r * writer.recipe.n_out * writer.lanes}" if r else ""
        self.z, self.d = f"a{last}{start}", f"s{last}{start}"

    def write(self, row: Index) -> None:
        """Write the loss of a row."""
        code, recipe = self.code, self.recipe
        code(f"factor = {self.writer.factor(row, self.r)}", "row_sum = splat(0.0)")
        if recipe.last_activation == "softmax":
            self._exponentials()
            for j in self._outputs():
                code(f"store({self.z}, {j} * LANES, {self._at(self.d, j)} * scale)")
        if recipe.loss == "categorical_cross_entropy":
            self._cross_entropy(row)
        else:
            self._elementwise(row)
        if recipe.last_activation == "softmax":
            self._softmax_backward()
        code("losses = losses + double(row_sum * factor)")

    def _outputs(self) -> Iterator[Index]:
        return self.writer._loop("j", self.recipe.n_out)

    def _at(self, array: str, j: Index) -> str:
        return f"load({array}, {j} * LANES)"

    def _elementwise(self, row: Index) -> None:
        """Write a loss that is a sum over outputs."""
        code, recipe = self.code, self.recipe
        scalars = "".join(f", {name}" for name in recipe.loss_scalars)
        squashed = recipe.last_activation not in ("identity", "softmax")
        for j in self._outputs():
            z = self._at(self.z, j)
            code(f"p, slope = {recipe.last_activation}_forward({z})" if squashed else f"p = {z}")
            code(f"e, error = {recipe.loss}(p, {self.writer.target(row, self.r, j)}, real({recipe.n_out}.0){scalars})")
            code("row_sum = row_sum + e", *(["error = error * slope"] * squashed))
            code(f"store({self.d}, {j} * LANES, error * factor)")

    def _exponentials(self) -> None:
        """Write the deltas' place = exp(p - largest p) and scale = 1 / its sum."""
        code = self.code
        code(f"top = {self._at(self.z, 0)}")
        for j in self._outputs():
            code(f"top = max({self._at(self.z, j)}, top)")
        code("whole = splat(0.0)")
        for j in self._outputs():
            code(f"p = exp({self._at(self.z, j)} - top)", "whole = whole + p", f"store({self.d}, {j} * LANES, p)")
        code("scale = 1 / whole")

    def _cross_entropy(self, row: Index) -> None:
        """As `categorical_cross_entropy_forward` and `_backward` of the reference: nothing cancels."""
        code = self.code
        self._exponentials()
        code("others = splat(0.0)", "label = splat(-1.0)", "shift = splat(0.0)")
        for j in self._outputs():
            code(f"e = {self._at(self.d, j)}", f"target = {self.writer.target(row, self.r, j)}")
            code("others = others + e * (1 - target)", "label = label + e * target")
            code(f"shift = shift + where(target > 0, target * ({self._at(self.z, j)} - top), 0.0)")
        code("row_sum = log1p(others + label) - shift", "scale = scale * factor")
        for j in self._outputs():
            code(f"target = {self.writer.target(row, self.r, j)}", f"e = {self._at(self.d, j)}")
            code(f"store({self.d}, {j} * LANES, scale * (e * (1 - target) - target * others))")

    def _softmax_backward(self) -> None:
        code = self.code
        code("dot = splat(0.0)")
        for j in self._outputs():
            code(f"dot = fma({self._at(self.d, j)}, {self._at(self.z, j)}, dot)")
        for j in self._outputs():
            product = f"{self._at(self.z, j)} * ({self._at(self.d, j)} - dot)"
            code(f"store({self.d}, {j} * LANES, {product})")
