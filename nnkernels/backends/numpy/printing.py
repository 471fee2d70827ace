"""How NumPy writes a formula: whole arrays at a time."""

from __future__ import annotations

import ast

from nnkernels._formulas import FUNCTIONS, Formula, parse
from nnkernels.backends._printing import (
    Dialect,
    Statements,
    assignments,
    lines,
    needed,
    signature,
)

IMPORTS = (
    "\nfrom __future__ import annotations\n\nimport numpy as np\n\nfrom nnkernels.backends.protocol import Array\n"
)


class NumpyDialect(Dialect):
    """Python numbers are weak in NumPy 2, so constants need no type and float32 stays float32."""

    functions = {name: f"np.{name}" for name in FUNCTIONS} | {"min": "np.minimum", "max": "np.maximum"}
    preambles = dict.fromkeys(("activations", "losses", "optimizers"), IMPORTS)

    @classmethod
    def activation(cls, name: str, formula: Formula) -> str:
        forward = needed(formula.statements(), ["a"])
        backward = [pair for pair in needed(formula.statements(), ["slope"]) if pair[0] not in dict(forward)]
        return (
            signature(f"{name}_forward", ["z: Array", "*", "out: Array", "slope: Array | None = None"])
            + lines([f'"""{formula.summary}"""', *assignments(cls, forward), "if slope is not None:"], 4)
            + lines(assignments(cls, backward, {"slope": "slope[...]"}), 8)
            + lines(["out[...] = a"], 4)  # last: `out` may be `z`
        )

    @classmethod
    def loss(cls, name: str, formula: Formula) -> str:
        scalars = [f"{scalar}: float" for scalar in formula.scalars]
        arguments = ["p: Array", "t: Array", "weight: Array", "*", "out: Array", *scalars]
        forward, backward = (with_n(needed(formula.statements(), [result])) for result in ("loss", "slope"))
        return (
            signature(f"{name}_forward", arguments)
            + lines([f'"""{formula.summary}"""', *assignments(cls, forward)], 4)
            + lines(["out += np.matmul(weight[..., None, :], loss)[..., 0, :].sum(axis=-1)"], 4)
            + "\n\n"
            + signature(f"{name}_backward", arguments)
            + lines([f'"""Slope of {name} with respect to p."""', *assignments(cls, backward)], 4)
            + lines(["np.multiply(slope, weight[..., None], out=out)"], 4)
        )

    @classmethod
    def optimizer(cls, name: str, formula: Formula) -> str:
        arrays = [f"{array}: Array" for array in ("p", "g", *formula.state)]
        scalars = [f"{scalar}: float" for scalar in formula.scalars]
        stores = {array: f"{array}[...]" for array in ("p", *formula.state)}
        return (
            signature(f"{name}_update", [*arrays, "*", "lr: Array", "step: Array", *scalars])
            + lines([f'"""{formula.summary}"""'], 4)
            + lines(assignments(cls, parse(formula.once), names={"step": "int(step)"}), 4)
            + lines(assignments(cls, formula.statements(), stores), 4)
        )


def with_n(statements: Statements) -> Statements:
    """Define n, the number of outputs of a row, where the statements use it."""
    names = {node.id for _, tree in statements for node in ast.walk(tree) if isinstance(node, ast.Name)}
    return parse("n = p.shape[-1]") + statements if "n" in names else statements
