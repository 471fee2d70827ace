"""Whole-run programs in which a warp holds one network, a lane a unit of each hidden layer.

The way through a step is short: to go from one layer to the next, each lane gives its output to all others through
shared memory, once, and takes the sums by itself. Nothing is ever summed over lanes. The price is copies: a lane holds
its unit's column of a weight, for the way forward, and its row, for the way back; of the last layer it holds all. The
copies see the same numbers in the same order, and stay the same to the last bit.
"""

from __future__ import annotations

from typing import NamedTuple

from nnkernels._recipe import Recipe
from nnkernels.backends.cupy.codegen import program
from nnkernels.backends.cupy.codegen.program import Whole
from nnkernels.backends.cupy.codegen.rows import write_output
from nnkernels.backends.cupy.codegen.text import Text

FILES = ("prelude", "philox", "vectors", "lanes")
WARP = 32


class Part(NamedTuple):
    """Some of a lane's parameters: numbers `at` to `at + size` of them."""

    at: int
    size: int
    weight: bool
    place: str  # of element k in the canonical order
    owner: str  # whether this lane's element counts, and is written back; "" if another copy is
    holder: str  # whether this lane has such parameters at all


class Layout:
    """Which parameters a lane holds, layer by layer.

    Attributes
    ----------
    columns, biases, rows : list of int or None
        Where each layer's column (of the last layer: the whole weight), bias and row begin.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.parts: list[Part] = []
        self.columns: list[int | None] = []
        self.biases: list[int | None] = []
        self.rows: list[int | None] = []
        last = len(recipe.layers) - 1
        for number, (layer, (weight, bias)) in enumerate(
            zip(recipe.layers, program.tensors(recipe.layers), strict=True)
        ):
            n_in, n = layer.n_in, layer.n_out
            here, first = f"lane < {n}", "lane == 0"
            if number < last:
                self.columns.append(self._add(n_in, True, f"{weight} + k * {n} + lane", here, here))
                self.biases.append(None if bias is None else self._add(1, False, f"{bias} + lane", here, here))
            else:
                self.columns.append(self._add(n_in * n, True, f"{weight} + k", first, "true"))
                self.biases.append(None if bias is None else self._add(n, False, f"{bias} + k", first, "true"))
            row = None
            if number:
                row = self._add(n, True, f"{weight} + lane * {n} + k", "", f"lane < {n_in}")
            self.rows.append(row)

    def _add(self, size: int, weight: bool, place: str, owner: str, holder: str) -> int:
        at = self.size
        self.parts.append(Part(at, size, weight, place, owner, holder))
        return at

    @property
    def size(self) -> int:
        """Number of a lane's parameters."""
        return self.parts[-1].at + self.parts[-1].size if self.parts else 0


def write(recipe: Recipe) -> Whole:
    """Return the program for a recipe."""
    return UnitsWriter(recipe).write()


def why_not(recipe: Recipe) -> str | None:
    """Return why a recipe has no such program, or None."""
    if len(recipe.layers) < 2:
        return "there is no hidden layer"
    if any(layer.n_out > WARP for layer in recipe.layers[:-1]):
        return f"a hidden layer has more than {WARP} units"
    return None


def registers(recipe: Recipe) -> int:
    """Estimate the registers of a lane: parameters, gradients, state, and the vectors that are given to it."""
    parameters = Layout(recipe).size * (1 + (recipe.batch > 1) + len(recipe.state))
    hidden = [layer.n_out for layer in recipe.layers[:-1]]
    vectors = recipe.n_in + sum(hidden) + sum(hidden[1:]) + 4 * recipe.n_out  # given forward, and back
    return (parameters + vectors) * (1 if recipe.dtype == "float32" else 2) + 30


class UnitsWriter:
    """Writes a program, part by part."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe, self.layout, self.text = recipe, Layout(recipe), Text()
        self.last = len(recipe.layers) - 1
        self.first = str(recipe.batch == 1).lower()  # a gradient is its only row's

    def write(self) -> Whole:
        """Return the program."""
        recipe, text = self.recipe, self.text
        for _ in program.begin_run(text, str(WARP)):
            self._begin()
            if recipe.batch == 1:
                self._look_ahead()
            for _ in program.steps(text, recipe):
                self._rows()
                self._update()
            self._end()
        widest = max(layer.n_out for layer in recipe.layers[:-1])
        constants = {
            "PARAMETERS": recipe.n_parameters,
            "BATCH": recipe.batch,
            "HELD": self.layout.size,
            "WIDEST": widest,
        }
        source = program.head(recipe, "A network in the registers of a warp, a unit in each lane.", constants)
        return Whole("units", source + str(text), FILES, WARP, WARP, registers(recipe))

    def _begin(self) -> None:
        recipe, text = self.recipe, self.text
        # two buffers for each vector that lanes give to each other: one is read while the other is written
        text(
            f"__shared__ real given[2][{2 * self.last}][WIDEST];",
            "const int lane = int(threadIdx.x);",
            "const int64 own = blockIdx.x;",
        )
        program.begin_network(text, recipe, "own")
        text("parameters += own * PARAMETERS;", "real p[HELD];")
        self._load("parameters", "p")
        for k, name in enumerate(recipe.state):
            text(f"real *{name}_state = state + ({k} * networks + own) * PARAMETERS;", f"real {name}[HELD];")
            self._load(f"{name}_state", name)
        text("double total = 0;", "int turn = 0;")

    def _load(self, source: str, name: str) -> None:
        """Write the loading of a lane's parameters; what it does not have is 0, and stays 0."""
        for part in self.layout.parts:
            value = f"{source}[{part.place}]"
            if part.holder != "true":
                value = f"{part.holder} ? {value} : real(0)"
            self.text(f"UNROLLED(k, {part.size}) {name}[{part.at} + k] = {value};")

    def _end(self) -> None:
        text = self.text
        for name, target in [("p", "parameters"), *((name, f"{name}_state") for name in self.recipe.state)]:
            for part in self.layout.parts:
                if part.owner:
                    text(f"if ({part.owner}) UNROLLED(k, {part.size}) {target}[{part.place}] = {name}[{part.at} + k];")
        text("if (lane == 0) loss[own] += total;")

    def _rows(self) -> None:
        text = self.text
        text("real g[HELD];")
        if self.first == "true":
            text("[[maybe_unused]] constexpr int row = 0;")
            self._row()
            return
        text("UNROLLED(k, HELD) g[k] = 0;")
        for _ in text.block("for (int row = 0; row < BATCH; ++row)"):
            self._row()

    def _row(self) -> None:
        """Write a row's way through the network and back."""
        recipe, text = self.recipe, self.text
        text(f"real a0[{recipe.n_in}], target[{recipe.n_out}];")
        if recipe.batch == 1:
            text("[[maybe_unused]] const int64 from = coming;")
            text(f"load<{recipe.n_in}>(next_x, a0);", f"load<{recipe.n_out}>(next_target, target);")
            text("coming = after;", f"after = {program.row_of(recipe, 'minimum(step + 2, count - 1)', '0')};")
            self._load_next()
        else:
            text(f"const int64 from = {program.row_of(recipe, 'step', 'row')};")
            text(f"load<{recipe.n_in}>(x + from * {recipe.n_in}, a0);")
            text(f"load<{recipe.n_out}>(t + from * {recipe.n_out}, target);")
        text(f"const real factor = {program.factor_of(recipe, 'row', 'from')};")
        text("turn ^= 1;")
        for number in range(self.last):
            self._forward(number)
        bias = self.layout.biases[self.last]
        weight = f"p + {self.layout.columns[self.last]}"
        write_output(text, recipe, self.last, weight, "nullptr" if bias is None else f"p + {bias}")
        for number in reversed(range(len(recipe.layers))):
            self._backward(number)

    def _look_ahead(self) -> None:
        """Write the beginning of loads ahead: of a step's row number two steps before, of its data one.

        Memory is far, and the way through a step is short.
        """
        recipe, text = self.recipe, self.text
        text(f"int64 coming = {program.row_of(recipe, '0', '0')};")
        text(f"int64 after = {program.row_of(recipe, 'minimum(1, count - 1)', '0')};")
        text(f"real next_x[{recipe.n_in}], next_target[{recipe.n_out}];")
        self._load_next()

    def _load_next(self) -> None:
        recipe = self.recipe
        self.text(f"load<{recipe.n_in}>(x + coming * {recipe.n_in}, next_x);")
        self.text(f"load<{recipe.n_out}>(t + coming * {recipe.n_out}, next_target);")

    def _forward(self, number: int) -> None:
        """Write a hidden layer: this lane's output and slope, h and s; the outputs of all lanes, a."""
        recipe, text, layer = self.recipe, self.text, self.recipe.layers[number]
        n_in, n, at = layer.n_in, layer.n_out, number + 1
        bias = self.layout.biases[number]
        start = "real(0)" if bias is None else f"p[{bias}]"
        text(f"// {program.describe_layer(layer)}")
        text(f"real h{at} = dot<{n_in}, 1>(a{number}, p + {self.layout.columns[number]}, {start}), s{at} = 1;")
        if layer.activation_name != "identity":
            text(f"activate<1, {layer.activation_name}_at>(&h{at}, &h{at}, &s{at});")
        if layer.dropout:
            element = f"row * {n} + lane"
            text(f"const real kept{at} = {program.dropout_call(recipe, number, element, 'own')};")
            text(f"h{at} *= kept{at};", f"s{at} *= kept{at};")
        if n < WARP:
            text(f"if (lane >= {n}) h{at} = 0;")
        text(f"real a{at}[{n}];", f"all_lanes<{n}>(h{at}, given[turn][{number}], a{at});")

    def _backward(self, number: int) -> None:
        """Write a layer's gradients, and this lane's delta of the layer below, e, then all lanes', d."""
        text, layout, layer = self.text, self.layout, self.recipe.layers[number]
        n_in, n, above = layer.n_in, layer.n_out, number + 1
        column, bias, row = layout.columns[number], layout.biases[number], layout.rows[number]
        text(f"// back through {program.describe_layer(layer)}")
        if number == self.last:
            text(f"add_outer<{n_in}, {n}, {self.first}>(a{number}, d{above}, g + {column});")
            if bias is not None:
                text(f"add<{n}, {self.first}>(d{above}, g + {bias});")
        else:
            text(f"add_outer<{n_in}, 1, {self.first}>(a{number}, &e{above}, g + {column});")
            if bias is not None:
                text(f"add<1, {self.first}>(&e{above}, g + {bias});")
        if row is None:
            return
        if number < self.last:
            text(f"real d{above}[{n}];", f"all_lanes<{n}>(e{above}, given[turn][{self.last + number}], d{above});")
        text(f"add_outer<1, {n}, {self.first}>(&h{number}, d{above}, g + {row});")
        text(f"const real e{number} = dot<{n}, 1>(d{above}, p + {row}, real(0)) * s{number};")

    def _update(self) -> None:
        recipe, text = self.recipe, self.text
        for part in self.layout.parts:
            if recipe.clipped or (recipe.penalized and part.weight):
                gradient = program.shaped(recipe, "p[k]", "g[k]", weight=part.weight)
                text(f"UNROLLED_RANGE(k, {part.at}, {part.at + part.size}) g[k] = {gradient};")
        if recipe.normed:
            text("const real shrink = norm_factor<HELD, 32>(g, clip_norm, [&](int k) {")
            for part in self.layout.parts:
                text(f"    if (k < {part.at + part.size}) return {part.owner or 'false'};")
            text("    return false;", "});", "UNROLLED(k, HELD) g[k] *= shrink;")
        call = program.update_call(recipe, "p[k]", "g[k]", {name: f"{name}[k]" for name in recipe.state})
        text(f"UNROLLED(k, HELD) {call};")
