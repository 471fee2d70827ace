"""How Numba writes a formula: a loop over the elements, flat, so that one kernel serves every shape and stride."""

from __future__ import annotations

import ast

from nnkernels._formulas import FUNCTIONS, Formula, parse
from nnkernels.backends._printing import Dialect, assignments, lines, needed, signature

IMPORTS = """
from __future__ import annotations

import math
{numpy}
from nnkernels.backends.numba.compile import kernel
from nnkernels.backends.numba.vectorized import vectorized
from nnkernels.backends.protocol import Array
"""


class NumbaDialect(Dialect):
    """Constants carry the array's type `T`: a bare 1.0 is a float64, and float32 kernels would compute in double."""

    functions = {name: f"math.{name}" for name in FUNCTIONS} | {
        "abs": "abs",
        "sign": "np.sign",
        "floor": "np.floor",  # math.floor makes an integer
        "min": "np.minimum",  # these two keep NaN, Python's own do not
        "max": "np.maximum",
    }
    preambles = dict.fromkeys(("activations", "losses"), IMPORTS.format(numpy="\nimport numpy as np\n")) | {
        "optimizers": IMPORTS.format(numpy="")
    }

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        return ast.Call(ast.Name("T"), [node], [])

    def visit_Call(self, node: ast.Call) -> ast.expr:
        if isinstance(node.func, ast.Name) and node.func.id == "where":
            return ast.IfExp(*(self.visit(argument) for argument in node.args))
        return super().visit_Call(node)

    @classmethod
    def activation(cls, name: str, formula: Formula) -> str:
        forward = needed(formula.statements(), ["a"])
        backward = [pair for pair in needed(formula.statements(), ["slope"]) if pair[0] not in dict(forward)]
        z = {"z": "z_i"}
        # no "*" before `out`: Numba passes keyword-only arguments, but not their defaults
        return (
            "@vectorized\n@kernel\n"
            + signature(f"{name}_forward", ["z: Array", "out: Array", "slope: Array | None = None"])
            + lines([f'"""{formula.summary}"""', "T = z.dtype.type", "for i in range(z.size):"], 4)
            + lines(["z_i = z.flat[i]", *assignments(cls, forward, {"a": "out.flat[i]"}, z)], 8)
            + lines(["if slope is not None:"], 8)
            + lines(assignments(cls, backward, {"slope": "slope.flat[i]"}, z), 12)
        )

    @classmethod
    def loss(cls, name: str, formula: Formula) -> str:
        scalars = [f"{scalar}: float" for scalar in formula.scalars]
        arguments = ["p: Array", "t: Array", "weight: Array", "*", "out: Array", *scalars]
        names = {"p": "p_i", "t": "t_i", "n": "T(n)"} | {scalar: f"T({scalar})" for scalar in formula.scalars}
        forward, backward = (
            assignments(cls, needed(formula.statements(), [result]), {}, names) for result in ("loss", "slope")
        )
        load = ["i = row * n + k", "p_i, t_i = p.flat[i], t.flat[i]"]
        return (
            "@vectorized\n@kernel\n"
            + signature(f"{name}_forward", arguments)
            + lines([f'"""{formula.summary}"""', *typed(forward), "n, rows = p.shape[-1], weight.shape[-1]"], 4)
            + lines(["for network in range(out.size):", "    total = 0.0"], 4)
            + lines(["for row in range(network * rows, (network + 1) * rows):", "    for k in range(n):"], 8)
            + lines([*load, *forward, "total += weight.flat[row] * loss"], 16)
            + lines(["out.flat[network] += total"], 8)
            + "\n\n@vectorized\n@kernel\n"
            + signature(f"{name}_backward", arguments)
            + lines([f'"""Slope of {name} with respect to p."""', *typed(backward), "n = p.shape[-1]"], 4)
            + lines(["for row in range(weight.size):", "    for k in range(n):"], 4)
            + lines([*load, *backward, "out.flat[i] = weight.flat[row] * slope"], 12)
        )

    @classmethod
    def optimizer(cls, name: str, formula: Formula) -> str:
        arrays = ["p", "g", *formula.state]
        scalars = [f"{scalar}: float" for scalar in formula.scalars]
        once = parse(formula.once)
        elements = {array: f"{array}_i" for array in arrays}
        names = {scalar: f"T({scalar})" for scalar in (*formula.scalars, *dict(once))} | elements | {"lr": "rate"}
        load = f"{', '.join(elements.values())} = {', '.join(f'{array}.flat[i]' for array in arrays)}"
        save = [f"{array}.flat[i] = {array}_i" for array in arrays if array != "g"]
        return (
            "@vectorized\n@kernel\n"
            + signature(
                f"{name}_update", [*(f"{array}: Array" for array in arrays), "*", "lr: Array", "step: Array", *scalars]
            )
            + lines([f'"""{formula.summary}"""', "T = p.dtype.type"], 4)
            + lines(assignments(Dialect, once, {}, {"step": "step[()]"}), 4)  # in float64: no T
            + lines(["size = p.size // lr.size  # parameters of one network"], 4)
            + lines(["for network in range(lr.size):", "    rate = lr.flat[network]"], 4)
            + lines(["for i in range(network * size, (network + 1) * size):"], 8)
            + lines([load, *assignments(cls, formula.statements(), elements, names), *save], 12)
        )


def typed(body: list[str]) -> list[str]:
    """Define T where the code uses it."""
    return ["T = p.dtype.type"] if any("T(" in line for line in body) else []
