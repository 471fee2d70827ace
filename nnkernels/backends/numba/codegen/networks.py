"""Whole-run programs for many networks: a network in each lane.

Every number of every network is a lane of a vector, and nothing ever crosses lanes: the program is the plain algorithm
for one network, and what a lane computes does not depend on its neighbors. Networks of one group of lanes share a step's
number and nothing else; their parameters, rates, rows and masks are their own.
"""

from __future__ import annotations

from collections.abc import Iterator

from nnkernels._recipe import Recipe
from nnkernels.backends.numba.codegen.code import Code, Index, tiles
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
        arrays = [("inputs", self.recipe.n_in, "a row of each network")]
        for number, layer in enumerate(self.recipe.layers):
            arrays.append((f"a{number}", layer.n_out, f"layer {number}'s outputs"))
            arrays.append((f"s{number}", layer.n_out, "its slopes, then its deltas"))
        if not self.at_once:
            arrays.append(("gradients", self.recipe.n_parameters, "of a batch"))
        return arrays

    def _write_arrays(self) -> None:
        place = 0
        for name, size, what in self._arrays():
            self.code((f"{name} = buffer({size * self.lanes})" if self.unrolled else f"{name} = workspace + {place}"))
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
            self._row(0)
            return
        for i in self._loop("i", recipe.n_parameters):
            code(f"store(gradients, {i} * LANES, splat(0.0))")
        for row in code.range("row", recipe.batch):
            self._row(row)
        self._updates()

    def _row(self, row: Index) -> None:
        """Write a row's way through the networks and back."""
        recipe = self.recipe
        self._inputs(row)
        for number in range(len(recipe.layers)):
            self.code("", f"# layer {number} forward")
            self._forward(number)
            if number < len(recipe.layers) - 1:
                self._activate(number, row)
        self.code("", "# loss")
        _Loss(self).write(row)
        for number in reversed(range(len(recipe.layers))):
            self.code("", f"# layer {number} backward")
            if number:
                self._backward(number)
            self._gradient(number)

    def _inputs(self, row: Index) -> None:
        code, n_in = self.code, self.recipe.n_in
        self._place(row)
        for k in self._loop("k", n_in):
            if self._same_rows:
                code(f"store(inputs, {k} * LANES, splat(x[{row} * {n_in} + {k}]))")
            else:
                code(f"store(inputs, {k} * LANES, gather(x, place * {n_in} + {k}))")

    @property
    def _same_rows(self) -> bool:
        """Whether all networks read the same rows: all of them, in their order."""
        return self.recipe.whole and not self.own_data

    def _place(self, row: Index) -> None:
        """Write where a row of each network is, and its weight."""
        code, recipe = self.code, self.recipe
        if recipe.whole:
            code(f"place = splat({row})")
        elif self.draws:
            code(f"high, low = pair(seed, 0, network, splat(first_step + step), splat({row}))")
            code("place = (high * n_rows + (low * n_rows >> 32)) >> 32")
        else:
            code(f"place = load(places, (step * {recipe.batch} + {row}) * LANES)")
        if recipe.weighted:
            code(f"weighed = {'place + weight_origin' if self.own_weight else 'place'}")
        code(*["place = place + origin"] * self.own_data)

    def target(self, row: Index, j: Index) -> str:
        """Return a vector of targets."""
        n = self.recipe.n_out
        return f"splat(t[{row} * {n} + {j}])" if self._same_rows else f"gather(t, place * {n} + {j})"

    def factor(self, row: Index) -> str:
        """Return what a row's loss is multiplied by."""
        recipe = self.recipe
        if recipe.factor is not None:
            return f"splat(real({recipe.factor!r}))"
        factor = "share * gather(weight, weighed)" if recipe.weighted else "splat(share)"
        return f"where(splat({row}) < splat(counts[step]), {factor}, 0.0)"

    def _input(self, number: int, k: Index) -> str:
        return f"load({f'a{number - 1}' if number else 'inputs'}, {k} * LANES)"

    def _forward(self, number: int) -> None:
        """Write z of a layer, a tile of outputs at a time."""
        code, layer, (weight, bias) = self.code, self.recipe.layers[number], self.places[number]
        for first, stop, size in tiles(layer.n_out, TILE):
            for j0 in self._loop("j0", stop, size, first):
                for j in range(size):
                    start = f"load(w, ({bias} + {j0} + {j}) * LANES)" if layer.bias else "splat(0.0)"
                    code(f"z{j} = {start}")
                for k in self._loop("k", layer.n_in):
                    code(f"input = {self._input(number, k)}")
                    for j in range(size):
                        place = f"({weight} + {k} * {layer.n_out} + {j0} + {j}) * LANES"
                        code(f"z{j} = fma(load(w, {place}), input, z{j})")
                code(*(f"store(a{number}, ({j0} + {j}) * LANES, z{j})" for j in range(size)))

    def _activate(self, number: int, row: Index) -> None:
        code, layer = self.code, self.recipe.layers[number]
        name, words = layer.activation_name, dropout_constants(layer.dropout)
        if name == "identity" and not layer.dropout:
            return  # `_backward` knows
        for j in self._loop("j", layer.n_out):
            z = f"load(a{number}, {j} * LANES)"
            code(*([f"a = {z}", "s = splat(1.0)"] if name == "identity" else [f"a, s = {name}_forward({z})"]))
            if layer.dropout:
                code(f"element = splat({row} * {layer.n_out} + {j})")
                code(f"mask = dropped(seed, network, {number}, first_step + step, element, {words[0]}, {words[1]!r})")
                code("a = a * mask", "s = s * mask")
            code(f"store(a{number}, {j} * LANES, a)", f"store(s{number}, {j} * LANES, s)")

    def _backward(self, number: int) -> None:
        """Write the deltas of the layer below, a tile of its units at a time."""
        code, layer, below = self.code, self.recipe.layers[number], self.recipe.layers[number - 1]
        weight, plain = self.places[number][0], below.activation_name == "identity" and not below.dropout
        for first, stop, size in tiles(layer.n_in, TILE):
            for k0 in self._loop("k0", stop, size, first):
                code(*(f"z{k} = splat(0.0)" for k in range(size)))
                for j in self._loop("j", layer.n_out):
                    code(f"d = load(s{number}, {j} * LANES)")
                    for k in range(size):
                        place = f"({weight} + ({k0} + {k}) * {layer.n_out} + {j}) * LANES"
                        code(f"z{k} = fma(load(w, {place}), d, z{k})")
                for k in range(size):
                    slope = "" if plain else f" * load(s{number - 1}, ({k0} + {k}) * LANES)"
                    code(f"store(s{number - 1}, ({k0} + {k}) * LANES, z{k}{slope})")

    def _gradient(self, number: int) -> None:
        """Write a layer's gradients: added to those of the batch, or used at once."""
        code, layer, (weight, bias) = self.code, self.recipe.layers[number], self.places[number]
        for j in self._loop("j", layer.n_out):
            code(f"d = load(s{number}, {j} * LANES)")
            for k in self._loop("k", layer.n_in):
                product = f"{self._input(number, k)} * d"
                self._use(f"({weight} + {k} * {layer.n_out} + {j}) * LANES", product, "weight")
            if layer.bias:
                self._use(f"({bias} + {j}) * LANES", "d", "bias")

    def _use(self, place: str, gradient: str, kind: str) -> None:
        if self.at_once:
            self.code(f"gradient = {gradient}")
            write_update(self.recipe, self.code, place, "gradient", kind)
        else:
            self.code(f"store(gradients, {place}, load(gradients, {place}) + {gradient})")

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

    def __init__(self, writer: _Writer) -> None:
        self.writer, self.recipe, self.code = writer, writer.recipe, writer.code
        last = len(writer.recipe.layers) - 1
        self.z, self.d = f"a{last}", f"s{last}"

    def write(self, row: Index) -> None:
        """Write the loss of a row."""
        code, recipe = self.code, self.recipe
        code(f"factor = {self.writer.factor(row)}", "row_sum = splat(0.0)")
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
            code(f"e, error = {recipe.loss}(p, {self.writer.target(row, j)}, real({recipe.n_out}.0){scalars})")
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
            code(f"e = {self._at(self.d, j)}", f"target = {self.writer.target(row, j)}")
            code("others = others + e * (1 - target)", "label = label + e * target")
            code(f"shift = shift + where(target > 0, target * ({self._at(self.z, j)} - top), 0.0)")
        code("row_sum = log1p(others + label) - shift", "scale = scale * factor")
        for j in self._outputs():
            code(f"target = {self.writer.target(row, j)}", f"e = {self._at(self.d, j)}")
            code(f"store({self.d}, {j} * LANES, scale * (e * (1 - target) - target * others))")

    def _softmax_backward(self) -> None:
        code = self.code
        code("dot = splat(0.0)")
        for j in self._outputs():
            code(f"dot = fma({self._at(self.d, j)}, {self._at(self.z, j)}, dot)")
        for j in self._outputs():
            product = f"{self._at(self.z, j)} * ({self._at(self.d, j)} - dot)"
            code(f"store({self.d}, {j} * LANES, {product})")
