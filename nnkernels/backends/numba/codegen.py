"""What the generators of whole-run programs share: writing lines, printing formulas, the layout of parameters.

A generator (`units.py`: the units of a layer in lanes; `rows.py`: the rows of a batch in lanes) writes one function, `run`,
in the language of `language.py`. Its loops over small sizes are unrolled; an array whose indices are then all written
down is kept in registers by LLVM.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from nnkernels._formulas import ACTIVATIONS, FUNCTIONS, LOSSES, OPTIMIZERS
from nnkernels._recipe import Recipe
from nnkernels.backends._printing import Dialect, assignments

Ints = np.ndarray[Any, np.dtype[np.int64]]

BY_HAND = {"sigmoid", "tanh"}  #: activations that `programs/mathematics.py` computes faster than their formulas say

#: The arguments of `run`, with their types in the language.
ARGUMENTS = {
    "parameters": "reals",  # packed, then the optimizer's state, packed alike
    "workspace": "reals",
    "x": "reals",  # of all rows
    "t": "reals",
    "weight": "reals",  # (rows,), if rows have weights
    "order": "ints",  # (steps, batch): the rows of each batch
    "counts": "ints",  # (steps,): how many rows of a batch count
    "schedule": "reals",  # (steps, columns): what changes from step to step
    "settings": "reals",
    "sizes": "ints",  # of the network, where the program does not know them
    "loss": "doubles",  # (1,): the sum of the losses so far
    "seeds": "ints",  # seed, network, first step: of dropout
    "steps": "int",
    "sync": "ints",  # the barrier's counter
    "thread": "int",
    "threads": "int",
}


class Code:
    """Lines of a program, written in order."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.depth = 0

    def __call__(self, *lines: str) -> None:
        """Write lines at the present depth."""
        self.lines += ["    " * self.depth + _folded(line) if line else "" for line in lines]

    def block(self, head: str) -> Iterator[None]:
        """Write what a ``for`` over this writes as the body of `head`."""
        self(head)
        self.depth += 1
        yield
        self.depth -= 1

    def range(self, name: str, stop: int | str, step: int = 1, *, start: int | str = 0, unroll: bool = False) -> Any:
        """Write a loop, or its body once for each value; yields the loop's variable as it stands in an expression."""
        if unroll or (isinstance(start, int) and isinstance(stop, int) and stop - start <= step):
            yield from range(int(start), int(stop), step)
            return
        bounds = f"{start}, {stop}, {step}" if step != 1 else f"{start}, {stop}" if start else f"{stop}"
        for _ in self.block(f"for {name} in range({bounds}):"):
            yield name

    @property
    def text(self) -> str:
        """All that was written."""
        return "\n".join(self.lines) + "\n"


class _Folding(ast.NodeTransformer):
    """Integer arithmetic that is known when a program is written."""

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        left, right = self.visit(node.left), self.visit(node.right)
        known = [side.value if isinstance(side, ast.Constant) else None for side in (left, right)]
        if isinstance(node.op, ast.Add):
            if all(type(value) is int for value in known):
                return ast.Constant(known[0] + known[1])  # type: ignore[operator]
            if known[0] == 0 or known[1] == 0:
                return right if known[0] == 0 else left
            if isinstance(left, ast.BinOp) and isinstance(left.op, ast.Add) and type(known[1]) is int:
                if isinstance(left.right, ast.Constant) and type(left.right.value) is int:  # (a + 3) + 4
                    return self.visit(ast.BinOp(left.left, ast.Add(), ast.Constant(left.right.value + known[1])))
        if isinstance(node.op, ast.Mult):
            if all(type(value) is int for value in known):
                return ast.Constant(known[0] * known[1])  # type: ignore[operator]
            if (known[0] == 0 and type(known[0]) is int) or (known[1] == 0 and type(known[1]) is int):
                return ast.Constant(0)
            if (known[0] == 1 and type(known[0]) is int) or (known[1] == 1 and type(known[1]) is int):
                return right if known[0] == 1 else left
        return ast.BinOp(left, node.op, right)


def _folded(line: str) -> str:
    """A line with its known arithmetic done; a line that is only part of a statement stays."""
    code, mark, comment = line.partition("  # ")
    if code.startswith("#") or code.endswith(":") or '"""' in code:
        return line
    tree = ast.parse(code)
    return ast.unparse(ast.fix_missing_locations(_Folding().visit(tree))) + mark + comment


def tiles(n: int, largest: int) -> list[tuple[int, int, int]]:
    """Cut n into tiles of at most `largest`, as even as can be: (start, stop, size) of each run of equal tiles."""
    count = -(-n // largest)
    size, longer = divmod(n, count)
    split = longer * (size + 1)
    return [(start, stop, tile) for start, stop, tile in ((0, split, size + 1), (split, n, size)) if stop > start]


# ---- formulas as functions of the language ---------------------------------------------------------------------------


class VectorDialect(Dialect):
    """The language's own functions have the formulas' names."""

    functions = {name: name for name in FUNCTIONS}
    preambles: Mapping[str, str] = {}

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        return ast.Constant(float(node.value))  # type: ignore[arg-type]  # a formula's numbers are reals


def activation_source(name: str) -> str:
    """Source of ``<name>_forward(z)``, which returns a and the slope."""
    body = assignments(VectorDialect, ACTIVATIONS[name].statements())
    return function_source(f"{name}_forward", ["z"], ACTIVATIONS[name].summary, body, ["a", "slope"])


def loss_source(name: str) -> str:
    """Source of ``<name>(p, t, n, ...)``, which returns an output's loss and its slope."""
    formula = LOSSES[name]
    body = assignments(VectorDialect, formula.statements())
    return function_source(name, ["p", "t", "n", *formula.scalars], formula.summary, body, ["loss", "slope"])


def difference_source(name: str) -> str:
    """Source of ``<name>_of_difference(d, n, ...)``, for a loss that depends on p - t alone."""
    formula = LOSSES[name]
    body = assignments(VectorDialect, formula.statements()[1:])
    return function_source(f"{name}_of_difference", ["d", "n", *formula.scalars], formula.summary, body, ["loss", "slope"])


def depends_on_difference(name: str) -> bool:
    """Tell whether a loss depends on the prediction and the target by their difference alone."""
    if name not in LOSSES:
        return False
    first, *others = LOSSES[name].text.strip().splitlines()
    return first.strip() == "d = p - t" and not any(set(_names(line)) & {"p", "t"} for line in others)


def _names(line: str) -> list[str]:
    return [node.id for node in ast.walk(ast.parse(line.strip())) if isinstance(node, ast.Name)]


class _Without(ast.NodeTransformer):
    """An expression in which a name is zero."""

    def __init__(self, name: str) -> None:
        self.name = name

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return ast.Constant(0) if node.id == self.name else node

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        left, right = self.visit(node.left), self.visit(node.right)
        nothing = [isinstance(side, ast.Constant) and side.value == 0 for side in (left, right)]
        if isinstance(node.op, ast.Mult) and any(nothing):
            return ast.Constant(0)
        if isinstance(node.op, ast.Add) and any(nothing):
            return right if nothing[0] else left
        if isinstance(node.op, ast.Sub) and nothing[1]:
            return left
        return ast.BinOp(left, node.op, right)


def update_source(recipe: Recipe) -> str:
    """Source of ``shaped(p, g)``, the penalized and clipped gradient, and of ``updated(p, g, state...)``."""
    formula = OPTIMIZERS[recipe.optimizer]
    statements = formula.statements()
    if not recipe.decayed:
        statements = [(name, _Without("weight_decay").visit(copy.deepcopy(tree))) for name, tree in statements]
    shaped = ["g = g + (l1 * sign(p) + l2 * p)"] * recipe.penalized
    clipped = ["g = min(max(g, -clip_value), clip_value)"] * recipe.clipped
    names = list(update_names(recipe))
    return (
        function_source("shaped_weight", ["p", "g", *names], "Penalties and clipping.", shaped + clipped, ["g"])
        + function_source("shaped_bias", ["p", "g", *names], "Clipping.", clipped, ["g"])
        + function_source(
            "updated",
            ["p", "g", *formula.state, *names],
            formula.summary,
            assignments(VectorDialect, statements),
            ["p", *formula.state],
        )
    )


def update_names(recipe: Recipe) -> tuple[str, ...]:
    """Names of the numbers that an update takes."""
    own = [name for name in recipe.settings if name not in recipe.loss_scalars]
    return (*(name for name in recipe.scheduled if name != "share"), *own)


def function_source(name: str, arguments: list[str], summary: str, body: list[str], results: list[str]) -> str:
    """Return the source of a function of the language."""
    lines = [f'    """{summary}"""', *(f"    {line}" for line in body), f"    return {', '.join(results)}"]
    return f"def {name}({', '.join(arguments)}):\n" + "\n".join(lines) + "\n\n\n"


def function_sources(recipe: Recipe) -> str:
    """Source of all functions that a recipe's program calls and the library does not have."""
    used = {layer.activation_name for layer in recipe.layers} - {"identity", "softmax"} - BY_HAND
    text = "".join(activation_source(name) for name in sorted(used))
    if recipe.loss in LOSSES:
        text += loss_source(recipe.loss)
    if depends_on_difference(recipe.loss):
        text += difference_source(recipe.loss)
    return text + update_source(recipe)


# ---- parameters in a program's own layout ----------------------------------------------------------------------------


class Packing:
    """Where each parameter lies in a program's buffer, which is longer: tensors are padded to whole vectors.

    Parameters
    ----------
    places : list of ndarray
        For each tensor in the canonical order, its elements' places, in the tensor's shape.
    size : int
        Length of the program's buffer.
    """

    def __init__(self, places: list[Ints], size: int) -> None:
        self.index = np.concatenate([place.ravel() for place in places])
        self.size = size

    def pack(self, flat: Any, out: Any) -> None:
        """Copy the canonical layout (P,) to the program's."""
        out[self.index] = flat

    def unpack(self, packed: Any, out: Any) -> None:
        """Copy the program's layout to the canonical one."""
        packed.take(self.index, out=out, mode="clip")


class Generated:
    """A program for one recipe.

    Attributes
    ----------
    source : str
        Its text.
    lanes : int
        Of its vectors.
    packing : Packing
        Of its parameters.
    workspace : int
        Reals that it needs beside them.
    parts : int
        The largest number of threads that have something to do.
    columns : bool
        Whether it wants the data transposed, (n_in, rows) and (n_out, rows), padded to `batch` rows.
    padded_targets : int
        Width of a row of targets.
    batch : int
        Rows of a batch, padded to whole blocks.
    sizes : ndarray
        What it reads about the network, if it was not written for it.
    n_state : int
        Arrays of the optimizer's state.
    settings, scheduled : tuple of str
        Names of the numbers that it reads once, and of those that change from step to step.
    """

    def __init__(
        self,
        source: str,
        *,
        lanes: int,
        packing: Packing,
        workspace: int,
        parts: int,
        batch: int,
        columns: bool = False,
        padded_targets: int = 0,
        sizes: Ints | None = None,
        n_state: int,
        settings: tuple[str, ...],
        scheduled: tuple[str, ...],
    ) -> None:
        self.source, self.lanes, self.packing, self.workspace = source, lanes, packing, workspace
        self.parts, self.columns, self.padded_targets, self.batch = parts, columns, padded_targets, batch
        self.sizes = np.zeros(1, np.int64) if sizes is None else sizes
        self.n_state, self.settings, self.scheduled = n_state, settings, scheduled


def write_run(recipe: Recipe, code: Code, body: Callable[[Code], None], summary: str) -> str:
    """Return a whole program: functions, then `run`, whose step `body` writes."""
    head = Code()
    head.lines = [f'"""{summary}', "", recipe.describe(), '"""', "", ""]
    arguments = ", ".join(f"{name}: {type_}" for name, type_ in ARGUMENTS.items())
    for _ in code.block(f"def run({arguments}):"):
        for number, name in enumerate(recipe.settings):
            code(f"{name} = settings[{number}]")
        body(code)
    return head.text + function_sources(recipe) + code.text


def write_schedule(recipe: Recipe, code: Code) -> None:
    """Write the names of what changes from step to step."""
    for number, name in enumerate(recipe.scheduled):
        code(f"{name} = schedule[step * {len(recipe.scheduled)} + {number}]")


def write_update(
    recipe: Recipe, code: Code, array: str, place: str, gradient: str, kind: str, *, shape: bool, apply: bool
) -> None:
    """Write the update of one vector of parameters at `place` of `array`, whose state lies `stride` further on each.

    Where gradients are clipped by norm, they are shaped first, all of them, and applied later.
    """
    names = ", ".join(update_names(recipe))
    code(f"p = load({array}, {place})")
    if shape and (recipe.penalized or recipe.clipped):
        code(f"{gradient} = shaped_{kind}(p, {gradient}, {names})")
    if not apply:
        return
    for number, name in enumerate(recipe.state, start=1):
        code(f"{name} = load({array}_{name}, {place})")
    results = ", ".join(["p", *recipe.state])
    code(f"{results} = updated({', '.join(['p', gradient, *recipe.state])}, {names})")
    code(f"store({array}, {place}, p)")
    code(*(f"store({array}_{name}, {place}, {name})" for name in recipe.state))


def write_barrier(code: Code) -> None:
    """Write a barrier over all threads: spin, then let others have the core."""
    code("meetings = meetings + threads", "barrier(sync, meetings)")


def write_mask(code: Code, number: int, rate: float, size: int) -> None:
    """Write the drawing of a layer's dropout mask."""
    threshold, keep = dropout_constants(rate)
    code(f"drop(seeds, {number}, seeds[2] + step, {threshold}, {keep!r}, m{number}, {size})")


def dropout_constants(rate: float) -> tuple[int, float]:
    """Return the word below which an output is dropped, and the factor of those that are kept."""
    return round(rate * 2**32), 1 / (1 - rate)
