"""Units in lanes: where a layer's parameters lie, and what the phases of a step know in common."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from nnkernels._recipe import Recipe
from nnkernels.backends.numba.codegen.code import Code, Index, share
from nnkernels.backends.numba.codegen.program import Ints, array_names

INPUT_LANES_OUTPUTS = 16  #: a last layer of at most so many outputs has its inputs in lanes
PANEL = 2  #: vectors of a panel, at most


class UnitLayer:
    """A layer and where its parameters lie.

    Weights (along, across): across the lanes run its outputs, or, with `inputs`, its inputs. Vectors lie in panels, and
    within a panel one input (or output) after the other, so that a product reads memory in order.

    Parameters
    ----------
    number, n_in, n_out, bias : int, int, int, bool
        Its place in the network and its size.
    lanes, base : int, int
        Of a vector; where its weights begin.
    below : UnitLayer or None
        The layer below, whose units are the lanes if the inputs are.
    panel : int
        Vectors of a panel, at most.
    """

    def __init__(
        self,
        number: int,
        n_in: int,
        n_out: int,
        bias: bool,
        *,
        lanes: int,
        base: int,
        below: UnitLayer | None,
        panel: int,
    ) -> None:
        self.number, self.n_in, self.n_out, self.bias = number, n_in, n_out, bias
        self.lanes, self.base, self.inputs = lanes, base, below is not None
        self.out_vectors = -(-n_out // lanes)
        if below is not None:
            self.panel = self.vectors = below.out_vectors
        else:
            self.panel = min(panel, self.out_vectors)
            self.vectors = self.out_vectors = -(-self.out_vectors // self.panel) * self.panel
        self.panels = self.vectors // self.panel
        self.width = self.out_vectors * lanes  # of a row of outputs
        # from a row to the next: rows at multiples of 256 bytes would share a few places of the first cache
        self.stride = self.width + (lanes if self.out_vectors % 4 == 0 else 0)
        self.along = n_out if self.inputs else n_in
        self.step = self.panel * lanes
        self.bias_base = base + self.along * self.vectors * lanes
        self.end = self.bias_base + (self.width if bias else 0)

    def weights(self, along: Index, panel: Index, within: int) -> str:
        """Return where a vector of weights lies: of an input (or output), a panel, and a vector within it."""
        return f"{self.base + within * self.lanes} + {panel} * {self.along * self.step} + {along} * {self.step}"

    def vector(self, along: Index, vector: int) -> str:
        """Return where a vector of weights lies, by its number."""
        return self.weights(along, *divmod(vector, self.panel))

    def places(self) -> list[Ints]:
        """Return where the canonical weights (n_in, n_out) and biases (n_out,) lie."""
        k, j = np.meshgrid(np.arange(self.n_in), np.arange(self.n_out), indexing="ij")
        along, across = (j, k) if self.inputs else (k, j)
        panel, within = np.divmod(across, self.step)
        weights = self.base + panel * self.along * self.step + along * self.step + within
        return [weights, self.bias_base + np.arange(self.n_out)] if self.bias else [weights]


class UnitsFrame:
    """What the phases of a step know: the layers, the arrays, the rows and panels of a thread.

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
        self.recipe, self.lanes, self.unrolled, self.code = recipe, lanes, unrolled, Code()
        self.layers: list[UnitLayer] = []
        self.size, last = 0, len(recipe.layers) - 1
        #: two layers, the second one of few outputs: threads need to hear of each other but once a step
        self.shallow = not unrolled and last == 1 and recipe.n_out <= INPUT_LANES_OUTPUTS
        for number, layer in enumerate(recipe.layers):
            inputs = number == last and number > 0 and layer.n_out <= INPUT_LANES_OUTPUTS
            placed = UnitLayer(
                number,
                layer.n_in,
                layer.n_out,
                layer.bias,
                lanes=lanes,
                base=self.size,
                below=self.layers[-1] if inputs else None,
                panel=self._panel(layer.n_out),
            )
            self.layers.append(placed)
            self.size = placed.end
        self.last = self.layers[-1]
        #: one output, which stands in every lane
        self.single = (
            recipe.n_out == 1 and self.last.inputs and recipe.last_activation != "softmax" and not self.shallow
        )
        #: the deltas' last factor, known late, is left out of them and multiplied in at the update
        plain = not (recipe.decayed or recipe.penalized or recipe.clipped or recipe.normed)
        self.late = unrolled and self.single and recipe.optimizer == "sgd" and plain
        #: the first layer's z as what its sigmoid raises 2 to: its inputs take the factor in advance
        first = recipe.layers[0]
        self.exponents = unrolled and len(recipe.layers) > 1 and first.activation_name == "sigmoid" and not first.bias
        #: the largest number of threads that have something to do
        self.parts = self.layers[0].panels if self.shallow else max(1, min(recipe.batch, self.layers[0].panels))
        self.parts = 1 if unrolled or recipe.serial else self.parts
        self.threaded = self.parts > 1
        self.workspace = 0

    def _panel(self, n_out: int) -> int:
        """Return how many vectors a panel of a layer may have."""
        vectors = -(-n_out // self.lanes)
        if self.unrolled:
            return vectors
        return max(1, min(PANEL, vectors // 2)) if self.shallow else PANEL  # two threads shall both have something

    # ---- arrays ------------------------------------------------------------------------------------------------------

    def write_arrays(self) -> None:
        """Name the arrays: parameters and state, activations, slopes (which become deltas), the last layer's deltas."""
        code, batch = self.code, self.recipe.batch
        names = array_names(self.recipe)
        if self.unrolled:
            code(*(f"{name} = buffer({self.size})" for name in names))
            self.copy_arrays(back=False)
        else:
            code(*(f"{name} = parameters + {i * self.size}" for i, name in enumerate(names)))
        for layer in self.layers:
            number, shape = layer.number, f"({batch}, {layer.stride})"
            copies = 2 if number == 0 and self.turns else 1
            size = copies * batch * layer.stride
            if layer is self.last and self.shallow:
                continue  # see `ShallowWriter`
            if layer is self.last:
                self.array("d", batch * layer.width, f"the last layer's deltas, ({batch}, {layer.width})")
                if not layer.inputs:
                    self.array(f"a{number}", size, f"its z, {shape}")
                continue
            self.array(f"a{number}", size, f"layer {number}'s outputs, {shape}")
            self.array(f"s{number}", size, f"its slopes, then its deltas, {shape}")
            if self.recipe.layers[number].dropout:
                self.array(f"m{number}", batch * layer.n_out + self.lanes, f"its mask, ({batch}, {layer.n_out})")
        if self.recipe.normed:
            self.array("g", self.size, "the gradient, packed like the parameters")
        if self.threaded and not self.shallow:
            self.array("row_loss", batch, f"each row's loss, ({batch},)")

    def array(self, name: str, size: int, what: str, *, own: bool = False) -> None:
        """Name an array; every thread may have its own."""
        size = -(-size // self.lanes) * self.lanes
        if self.unrolled:
            self.code(f"{name} = buffer({size})  # {what}")
        elif own and self.threaded:
            self.code(f"{name} = workspace + ({self.workspace} + thread * {size})  # {what}")
            self.workspace += self.parts * size
        else:
            self.code(f"{name} = workspace + {self.workspace}  # {what}")
            self.workspace += size

    def copy_arrays(self, *, back: bool) -> None:
        """Copy parameters and state between memory and registers."""
        for number, name in enumerate(array_names(self.recipe)):
            for place in range(0, self.size, self.lanes):
                outside = number * self.size + place
                if back:
                    self.code(f"store(parameters, {outside}, load({name}, {place}))")
                else:
                    self.code(f"store({name}, {place}, load(parameters, {outside}))")

    # ---- places and loops --------------------------------------------------------------------------------------------

    @property
    def turns(self) -> bool:
        """Whether steps use two copies of the first layer's outputs in turns: the next A begins before C ends."""
        return self.threaded and not self.shallow

    def row(self, r: Index) -> str:
        """Return the number, in the data, of the batch's r-th row."""
        return f"{r}" if self.recipe.whole else f"order[step * {self.recipe.batch} + {r}]"

    def at(self, layer: UnitLayer, r: Index, within: Index) -> str:
        """Return the place of a row's outputs in a layer's arrays."""
        turn = f"turn * {self.recipe.batch * layer.stride} + " if layer.number == 0 and self.turns else ""
        return f"{turn}{r} * {layer.stride} + {within}"

    def delta(self, layer: UnitLayer, r: Index, within: Index) -> str:
        """Return a vector of a row's deltas."""
        if layer is self.last:
            return f"load(d, {r} * {layer.width} + {within})"
        return f"load(s{layer.number}, {self.at(layer, r, within)})"

    def outputs(self, layer: UnitLayer, r: Index, within: Index) -> str:
        """Return a vector of a row's outputs."""
        return f"load(a{layer.number}, {self.at(layer, r, within)})"

    def each(self, name: str, n: int, *, unroll: bool = False) -> Iterator[Index]:
        """Loop over this thread's share of n things; a single one is the first thread's."""
        if not self.threaded:
            yield from self.code.range(name, n, unroll=self.unrolled or unroll)
        elif n == 1:
            for _ in self.code.block("if thread == 0:"):
                yield 0
        else:
            start, stop = share(n)
            yield from self.code.range(name, stop, start=start)

    def inside(self, layer: UnitLayer, vector: int) -> int:
        """Return how many lanes of a vector of outputs are units; the others are padding."""
        return max(0, min(self.lanes, layer.n_out - vector * self.lanes))
