"""Whole-run programs in which a block of threads holds one network: in shared memory if it fits, else in the caches.

A step is one pass over the layers forward, one back, and one over all parameters; the threads meet in between.
"""

from __future__ import annotations

from nnkernels._recipe import Recipe
from nnkernels.backends.cupy.codegen import program
from nnkernels.backends.cupy.codegen.program import Whole
from nnkernels.backends.cupy.codegen.text import Text

FILES = ("prelude", "philox", "vectors", "lanes", "blocks")
SHARED_BYTES = 48 << 10  #: of a block, without asking for more
MOST_THREADS = 512


def write(recipe: Recipe) -> Whole:
    """Return the program for a recipe."""
    return BlockWriter(recipe).write()


def why_not(recipe: Recipe) -> str | None:
    """Return why a recipe has no such program, or None."""
    room = SHARED_BYTES - _fixed_bytes(recipe)
    if room < 0:
        return f"its activations of {recipe.batch} rows do not fit into {SHARED_BYTES:,} bytes of shared memory"
    return None


def threads(recipe: Recipe) -> int:
    """Return the number of threads of a block: about two elements each where the most are."""
    most = max(max(recipe.batch * layer.n_out, layer.n_in * layer.n_out) for layer in recipe.layers)
    return min(MOST_THREADS, max(32, -(-most // 64) * 32))


def _itemsize(recipe: Recipe) -> int:
    return 4 if recipe.dtype == "float32" else 8


def _fixed_bytes(recipe: Recipe) -> int:
    """Return the bytes of a batch's rows, outputs, slopes and deltas, and of the sums over the block."""
    elements = sum(3 * layer.n_out for layer in recipe.layers) * recipe.batch
    return elements * _itemsize(recipe) + 16 * recipe.batch + 16 * MOST_THREADS // 32


class BlockWriter:
    """Writes a program, part by part."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe, self.text = recipe, Text()
        self.places, self.last = program.tensors(recipe.layers), len(recipe.layers) - 1
        padded = sum(layer.n_in * (layer.n_out | 1) + layer.n_out for layer in recipe.layers)
        bytes_ = padded * (1 + len(recipe.state)) * _itemsize(recipe)
        self.shared = _fixed_bytes(recipe) + bytes_ <= SHARED_BYTES
        self.held = padded if self.shared else recipe.n_parameters
        # an odd distance between the rows of a weight: threads that read a column then use different banks
        self.strides = [layer.n_out | 1 if self.shared else layer.n_out for layer in recipe.layers]
        self.sloped = [
            bool(layer.dropout) or self._activation(number) not in ("identity", "softmax")
            for number, layer in enumerate(recipe.layers)
        ]
        self.weights, self.biases, at = [], [], 0
        for layer, stride in zip(recipe.layers, self.strides, strict=True):
            self.weights.append(at)
            self.biases.append(at + layer.n_in * stride if layer.bias else None)
            at += layer.n_in * stride + layer.bias * layer.n_out

    def write(self) -> Whole:
        """Return the program."""
        recipe, text = self.recipe, self.text
        for _ in program.begin_run(text, "THREADS"):
            self._begin()
            self._pick_rows("0", "0")
            for _ in program.steps(text, recipe):
                self._forward()
                self._backward()
                self._update()
            self._end()
        count = threads(recipe)
        constants = {
            "PARAMETERS": recipe.n_parameters,
            "BATCH": recipe.batch,
            "HELD": self.held,
            "THREADS": count,
        }
        where = "shared memory" if self.shared else "the caches"
        source = program.head(recipe, f"A network in {where}, a block of threads for it.", constants)
        return Whole("block", source + str(text), FILES, count, count, 64)

    def _activation(self, number: int) -> str:
        """Return a layer's activation, as far as it is applied to each element before the loss."""
        return self.recipe.last_activation if number == self.last else self.recipe.layers[number].activation_name

    @property
    def _row_by_row(self) -> bool:
        """Whether a thread takes the loss of a whole row; otherwise, that of the elements whose z it has computed."""
        return self.recipe.loss == "categorical_cross_entropy" or self.recipe.last_activation == "softmax"

    # ---- the beginning and the end

    def _begin(self) -> None:
        recipe, text = self.recipe, self.text
        text("const int64 own = blockIdx.x;")
        program.begin_network(text, recipe, "own")
        arrays = ["p", *recipe.state]
        sources = ["parameters + own * PARAMETERS"]
        sources += [f"state + ({k} * networks + own) * PARAMETERS" for k in range(len(recipe.state))]
        for name, source in zip(arrays, sources, strict=True):
            text(f"real *{name}_global = {source};")
            text(f"__shared__ real {name}[HELD];" if self.shared else f"real *const {name} = {name}_global;")
        for number, layer in enumerate(recipe.layers):
            size = f"BATCH * {layer.n_out}"
            slope = f"s{number + 1}[{size}], " if self.sloped[number] else ""
            text(f"__shared__ real a{number + 1}[{size}], {slope}d{number + 1}[{size}];")
        # two of these: the next step's are written while this step's are read
        text("__shared__ int64 picked[2][BATCH];", "__shared__ double sums[THREADS / 32];")
        if recipe.normed:
            text("__shared__ real tops[THREADS / 32];")
        if self.shared:
            self._copy(arrays, load=True)
        text("double total = 0;")

    def _copy(self, arrays: list[str], *, load: bool) -> None:
        """Write the copying of parameters and state between their canonical and their padded places."""
        for number, (layer, place) in enumerate(zip(self.recipe.layers, self.places, strict=True)):
            for name in arrays:
                inside = (
                    f"{name}[{self.weights[number]} + e / {layer.n_out} * {self.strides[number]} + e % {layer.n_out}]"
                )
                self._move(layer.n_in * layer.n_out, inside, f"{name}_global[{place.weight} + e]", load)
                if place.bias is not None:
                    inside = f"{name}[{self.biases[number]} + e]"
                    self._move(layer.n_out, inside, f"{name}_global[{place.bias} + e]", load)

    def _move(self, size: int, inside: str, outside: str, load: bool) -> None:
        pair = f"{inside} = {outside};" if load else f"{outside} = {inside};"
        self.text(f"FOR_THREADS(e, {size}) {pair}")

    def _end(self) -> None:
        text = self.text
        if self.shared:
            self._copy(["p", *self.recipe.state], load=False)
        text("total = over_block<THREADS>(total, sums, Add());", "if (threadIdx.x == 0) loss[own] += total;")

    # ---- a step

    def _names(self, number: int) -> tuple[str, str]:
        """Return how a layer's weight and bias are written."""
        bias = self.biases[number]
        return f"p + {self.weights[number]}", "nullptr" if bias is None else f"p + {bias}"

    def _inputs(self, number: int) -> str:
        """Return the rows that a layer reads."""
        n = self.recipe.layers[number].n_in
        return f"Rows<{n}>{{a{number}}}" if number else f"DataRows<{n}>{{x, rows}}"

    def _pick_rows(self, step: str, turn: str) -> None:
        """Write where the rows of a step's batch are in the data."""
        self.text(f"FOR_THREADS(row, BATCH) picked[{turn}][row] = {program.row_of(self.recipe, step, 'row')};")

    def _forward(self) -> None:
        recipe, text = self.recipe, self.text
        text("const int64 *const rows = picked[step & 1];")
        text("__syncthreads();  // the rows of this batch are known, and the parameters of the last step")
        self._pick_rows("minimum(step + 1, count - 1)", "(step & 1) ^ 1")
        for number, layer in enumerate(recipe.layers):
            n_in, n = layer.n_in, layer.n_out
            weight, bias = self._names(number)
            text(f"// {program.describe_layer(layer)}")
            sizes = f"BATCH, {n_in}, {n}, {self.strides[number]}"
            for _ in text.block(
                f"block_dense<{sizes}>({self._inputs(number)}, {weight}, {bias}, [&](int e, real z)", "});"
            ):
                self._activate(number)
            if number < self.last or self._row_by_row:
                text("__syncthreads();")

    def _activate(self, number: int) -> None:
        """Write what becomes of an element's z: its output a and slope s."""
        recipe, text, layer, at = self.recipe, self.text, self.recipe.layers[number], number + 1
        activation = self._activation(number)
        if activation in ("identity", "softmax"):
            text(f"a{at}[e] = z;", *[f"s{at}[e] = 1;"] * self.sloped[number])
        else:
            text(f"const Activated y = {activation}_at(z);", f"a{at}[e] = y.a;", f"s{at}[e] = y.slope;")
        if layer.dropout:
            text(f"const real kept = {program.dropout_call(recipe, number, 'e', 'own')};")
            text(f"a{at}[e] *= kept;", f"s{at}[e] *= kept;")

    def _backward(self) -> None:
        recipe, text = self.recipe, self.text
        self._loss()
        text("__syncthreads();")
        for number in range(self.last, 0, -1):
            layer, weight = recipe.layers[number], self._names(number)[0]
            text(f"// back through {program.describe_layer(layer)}")
            sizes = f"BATCH, {layer.n_in}, {layer.n_out}, {self.strides[number]}"
            slope = f" * s{number}[e]" if self.sloped[number - 1] else ""
            below = f"[&](int e, real da) {{ d{number}[e] = da{slope}; }}"
            text(f"block_dense_backward<{sizes}>(d{number + 1}, {weight}, {below});", "__syncthreads();")

    def _loss(self) -> None:
        """Write the loss of each row, and its slope with respect to the last z."""
        recipe, text, n, at = self.recipe, self.text, self.recipe.n_out, self.last + 1
        text(f"// {recipe.loss}")
        call = program.loss_call(recipe)
        if self._row_by_row:
            for _ in text.block("FOR_THREADS(row, BATCH)"):
                text(f"real *z = a{at} + row * {n}, *dz = d{at} + row * {n};")
                text("const int64 from = rows[row];", f"const real *target = t + from * {n};")
                text(f"const real factor = {program.factor_of(recipe, 'row', 'from')};")
                if recipe.loss == "categorical_cross_entropy":
                    text(f"total += categorical<{n}>(z, target, factor, dz);")
                else:
                    text(f"softmax<{n}>(z, z);", f"total += row_loss<{n}>(z, target, factor, dz, {call});")
                    text(f"softmax_slope<{n}>(dz, z, dz);")
            return
        for _ in text.block(f"FOR_THREADS(e, BATCH * {n})"):
            text(f"const int row = e / {n};", "const int64 from = rows[row];")
            text(f"const real factor = {program.factor_of(recipe, 'row', 'from')};")
            text(f"total += row_loss<1>(a{at} + e, t + from * {n} + e % {n}, factor, d{at} + e, {call});")
            text(*[f"d{at}[e] *= s{at}[e];"] * self.sloped[self.last])

    def _update(self) -> None:
        """Write the pass over all parameters; where the norm is clipped, gradients are taken twice."""
        recipe, text = self.recipe, self.text
        if recipe.normed:
            text("real top = 0;")
            self._gradients("top = maximum(top, absolute({g}));")
            text("top = over_block<THREADS>(top, tops, Max());", "const real unit = top == 0 ? real(1) : top;")
            text("double square = 0;")
            self._gradients("square += double({g} / unit) * ({g} / unit);")
            text("const real norm = real(sqrt(over_block<THREADS>(square, sums, Add())));")
            text("const real shrink = minimum(real(1), clip_norm / unit / (norm == 0 ? real(1) : norm));")
        gradient = "{g} * shrink" if recipe.normed else "{g}"
        state = {name: f"{name}[k]" for name in recipe.state}
        self._gradients(program.update_call(recipe, "p[k]", gradient, state) + ";")

    def _gradients(self, use: str) -> None:
        """Write a pass over all parameters k and their gradients; `use` says what for."""
        recipe, text = self.recipe, self.text
        for number, layer in enumerate(recipe.layers):
            n_in, n = layer.n_in, layer.n_out
            bias = self.biases[number]
            calls = [
                (
                    f"block_weight_gradients<BATCH, {n_in}, {n}, {self.strides[number]}>({self._inputs(number)}, ",
                    self.weights[number],
                    True,
                )
            ]
            if bias is not None:
                calls.append((f"block_bias_gradients<BATCH, {n}>(", bias, False))
            for call, at, weight in calls:
                for _ in text.block(f"{call}d{number + 1}, [&](int place, real gradient)", "});"):
                    text(f"[[maybe_unused]] const int k = {at} + place;")
                    text(f"const real shaped = {program.shaped(recipe, 'p[k]', 'gradient', weight=weight)};")
                    text(use.format(g="shaped"))
