"""What every whole-run program shares: its arguments, the formulas it calls, the numbers it reads, the update."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

from nnkernels._formulas import ACTIVATIONS, LOSSES, OPTIMIZERS
from nnkernels._layers import Dense
from nnkernels._recipe import Recipe
from nnkernels.backends._printing import without
from nnkernels.backends.cupy.codegen.text import Text
from nnkernels.backends.cupy.files import read
from nnkernels.backends.cupy.printing import activation_function, call_lines, loss_function, optimizer_function

#: Of `run`. Network k of a launch has parameters and state of its own; its data begin at row k * data_rows, its weights
#: at k * weight_rows, its order and schedule at k * order_network and k * schedule_network: 0 where all share them.
ARGUMENTS = (
    "real *parameters",  # (networks, P), in the canonical order
    "real *OPTIONAL state",  # (arrays of the optimizer, networks, P)
    "double *loss",  # (networks,): the sum of the losses so far
    "const real *x",
    "const real *t",
    "const real *OPTIONAL weight",  # (rows,), if rows have weights
    "const int64 *OPTIONAL order",  # (steps, batch): the rows of each batch
    "const int64 *OPTIONAL counts",  # (steps,): how many rows of a batch count, if not all
    "const real *schedule",  # (steps, columns): what changes from step to step
    "const real *settings",
    "uint64 seed",
    "int64 network",  # number of the launch's first network, in the streams of random numbers
    "int64 first_step",
    "int64 steps",
    "int64 networks",
    "int64 data_rows",
    "int64 weight_rows",
    "int64 order_network",
    "int64 schedule_network",
)


class Whole(NamedTuple):
    """A program for one recipe.

    Attributes
    ----------
    form : str
        How it lays the network out: "rows", "units" or "block".
    source : str
        What is written for the recipe; `files` stand before it.
    files : tuple of str
        The `.cu` files it needs.
    threads : int
        Of a block.
    lanes : int
        Threads of a network.
    registers : int
        Of a thread, estimated: what `choice` decides by.
    """

    form: str
    source: str
    files: tuple[str, ...]
    threads: int
    lanes: int
    registers: int

    @property
    def complete(self) -> str:
        """All that is compiled: the `.cu` files that the program needs, then itself."""
        return f'{read(*self.files)}#line 1 "run.cu"\n{self.source}'

    def blocks(self, networks: int) -> int:
        """Return the number of blocks of a launch."""
        return -(-networks * self.lanes // self.threads)


class Tensor(NamedTuple):
    """Where a layer's weight and bias begin in the canonical order."""

    weight: int
    bias: int | None


def tensors(layers: tuple[Dense, ...]) -> list[Tensor]:
    """Return where each layer's parameters are."""
    places, at = [], 0
    for layer in layers:
        size = layer.n_in * layer.n_out
        places.append(Tensor(at, at + size if layer.bias else None))
        at += layer.n_parameters
    return places


def head(recipe: Recipe, summary: str, constants: dict[str, int]) -> str:
    """Return what stands before `run`: the summary, the constants, and the formulas that this recipe uses."""
    text = f"// {summary}\n// {recipe.describe()}\n\n"
    text += "".join(f"constexpr int {name} = {value};\n" for name, value in constants.items())
    used = {layer.activation_name for layer in recipe.layers} - {"identity", "softmax"}
    text += "".join(activation_function(name, ACTIVATIONS[name]) for name in sorted(used))
    if recipe.loss in LOSSES:
        text += loss_function(recipe.loss, LOSSES[recipe.loss])
    formula = OPTIMIZERS[recipe.optimizer]
    statements = formula.statements() if recipe.decayed else without(formula.statements(), "weight_decay")
    return text + optimizer_function(recipe.optimizer, formula, statements) + "\n"


def begin_run(text: Text, bounds: str) -> Iterator[None]:
    """Write `run` around what a ``for`` over this writes."""
    # one block a multiprocessor will do: registers are for speed, and none may spill
    start = f'extern "C" __global__ void __launch_bounds__({bounds}, 1) run('
    text(*call_lines(start, ARGUMENTS, ") {").rstrip().split("\n"))
    text.depth += 1
    yield
    text.depth -= 1
    text("}")


def begin_network(text: Text, recipe: Recipe, own: str) -> None:
    """Write where network number `own` of the launch has its data, and the numbers that a run reads once."""
    text(
        "const int count = int(steps);  // of a launch: 32 bits do, and count in one instruction",
        f"x += {own} * data_rows * {recipe.n_in};",
        f"t += {own} * data_rows * {recipe.n_out};",
        *[f"weight += {own} * weight_rows;"] * recipe.weighted,
        *[f"order += {own} * order_network;"] * (not recipe.whole),
        f"schedule += {own} * schedule_network;",
    )
    text(*(f"[[maybe_unused]] const real {name} = settings[{k}];" for k, name in enumerate(recipe.settings)))


def steps(text: Text, recipe: Recipe) -> Iterator[None]:
    """Write the loop over steps, and what changes from one to the next."""
    scheduled = recipe.scheduled
    for _ in text.block("for (int step = 0; step < count; ++step)"):
        for k, name in enumerate(scheduled):
            text(f"[[maybe_unused]] const real {name} = schedule[step * {len(scheduled)} + {k}];")
        yield


def row_of(recipe: Recipe, step: str, row: str) -> str:
    """Return where row number `row` of a step's batch is in the data."""
    if recipe.whole:
        return f"int64({row})"
    place = f"order[({step}) * {recipe.batch} + {row}]"
    return f"maximum({place}, int64(0))" if recipe.factor is None else place


def factor_of(recipe: Recipe, row: str, place: str) -> str:
    """Return the factor of the loss of row number `row`, which is at `place` in the data."""
    if recipe.factor is not None:
        return f"real({recipe.factor!r})"
    factor = f"share * weight[{place}]" if recipe.weighted else "share"
    return f"({row} < counts[step] ? {factor} : real(0))"


def loss_call(recipe: Recipe) -> str:
    """Return the loss's formula as a function of p and t."""
    numbers = ["p", "t", f"real({recipe.n_out})", *recipe.loss_scalars]
    return f"[&](real p, real t) {{ return {recipe.loss}_at({', '.join(numbers)}); }}"


def dropout_call(recipe: Recipe, number: int, element: str, own: str) -> str:
    """Return the factor of an element of a layer's output."""
    rate = recipe.layers[number].dropout
    threshold, kept = round(rate * 2**32), f"real({1 / (1 - rate)!r})"
    return f"dropout_factor(seed, network + {own}, {number}, first_step + step, {element}, {threshold}u, {kept})"


def update_call(recipe: Recipe, p: str, gradient: str, state: dict[str, str]) -> str:
    """Return the optimizer's update of one parameter."""
    numbers = [name for name in recipe.scheduled if name != "share"] + list(OPTIMIZERS[recipe.optimizer].scalars)
    return f"{recipe.optimizer}_at({', '.join([p, gradient, *(state[name] for name in recipe.state), *numbers])})"


def shaped(recipe: Recipe, p: str, gradient: str, *, weight: bool) -> str:
    """Return a gradient with its penalties, clipped by value."""
    if recipe.penalized and weight:
        gradient = f"{gradient} + (l1 * sign({p}) + l2 * {p})"
    return f"minimum(maximum({gradient}, -clip_value), clip_value)" if recipe.clipped else gradient


def describe_layer(layer: Dense) -> str:
    """Return a layer in a few words, for a comment."""
    dropout = f", dropout {layer.dropout}" if layer.dropout else ""
    return f"{layer.n_in} -> {layer.n_out} {layer.activation_name}{dropout}"


def weight_ranges(recipe: Recipe) -> list[tuple[int, int, bool]]:
    """Return (start, stop, whether weights) of runs of parameters in the canonical order."""
    marks: list[tuple[int, bool]] = []
    for place in tensors(recipe.layers):
        marks.append((place.weight, True))
        if place.bias is not None:
            marks.append((place.bias, False))
    marks.append((recipe.n_parameters, True))
    return [(start, stop, weight) for (start, weight), (stop, _) in pairwise(marks)]
