"""The table of formulas as functions of the vector language, and what a step's update adds to them."""

from __future__ import annotations

import ast
from types import MappingProxyType

from nnkernels._formulas import ACTIVATIONS, FUNCTIONS, LOSSES, OPTIMIZERS
from nnkernels._recipe import Recipe
from nnkernels.backends._printing import Dialect, assignments, without

BY_HAND = {"sigmoid", "tanh"}  #: activations that `programs/mathematics.py` computes faster than their formulas say


class VectorDialect(Dialect):
    """The language's own functions have the formulas' names."""

    functions = MappingProxyType({name: name for name in FUNCTIONS})
    preambles = MappingProxyType({})

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        assert isinstance(node.value, int | float)
        return ast.Constant(float(node.value))  # a formula's numbers are reals


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
    return function_source(
        f"{name}_of_difference", ["d", "n", *formula.scalars], formula.summary, body, ["loss", "slope"]
    )


def depends_on_difference(name: str) -> bool:
    """Tell whether a loss depends on the prediction and the target by their difference alone."""
    if name not in LOSSES:
        return False
    first, *others = LOSSES[name].text.strip().splitlines()
    return first.strip() == "d = p - t" and not any(set(_names(line)) & {"p", "t"} for line in others)


def _names(line: str) -> list[str]:
    return [node.id for node in ast.walk(ast.parse(line.strip())) if isinstance(node, ast.Name)]


def update_source(recipe: Recipe) -> str:
    """Source of ``shaped(p, g)``, the penalized and clipped gradient, and of ``updated(p, g, state...)``."""
    formula = OPTIMIZERS[recipe.optimizer]
    statements = formula.statements() if recipe.decayed else without(formula.statements(), "weight_decay")
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
