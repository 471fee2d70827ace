"""Whole-run programs that hold a network in each thread's registers, or in those of several lanes.

Lanes of a network have the same parameters and take the rows of a batch in turn; their gradients are summed over the
lanes, in the same order in each, so that their parameters stay the same to the last bit.
"""

from __future__ import annotations

from nnkernels._recipe import Recipe
from nnkernels.backends.cupy.codegen import program
from nnkernels.backends.cupy.codegen.program import Whole
from nnkernels.backends.cupy.codegen.text import Text

FILES = ("prelude", "philox", "vectors", "lanes")
THREADS = 128  #: of a block


def write(recipe: Recipe, lanes: int) -> Whole:
    """Return the program for a recipe."""
    return RowsWriter(recipe, lanes).write()


def registers(recipe: Recipe) -> int:
    """Estimate the registers of a thread: parameters, gradients, state, and what a row leaves for its way back."""
    parameters = recipe.n_parameters * (1 + (recipe.batch > 1) + len(recipe.state))
    widths = recipe.n_in + sum(2 * layer.n_out for layer in recipe.layers)
    return (parameters + widths) * (1 if recipe.dtype == "float32" else 2) + 30


class RowsWriter:
    """Writes a program, part by part."""

    def __init__(self, recipe: Recipe, lanes: int) -> None:
        self.recipe, self.lanes = recipe, lanes
        self.text, self.places = Text(), program.tensors(recipe.layers)
        self.first = str(lanes == 1 and recipe.batch == 1).lower()  # a gradient is its only row's
        self.threads = max(32, lanes) if lanes > 1 else THREADS

    def write(self) -> Whole:
        """Return the program."""
        recipe, text = self.recipe, self.text
        for _ in program.begin_run(text, str(self.threads)):
            self._begin()
            for _ in program.steps(text, recipe):
                self._rows()
                self._update()
            self._end()
        constants = {"PARAMETERS": recipe.n_parameters, "BATCH": recipe.batch, "LANES": self.lanes}
        source = program.head(recipe, "A network in the registers of each thread, or of several lanes.", constants)
        return Whole("rows", source + str(text), FILES, self.threads, self.lanes, registers(recipe))

    def _begin(self) -> None:
        text = self.text
        text(
            "const int64 thread = int64(blockIdx.x) * blockDim.x + threadIdx.x;",
            "const int lane = int(thread % LANES);",
            "const bool writes = thread / LANES < networks && lane == 0;",
            "// lanes beyond the last network repeat it: shuffles need them",
            "const int64 own = minimum(thread / LANES, networks - 1);",
        )
        program.begin_network(text, self.recipe, "own")
        text("real p[PARAMETERS];", "load<PARAMETERS>(parameters + own * PARAMETERS, p);")
        for k, name in enumerate(self.recipe.state):
            text(f"real {name}[PARAMETERS];")
            text(f"load<PARAMETERS>(state + ({k} * networks + own) * PARAMETERS, {name});")
        text("double total = 0;")

    def _end(self) -> None:
        text = self.text
        text("total = lane_sum<LANES>(total);")
        for _ in text.block("if (writes)"):
            text("loss[own] += total;", "load<PARAMETERS>(p, parameters + own * PARAMETERS);")
            for k, name in enumerate(self.recipe.state):
                text(f"load<PARAMETERS>({name}, state + ({k} * networks + own) * PARAMETERS);")

    def _rows(self) -> None:
        text = self.text
        text("real g[PARAMETERS];")
        if self.first == "true":
            text("[[maybe_unused]] constexpr int row = 0;")
            self._row()
            return
        text("UNROLLED(k, PARAMETERS) g[k] = 0;")
        for _ in text.block("for (int row = lane; row < BATCH; row += LANES)"):
            self._row()
        if self.lanes > 1:
            text("UNROLLED(k, PARAMETERS) g[k] = lane_sum<LANES>(g[k]);")

    def _row(self) -> None:
        """Write a row's way through the network and back."""
        recipe, text = self.recipe, self.text
        text(f"const int64 from = {program.row_of(recipe, 'step', 'row')};")
        text(f"const real factor = {program.factor_of(recipe, 'row', 'from')};")
        text(f"real a0[{recipe.n_in}], target[{recipe.n_out}];")
        text(f"load<{recipe.n_in}>(x + from * {recipe.n_in}, a0);")
        text(f"load<{recipe.n_out}>(t + from * {recipe.n_out}, target);")
        for number in range(len(recipe.layers) - 1):
            self._forward(number)
        write_output(text, recipe, len(recipe.layers) - 1, *self._names(len(recipe.layers) - 1))
        for number in reversed(range(len(recipe.layers))):
            self._backward(number)

    def _names(self, number: int) -> tuple[str, str]:
        """Return how a layer's weight and bias are written."""
        weight, bias = self.places[number]
        return f"p + {weight}", "nullptr" if bias is None else f"p + {bias}"

    def _forward(self, number: int) -> None:
        """Write a hidden layer's outputs and slopes."""
        recipe, text, layer = self.recipe, self.text, self.recipe.layers[number]
        n_in, n, at = layer.n_in, layer.n_out, number + 1
        text(f"// {program.describe_layer(layer)}", f"real a{at}[{n}], s{at}[{n}];")
        weight, bias = self._names(number)
        text(f"dense<{n_in}, {n}>(a{number}, {weight}, {bias}, a{at});")
        if layer.activation_name == "identity":
            text(f"UNROLLED(j, {n}) s{at}[j] = 1;")
        else:
            text(f"activate<{n}, {layer.activation_name}_at>(a{at}, a{at}, s{at});")
        if layer.dropout:
            for _ in text.block(f"UNROLLED(j, {n})"):
                text(f"const real kept = {program.dropout_call(recipe, number, f'row * {n} + j', 'own')};")
                text(f"a{at}[j] *= kept;", f"s{at}[j] *= kept;")

    def _backward(self, number: int) -> None:
        """Write a layer's gradients, and the deltas of the one below."""
        text, layer = self.text, self.recipe.layers[number]
        n_in, n = layer.n_in, layer.n_out
        weight, bias = self.places[number]
        text(f"// back through {program.describe_layer(layer)}")
        text(f"add_outer<{n_in}, {n}, {self.first}>(a{number}, d{number + 1}, g + {weight});")
        if bias is not None:
            text(f"add<{n}, {self.first}>(d{number + 1}, g + {bias});")
        if number:
            text(f"real d{number}[{n_in}];", f"dense_backward<{n_in}, {n}>(d{number + 1}, p + {weight}, d{number});")
            text(f"multiply<{n_in}>(d{number}, s{number}, d{number});")

    def _update(self) -> None:
        recipe, text = self.recipe, self.text
        for start, stop, weight in program.weight_ranges(recipe):
            if recipe.clipped or (recipe.penalized and weight):
                gradient = program.shaped(recipe, "p[k]", "g[k]", weight=weight)
                text(f"UNROLLED_RANGE(k, {start}, {stop}) g[k] = {gradient};")
        if recipe.normed:
            text("const real shrink = norm_factor<PARAMETERS, 1>(g, clip_norm, [](int) { return true; });")
            text("UNROLLED(k, PARAMETERS) g[k] *= shrink;")
        call = program.update_call(recipe, "p[k]", "g[k]", {name: f"{name}[k]" for name in recipe.state})
        text(f"UNROLLED(k, PARAMETERS) {call};")


def write_output(text: Text, recipe: Recipe, below: int, weight: str, bias: str) -> None:
    """Write the last layer, its loss, and the loss's slope with respect to its z, as d<number of layers>.

    `below` is the number of the vector that it reads.
    """
    layer, n, last = recipe.layers[-1], recipe.n_out, len(recipe.layers)
    text(f"// {program.describe_layer(layer)}, {recipe.loss}")
    text(f"real z[{n}], d{last}[{n}];", f"dense<{layer.n_in}, {n}>(a{below}, {weight}, {bias}, z);")
    if recipe.loss == "categorical_cross_entropy":
        text(f"total += categorical<{n}>(z, target, factor, d{last});")
        return
    call, activation = program.loss_call(recipe), recipe.last_activation
    if activation == "identity":
        text(f"total += row_loss<{n}>(z, target, factor, d{last}, {call});")
        return
    text(f"real a{last}[{n}];")
    if activation == "softmax":
        text(f"softmax<{n}>(z, a{last});", f"total += row_loss<{n}>(a{last}, target, factor, d{last}, {call});")
        text(f"softmax_slope<{n}>(d{last}, a{last}, d{last});")
        return
    text(f"real s{last}[{n}];", f"activate<{n}, {activation}_at>(z, a{last}, s{last});")
    text(f"total += row_loss<{n}>(a{last}, target, factor, d{last}, {call});")
    text(f"multiply<{n}>(d{last}, s{last}, d{last});")
